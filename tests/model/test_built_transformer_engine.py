"""The `transformer_engine` backend as a GPU would build it, without values, beside the `torch` backend.

Transformer Engine's kernels need a GPU and are not called: what holds here are the names, sizes and marks of all
parameters, what its classes are given, and its optimizer's state. `make transformer-engine` installs it."""

import dataclasses
import inspect
import json
import os
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch

from editcaption_mega.conversion import AdapterChoice, local_param_shards, rules_for
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.model import Architecture, build_model, unwrap, weights_to_share
from editcaption_mega.model.layers import check_backend
from editcaption_mega.model.released import released_architecture
from editcaption_mega.settings import AdapterSettings, ModelSettings, OptimizerSettings, ParallelSettings
from editcaption_mega.training import run_sft
from tests.helpers import ROOT, small_job, tiny, warm
from tests.helpers.fake_ranks import on_fake_ranks, smallest_world


def why_not() -> str:
    try:
        import transformer_engine.pytorch  # noqa: F401
    except Exception as error:
        return f"Transformer Engine cannot be imported: {error}"
    return ""


WHY_NOT = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

TIED, UNTIED, MOE, LARGE_MOE = "Qwen3-VL-2B", "Qwen3-VL-8B", "Qwen3-VL-30B-A3B", "Qwen3-VL-235B-A22B"
ADAPTERS = AdapterSettings(rank=8, modules=["language_model.layers.*_proj", "visual.*"])


def model(**options: Any) -> ModelSettings:
    return ModelSettings(folder="-", **options)


def layout(tp=1, pp=1, vpp=None, ep=1, etp=None, **more) -> ParallelSettings:
    return ParallelSettings(tp, pp, vpp, ep, etp, **more)


SELECTIVE = model(recompute="selective", recompute_modules=["core_attn", "layernorm"])
# (model, layout, settings)
CASES = {
    "dense, tied, whole": (TIED, layout(), model()),
    "dense, rows cut": (UNTIED, layout(tp=2), model()),
    "dense, rows whole": (UNTIED, layout(tp=2, sequence_parallel=False), model()),
    "dense, tied over stages": (TIED, layout(tp=2, pp=2), model()),
    "dense, interleaved": (UNTIED, layout(pp=2, vpp=2), model()),
    "gradients apart": (UNTIED, layout(tp=2), model(fused_weight_gradients=False)),
    "experts over ranks": (MOE, layout(ep=4), model()),
    "experts over ranks, rows cut": (LARGE_MOE, layout(tp=2, ep=2), model()),
    "experts cut": (MOE, layout(tp=2, ep=2, etp=2), model()),
    "experts whole, stages": (LARGE_MOE, layout(tp=4, pp=2, ep=4, etp=1), model()),
    "recomputed in part": (UNTIED, layout(tp=2), SELECTIVE),
    "recomputed": (MOE, layout(tp=2, ep=2), model(recompute="full")),
    "adapters": (UNTIED, layout(tp=2), model(adapters=ADAPTERS)),
    "adapters, experts": (
        MOE,
        layout(tp=2, ep=2),
        model(adapters=AdapterSettings(rank=4, modules=["language_model.layers.*_proj", "mlp.gate"])),
    ),
}


def as_on_a_gpu() -> None:
    """What Transformer Engine asks of the GPU when it makes its modules. Tensors stay without values: a dry process
    makes them so wherever a GPU is named. For a process of its own, and for good."""
    import megatron.core.optimizer

    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # as jobs have it
    torch.cuda.is_available = lambda: True
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    megatron.core.optimizer.USING_PYTORCH_OPTIMIZER = False  # as Megatron has it where Transformer Engine is installed


def cut(name: str) -> Architecture:
    return dataclasses.replace(released_architecture(name), num_layers=4)


def build(architecture: Architecture, parallel: ParallelSettings, settings: ModelSettings, backend: str) -> list:
    choice = AdapterChoice.of(architecture, settings.adapters)
    return build_model(
        architecture, dataclasses.replace(settings, backend=backend), parallel, "bf16", choice and choice.plan(0)
    )


def parameters(chunks: list, architecture: Architecture, settings: ModelSettings) -> dict:
    """Of each parameter: its size, what Megatron is told of it, and the rule and box by which it is converted."""
    choice = AdapterChoice.of(architecture, settings.adapters)
    tables = [rules_for(architecture), *([choice.rules] if choice else [])]
    shards = [shard for rules in tables for shard in local_param_shards(chunks, rules)]
    boxes = {id(shard.parameter): (shard.rule.name, shard.box) for shard in shards}
    named = {(i, name): p for i, chunk in enumerate(chunks) for name, p in chunk.named_parameters()}
    assert len(boxes) == len({id(p) for p in named.values()}), "a rule for each parameter"
    return {
        name: (tuple(p.shape), p.dtype, p.requires_grad, dict(sorted(vars(p).items())), boxes[id(p)])
        for name, p in named.items()
    }


def classes(chunks: list) -> list[tuple[str, str, Any]]:
    """Of each module that Transformer Engine makes: the last part of its name, its class, and whether its product adds
    the weight's gradient."""
    import transformer_engine.pytorch as te

    kinds = te.Linear, te.RMSNorm, te.DotProductAttention, te.GroupedLinear, te.LayerNormLinear, te.LayerNormMLP
    named = [(name, module) for chunk in chunks for name, module in chunk.named_modules()]
    return [
        (name.rpartition(".")[2], kind.__name__, getattr(module, "fuse_wgrad_accumulation", None))
        for name, module in named
        for kind in kinds
        if isinstance(module, kind)
    ]


def both_backends(architecture: Architecture, parallel: ParallelSettings, settings: ModelSettings) -> tuple:
    chunks = build(architecture, parallel, settings, "torch")
    expected = parameters(chunks, architecture, settings)
    languages = [unwrap(chunk).language for chunk in chunks]
    layers, last = sum(len(part.decoder.layers) for part in languages), any(part.post_process for part in languages)
    as_on_a_gpu()
    chunks = build(architecture, parallel, settings, "transformer_engine")
    return expected, parameters(chunks, architecture, settings), classes(chunks), layers, last


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_the_torch_backend(case):
    name, parallel, settings = CASES[case]
    architecture = cut(name)
    ranks = on_fake_ranks(both_backends, parallel, smallest_world(parallel), architecture, parallel, settings)
    assert len(ranks) == smallest_world(parallel)
    for expected, built, made, layers, last in ranks:
        assert expected.keys() == built.keys() and len(built) > 10
        differing = [name for name in expected if expected[name] != built[name]]
        assert not differing, {name: (expected[name], built[name]) for name in differing[:2]}
        # What docs/kernels.md says of it: norms, linears and attention of decoder layers, and the last norm.
        linears = ["linear_qkv", "linear_proj"] + ([] if architecture.experts else ["linear_fc1", "linear_fc2"])
        norms = ["input_layernorm", "pre_mlp_layernorm", "q_layernorm", "k_layernorm"]
        of_a_layer = [(name, "Linear", settings.fused_weight_gradients) for name in linears]
        of_a_layer += [(name, "RMSNorm", None) for name in norms] + [("core_attention", "DotProductAttention", None)]
        wanted = of_a_layer * layers + [("final_layernorm", "RMSNorm", None)] * last
        assert sorted(made, key=str) == sorted(wanted, key=str)


def built_on_the_weights_of_another(architecture: Architecture, parallel: ParallelSettings) -> tuple[int, int, list]:
    as_on_a_gpu()
    settings = model(backend="transformer_engine", adapters=ADAPTERS)
    choice = AdapterChoice.of(architecture, ADAPTERS)
    (first,) = build_model(architecture, settings, parallel, "bf16", choice.plan(0))
    weights = weights_to_share(unwrap(first))
    (second,) = build_model(architecture, settings, parallel, "bf16", choice.plan(0), [weights])
    own = dict(unwrap(second).named_parameters())
    of_adapters = sum(name not in weights for name in own)
    return len(weights), of_adapters, [name for name, weight in weights.items() if own[name] is not weight]


def test_another_model_takes_its_weights():
    parallel = layout(tp=2)
    ((shared, of_adapters, others),) = on_fake_ranks(
        built_on_the_weights_of_another, parallel, 2, cut(UNTIED), parallel, ranks=[1]
    )
    assert shared > 300 and of_adapters > 100 and not others


def answer_for_kernels(calls: list) -> None:
    """Let Transformer Engine's modules return what they would, without values. What they are given must fit their own
    signatures, and is noted: class, shapes of tensors, other arguments."""
    import transformer_engine.pytorch as te

    def answered(kind: type, output: Any) -> None:
        signature = inspect.signature(kind.forward)

        def forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            given = signature.bind(self, *args, **kwargs).arguments
            del given["self"]
            calls.append((kind.__name__, {name: _shown(value) for name, value in given.items() if value is not None}))
            return output(self, *args)

        kind.forward = forward

    answered(te.RMSNorm, lambda self, x, *_: x * self.weight)
    answered(te.Linear, _linear)
    answered(te.DotProductAttention, lambda self, query, *_: query.flatten(1) * 1)


def _shown(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def _linear(layer: Any, x: torch.Tensor, *_: Any) -> torch.Tensor:
    ranks = layer.tp_size if layer.sequence_parallel else 1
    if layer.parallel_mode == "column":
        return torch.nn.functional.linear(x.repeat(ranks, 1, 1), layer.weight)
    return torch.nn.functional.linear(x, layer.weight)[: x.size(0) // ranks]


def step(architecture: Architecture, parallel: ParallelSettings, settings: ModelSettings, batch: PackedBatch) -> tuple:
    """What a forward and backward pass hands to Transformer Engine, and which parameters got no gradient."""
    from editcaption_mega import platform
    from editcaption_mega.planning.dry_run import fakes
    from editcaption_mega.planning.dry_run.recorder import StepRecorder

    recorder, calls = StepRecorder(), []
    fakes.answer_for_values(recorder, 1.0)
    as_on_a_gpu()
    answer_for_kernels(calls)
    (chunk,) = build(architecture, parallel, settings, "transformer_engine")
    torch.cuda.current_device = (
        platform.device
    )  # not all that is made by number in a step is made by a function of torch's
    with recorder:
        log_probs = chunk(batch.to(platform.device()))
        assert log_probs.shape == batch.targets.shape
        log_probs.sum().backward()
    return calls, [name for name, parameter in chunk.named_parameters() if parameter.grad is None]


ONE = layout(), model()
STEPS = {
    "dense": (False, *ONE, False),
    "dense, pairs": (False, *ONE, True),
    "experts": (True, *ONE, False),
    "rows cut, pairs": (False, layout(tp=2), model(), True),
    "experts over ranks, rows cut": (True, layout(tp=2, ep=2), model(), False),
    "recomputed in part": (False, layout(tp=2), SELECTIVE, True),
    "adapters, rows cut": (False, layout(tp=2), model(adapters=AdapterSettings(rank=4, dora=True)), False),
}


@pytest.mark.parametrize("case", STEPS)
def test_its_classes_take_what_a_step_gives_them(case):
    experts, parallel, settings, pairs = STEPS[case]
    architecture = Architecture.from_config(tiny.hf_model(experts=experts, layers=2).config.to_dict())
    samples, tensor = tiny.pairs(3) if pairs else tiny.samples(3), parallel.tensor_model_parallel_size
    batch = tiny.row(samples, sum(sample.num_tokens for sample in samples) // tensor * tensor + tensor, ranks=tensor)
    ranks = on_fake_ranks(step, parallel, smallest_world(parallel), architecture, parallel, settings, batch, ranks=[0])
    ((calls, without_gradient),) = ranks
    assert not without_gradient
    again = 2 if settings.recompute == "selective" else 1  # what is computed anew in the backward pass
    layers, length = architecture.num_layers, batch.input_ids.numel()
    of_class = {kind: [given for name, given in calls if name == kind] for kind in dict(calls)}
    assert len(of_class["Linear"]) == (2 if experts else 4) * layers
    assert len(of_class["RMSNorm"]) == (2 + 2 * again) * layers + 1
    assert len(of_class["DotProductAttention"]) == again * layers
    segments = ((len(batch.bounds),), torch.int32)
    keys = length if batch.key_index is None else len(batch.key_index)
    assert (keys > length) == pairs
    heads, groups, width = architecture.num_heads // tensor, architecture.num_kv_heads // tensor, architecture.head_dim
    for given in of_class["DotProductAttention"]:
        assert given == {
            "query_layer": ((length, heads, width), torch.bfloat16),
            "key_layer": ((keys, groups, width), torch.bfloat16),
            "value_layer": ((keys, groups, width), torch.bfloat16),
            "qkv_format": "thd",
            "cu_seqlens_q": segments,
            "cu_seqlens_kv": segments,
            "max_seqlen_q": max(b - a for a, b in pairwise(batch.bounds)),
            "max_seqlen_kv": max(b - a for a, b in pairwise(batch.key_bounds)),
            "attn_mask_type": "padding_causal_bottom_right" if pairs else "padding_causal",
        }


def state_of_updates(architecture: Architecture, parallel: ParallelSettings) -> tuple:
    """The classes of the optimizers inside, what their groups count (begun anew, at 7 updates, behind one more), sizes
    of the ranges that this rank has with those of their state, and how many tensors were updated."""
    from editcaption_mega.training import megatron_optimizer
    from editcaption_mega.training.optimizer import build_train_state

    as_on_a_gpu()
    chunks = build(architecture, parallel, model(), "transformer_engine")
    shards = local_param_shards(chunks, rules_for(architecture))
    state = build_train_state(chunks, shards, OptimizerSettings(), precision="bf16", total_steps=10)
    inside = [part.optimizer for part in megatron_optimizer._parts(state.optimizer)]
    updates: list = []
    for inner in inside:
        assert inner.adam_w_mode and not inner.master_weights
        inner.multi_tensor_adam = lambda *arguments: updates.append(len(arguments[2][0]))
    counts = []
    for change in (
        lambda: megatron_optimizer.begin_without_update(state.optimizer),
        lambda: megatron_optimizer.begin_state(state.optimizer, 7),
        lambda: [megatron_optimizer._allocate(inner) for inner in inside],
    ):
        change()
        counts.append({group["step"] for inner in inside for group in inner.param_groups})
    states = [megatron_optimizer.parameter_state(state.optimizer, p) for c in state.chunks for p in c.parameters()]
    sizes = [
        (each.end - each.start, {name: (tensor.numel(), tensor.dtype) for name, tensor in each.tensors.items()})
        for each in filter(None, states)
    ]
    return [f"{type(inner).__module__}.{type(inner).__name__}" for inner in inside], counts, sizes, sum(updates)


def test_its_adam_is_what_updates_and_its_state_is_what_checkpoints_hold():
    parallel, architecture = layout(tp=2, ep=2), cut(LARGE_MOE)
    ((kinds, counts, sizes, updated),) = on_fake_ranks(state_of_updates, parallel, 4, architecture, parallel, ranks=[3])
    assert set(kinds) == {"transformer_engine.pytorch.optimizers.fused_adam.FusedAdam"} and len(kinds) == 2
    assert counts == [{0}, {7}, {8}] and len(sizes) > 100
    for size, tensors in sizes:
        assert tensors == dict.fromkeys(("param", "exp_avg", "exp_avg_sq"), (size, torch.float32))
    assert updated


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@NO_GPU
def test_where_there_is_no_gpu_it_is_refused_with_the_mend():
    with pytest.raises(ValueError, match="'transformer_engine' is for GPUs alone.*set model.backend=torch"):
        check_backend("transformer_engine")


@NO_GPU
def test_a_job_without_a_gpu_uses_none_of_it(tmp_path):
    """Megatron would: its router's product, its Adam, its clipping."""
    folder, shards = small_job.write_folder(tmp_path / "model"), small_job.write_shards(tmp_path / "shards")
    job = small_job.job(folder, shards, tmp_path / "run", steps=2)
    job.optimizer.clip_grad = 1e-3
    run_sft(job)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["grad_norm"] > job.optimizer.clip_grad


def test_a_plan_uses_none_of_it(tmp_path):
    file = tmp_path / "plan.json"
    arguments = ["configs/sft_qwen3_vl_30b_a3b.yaml", "--gpus", "64", "--mode", "dry-run", "--json", str(file)]
    done = warm.run([sys.executable, "tools/plan.py", *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["step"]["seconds"] > 0
