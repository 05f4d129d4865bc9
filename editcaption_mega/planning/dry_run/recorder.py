"""Sees every operator of a training step on tensors without values, and writes down what it costs.

Device tensors are those of the device `meta` (see `platform.prepare`): they have shapes and no values. What a GPU would
have to wait for is told from them at once: a value that the host asks for is a wait.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..timing.cost import Communication, Operation
from .memory import Memory
from .operations import communication, cost_of, finished_work, results
from .shapes import KnownShapes

_DEVICE = torch.device("meta")
_MOST_VALUES = 4096  # longer host tensors are data, not bounds
_SYNC = Operation("sync", "sync", launches=0)
# Kinds of memory that no module makes.
INPUTS, UPDATE = "inputs", "update"


@dataclass
class Phase:
    """A part of the step that runs in one piece: a micro-batch's forward or backward through a chunk, or what lies
    between."""

    # forward | backward | gradients: weight gradients that are made later | reference: the forward pass of a resident
    # reference | step: everything else
    kind: str
    chunk: int = 0
    micro_batch: int = 0
    steps: list[Operation | Communication] = field(default_factory=list)  # in order
    vision_flops: float = 0.0  # of them, those of the vision tower's modules
    recomputed_flops: float = 0.0  # of a backward pass, those of modules that run forward again
    held: int = 0  # bytes of device tensors where it begins
    peak: int = 0  # the most in it

    def __str__(self) -> str:
        return self.kind if self.kind == "step" else f"{self.kind} {self.micro_batch} of chunk {self.chunk}"


@dataclass(frozen=True)
class HostSync:
    """A place where the host waits for the device."""

    what: str
    where: str  # FILE:LINE of the innermost function outside PyTorch


class StepRecorder(TorchDispatchMode):
    """Between `with` and its end, every operator on device tensors is counted, in the phase that is running."""

    _shapes = KnownShapes()  # of all steps of a process: most ask for the same ones

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = Memory()
        self.phases: list[Phase] = [Phase("step")]
        self.host_syncs: Counter[HostSync] = Counter()
        self.mixed: Counter[HostSync] = Counter()  # operators that met tensors of the host and of the device
        self.operators = 0
        self.modules: list[str] = []  # names of the modules that are running, outermost first
        self._kind: str | None = None  # of new memory, where it is said
        self._same: dict[Any, Any] = {}  # equal steps are one object
        self._values: dict[int, tuple[Any, list[int]]] = {}  # by storage: what the host put there
        self._stack_at = 0  # the peak whose stack is known
        self._work: Any = None
        self._handle = 0  # of the communication that runs beside compute, where it begins
        self._within = 0  # the same, of what ends in the same pass
        self._begun = 0  # of these in this phase

    @property
    def phase(self) -> Phase:
        return self.phases[-1]

    def start(self) -> None:
        """Forget what was seen, but not the memory that is held: the step begins."""
        self.phases = []
        self._begin(Phase("step"))
        self.host_syncs.clear()
        self.mixed.clear()
        self.operators = self._stack_at = 0
        self.memory.start()

    def _begin(self, phase: Phase) -> None:
        phase.held = phase.peak = self.memory.now
        self._begun = 0
        self.phases.append(phase)

    @contextmanager
    def running(self, kind: str, chunk: int, micro_batch: int) -> Iterator[None]:
        """A block that is a phase of its own."""
        self._begin(Phase(kind, chunk, micro_batch))
        try:
            yield
        finally:
            self._begin(Phase("step"))

    @contextmanager
    def allocating(self, kind: str) -> Iterator[None]:
        """New memory is of this kind in the block."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def sync(self, what: str) -> None:
        """The host waits for the device here."""
        self.host_syncs[HostSync(what, next(iter(_stack()), "?"))] += 1
        self.add(_SYNC)

    @contextmanager
    def beside(self, handle: int) -> Iterator[None]:
        """Communication that begins in the block runs beside what follows, up to the wait for this handle. Operators
        there prepare it: only the pass that begins it has them."""
        self._handle = handle
        try:
            yield
        finally:
            self._handle = 0

    def wait(self, handle: int) -> None:
        """The device waits for it here."""
        self.add(Operation("wait", "wait", launches=0, handle=handle))

    @property
    def is_beside(self) -> bool:
        return bool(self._handle)

    @contextmanager
    def within(self) -> Iterator[int]:
        """Communication that begins in the block runs beside what follows in this phase -> what to wait for."""
        self._begun += 1
        self._within = self._begun
        try:
            yield self._begun
        finally:
            self._within = 0

    def wait_within(self, begun: int) -> None:
        self.add(Operation("wait", "wait", launches=0, within=begun))

    def add(self, step: Operation | Communication) -> None:
        """Something that the device does now."""
        if self._handle:
            step = replace(step, handle=self._handle)
        elif self._within and isinstance(step, Communication):
            step = replace(step, within=self._within)
        self.phase.steps.append(self._same.setdefault(step, step))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "c10d" and any(leaf.device == _DEVICE for leaf in _tensors(args)):
            return self._communicate(func, args)
        answer = self._answer(func, args, kwargs)
        if answer is not None:
            return answer
        out = self._shapes.call(func, args, kwargs)
        outputs = _tensors((out,))
        # What changes lists of tensors in place returns nothing: the optimizer's update.
        if any(leaf.device == _DEVICE for leaf in (_tensors(args) if out is None else outputs)):
            self._record(func, args, kwargs, out, outputs)
        return out

    def _communicate(self, func: Any, args: Any) -> Any:
        sent = communication(func, args)
        if sent is not None:
            self.add(sent)
        if self._work is None:
            self._work = finished_work()
        return results(func, args, self._work)

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the host gets where it asks for values of the device; None where it does not ask."""
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default and args[0].device == _DEVICE:
            self.sync("item")
            # A step whose loss and norm are 1 goes on; no flag is set.
            return False if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is aten.equal.default and args[0].device == _DEVICE:
            self.sync("equal")
            return True
        to_host = func is aten._to_copy.default and args[0].device == _DEVICE
        if to_host and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu":
            if not kwargs.get("non_blocking"):
                self.sync("copy to the host")
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and args[0].device.type == "cpu" and args[1].device == _DEVICE:
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                self.sync("copy to the host")
            return args[0].fill_(1)
        return None

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any, outputs: list[Tensor]) -> None:
        self.operators += 1
        arrived = self._from_host(func, args, kwargs, outputs)
        spent = cost_of(func, args, kwargs, out, self._values_of)
        if spent is not None:
            self.add(spent.operation)
            if self.modules and self.modules[-1].startswith("vision"):
                self.phase.vision_flops += spent.operation.flops
            if self.modules and self.phase.kind == "backward":
                self.phase.recomputed_flops += spent.operation.flops
        kind = self._kind or (INPUTS if arrived else self._kind_here())
        grown = [self.memory.add(leaf, kind) for leaf in outputs]
        workspace = spent.workspace if spent is not None else 0
        if any(grown) or workspace:
            self.phase.peak = max(self.phase.peak, self.memory.now + workspace)
            if self.memory.is_peak(workspace):
                self._describe_peak()
        self.memory.mark(self.operators)

    def _from_host(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> bool:
        """Whether this copies from the host. Short integers are remembered, and a copy that blocks is a wait. Other
        operators must not mix tensors of both."""
        aten = torch.ops.aten
        if func is aten.lift_fresh.default:  # torch.tensor(values, device=..); see `fakes`
            return True
        inputs = _tensors(args) + _tensors(kwargs.values())
        if func is aten._to_copy.default or func is aten.copy_.default:
            source = inputs[-1]
            if source.device.type != "cpu":
                return False
            if source.numel() and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                self.sync("copy to the device")
            if source.numel() <= _MOST_VALUES and not source.is_floating_point():
                storage = outputs[0].untyped_storage()
                self._values[storage._cdata] = (storage, source.flatten().tolist())
            return True
        devices = {leaf.device.type for leaf in inputs if leaf.dim()}
        if "cpu" in devices and "meta" in devices:
            self.mixed[HostSync(str(func), next(iter(_stack()), "?"))] += 1
        return False

    def _values_of(self, tensor: Tensor) -> list[int] | None:
        known = self._values.get(tensor.untyped_storage()._cdata)
        return None if known is None else known[1]

    def _kind_here(self) -> str:
        if self.modules:
            return memory_kind(self.modules[-1])
        return UPDATE if self.phase.kind == "step" else self.phase.kind

    def _describe_peak(self) -> None:
        """The stack is costly, and a peak grows in many small steps: it is renewed for each per cent."""
        peak = self.memory.peak
        peak.phase, peak.operator = str(self.phase), self.operators
        if peak.total > 1.01 * self._stack_at:
            self._stack_at = peak.total
            peak.stack = [*self.modules[-1:], *_stack()]


# What a module's activations are called, by the first of these that its name has.
_KINDS = (
    ("vision", "vision"),
    ("experts", "experts"),
    ("router", "experts"),
    ("token_dispatcher", "experts"),
    ("self_attention", "attention"),
    ("mlp", "feed-forward"),
    ("embedding", "embedding"),
    ("output_layer", "logits"),
)


def memory_kind(module: str) -> str:
    """The kind of memory that a module's activations are, by its name in a chunk."""
    return next((kind for part, kind in _KINDS if part in module), "activations")


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """All tensors in there, however deep in lists and tuples."""
    leaves: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            leaves.append(value)
        elif isinstance(value, list | tuple):
            leaves += _tensors(value)
    return leaves


# PyTorch, what stands between the code and PyTorch, and this room.
_NOT_SHOWN = ("/torch/", "/editcaption_mega/platform/", "/editcaption_mega/planning/")


def _stack() -> list[str]:
    """FILE:LINE of the functions that are running, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    places: list[str] = []
    while frame is not None and len(places) < 12:
        file = frame.f_code.co_filename
        if not any(part in file for part in _NOT_SHOWN):
            places.append(f"{_short(file)}:{frame.f_lineno}")
        frame = frame.f_back
    return places


def _short(file: str) -> str:
    for package in ("editcaption_mega/", "megatron/"):
        if package in file:
            return package + file.rpartition(package)[2]
    return file.rpartition("/")[2]
