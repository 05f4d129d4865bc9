"""One optimizer step of a small model of true architecture, executed on the CPU or without values; run as a program.

    python -m tests.planning.dry_run.small_step {cpu,dry} SPEC.json

Writes MODE-RANK.json beside the specification: the peak of tensor storage in bytes, the bytes between steps, and FLOPs.
Several ranks: the environment that torchrun gives.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.transformer.moe.router import TopKRouter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from editcaption_mega import platform
from editcaption_mega.conversion import ParamShard, StoreWriter, local_param_shards, rules_for
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import ImageSettings
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.planning.dry_run.fakes import expert_counts
from editcaption_mega.planning.dry_run.memory import Memory
from editcaption_mega.planning.dry_run.rank_step import execute_step, job_objective, join_alone
from editcaption_mega.settings import DPOSettings, JobSettings, load_settings
from editcaption_mega.training.adapter_state import chosen_adapters, freeze_weights
from editcaption_mega.training.checkpoint import tensors_of_rank
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.megatron_optimizer import begin_state
from editcaption_mega.training.optimizer import TrainState, build_train_state, freeze_modules
from editcaption_mega.training.setup import layout_of, rank_share

IMAGES = ImageSettings(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=4096, max_pixels=1 << 21)
IMAGE_TOKEN, SIDE, BATCH = 4000, 16, 8


def write_config(folder: Path, *, experts: bool, layers: int = 8) -> None:
    """A config.json; there are no weights."""
    kind = "qwen3_vl_moe" if experts else "qwen3_vl"
    text = dict(
        model_type=f"{kind}_text", vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, rms_norm_eps=1e-6, hidden_act="silu",
        attention_bias=False, rope_theta=5000000,
        rope_scaling=dict(rope_type="default", mrope_section=[6, 5, 5], mrope_interleaved=True),
    )  # fmt: skip
    if experts:
        text |= dict(moe_intermediate_size=192, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)
    vision = dict(
        model_type=kind, depth=4, hidden_size=128, intermediate_size=512, num_heads=4, patch_size=16, in_channels=3,
        spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=256, num_position_embeddings=256,
        deepstack_visual_indexes=[0, 1, 2], hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    config = dict(
        architectures=["Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"],
        model_type=kind, image_token_id=IMAGE_TOKEN, video_token_id=4001, vision_start_token_id=4002,
        vision_end_token_id=4003, tie_word_embeddings=False, text_config=text, vision_config=vision,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def settings_of(spec: dict[str, Any]) -> JobSettings:
    """spec: model (folder), kind ("sft" or "dpo"), overrides."""
    root = Path(__file__).parents[3]
    kind = DPOSettings if spec["kind"] == "dpo" else JobSettings
    fixed = ["training.precision=bf16", f"training.global_batch_size={BATCH}", "data.sequence_length=1400"]
    path = root / f"configs/{spec['kind']}_demo.yaml"
    return load_settings(path, [f"model.folder={spec['model']}", *fixed, *spec["overrides"]], kind)


class _Blank:
    grid = (1, 32, 32)

    def load(self) -> torch.Tensor:
        return torch.full((32 * 32, 16 * 16 * 3), 128, dtype=torch.uint8)  # gray: about 0 to the model


def step_of(settings: JobSettings) -> Step:
    prompt = [1] * 30 + [4002] + [IMAGE_TOKEN] * 256 + [4003] + [2] * 10 + [4002] + [IMAGE_TOKEN] * 256 + [4003, 3]
    answers = ((5,) * 60,) * (2 if isinstance(settings, DPOSettings) else 1)
    samples = [EncodedSample(f"s{i}", tuple(prompt), answers, (_Blank(), _Blank())) for i in range(BATCH)]
    packer = Packer(IMAGES, IMAGE_TOKEN, 0, SIDE, settings.data.sequence_length, share=rank_share(settings.parallel))
    plan = packer.plan([sample.num_tokens for sample in samples])
    rows = [packer.collate([samples[i] for i in sequence], plan.length) for sequence in plan.sequences]
    for row, sequence in zip(rows, plan.sequences, strict=True):
        row.sample_numbers = tuple(sequence)
    return Step(0, rows, plan.length, 60 * BATCH, BATCH)


class _Watch(TorchDispatchMode):
    """The storages that operators make, until they are freed."""

    def __init__(self, memory: Memory):
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(leaf, torch.Tensor):
                self.memory.add(leaf, "any")
        self.memory.is_peak()
        return out


def on_cpu(settings: JobSettings) -> dict[str, Any]:
    """A real step -> what was measured. `allocated`: the allocator's own account, which several ranks cannot use (what
    gloo's threads free is not in it)."""
    platform.initialize(layout_of(settings.parallel), 1)
    architecture = Architecture.from_folder(settings.model.folder)
    adapters = chosen_adapters(settings, architecture)
    plan = None if adapters is None else adapters.plan(1)
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision, plan)
    _with_values(chunks)
    _balance_experts(chunks)
    if adapters is not None:
        shards = freeze_weights(chunks, adapters)
    else:
        shards = local_param_shards(chunks, rules_for(architecture))
        freeze_modules(shards, settings.optimizer)
    state = build_train_state(chunks, shards, settings.optimizer, precision=settings.training.precision, total_steps=2)
    begin_state(state.optimizer, 1)
    for chunk in state.chunks:
        chunk.train()
    step = step_of(settings)
    # A job has the next step's inputs, too. Beside all that full training holds they are within the test's tolerance.
    _coming = step_of(settings) if adapters is not None else None
    objective, reference = job_objective(settings, architecture, step, state.chunks)
    _balance_experts(_with_values(reference))
    gc.collect()
    memory = Memory("cpu")
    for item in gc.get_objects():
        if isinstance(item, torch.Tensor):
            memory.add(item, "any")
    memory.start()
    held = memory.now
    with _Watch(memory):
        train_step(state, objective, step)
    with FlopCounterMode(display=False) as flops:
        train_step(state, objective, step)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(profile_memory=True, activities=activities, acc_events=True) as profile:
        train_step(state, objective, step)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    products = {str(name): count for name, count in flops.get_flop_counts()["Global"].items()}
    return {
        "peak": memory.peak.total, "held": held, "allocated": held + most, "flops": products,
        "written": _bytes_written(Path(settings.model.folder).with_name("store"), shards, state),
    }  # fmt: skip


def _bytes_written(folder: Path, shards: list[ParamShard], state: TrainState) -> int:
    """Take a real checkpoint -> the bytes of tensors in this rank's files: without their headers, which name them."""
    writer = StoreWriter(folder)
    for prefix, shard, start, values in tensors_of_rank(shards, state.optimizer):
        writer.add_range(prefix + shard.rule.name, shard.rule.shape, shard.box, start, values)
    writer.finish()
    files = list(folder.glob(f"rank{platform.rank():05d}-*.safetensors"))
    headers = [8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files]
    return sum(path.stat().st_size for path in files) - sum(headers)


def _with_values(chunks: list[torch.nn.Module]) -> list[torch.nn.Module]:
    generator = torch.Generator().manual_seed(0)
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.02, generator=generator)
            else:
                parameter.data.fill_(1.0 if "norm" in name else 0.0)
    return chunks


def _balance_experts(chunks: list[torch.nn.Module]) -> None:
    """Have the routers choose as evenly as the dry run takes them to: each token still by its own probabilities."""
    for router in (module for chunk in chunks for module in chunk.modules() if isinstance(module, TopKRouter)):
        router.gating = partial(_even_logits, router.gating, router.config.num_moe_experts, router.topk)


def _even_logits(
    gating: Callable[[torch.Tensor], torch.Tensor], num_experts: int, topk: int, hidden: torch.Tensor
) -> torch.Tensor:
    logits = gating(hidden)
    tokens = logits.numel() // num_experts
    counts = expert_counts(tokens * topk, num_experts, 1, 0, 1.0)
    # No expert has more rows than there are tokens, so those of a token, `tokens` rows apart, are different ones.
    chosen = torch.from_numpy(np.repeat(np.arange(num_experts), counts)).view(topk, tokens).T
    even = torch.zeros(tokens, num_experts).scatter_(1, chosen, 1e3)
    return logits + even.view_as(logits)


def dry(settings: JobSettings) -> dict[str, Any]:
    join_alone(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), settings)
    architecture = Architecture.from_folder(settings.model.folder)
    record = execute_step(
        settings, architecture, step_of(settings), chosen_adapters(settings, architecture), all_micro_batches=True
    )
    products: dict[str, float] = {}
    for phase in record.phases:
        for operation in phase.steps:
            if getattr(operation, "flops", 0):
                products[operation.name] = products.get(operation.name, 0) + operation.flops
    syncs = [[sync.what, sync.where, count] for sync, count in record.host_syncs.items()]
    mixed = [[mix.what, mix.where, count] for mix, count in record.mixed.items()]
    return {
        "peak": record.peak.total, "by_kind": record.peak.by_kind, "held": sum(record.states.values()),
        "flops": products, "host_syncs": syncs, "mixed": mixed, "executed": record.executed,
        "reference": record.peak.by_kind.get("reference weights", 0),
        "start": record.start_peak, "checkpoint": record.checkpoint_peak, "written": record.checkpoint_bytes,
    }  # fmt: skip


def main() -> None:
    mode, path = sys.argv[1], Path(sys.argv[2])
    settings = settings_of(json.loads(path.read_text(encoding="utf-8")))
    seen = {"cpu": on_cpu, "dry": dry}[mode](settings)
    file = path.with_name(f"{mode}-{os.environ.get('RANK', '0')}.json")
    file.write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main()
