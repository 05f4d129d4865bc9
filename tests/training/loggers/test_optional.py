"""Weights & Biases and MLflow by their real packages, offline, through whole jobs. Skipped where they are not
installed: `pip install '.[wandb,mlflow]'`."""

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from editcaption_mega.settings import SettingsError, load_settings, save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.loggers import check_chosen, open_chosen
from tests.helpers import ROOT, small_job

SECRET = "5ecret" * 7
NEEDS = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"the package {name} is not installed")
    for name in ("wandb", "mlflow")
}


def wandb_records(folder):
    """The records of each file of offline runs, in the order of their starts. The form is LevelDB's log."""
    from wandb.proto import wandb_internal_pb2 as wire

    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, position, record, records = path.read_bytes(), 7, b"", []
        assert data[:4] == b":W&B"
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:  # the rest of a block is empty
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[position : position + 7])
            record += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                records.append(wire.Record.FromString(record))
                record = b""
        yield records


def wandb_history(folder) -> list[list[dict]]:
    """Of each start its rows: name -> value."""
    return [
        [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
        for records in wandb_records(folder)
    ]


def job(base, output, loggers, **training):
    settings = small_job.job(base / "model", base / "shards", output, global_batch_size=4, **training)
    settings.training.loggers = loggers
    settings.wandb.mode = "offline" if "wandb" in loggers else settings.wandb.mode
    settings.validate()
    return settings


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("loggers")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 8)
    return root


@pytest.fixture(scope="module", params=[pytest.param(name, marks=NEEDS[name]) for name in NEEDS])
def twice(request, base):
    """(logger, run folder): a job of 6 steps that was killed behind its checkpoint of step 3, and went on with another
    learning rate."""
    name = request.param
    output = base / name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_sft(job(base, output, ["tensorboard", name], stop_after=5))
        shutil.rmtree(output / "checkpoints/step_00000005")
        ids = (output / "loggers.json").read_text()
        again = job(base, output, ["tensorboard", name])
        again.optimizer.learning_rate = 2e-3
        run_sft(again)
        assert (output / "loggers.json").read_text() == ids
    return name, output


def rows(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_under_its_id_and_no_step_is_doubled(twice):
    name, output = twice
    run_id = json.loads((output / "loggers.json").read_text())[name]
    if name == "wandb":
        starts = wandb_history(output)
        assert [[row["_step"] for row in start if "train/loss" in row] for start in starts] == [[1, 2, 3, 4, 5], [6]]
        losses = [row["train/loss"] for start in starts for row in start if "train/loss" in row]
        for records in wandb_records(output):
            assert {r.run.run_id for r in records if r.WhichOneof("record_type") == "run"} == {run_id}
    else:
        history = mlflow_client(output).get_metric_history(run_id, "train/loss")
        assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5, 6]
        losses = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
    final = [row["loss"] for row in rows(output)]
    # Step 5 stays as the first start logged it; it came out otherwise with the other learning rate.
    assert losses[:4] + losses[5:] == pytest.approx(final[:4] + final[5:]) and losses[4] != pytest.approx(final[4])
    assert "WARNING" not in (output / "log.txt").read_text()


def mlflow_client(output):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{output / 'mlflow/mlflow.db'}")


def test_its_numbers_have_groups_and_its_settings_are_there(twice):
    name, output = twice
    wanted = {"train/loss", "speed/tokens_per_second", "speed/data_seconds", "memory/peak_memory_gib",
              "experts/expert_load_mean"}  # fmt: skip
    run_id = json.loads((output / "loggers.json").read_text())[name]
    if name == "wandb":
        assert wanted <= set(wandb_history(output)[0][-1])
        words = " ".join(path.read_text() for path in output.glob("wandb/*/files/media/html/**/*.html"))
        settings = {}
        for records in wandb_records(output):
            for record in records:
                if record.WhichOneof("record_type") in ("config", "run"):
                    update = record.config if record.WhichOneof("record_type") == "config" else record.run.config
                    settings |= {"/".join(item.nested_key) or item.key: item.value_json for item in update.update}
        assert json.loads(settings["optimizer.learning_rate"]) == 2e-3
    else:
        run = mlflow_client(output).get_run(run_id)
        assert wanted <= set(run.data.metrics) and run.info.status == "FINISHED"
        assert run.data.params["optimizer.learning_rate"] == "0.001"
        assert run.data.tags["changed.optimizer.learning_rate"] == "0.002"
        words = " ".join(path.read_text() for path in output.glob("mlflow/artifacts/**/*.txt"))
    assert "learning_rate: 0.001" in words and "trained" in words and "router" in words


def test_no_secret_is_in_the_run_folder(twice):
    _, output = twice
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS[name]) for name in NEEDS])
def test_texts_and_images_and_what_failed(base, tmp_path, name, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = []
    loggers = open_chosen(job(base, tmp_path, [name]), tmp_path, done=0, known=0, say=said.append)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    loggers.text(1, "samples/sample-1", "two\n<lines>")
    loggers.image(1, "samples/sample-1", pixels)
    loggers.scalars(1, {"train/loss": 0.5})
    loggers.close(failed=True)
    assert said == []
    if name == "wandb":
        (words,) = [path.read_text() for path in tmp_path.rglob("*.html")]
        assert "two\n&lt;lines&gt;" in words
        ends = [r.exit.exit_code for r in next(wandb_records(tmp_path)) if r.WhichOneof("record_type") == "exit"]
        assert ends == [1]
    else:
        (words,) = [path.read_text() for path in tmp_path.rglob("*.txt")]
        assert words == "two\n<lines>"
        run_id = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]
        assert mlflow_client(tmp_path).get_run(run_id).info.status == "FAILED"
    from PIL import Image

    (image,) = tmp_path.rglob("*.png")
    assert np.array_equal(np.asarray(Image.open(image)), pixels)


@NEEDS["mlflow"]
def test_a_server_that_is_away_costs_a_line_and_no_run(base, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = job(base, tmp_path / "run", ["mlflow"], steps=2)
    settings.mlflow.tracking_uri = "http://127.0.0.1:9"
    run_sft(settings)
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("WARNING: MLflow ends ") == 1 and len(rows(tmp_path / "run")) == 2
    assert (tmp_path / "run/checkpoints/step_00000002/tensors.json").is_file()


@NEEDS["wandb"]
def test_an_online_run_without_a_key_is_refused_before_work(base, tmp_path):
    """In a process of its own: wandb keeps the key that it has seen."""
    save_settings(small_job.job(base / "model", base / "shards", tmp_path / "run"), tmp_path / "job.yaml")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"NETRC": str(tmp_path / "none"), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        str(ROOT / "launch/pretrain_sft.sh"),
        str(tmp_path / "job.yaml"),
        "training.loggers=wandb",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "knows no key here: run `wandb login`, set WANDB_API_KEY, or choose wandb.mode=offline" in done.stderr
    assert not (tmp_path / "run").exists()


def test_one_that_is_not_installed_is_refused_with_the_command(base, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(SettingsError, match=rf"has {name}, which is not installed: pip install '{name}>="):
            check_chosen(job(base, tmp_path, [name]))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["training.loggers=[comet]"], "training.loggers is 'comet', expected one of tensorboard, wandb, mlflow"),
        (["training.loggers=[wandb,wandb]"], "names one twice"),
        (["wandb.project=x"], r"wandb.project=x has a meaning with wandb among training.loggers only: set "
                              r"training.loggers=\[tensorboard,wandb\]"),
        (["training.loggers=mlflow", "mlflow.tracking_uri=https://me:word@host"], "^mlflow.tracking_uri holds a user"),
        (["wandb.api_key=abcdefghijkl"], r"^override 'wandb.api_key=\[hidden\]': unknown setting .*WANDB_API_KEY"),
        (["training.report_to=wandb"], "did you mean 'training.loggers'"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen(base, tmp_path, overrides, words):
    save_settings(small_job.job(base / "model", base / "shards", tmp_path), tmp_path / "job.yaml")
    with pytest.raises(SettingsError, match=words) as error:
        load_settings(tmp_path / "job.yaml", overrides)
    assert ":word@" not in str(error.value) and "abcdef" not in str(error.value)
