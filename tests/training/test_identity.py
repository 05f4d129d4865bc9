"""What a resumed run must find as it was, and what is said of everything else."""

import dataclasses
import json
import re
import secrets
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from editcaption_mega.settings import DPOSettings, JobSettings
from editcaption_mega.training.identity import (
    BEFORE,
    FIXED,
    changes,
    check_identity,
    flat,
    identity,
    recorded_identity,
    thawed,
)
from editcaption_mega.training.run_folder import keep_settings

FILES = {"shards": "a" * 64, "prompt": "b" * 64, "tokenizer": "c" * 64, "chat_template": "f" * 64, "pictures": "d" * 64}
MULTIPLIERS = ("optimizer.vision", "optimizer.merger", "optimizer.language", "optimizer.router")
# Every other setting of a job: it may change on resume, and a line says so.
MAY_CHANGE = {
    "bad_steps.most_in_a_row", "bad_steps.policy", "bad_steps.rewind_steps", "bad_steps.spike_factor",
    "checkpoint.asynchronous", "checkpoint.every", "checkpoint.fallback", "checkpoint.keep", "checkpoint.keep_every",
    "checkpoint.keep_best", "checkpoint.local_folder", "data.held_out", "samples.max_new_tokens", "samples.pairs",
    "samples.seed",
    "checkpoint.resume", "checkpoint.retries", "checkpoint.retry_seconds", "checkpoint.verify",
    "data.bad_samples", "data.bad_samples_share", "data.cache", "data.cache_gib",
    "data.id_prefixes", "data.max_pixels", "data.min_pixels", "data.packing", "data.prefetch_steps", "data.prompt",
    "data.sequence_length", "data.shards", "data.shared_prompt", "data.worker_processes", "data.workers",
    "evaluation.every", "evaluation.metric", "evaluation.patience",
    "model.adapters.start", "model.backend", "model.checkpoint", "model.flash_attention",
    "model.folder", "model.fused_weight_gradients", "model.kernels", "model.max_logits_gib", "model.recompute",
    "model.recompute_method", "model.recompute_modules", "model.recompute_num_layers", "model.recompute_vision",
    "optimizer.beta1", "optimizer.beta2",
    "optimizer.clip_grad", "optimizer.decay_form", "optimizer.decay_ratio", "optimizer.decay_steps",
    "optimizer.eps", "optimizer.learning_rate", "optimizer.min_learning_rate",
    "optimizer.schedule", "optimizer.warmup_ratio", "optimizer.warmup_steps", "optimizer.weight_decay",
    "preference.failure_mode_metrics", "reference.checkpoint",
    "mlflow.experiment", "mlflow.name", "mlflow.tracking_uri",
    "reference.file", "reference.mode", "training.epochs", "training.log_every", "training.output", "training.steps",
    "training.stop_after", "training.deterministic", "training.loggers", "training.profile_ranks",
    "training.profile_steps",
    "wandb.entity", "wandb.mode", "wandb.name", "wandb.project", "watchdog.save_minutes", "watchdog.setup_minutes",
    "watchdog.slow_rank", "watchdog.step_minutes",
}  # fmt: skip


@dataclasses.dataclass
class Shape:
    """Of an Architecture what matters here: what it computes with, and the file itself."""

    rope_theta: float
    hf_config: dict = dataclasses.field(compare=False)


def parts(settings: JobSettings, **files) -> dict:
    shape = Shape(files.pop("rope_theta", 1e6), {"transformers_version": secrets.token_hex()})
    return identity(settings, SimpleNamespace(fingerprints=FILES | files), shape, "dpo")


def changed(name: str, value) -> DPOSettings:
    settings = DPOSettings()
    *sections, field = name.split(".")
    setattr(reduce(getattr, sections, settings), field, value)
    return settings


def state(settings: JobSettings, step: int = 40) -> dict:
    """As a checkpoint's state.json gives it back."""
    return json.loads(json.dumps({"step": step, "identity": parts(settings), "settings": flat(settings)}))


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, "more"] if isinstance(value, list) else f"{value}x"


def test_every_setting_is_decided():
    """A new setting is put into one of the two lists, on purpose."""
    layout = {name for name in flat(DPOSettings()) if name.startswith("parallel.")}
    assert set(flat(DPOSettings())) == {*FIXED, *MULTIPLIERS, *MAY_CHANGE, *layout}


@pytest.mark.parametrize("name", sorted(flat(DPOSettings())))
def test_each_changed_setting_is_refused_or_listed(name):
    before, value = DPOSettings(), other(flat(DPOSettings())[name])
    now = changed(name, value)
    if name in FIXED:
        with pytest.raises(ValueError) as error:
            check_identity(Path("runs/x/checkpoints/step_00000040"), state(before), parts(now))
        assert f"was trained with {name}={flat(before)[name]}, this job has {name}={value}" in str(error.value)
    else:
        assert check_identity(Path("x"), state(before), parts(now)) == []
        assert changes(Path("x"), state(before), now) == [f"{name}: {flat(before)[name]} -> {value} from step 40"]


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_freezing_names_the_setting(name):
    with pytest.raises(ValueError) as error:
        check_identity(Path("x"), state(changed(name, 0.5)), parts(changed(name, 0.0)))
    said = f"was trained with {name}=trained, this job has {name}=frozen"
    assert said in str(error.value) and "another model" not in str(error.value)


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_thawing_is_no_other_job(name):
    frozen = state(changed(name, 0.0))
    assert check_identity(Path("x"), frozen, parts(changed(name, 1.0))) == []
    assert thawed(frozen, parts(changed(name, 1.0))) == [name.removeprefix("optimizer.")]
    assert thawed(frozen, parts(changed(name, 0.0))) == thawed(state(DPOSettings()), parts(DPOSettings())) == []
    assert changes(Path("x"), frozen, changed(name, 1.0)) == [f"{name}: 0.0 -> 1.0 from step 40"]


@pytest.mark.parametrize("part", FILES)
def test_the_changed_file_is_named(part):
    with pytest.raises(ValueError) as error:
        check_identity(Path("x"), state(DPOSettings()), parts(DPOSettings(), **{part: "e" * 64}))
    message = str(error.value)
    assert f"{part}={FILES[part][:12]}, this job has {part}=eeeeeeeeeeee" in message
    assert f"{part} comes from " in message
    assert not any(f"{name}=" in message for name in FILES if name != part), "only what changed is named"


def test_another_architecture_of_the_same_shapes_is_named():
    with pytest.raises(ValueError, match="architecture comes from config.json of model.folder"):
        check_identity(Path("x"), state(DPOSettings()), parts(DPOSettings(), rope_theta=10.0))


def test_rows_are_part_of_a_load_balancing_loss():
    before, now = changed("model.router_aux_loss", 0.1), changed("model.router_aux_loss", 0.1)
    now.data.packing = False
    with pytest.raises(ValueError, match="data.packing=True, this job has data.packing=False"):
        check_identity(Path("x"), state(before), parts(now))


@bounded(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(FIXED), min_size=1), st.sets(st.sampled_from(sorted(FILES))))
def test_all_that_changed_is_named_at_once(names, files):
    now = DPOSettings()
    for name in names:
        *sections, field = name.split(".")
        part = reduce(getattr, sections, now)
        setattr(part, field, other(flat(now)[name]))
    with pytest.raises(ValueError) as error:
        check_identity(Path("x"), state(DPOSettings()), parts(now, **dict.fromkeys(files, "e" * 64)))
    told = set(re.findall(r"(?:^|, )([\w.]+)=", str(error.value).split("this job has ")[1].split(":")[0]))
    assert told == names | files


def test_a_checkpoint_of_an_earlier_version():
    """It tells seed, batch and objective; of the rest the job says that it was not checked."""
    old = {"step": 40, "seed": 1234, "global_batch_size": 32, "objective": "dpo", "data_fingerprint": "f" * 32,
           "preference": dataclasses.asdict(DPOSettings().preference), "reference_weights": "w"}  # fmt: skip
    unchecked = check_identity(Path("x"), old, parts(DPOSettings()))
    assert {"shards", "prompt", "tokenizer", "pictures", "data.shuffle", "training.precision"} <= set(unchecked)
    assert recorded_identity(old)["reference_weights"] == "w"
    with pytest.raises(ValueError, match=r"preference.beta=0.1, this job has preference.beta=0.2"):
        check_identity(Path("x"), old, parts(changed("preference.beta", 0.2)))
    assert "does not say its settings" in changes(Path("nowhere"), old, DPOSettings())[0]


def test_what_an_earlier_version_could_not_set_it_did_as_the_defaults_say():
    """Its checkpoints name none of these settings: another value is a change as any other is."""
    old = state(DPOSettings())
    for name in BEFORE:
        del old["settings"][name]
        old["identity"].pop(name, None)
    assert check_identity(Path("x"), old, parts(DPOSettings())) == [] and changes(Path("x"), old, DPOSettings()) == []
    now = changed("optimizer.schedule", "linear")
    assert changes(Path("x"), old, now) == ["optimizer.schedule: cosine -> linear from step 40"]
    for name, value in (("data.weights", [0.5, 0.5]), ("data.max_samples", 7)):
        with pytest.raises(
            ValueError, match=re.escape(f"was trained with {name}={flat(DPOSettings())[name]}, this job")
        ):
            check_identity(Path("x"), old, parts(changed(name, value)))
    assert {name: flat(DPOSettings())[name] for name in BEFORE} == BEFORE


def test_its_settings_are_those_of_config_yaml(tmp_path):
    keep_settings(tmp_path, DPOSettings(), 0)
    lines = changes(tmp_path, {"step": 40}, changed("optimizer.learning_rate", 0.5))
    assert lines == ["optimizer.learning_rate: 1e-05 -> 0.5 from step 40"]


def test_earlier_settings_are_kept(tmp_path):
    for step, rate in ((0, 0.1), (40, 0.1), (40, 0.2), (40, 0.3), (60, 0.4)):
        keep_settings(tmp_path, changed("optimizer.learning_rate", rate), step)
    rates = {
        path.name: path.read_text().split("learning_rate: ")[1].split()[0] for path in tmp_path.glob("config*.yaml")
    }
    # Step 40 was gone on from twice with 0.2 and 0.3: of the first of these no step is left.
    assert rates == {"config.yaml": "0.4", "config.step-00000040.yaml": "0.1", "config.step-00000060.yaml": "0.3"}
