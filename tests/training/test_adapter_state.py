"""Jobs that train adapters alone: what they save, what they go on with, and the reference that they get for nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from editcaption_mega import platform
from editcaption_mega.conversion import AdapterChoice, StoreReader, load_weights
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.model import ADAPTERS, Architecture, build_model, unwrap
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import AdapterSettings, ModelSettings, OptimizerSettings, ParallelSettings, SettingsError
from editcaption_mega.training import run_dpo, run_sft
from editcaption_mega.training.adapter_state import adapters_off, train_adapters_alone
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.megatron_optimizer import release_hooks
from editcaption_mega.training.optimizer import build_train_state
from tests.helpers import preference_job, small_job, tiny
from tests.parity import worker

LORA = dict(rank=4, alpha=8.0, modules=["self_attn.*", "mlp.*", "visual.*"])

MODULES = AdapterSettings().modules


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=16)
    preference_job.write_shards(root / "pairs")
    return root


def sft(base, output, steps=4, **adapters):
    job = small_job.job(base / "model", base / "shards", base / output, steps=steps)
    job.checkpoint.every = 2
    job.model.adapters = AdapterSettings(**(LORA | adapters))
    job.validate()
    return job


def dpo(base, output, **reference):
    options = dict(steps=4, global_batch_size=4)
    job = preference_job.job(base / "model", base / "pairs", base / output, reference=reference, **options)
    job.model.adapters = AdapterSettings(**LORA)
    job.optimizer.learning_rate = 1e-2
    job.validate()
    return job


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(base):
    run_sft(sft(base, "run"))
    return base / "run"


def test_a_checkpoint_holds_adapters_alone(base, trained):
    store = StoreReader(checkpoint_folder(trained, 4))
    keys = [key for key in store.tensors if not key.startswith("random/")]
    assert keys and all(ADAPTERS in key for key in keys)
    assert {key.split("/")[0] for key in keys} == {"weights", "exp_avg", "exp_avg_sq"}
    said = (trained / "log.txt").read_text()
    assert "adapters (rank 4, scale 2, experts: each) on 42 modules: 31,040 parameters are trained" in said
    assert "4 x model.language_model.layers.*.mlp.experts.down_proj" in said


def test_a_run_goes_on_from_its_adapters(base, trained):
    shutil.copytree(trained, base / "again")
    shutil.rmtree(checkpoint_folder(base / "again", 4))
    run_sft(sft(base, "again"))
    assert losses(base / "again") == losses(trained)
    assert losses(trained)[-1] < losses(trained)[0]


def test_another_base_is_refused(base, trained):
    shutil.copytree(base / "model", base / "other")
    weights = load_file(base / "other/model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, base / "other/model.safetensors")
    job = sft(base, "run", steps=6)
    job.model.folder = str(base / "other")
    with pytest.raises(ValueError, match=r"base_weights=\w{12}, this job has base_weights=\w{12}.*comes from the"):
        run_sft(job)


def test_a_run_of_adapters_is_no_checkpoint_to_start_from(base, trained):
    """Its folder is not begun."""
    for adapters in (False, True):
        job = sft(base, "from_adapters", **({} if adapters else dict(rank=0, alpha=32.0, modules=MODULES)))
        job.model.checkpoint = str(trained)
        with pytest.raises(SettingsError, match="holds adapters and not the weights that they are on: add them first"):
            run_sft(job)
        assert not list((base / "from_adapters").glob("*"))


def test_other_adapters_are_refused(base, trained):
    words = (
        "was trained with model.adapters.rank=4, .*this job has model.adapters.rank=2.*model.adapters.start to start"
    )
    with pytest.raises(SettingsError, match=words):
        run_sft(sft(base, "run", steps=6, rank=2, experts="shared"))
    job = small_job.job(base / "model", base / "shards", trained, steps=6)
    with pytest.raises(ValueError, match=r"with model.adapters.rank=4, .*this job has model.adapters.rank=0"):
        run_sft(job)
    with pytest.raises(
        SettingsError, match="was trained with model.adapters.rank=4, .*, and this job has rank=2, experts"
    ):
        run_sft(sft(base, "smaller", start=str(trained), rank=2, experts="shared"))


def test_the_base_is_the_reference(base):
    """Without a second copy, and without a file."""
    run_dpo(dpo(base, "auto"))
    run_dpo(dpo(base, "stored", mode="stored"))
    run_dpo(dpo(base, "resident", mode="resident"))
    off, stored, resident = (losses(base / name) for name in ("auto", "stored", "resident"))
    assert abs(off[0] - 0.693147) < 1e-5 and abs(off[-1] - off[0]) > 1e-3, "policy and reference must differ later"
    for other in (stored, resident):
        assert max(abs(a - b) for a, b in zip(off, other, strict=True)) <= 1e-6
    assert not list((base / "auto").glob("reference*")) and list((base / "stored").glob("reference*"))
    assert "reference: the model without its adapters" in (base / "auto/log.txt").read_text()


@pytest.fixture
def one_rank(tmp_path):
    """A mixture of experts of which few get a token, and its step."""
    folder = tmp_path / "moe"
    tiny.hf_model(experts=True, layers=2).save_pretrained(folder)
    architecture = Architecture.from_folder(folder)
    choice = AdapterChoice.of(architecture, AdapterSettings(rank=4, modules=["self_attn.*", "mlp.*"]))
    platform.initialize(platform.Layout(), seed=1)
    chunks = build_model(architecture, ModelSettings(folder=str(folder)), ParallelSettings(), "fp32", choice.plan(1))
    load_weights(chunks, architecture, folder)
    shards = train_adapters_alone(chunks, choice, seed=1, checkpoint=None)
    yield chunks, shards
    platform.destroy()


def test_an_expert_without_tokens_gets_no_gradient(one_rank):
    chunks, shards = one_rank
    state = build_train_state(chunks, shards, OptimizerSettings(learning_rate=0.1), precision="fp32", total_steps=2)
    with torch.no_grad():
        for shard in shards:  # at first B is zero, and so is the gradient of A
            shard.parameter.normal_(0, 0.02)
    used: dict[int, torch.Tensor] = {}
    for layer in unwrap(chunks[0]).language.decoder.layers:
        router = layer.mlp.router
        with torch.no_grad():  # all tokens choose two of these three experts
            router.weight[3:] = -100 * router.weight[:1].abs()

        def note(module, _, output, number=layer.layer_number - 1):
            used[number] = output[1].sum(0)

        router.register_forward_hook(note)
    (sample,) = tiny.samples(1, text_only=(0,))
    micro_batches = [tiny.row([sample], 32)]
    step = worker.Step(0, micro_batches, 32, len(sample.answer_ids), 1)
    for chunk in state.chunks:
        chunk.train()
    train_step(state, SFTObjective(), step)
    seen = set()
    for shard in shards:
        if ".experts." not in shard.name:
            continue
        counts = used[int(shard.name.split(".")[3])]
        by_expert = shard.parameter.main_grad.flatten(1).abs().amax(1)
        for count, largest in zip(counts.tolist(), by_expert.tolist(), strict=True):
            seen.add((count > 0, largest > 0))
    release_hooks(state.chunks)
    assert (False, True) not in seen
    assert {(False, False), (True, True)} <= seen, "experts without tokens and with"


def test_adapters_off_is_the_base(one_rank):
    chunks, shards = one_rank
    (sample,) = tiny.samples(1, text_only=(0,))

    def log_probs():
        with torch.no_grad():
            return chunks[0](tiny.row([sample], 32))

    before = log_probs()
    with torch.no_grad():
        for shard in shards:
            shard.parameter.normal_(0, 0.1)
    changed = log_probs()
    with adapters_off(chunks):
        off = log_probs()
    assert torch.equal(off, before) and (changed - before).abs().max() > 0.1
    assert torch.equal(log_probs(), changed)
