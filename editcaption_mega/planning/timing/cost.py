"""From what a rank executes to seconds: each operation by the roofline of its shape class, each communication by its
slowest link, and a stream of them by the host that launches it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .hardware import Hardware

OperationKind = Literal[
    "matmul",  # dense, bf16
    "matmul_fp32",
    "grouped",  # the experts' products, bf16
    "attention",
    "attention_backward",
    "copy",  # elementwise, reductions, permutations: bound by bytes
    "host_copy",  # between pinned host memory and the GPU
    "host",  # the host alone: views, shapes
    "sync",  # the host waits for the GPU
    "wait",  # the GPU waits for communication that runs beside it
]
CommunicationKind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast", "send", "recv"]


@dataclass(frozen=True)
class Operation:
    """One executed operation.

    flops: 2 per multiply-add; attention's as its kernel counts them (half of a causal square, 2.5 times that backward).
    bytes: read and written. rows, columns, inner: of a matrix product [rows, inner] x [inner, columns]; grouped: rows
    are those of one expert; attention: rows is the segment's length, columns the head's channels. launches: how often
    the host launches. handle: of a wait, or of what prepares it, the communication's; within: of a wait, likewise."""

    name: str
    kind: OperationKind
    flops: float = 0
    bytes: float = 0
    rows: int = 0
    columns: int = 0
    inner: int = 0
    launches: int = 1
    handle: int = 0
    within: int = 0

    def seconds(self, hardware: Hardware) -> float:
        """Of the GPU, with operands at hand: the longer of computing and moving bytes."""
        if self.kind in ("host", "sync", "wait"):
            return 0.0
        if self.kind == "host_copy":
            return self.bytes / hardware.pcie_bandwidth
        moving = self.bytes / hardware.copy_bandwidth
        return moving if self.kind == "copy" or not self.flops else max(moving, self.flops / self._rate(hardware))

    def _rate(self, hardware: Hardware) -> float:
        match self.kind:
            case "matmul":
                return hardware.matmul_rate(min(self.rows, self.columns, self.inner))
            case "matmul_fp32":
                return hardware.fp32_flops
            case "grouped":
                return hardware.grouped_rate(self.rows)
            case _:
                backward = self.kind == "attention_backward"
                return hardware.attention_rate(self.rows, self.columns, backward=backward)


@dataclass(frozen=True)
class Communication:
    """One collective or transfer of `bytes` among `ranks` (global ranks; for send and recv the two of them).

    bytes: the whole tensor as one rank sees it: what all-gather returns, what reduce-scatter takes, what all-reduce and
    broadcast hold, what a rank gives to all-to-all with its own part. handle: above 0 it begins here and runs beside
    what follows, up to the wait for this handle (`beside`), which may be in another pass. within: above 0 likewise, and
    the wait for it is in the same pass."""

    kind: CommunicationKind
    bytes: float
    ranks: tuple[int, ...]
    handle: int = 0
    within: int = 0

    def seconds(self, hardware: Hardware) -> float:
        """Ring algorithms at the rate of the slowest link, each rank of a node with its own port to the network."""
        links, size = hardware.links, len(set(self.ranks))
        if size < 2:
            return 0.0
        per_node = Counter(rank // links.ranks_per_node for rank in self.ranks)
        nodes, local = len(per_node), min(per_node.values())
        latency = links.nvlink_latency + links.infiniband_latency * (nodes - 1)
        if self.kind == "all_to_all":
            outside = self.bytes * (size - local) / size / links.infiniband if nodes > 1 else 0.0
            inside = self.bytes * (local - 1) / size / links.nvlink_all_to_all
            return latency + max(inside, outside)
        if self.kind in ("send", "recv"):
            return latency + self.bytes / (links.nvlink_all_to_all if nodes == 1 else links.infiniband)
        # A ring enters and leaves a node once per port: its ranks there share the load.
        rate = links.nvlink if nodes == 1 else min(links.nvlink, links.infiniband * local)
        return latency + self._share(size) * self.bytes / rate

    def _share(self, size: int) -> float:
        """Of the bytes, what crosses each link of a ring."""
        match self.kind:
            case "all_reduce":
                return 2 * (size - 1) / size
            case "broadcast":
                return 1.0
            case _:
                return (size - 1) / size

    def link(self, hardware: Hardware) -> Literal["nvlink", "infiniband"]:
        nodes = {rank // hardware.links.ranks_per_node for rank in self.ranks}
        return "nvlink" if len(nodes) == 1 else "infiniband"


@dataclass(frozen=True)
class StreamTime:
    """How long a stream of operations takes, and of what that is made."""

    seconds: float
    by_kind: dict[str, float] = field(default_factory=dict)  # GPU seconds of each operation and communication kind
    starved: float = 0.0  # seconds in which the GPU waits for the host

    def plus(self, other: "StreamTime", times: float = 1.0) -> "StreamTime":
        """This stream and `times` the other, one after the other."""
        kinds = {kind: self.by_kind.get(kind, 0.0) for kind in {**self.by_kind, **other.by_kind}}
        by_kind = {kind: value + times * other.by_kind.get(kind, 0.0) for kind, value in kinds.items()}
        return StreamTime(self.seconds + times * other.seconds, by_kind, self.starved + times * other.starved)


def stream_time(
    steps: Iterable[Operation | Communication],
    hardware: Hardware,
    marks: list[tuple[float, Operation | Communication]] | None = None,
) -> StreamTime:
    """One stream in order: the host launches each step `launch_seconds` after the last, the GPU begins it when it is
    launched and the one before has ended, and a sync lets the host wait for the GPU.

    Communication that ends within the stream begins behind what comes before it and behind other communication. What
    the GPU does meanwhile is slower by `Hardware.beside_slowdown`, and of the communication counts what a wait for it
    takes. What runs beside the whole stream takes no time here, nor does a wait for it: they go to `marks`, each with
    its seconds from the beginning."""
    host = gpu = starved = link = 0.0  # link: until when communication runs
    by_kind: dict[str, float] = {}
    ends: dict[int, tuple[float, str]] = {}  # of what runs beside, by `within`

    def spend(kind: str, seconds: float) -> None:
        by_kind[kind] = by_kind.get(kind, 0.0) + seconds

    for step in steps:
        launches = step.launches if isinstance(step, Operation) else 1
        host += launches * hardware.launch_seconds
        if step.handle:
            if marks is not None:
                marks.append((max(gpu, host), step))
            continue
        if step.kind == "host":
            continue
        if step.kind == "sync":
            host = max(host, gpu) + hardware.sync_seconds
            continue
        if step.kind == "wait":
            end, kind = ends.pop(step.within, (0.0, ""))
            if end > max(gpu, host):
                spend(kind, end - max(gpu, host))
            gpu = max(gpu, end)
            continue
        seconds, begin = step.seconds(hardware), max(gpu, host)
        if isinstance(step, Communication):
            begin = max(begin, link)
            link = begin + seconds
            if step.within:
                ends[step.within] = link, step.kind
                continue
        else:
            seconds += hardware.beside_slowdown * max(0.0, min(seconds, link - begin))
        starved += max(0.0, host - gpu)
        gpu = begin + seconds
        spend(step.kind, seconds)
    return StreamTime(max(host, gpu), by_kind, starved)
