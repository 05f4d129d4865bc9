"""`import editcaption_mega`: light, and its functions do what the commands do."""

import json
import math
import subprocess
import sys

import pytest

import editcaption_mega
from editcaption_mega import TrainingResult, interface
from tests.helpers import ROOT, small_job


def test_importing_the_package_imports_nothing_else():
    code = "import sys, editcaption_mega; dir(editcaption_mega); print([m for m in sys.modules if m in sys.argv[1:]])"
    names = ["torch", "numpy", "transformers", "omegaconf", "editcaption_mega.interface", "editcaption_mega.settings"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_the_names_are_listed_and_documented():
    assert set(editcaption_mega.__all__) == set(interface.__all__) <= set(dir(editcaption_mega))
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for name in editcaption_mega.__all__:
        assert getattr(editcaption_mega, name) is getattr(interface, name)
        assert getattr(interface, name).__doc__ and f"`{name}" in page, f"docs/python.md does not show {name}"
    with pytest.raises(AttributeError, match="no attribute 'captoin'"):
        editcaption_mega.captoin  # noqa: B018


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A model, shards, settings by dotted names, and two pictures."""
    root = tmp_path_factory.mktemp("interface")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=8)
    settings = {
        "model.folder": root / "model",
        "data.shards": [root / "shards"],
        "data.sequence_length": 512,
        "data.min_pixels": 1024,
        "training.steps": 2,
        "training.global_batch_size": 4,
        "training.precision": "fp32",
    }
    reader = editcaption_mega.open_shards(root / "shards")
    for side in ("source", "target"):
        (root / f"{side}.png").write_bytes(reader.picture(0, side))
    return root, settings


def test_train_score_and_caption(job):
    root, settings = job
    result = editcaption_mega.train_sft(None, {**settings, "training.output": root / "run"})
    assert isinstance(result, TrainingResult) and (result.step, result.signal) == (2, 0)
    assert result.checkpoint == root / "run/checkpoints/step_00000002" and result.checkpoint.is_dir()
    lines = (root / "run/metrics.jsonl").read_text().splitlines()
    assert result.metrics == json.loads(lines[-1]) and result.metrics["step"] == 2
    again = editcaption_mega.train_sft(None, {**settings, "training.output": root / "run"})
    assert again == result  # a run that is done has nothing to do

    options = {name: settings[name] for name in ("data.sequence_length", "data.min_pixels")}
    rows = editcaption_mega.log_probs(root / "run", root / "shards", root / "scores.jsonl", settings=options)
    reader = editcaption_mega.open_shards(root / "shards")
    assert [row["id"] for row in rows] == list(reader.ids) and all(row["log_prob"] < 0 for row in rows)
    assert math.isclose(rows[0]["log_prob"], sum(rows[0]["token_log_probs"]), rel_tol=1e-5)
    with pytest.raises(ValueError, match="exists already"):
        editcaption_mega.log_probs(root / "run", root / "shards", root / "scores.jsonl", settings=options)

    captioner = editcaption_mega.load_captioner(root / "model", max_tokens=8)
    pictures = root / "source.png", root / "target.png"
    with pytest.warns(UserWarning, match="cut off at max_tokens"):
        text = editcaption_mega.caption(*pictures, model=captioner)
    with pytest.warns(UserWarning):
        assert text and editcaption_mega.caption(*pictures, model=captioner) == text


def test_what_cannot_be_done_is_said_before_work(job):
    root, settings = job
    with pytest.raises(ValueError, match="unknown setting 'training.step'"):
        editcaption_mega.train_sft("sft_qwen3_vl_2b", {"training.step": 1})
    with pytest.raises(ValueError, match="no such folder"):
        editcaption_mega.train_dpo("dpo_qwen3_vl_2b", {"model.folder": root / "nowhere"})
    with pytest.raises(ValueError, match="nowhere.png: no such file"):
        editcaption_mega.caption("nowhere.png", root / "target.png", model=root / "model")
    with pytest.raises(ValueError, match="holds no config.json"):
        editcaption_mega.caption(root / "source.png", root / "target.png", model=root)
