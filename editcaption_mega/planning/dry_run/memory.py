"""The bytes of device tensors, by kind, as they come and go while a step is executed."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# The caching allocator hands out blocks of this many bytes (torch: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize).
BLOCK = 512
_STEP = 16 << 20  # the timeline has a point for each change of so many bytes


@dataclass
class Peak:
    """The largest sum of bytes, what it was made of, and where."""

    total: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    phase: str = ""
    operator: int = 0  # the number of the operator that reached it
    stack: list[str] = field(default_factory=list)


class Memory:
    """Counts the storages of the tensors that it is shown, until they are freed. A view adds nothing."""

    def __init__(self, device_type: str = "meta") -> None:
        self.device_type = device_type
        self.now = 0
        self.by_kind: Counter[str] = Counter()
        self.peak = Peak()
        self.timeline: list[tuple[int, dict[str, int]]] = []  # operator, bytes by kind
        self._live: dict[int, tuple[weakref.ref[Any], int, str]] = {}  # by address of the storage
        self._last = 0

    def start(self) -> None:
        """The peak and the timeline begin here."""
        self.peak, self.timeline, self._last = Peak(), [(0, dict(self.by_kind))], self.now
        self.is_peak()

    def add(self, tensor: Tensor, kind: str) -> bool:
        """Count the tensor's storage, if it is new and on the device -> whether it was."""
        if tensor.device.type != self.device_type:
            return False
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return False
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._live[key] = (weakref.ref(storage, lambda _: self._free(key)), size, kind)
        self.now += size
        self.by_kind[kind] += size
        return True

    def relabel(self, tensors: Iterable[Tensor], kind: str) -> None:
        """The storages of these tensors are of this kind from now on; new ones are counted."""
        for tensor in tensors:
            if self.add(tensor, kind) or tensor.device.type != self.device_type:
                continue
            key = tensor.untyped_storage()._cdata
            reference, size, old = self._live[key]
            self._live[key] = (reference, size, kind)
            self.by_kind[old] -= size
            self.by_kind[kind] += size

    def is_peak(self, workspace: int = 0) -> bool:
        """Note the present sum, with what an operator takes for itself -> whether it is the largest so far."""
        total = self.now + workspace
        if total <= self.peak.total:
            return False
        kinds = {kind: size for kind, size in self.by_kind.items() if size}
        if workspace:
            kinds["workspace"] = workspace
        self.peak = Peak(total, kinds, self.peak.phase, self.peak.operator, self.peak.stack)
        return True

    def mark(self, operator: int) -> None:
        """A point of the timeline, where enough has changed."""
        if abs(self.now - self._last) >= _STEP:
            self._last = self.now
            self.timeline.append((operator, dict(self.by_kind)))

    def _free(self, key: int) -> None:
        _, size, kind = self._live.pop(key)
        self.now -= size
        self.by_kind[kind] -= size
