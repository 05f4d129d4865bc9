"""Which layouts a search compares: sizes of the groups, row lengths, recomputation, and splits of the layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any

from editcaption_mega.conversion import rules_for
from editcaption_mega.conversion.rules import Rule, unique_rules
from editcaption_mega.model import Architecture
from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.settings import JobSettings, ModelSettings, ParallelSettings

from ..workload import Workload, samples

_MOST_TENSOR = 8  # NVLink joins no more
_MOST_PIPELINE = 16
_MOST_EXPERT = 64
_MOST_VIRTUAL = 4
_MOST_SAMPLES = 4  # of a row: longer ones only keep more
_LONGEST_ROW = 8192
# Bytes that each parameter takes at least: a bf16 weight; of what is trained an fp32 gradient, too, and the optimizer's
# 12, which are divided over ranks.
_WEIGHT, _GRADIENT, _OPTIMIZER = 2, 4, 12


@dataclass(frozen=True)
class Groups:
    """Sizes of a layout's groups of ranks, but for the data-parallel one, which is what is left."""

    tensor: int
    pipeline: int
    expert: int
    expert_tensor: int

    def distance(self, other: "Groups") -> int:
        """How many of the sizes differ; the expert tensor one does not where both are as the tensor one."""
        pairs = [(self.tensor, other.tensor), (self.pipeline, other.pipeline), (self.expert, other.expert)]
        if (self.expert_tensor, other.expert_tensor) != (self.tensor, other.tensor):
            pairs.append((self.expert_tensor, other.expert_tensor))
        return sum(mine != theirs for mine, theirs in pairs)


def groups_of(parallel: ParallelSettings) -> Groups:
    tensor = parallel.tensor_model_parallel_size
    return Groups(
        tensor,
        parallel.pipeline_model_parallel_size,
        parallel.expert_model_parallel_size,
        parallel.expert_tensor_parallel_size or tensor,
    )


def groups_that_run(
    settings: JobSettings, architecture: Architecture, world_size: int, most_gib: float
) -> list[Groups]:
    """Layouts that the model, the ranks and the batch allow and whose weights alone do not exceed the memory."""
    experts = architecture.experts
    tensors = [n for n in _powers(_MOST_TENSOR) if world_size % n == 0]
    pipelines = [n for n in range(1, min(_MOST_PIPELINE, architecture.num_layers) + 1) if world_size % n == 0]
    runnable = []
    for tensor in tensors:
        for pipeline in pipelines:
            stage = world_size // pipeline
            of_experts = product(_powers(_MOST_EXPERT), sorted({1, tensor})) if experts else [(1, tensor)]
            for expert, expert_tensor in of_experts:
                groups = Groups(tensor, pipeline, expert, expert_tensor)
                if stage % tensor or stage % (expert * expert_tensor):
                    continue
                if stage // tensor > settings.training.global_batch_size:
                    continue
                try:
                    check_layout(architecture, with_groups(settings, groups).parallel)
                except ValueError:
                    continue
                if least_states(settings, architecture, groups, world_size) < most_gib * 2**30:
                    runnable.append(groups)
    return runnable


def least_states(settings: JobSettings, architecture: Architecture, groups: Groups, world_size: int) -> float:
    """Bytes of weights, gradients and optimizer of a rank, were they divided evenly."""
    from editcaption_mega.training.adapter_state import chosen_adapters

    def held(rules: Sequence[Rule]) -> float:
        """Parameters of a rank."""
        of_experts = sum(rule.size for rule in rules if ".experts." in rule.name)
        others = sum(rule.size for rule in rules) - of_experts
        return (others / groups.tensor + of_experts / (groups.expert * groups.expert_tensor)) / groups.pipeline

    adapters, weights = chosen_adapters(settings, architecture), unique_rules(rules_for(architecture))
    trained = weights if adapters is None else list(adapters.rules.values())
    model = held(weights) if adapters is None else held(weights) + held(trained)
    optimizer = _OPTIMIZER * sum(rule.size for rule in trained) / world_size
    return _WEIGHT * model + _GRADIENT * held(trained) + optimizer


def with_groups(settings: JobSettings, groups: Groups, virtual: int = 1) -> JobSettings:
    """The job in another layout, its layers split as level as they go."""
    parallel = replace(
        settings.parallel,
        tensor_model_parallel_size=groups.tensor,
        pipeline_model_parallel_size=groups.pipeline,
        virtual_pipeline_model_parallel_size=None if virtual == 1 else virtual,
        expert_model_parallel_size=groups.expert,
        expert_tensor_parallel_size=None if groups.expert_tensor == groups.tensor else groups.expert_tensor,
        sequence_parallel=None,
        account_for_embedding_in_pipeline_split=False,
        account_for_loss_in_pipeline_split=False,
        layers_per_chunk=None,
        delayed_weight_gradients=_delayed(settings.parallel, groups.pipeline, virtual),
    )
    return replace(settings, parallel=parallel)


def _delayed(parallel: ParallelSettings, stages: int, virtual: int) -> list[int] | None:
    """A job that makes weight gradients behind what it sends on does so in each layout that can; as many wait there as
    the job says, where the stages are as many."""
    if parallel.delayed_weight_gradients is None or stages == 1 or virtual > 1:
        return None
    return parallel.delayed_weight_gradients if stages == parallel.pipeline_model_parallel_size else [0] * stages


def with_recompute(
    settings: JobSettings, kind: str, modules: Sequence[str] = (), *, vision: bool, block: int = 0
) -> JobSettings:
    """block: layers of each chunk that are recomputed, 0 for all of them."""
    defaults = ModelSettings()
    model = replace(
        settings.model,
        recompute=kind,
        recompute_modules=list(modules) or defaults.recompute_modules,
        recompute_method="block" if block else defaults.recompute_method,
        recompute_num_layers=block or defaults.recompute_num_layers,
        recompute_vision=None if vision == (kind == "full") else vision,
    )
    return replace(settings, model=model)


def with_split(settings: JobSettings, counts: Sequence[int]) -> JobSettings:
    """Layers of each chunk; where they are the level ones, no list is needed."""
    if settings.parallel.num_pipeline_chunks == 1:
        return settings
    return replace(settings, parallel=replace(settings.parallel, layers_per_chunk=list(counts)))


def delays(settings: JobSettings) -> list[JobSettings]:
    """The job with each choice of how many micro-batches' weight gradients may wait on a stage, if it makes them behind
    what it sends on: as given, none, and one more on each stage behind the first or behind half of them."""
    parallel = settings.parallel
    if parallel.delayed_weight_gradients is None:
        return [settings]
    stages = parallel.pipeline_model_parallel_size
    counts = [[max(0, stage - none) for stage in range(stages)] for none in sorted({0, stages // 2, stages - 1})]
    others = [each for each in counts if each != parallel.delayed_weight_gradients]
    return [
        settings,
        *(replace(settings, parallel=replace(parallel, delayed_weight_gradients=each)) for each in others),
    ]


def row_lengths(settings: JobSettings, architecture: Architecture, workload: Workload) -> list[int]:
    """`data.sequence_length` for rows of one sample, two and so on; the longest sample decides.

    A sample gets as much room as in the given rows, for longer answers than those that are planned with."""
    given = settings.data.sequence_length
    longest = max(sample.num_tokens for sample in samples(with_row_length(settings, 1 << 30), architecture, workload))
    room = max(longest, given // max(1, given // longest))
    counts = range(1, max(1, min(_MOST_SAMPLES, _LONGEST_ROW // longest)) + 1)
    # One more of the longest must not fit.
    return [min(-(-count * room // 8) * 8, (count + 1) * longest - 1) for count in counts]


def selective_modules(architecture: Architecture) -> list[tuple[str, ...]]:
    """What is worth computing again in each layer, for `recompute: selective`."""
    if architecture.experts is None:
        return [("layernorm",), ("mlp",), ("layernorm", "mlp")]
    return [("layernorm",), ("moe_act",), ("layernorm", "moe_act"), ("moe",)]


def virtual_sizes(groups: Groups, num_layers: int) -> list[int]:
    """Chunks per stage that the layers are enough for."""
    if groups.pipeline == 1:
        return [1]
    return [v for v in range(1, _MOST_VIRTUAL + 1) if groups.pipeline * v <= num_layers]


def splits(num_layers: int, stages: int, virtual: int, first: float, last: float) -> Iterator[list[int]]:
    """Layers of each chunk. first, last: what the first stage and the last do besides, in layers' times.

    The first chunk and the last have fewer by about as many, the others are as level as they go."""
    chunks = stages * virtual
    if chunks == 1:
        yield [num_layers]
        return
    load = (num_layers + first + last) / stages  # of a stage
    seen = set()
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            # Only the first chunk of the first stage and the last of the last can do without a layer.
            ends = [max(virtual - 1, round(load - own) + more) for own, more in ((first, a), (last, b))]
            counts = _split(num_layers, stages, virtual, *ends)
            if counts is not None and tuple(counts) not in seen:
                seen.add(tuple(counts))
                yield counts


def tilted(counts: Sequence[int], stages: int) -> Iterator[Sequence[int]]:
    """The split, and the one that is as level with a layer less on the second stage, whose last gradients are there
    later than those behind it: [5, 6, 6, 7, 7, 5] and [5, 5, 7, 7, 7, 5]."""
    yield counts
    between = list(counts[1:-1])
    if len(counts) != stages or stages < 4:  # virtual stages fill and drain in turns
        return
    last = max(place for place, count in enumerate(between) if count == min(between))
    if last and between[0] > 1 and between[0] == min(between) < max(between):
        between[0] -= 1
        between[last] += 1
        yield [counts[0], *between, counts[-1]]


def _split(num_layers: int, stages: int, virtual: int, of_first: int, of_last: int) -> list[int] | None:
    """of_first, of_last: layers of the first stage and of the last, all their chunks together."""
    between = num_layers - of_first - of_last
    if stages == 1 or (between != 0 if stages == 2 else between < virtual * (stages - 2)):
        return None
    each, rest = divmod(between, stages - 2) if stages > 2 else (0, 0)
    # Later stages hold the activations of fewer micro-batches: they take one more.
    totals = [of_first, *(each + (stage >= stages - 2 - rest) for stage in range(stages - 2)), of_last]
    counts = [0] * (stages * virtual)
    for stage, total in enumerate(totals):
        own = list(range(stage, stages * virtual, stages))
        if stage == 0:
            own = own[1:] + own[:1]  # its first chunk takes what is left
        level, more = divmod(total, virtual)
        if total < virtual and stage in (0, stages - 1) and virtual > 1:
            if total < virtual - 1:
                return None
            level, more = 0, total
        for place, c in enumerate(own):
            counts[c] = level + (place < more)
    if min(counts) < 0 or 0 in counts[1:-1]:
        return None
    return counts


def _powers(most: int) -> list[int]:
    return [1 << n for n in range(most.bit_length()) if 1 << n <= most]


def with_row_length(settings: JobSettings, length: int) -> JobSettings:
    return replace(settings, data=replace(settings.data, sequence_length=length))


def recompute_choices(settings: JobSettings, modules: Sequence[tuple[str, ...]]) -> Iterator[JobSettings]:
    """The job with each kind of recomputation, nothing first; of `full` a part of the layers, which needs pieces of
    both, and all of them."""
    for vision in (False, True):
        yield with_recompute(settings, "none", vision=vision)
        for names in modules:
            yield with_recompute(settings, "selective", names, vision=vision)
        yield with_recompute(settings, "full", vision=vision, block=1)
        yield with_recompute(settings, "full", vision=vision)


def overrides(settings: JobSettings, given: JobSettings) -> list[str]:
    """What differs from the given settings, as key=value."""
    return list(_differences(settings, given, ""))


def _differences(mine: Any, given: Any, prefix: str) -> Iterator[str]:
    for entry in fields(mine):
        a, b = getattr(mine, entry.name), getattr(given, entry.name)
        if is_dataclass(a):
            yield from _differences(a, b, f"{prefix}{entry.name}.")
        elif a != b:
            yield f"{prefix}{entry.name}={_text(a)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
