"""Forward and backward of one decoder layer and of the vision tower, as large as one rank of a shipped configuration
has them."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from benches.measuring import launch_seconds, timed

from editcaption_mega import platform
from editcaption_mega.data.batching.packing import RankShare
from editcaption_mega.model import Architecture
from editcaption_mega.model.build import unwrap
from editcaption_mega.planning.workload import Workload, planned_step

from .figures import Figure, Figures, Machine
from .models import architecture_of, job_settings, model_with_weights

# A rank's share of a layer. The experts' part: 16 of 128 experts, and as many tokens as 8 ranks send to them, which is
# what 2 of these 16 for each token of its own are.
TP, EP = 4, 8
PLAIN = ["model.recompute=none", "training.global_batch_size=1"]
ROW = [*PLAIN, "data.sequence_length=8192"]
LAYERS = (2, 8)  # of two models, whose difference is measured
SMALL_ROW = [*PLAIN, "data.sequence_length=300", "data.max_pixels=65536"]


def run(machine: Machine) -> Figures:
    platform.initialize(platform.Layout(), seed=1)
    try:
        for name, goal in (("Qwen3-VL-32B", None), ("Qwen3-VL-235B-A22B", 0.5)):
            yield from _layer(name, machine, goal)
        yield from _vision(machine)
    finally:
        platform.destroy()


def shard_of(architecture: Architecture) -> Architecture:
    """The sizes that one tensor- and expert-parallel rank computes, as a model of its own."""
    experts = architecture.experts
    if experts is not None:
        experts = replace(
            experts, num_experts=max(1, experts.num_experts // EP),
            experts_per_token=max(1, experts.experts_per_token // TP),
        )  # fmt: skip
    return replace(
        architecture,
        num_heads=max(1, architecture.num_heads // TP),
        num_kv_heads=max(1, architecture.num_kv_heads // TP),
        intermediate_size=architecture.intermediate_size // TP,
        experts=experts,
    )


def layer_flops(architecture: Architecture, bounds: tuple[int, ...]) -> float:
    """Of one decoder layer's forward and backward over a row that is cut at `bounds`."""
    tokens = bounds[-1]
    hidden, heads = architecture.hidden_size, architecture.head_dim * architecture.num_heads
    projections = hidden * (2 * heads + 2 * architecture.head_dim * architecture.num_kv_heads)
    experts = architecture.experts
    width = architecture.intermediate_size
    if experts is not None:
        width = experts.intermediate_size * experts.experts_per_token
    pairs = sum((end - start) ** 2 / 2 for start, end in pairwise(bounds))  # causal
    return 3 * 2 * (tokens * (projections + 3 * hidden * width) + 2 * pairs * heads)


def _layer(name: str, machine: Machine, goal: float | None) -> Figures:
    """One layer is a part of the difference between a model of many and one of few: embedding and head fall out."""
    shard = shard_of(architecture_of(name, machine))
    architecture = replace(shard, vocab_size=machine.size(4096, 512), tied_embeddings=True)
    settings = job_settings("sft_qwen3_vl_2b.yaml", machine, ROW, SMALL_ROW)
    seconds = {}
    for layers in LAYERS:
        model = replace(architecture, num_layers=layers)
        (chunk,) = model_with_weights(model, settings)
        text = Workload(pictures=0, prompt_text_tokens=machine.size(8000, 240), answer_tokens=60)
        (batch,) = planned_step(settings, model, text, RankShare()).micro_batches
        batch = batch.to(platform.device())

        def step(chunk=chunk, batch=batch) -> None:
            chunk.zero_grad(set_to_none=True)
            chunk(batch).sum().backward()

        step(), step()
        seconds[layers] = _median(step, machine)
        del chunk, step
    few, many = LAYERS
    layer = (seconds[many] - seconds[few]) / (many - few)
    flops = layer_flops(architecture, batch.bounds)
    rank = f"TP{TP}" + (f" EP{EP}" if architecture.experts else "")
    title = f"layer of {name.removeprefix('Qwen3-VL-')}, a rank of {rank}"
    if layer <= 0:  # the difference of two measured times
        why = f"{few} layers took {seconds[few]:.3g} s, {many} took {seconds[many]:.3g} s"
        for name in (title, f"{title}: share of matmul"):
            yield Figure(name, "not measured", "", why)
        return
    yield Figure(title, 1e3 * layer, "ms", f"forward and backward of {batch.bounds[-1]} tokens")
    yield Figure(f"{title}: share of matmul", flops / layer / machine.ceilings["matmul"], "", "", goal=goal)


def _median(step: Callable[[], None], machine: Machine) -> float:
    """Seconds of the device, from the moment at which its queue is full."""
    launching = launch_seconds(step, machine.device)
    runs = range(machine.size(10, 3))
    return statistics.median(timed(step, machine.device, launching=launching) for _ in runs)


def _vision(machine: Machine) -> Figures:
    """The tower of 32B and 235B on one picture as large as the configurations allow."""
    architecture = replace(architecture_of("Qwen3-VL-32B", machine), num_layers=4, vocab_size=512)
    architecture = replace(architecture, hidden_size=machine.size(5120, 128))
    settings = job_settings("sft_qwen3_vl_2b.yaml", machine, ROW, SMALL_ROW)
    (chunk,) = model_with_weights(architecture, settings)
    plain = Workload(pictures=1, answer_tokens=machine.size(60, 10))
    (batch,) = planned_step(settings, architecture, plain, RankShare()).micro_batches
    images = batch.to(platform.device()).images
    tower = unwrap(chunk).vision

    def step() -> None:
        tower.zero_grad(set_to_none=True)
        tower(images).sum().backward()

    step(), step()
    seconds = _median(step, machine)
    patches, vision = images.bounds[-1], architecture.vision
    per_block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    mergers = (1 + len(vision.deepstack_layers)) * (vision.merged_size**2 + vision.merged_size * vision.out_hidden_size)
    products = patches * (vision.depth * per_block + mergers / vision.spatial_merge_size**2)
    attention = vision.depth * 2 * patches**2 * vision.hidden_size
    flops = 3 * 2 * (products + attention)
    yield Figure("vision tower", 1e3 * seconds, "ms", f"forward and backward of a picture of {patches} patches")
    yield Figure("vision tower: share of matmul", flops / seconds / machine.ceilings["matmul"], "")
