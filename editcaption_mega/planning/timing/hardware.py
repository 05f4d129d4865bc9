"""What a GPU and its links reach in practice: the ceilings that turn counted work into seconds.

A hardware file is YAML of these fields; h100.yaml and h200.yaml come with the package, with the source of each value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path

from editcaption_mega.settings import SettingsError, load_settings

_SHIPPED = resources.files("editcaption_mega.planning.timing").joinpath("gpus")
MOST_GIB = 10_000.0  # of one GPU: more is a size in bytes
_HEAD_MULTIPLE = 32  # FlashAttention computes heads of 72 channels as heads of 96


@dataclass
class MemoryReserve:
    """GPU memory that no tensor of ours occupies, in GiB, and what the allocator cannot hand out."""

    cuda_context_gib: float = 0.0  # kernels and the driver's own, and the libraries' workspaces
    nccl_gib: float = 0.0  # buffers of collectives, as soon as there is more than one rank
    nccl_all_to_all_gib: float = 0.0  # what experts on several ranks add: a connection per pair
    allocator_share: float = 0.0  # of a rank's peak: rounding of blocks, and gaps that fit no tensor

    def validate(self) -> None:
        _positive("reserve.", self, except_for=("nccl_gib", "nccl_all_to_all_gib", "allocator_share"))
        if self.allocator_share >= 1:
            raise SettingsError(
                f"reserve.allocator_share is {self.allocator_share}: give a share below 1, such as 0.03"
            )


@dataclass
class Links:
    """Bytes per second and GPU, one direction, as collectives reach them; latencies in seconds."""

    ranks_per_node: int = 0  # GPUs that NVLink joins
    nvlink: float = 0.0  # ring collectives within a node
    nvlink_all_to_all: float = 0.0  # all-to-all and point-to-point within a node
    infiniband: float = 0.0  # each GPU's share of the network between nodes
    nvlink_latency: float = 0.0  # of a collective within a node
    infiniband_latency: float = 0.0  # added for each further node

    def validate(self) -> None:
        _positive("links.", self, except_for=("nvlink_latency", "infiniband_latency"))


@dataclass
class MatmulRate:
    """FLOP/s of matrix products that are at least this large."""

    at_least: int = 0
    rate: float = 0.0


@dataclass
class AttentionRate:
    """FLOP/s of attention over segments of at least so many tokens; half the products of a causal one count."""

    at_least: int = 0
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class Hardware:
    """One kind of GPU in one kind of cluster. Rates are per GPU; lists of classes go by their `at_least`."""

    name: str = ""
    memory_gib: float = 0.0  # of the whole GPU, as PyTorch reports it
    peak_flops: float = 0.0  # FLOP/s, dense bf16: what MFU is measured against
    matmul: list[MatmulRate] = field(default_factory=list)  # bf16; at_least: the narrowest of the three dimensions
    grouped: list[MatmulRate] = field(default_factory=list)  # experts, bf16; at_least: rows per expert
    attention: list[AttentionRate] = field(default_factory=list)  # heads of 128 channels, causal
    flash_attention_3: list[AttentionRate] = field(
        default_factory=list
    )  # the same of jobs that ask for it; may be empty
    fp32_flops: float = 0.0  # FLOP/s of products in fp32 (no TF32)
    copy_bandwidth: float = 0.0  # bytes per second of elementwise kernels, read and written together
    pcie_bandwidth: float = 0.0  # bytes per second between pinned host memory and the GPU
    beside_slowdown: float = 0.0  # share by which compute is slower while ranks of a pass communicate beside it
    launch_seconds: float = 0.0  # host time of one operation: Python, dispatch, autograd and the launch
    sync_seconds: float = 0.0  # host time lost when it waits for the GPU, beyond the waiting
    reserve: MemoryReserve = field(default_factory=MemoryReserve)
    links: Links = field(default_factory=Links)

    def validate(self) -> None:
        if not self.name:
            raise SettingsError("name is missing: give the hardware a name, such as h100")
        _positive("", self, except_for=("beside_slowdown",))
        if self.memory_gib > MOST_GIB:
            raise SettingsError(f"memory_gib is {self.memory_gib:g}: give the size in GiB, such as 79.1")
        self.reserve.validate()
        self.links.validate()
        for name in ("matmul", "grouped", "attention"):
            _check_classes(name, getattr(self, name), self.peak_flops)
        if self.flash_attention_3:
            _check_classes("flash_attention_3", self.flash_attention_3, self.peak_flops)

    def with_attention(self, version: int) -> "Hardware":
        """These GPUs with the rates of that FlashAttention. Raises SettingsError where it was not measured."""
        if version == 2:
            return self
        if not self.flash_attention_3:
            raise SettingsError(
                f"model.flash_attention={version} cannot be planned: hardware {self.name} has no rates under "
                f"flash_attention_{version}; add them, or set model.flash_attention=2"
            )
        return replace(self, attention=self.flash_attention_3)

    def matmul_rate(self, narrowest: int) -> float:
        return _class_of(self.matmul, narrowest).rate

    def grouped_rate(self, rows_per_expert: int) -> float:
        return _class_of(self.grouped, rows_per_expert).rate

    def attention_rate(self, length: int, head_dim: int, *, backward: bool = False) -> float:
        """FLOP/s for segments of `length` tokens; heads that the kernels pad cost their padding."""
        rates = _class_of(self.attention, length)
        padded = -(-head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE
        return (rates.backward if backward else rates.forward) * head_dim / padded

    def reserve_gib(self, *, ranks: int, all_to_all: bool) -> float:
        """GiB of a GPU that are gone before the first tensor. all_to_all: experts lie on several ranks."""
        reserve = self.reserve
        total = reserve.cuda_context_gib
        if ranks > 1:
            total += reserve.nccl_gib
        if all_to_all:
            total += reserve.nccl_all_to_all_gib
        return total


def load_hardware(name_or_path: str | Path) -> Hardware:
    """One of `shipped_hardware()`, or a YAML file of the same form. Raises SettingsError (a ValueError) for a name that
    is neither, keys that are unknown and values that are missing."""
    if str(name_or_path) in shipped_hardware():
        with resources.as_file(_SHIPPED.joinpath(f"{name_or_path}.yaml")) as path:
            return load_settings(path, None, Hardware)
    if not Path(name_or_path).exists():
        raise SettingsError(
            f"hardware {str(name_or_path)!r} is neither one of {', '.join(shipped_hardware())} nor a file that exists: "
            "name one of them, or a YAML file of the same form"
        )
    try:
        return load_settings(name_or_path, None, Hardware)
    except SettingsError as error:
        where = "" if str(name_or_path) in str(error) else f"{name_or_path}: "
        raise SettingsError(f"{where}{error}") from None


def shipped_hardware() -> list[str]:
    return sorted(file.name.removesuffix(".yaml") for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))


def _positive(section: str, values: object, except_for: Sequence[str] = ()) -> None:
    for entry in fields(values):  # type: ignore[arg-type]
        value = getattr(values, entry.name)
        if isinstance(value, (int, float)):
            if value < 0 or (value == 0 and entry.name not in except_for):
                raise SettingsError(f"{section}{entry.name} is {value}: give a number above 0")


def _check_classes(name: str, classes: Sequence[MatmulRate | AttentionRate], peak: float) -> None:
    if not classes or min(entry.at_least for entry in classes) != 0:
        raise SettingsError(f"{name} has no class with at_least: 0: every size needs a rate")
    for entry in classes:
        _positive(f"{name}: ", entry, except_for=("at_least",))
        if sum(other.at_least == entry.at_least for other in classes) > 1:
            raise SettingsError(f"{name} has two classes with at_least: {entry.at_least}: leave one of them out")
        fastest = entry.rate if isinstance(entry, MatmulRate) else max(entry.forward, entry.backward)
        if fastest > peak:
            raise SettingsError(
                f"{name} with at_least: {entry.at_least} has {fastest:g}, more than peak_flops={peak:g}: give "
                "FLOP/s that a GPU reaches"
            )


def _class_of[Rate: (MatmulRate, AttentionRate)](classes: list[Rate], size: int) -> Rate:
    return max((entry for entry in classes if entry.at_least <= size), key=lambda entry: entry.at_least)
