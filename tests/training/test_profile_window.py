"""A profile of a few steps: it is there, changes no number, and nothing else pays for it."""

import gzip
import json

import pytest

from editcaption_mega.settings import SettingsError, load_settings, save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.profile_window import ProfileWindow
from tests.helpers import small_job


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("profile")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 8)
    return root


def job(base, output, **training):
    return small_job.job(base / "model", base / "shards", output, global_batch_size=4, **training)


def numbers(output):
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"], row["learning_rate"]) for row in rows]


def test_a_profiled_run_has_the_numbers_of_any_other_bit_for_bit(base):
    run_sft(job(base, base / "plain", steps=4))
    run_sft(job(base, base / "profiled", steps=4, profile_steps=[2, 3]))
    assert numbers(base / "profiled") == numbers(base / "plain") and len(numbers(base / "plain")) == 4
    assert not (base / "plain/profile").exists()
    with gzip.open(base / "profiled/profile/rank_00000.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) > 10
    table = (base / "profiled/profile/rank_00000.txt").read_text()
    assert "Self CPU" in table and "aten::" in table
    assert "profile of steps 2 to 3: " in (base / "profiled/log.txt").read_text()
    # The folder is a run's own: the same command finds nothing to do, and no stranger's file.
    run_sft(job(base, base / "profiled", steps=4, profile_steps=[2, 3]))
    assert "profile_steps=[2, 3] are not all among" in (base / "profiled/log.txt").read_text()


def test_a_run_that_leaves_within_the_steps_keeps_what_it_has(base):
    run_sft(job(base, base / "left", steps=6, profile_steps=[1, 5], stop_after=2))
    assert (base / "left/profile/rank_00000.json.gz").stat().st_size > 1000


def test_nothing_is_begun_outside_of_the_steps(tmp_path):
    for steps in (None, [3, 4]):
        window = ProfileWindow(steps, "first", tmp_path, pytest.fail)
        for step in (1, 2, 5, 6):
            window.step_begins(step)
            assert window._profile is None
            window.step_ended(step)
        window.close()
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_cannot_be_written_costs_a_line(tmp_path):
    (tmp_path / "profile").write_text("in the way")
    said = []
    window = ProfileWindow([1, 1], "all", tmp_path, said.append)
    window.step_begins(1)
    window.step_ended(1)
    assert len(said) == 1 and said[0].startswith("WARNING: no profile (") and said[0].endswith("training goes on")


@pytest.mark.parametrize("value", ["[0,2]", "[3,2]", "[2]", "[1,2,3]"])
def test_what_is_no_window(base, tmp_path, value):
    save_settings(job(base, tmp_path), tmp_path / "job.yaml")
    with pytest.raises(SettingsError, match="expected the first and the last step, counted from 1, such as"):
        load_settings(tmp_path / "job.yaml", [f"training.profile_steps={value}"])
