"""A plan: memory of each rank role against what the GPU has, the predicted step, and what would make it faster."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from editcaption_mega.conversion import AdapterChoice, rules_for
from editcaption_mega.conversion.folder_conversion import export_host_bytes
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.conversion.store import FILE_BYTES
from editcaption_mega.data.batching.packing import RankShare
from editcaption_mega.model import Architecture
from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings
from editcaption_mega.training.checkpoint import written_bytes

from .dry_run.rank_step import RankRecord
from .roles import Role, distinct_roles, execute_roles
from .step_time import StepTime, predict
from .timing.hardware import Hardware
from .workload import Workload, planned_step

GIB = 2**30


@dataclass(frozen=True)
class JobPlan:
    """What a configuration needs on so many GPUs of a kind."""

    settings: JobSettings
    architecture: Architecture
    world_size: int
    hardware: Hardware
    memory_gib: float  # of a GPU
    parameters: int  # of the model
    roles: tuple[Role, ...]
    records: tuple[RankRecord, ...]
    time: StepTime
    adapters: AdapterChoice | None = None

    def reserved(self, record: RankRecord) -> float:
        """Bytes of a GPU beside the tensors: context, NCCL, and what the allocator cannot hand out."""
        parallel = self.settings.parallel
        gib = self.hardware.reserve_gib(ranks=self.world_size, all_to_all=parallel.expert_model_parallel_size > 1)
        return gib * GIB + self.hardware.reserve.allocator_share * record.peak.total

    def needed(self, record: RankRecord) -> float:
        """Bytes of a GPU that a rank of this role takes at its most: in the step, before it, or in a checkpoint."""
        return record.peak.total + self.beyond_step(record) + self.reserved(record)

    @staticmethod
    def beyond_step(record: RankRecord) -> int:
        """Bytes by which the start or a checkpoint takes more than the step; 0 where neither does."""
        return max(0, record.start_peak - record.peak.total, record.checkpoint_peak - record.peak.total)

    @property
    def export_host_bytes(self) -> int:
        """Bytes of the host's memory that `megatron_to_hf` takes afterwards, without a GPU. Adapters are there at once,
        to be added to the weights."""
        return export_host_bytes(self.architecture) + self.adapter_bytes

    @property
    def adapter_bytes(self) -> int:
        """Of all adapters as they are saved, which is the size of their PEFT folder; 0 where weights are trained."""
        item_size = 2 if self.settings.training.precision == "bf16" else 4
        return 0 if self.adapters is None else item_size * self.adapters.size

    @cached_property
    def written_bytes(self) -> list[int]:
        """Of a checkpoint, by a rank of each role, when full stages have handed a part over."""
        ranks = self.world_size // len(self.records)  # roles are pipeline stages
        written = written_bytes([record.checkpoint_bytes for record in self.records for _ in range(ranks)])
        return [max(written[first : first + ranks]) for first in range(0, ranks * len(self.records), ranks)]

    @property
    def checkpoint_host_bytes(self) -> list[int]:
        """Of a checkpoint, that a rank of each role has on the host at once: between two of them too where it is
        written beside the steps, and what it takes from others always."""
        held = [record.checkpoint_bytes for record in self.records]
        if not self.settings.checkpoint.asynchronous:
            held = [min(size, FILE_BYTES) for size in held]
        taken = (
            written - record.checkpoint_bytes for record, written in zip(self.records, self.written_bytes, strict=True)
        )
        return [size + max(0, more) for size, more in zip(held, taken, strict=True)]

    @property
    def worst(self) -> int:
        """The role that needs the most memory."""
        return max(range(len(self.records)), key=lambda i: self.needed(self.records[i]))

    @property
    def headroom(self) -> float:
        """The share of the GPU's memory that is left on the worst role; below 0 where it does not fit."""
        return 1 - self.needed(self.records[self.worst]) / (self.memory_gib * GIB)

    @property
    def fits(self) -> bool:
        return self.headroom >= 0

    @property
    def pairs_per_second(self) -> float:
        return self.settings.training.global_batch_size / self.time.seconds

    def to_json(self) -> dict[str, Any]:
        """The form that DESIGN's command surface promises; sizes in bytes, times in seconds."""
        time = self.time
        return {
            "world_size": self.world_size,
            "hardware": self.hardware.name,
            "memory_bytes": round(self.memory_gib * GIB),
            "fits": self.fits,
            "headroom": self.headroom,
            "parameters": {
                "total": self.parameters,
                "adapters": 0 if self.adapters is None else self.adapters.size,
                "per_rank": {role.name: r.parameters for role, r in zip(self.roles, self.records, strict=True)},
            },
            "export": {"host_bytes": self.export_host_bytes, "adapter_bytes": self.adapter_bytes},
            "ranks": [self._role_json(i) for i in range(len(self.roles))],
            "step": {
                "seconds": time.seconds,
                "mfu": time.mfu,
                "mfu_vision": time.mfu_vision,
                "bubble": time.bubble,
                "stage_imbalance": time.imbalance,
                "pairs_per_second": self.pairs_per_second,
                "micro_batches": self.records[0].micro_batches,
                "row_length": self.records[0].row_length,
                "shares": time.shares,
            },
        }

    def _role_json(self, number: int) -> dict[str, Any]:
        role, record = self.roles[number], self.records[number]
        syncs = [{"what": s.what, "where": s.where, "count": n} for s, n in record.host_syncs.items()]
        mixed = [{"what": m.what, "where": m.where, "count": n} for m, n in record.mixed.items()]
        return {
            "role": role.name,
            "rank": role.rank,
            "coordinates": record.coordinates,
            "memory": {
                "peak_bytes": record.peak.total,
                "needed_bytes": round(self.needed(record)),
                "reserved_bytes": round(self.reserved(record)),
                "by_kind": record.peak.by_kind,
                "where": {"phase": record.peak.phase, "stack": record.peak.stack},
                "start_bytes": record.start_peak,
                "checkpoint_bytes": record.checkpoint_peak,
            },
            "checkpoint": {
                "written_bytes": self.written_bytes[number],
                "host_bytes": self.checkpoint_host_bytes[number],
            },
            "flops": sum(getattr(step, "flops", 0) for phase in record.phases for step in phase.steps),
            "micro_batches_executed": record.executed,
            "host_syncs": syncs,
            "host_and_device_mixed": mixed,
        }


def make_plan(
    settings: JobSettings,
    architecture: Architecture,
    workload: Workload,
    world_size: int,
    hardware: Hardware,
    *,
    memory_gib: float | None = None,
    imbalance: float = 1.0,
    progress: Progress = no_progress,
) -> JobPlan:
    """Execute a step of every distinct rank role without values, and say what it takes.

    memory_gib: of a GPU, where it is not the hardware's. Raises ValueError for settings that do not fit the model or
    the ranks, before anything is executed."""
    from editcaption_mega.training.adapter_state import chosen_adapters

    check_layout(architecture, settings.parallel)
    adapters = chosen_adapters(settings, architecture)
    hardware = hardware.with_attention(settings.model.flash_attention)
    parallel = settings.parallel
    share = RankShare(
        parallel.data_parallel_size(world_size), sequence_multiple=parallel.sequence_multiple, with_images=False
    )
    planned_step(settings, architecture, workload, share)  # that samples fit into rows, and rows onto ranks
    roles = distinct_roles(settings, world_size)
    records = execute_roles(settings, architecture, workload, world_size, roles, imbalance=imbalance, progress=progress)
    time = predict(records, hardware, world_size, settings.parallel.tensor_model_parallel_size)
    memory = hardware.memory_gib if memory_gib is None else memory_gib
    total = sum(rule.size for rule in unique_rules(rules_for(architecture)))
    return JobPlan(
        settings, architecture, world_size, hardware, memory, total, tuple(roles), tuple(records), time, adapters
    )
