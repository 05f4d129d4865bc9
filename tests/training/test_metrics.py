"""The records of a run: one line per step, whatever was killed, and the line that people see."""

import json
import re

from editcaption_mega.objectives import DPOObjective
from editcaption_mega.training.metrics import RunLog

NUMBERS = {"loss": 0.5, "grad_norm": 1.25, "learning_rate": 1e-4, "tokens": 1000, "samples": 8, "seconds": 0.5}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_step_has_a_line_and_some_are_shown(tmp_path, capsys):
    log = RunLog(tmp_path, first_step=0, total_steps=5, log_every=2, shown={"margin_of_mine": "margin"})
    for step in range(1, 6):
        log.step({"step": step, **NUMBERS, "margin_of_mine": step / 10, "hidden": 7.0})
    log.close()
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert lines(tmp_path / "metrics.jsonl")[0] == {"step": 1, **NUMBERS, "margin_of_mine": 0.1, "hidden": 7.0}
    shown = (tmp_path / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d step ", line) for line in shown)
    shown = [line[20:] for line in shown]
    assert [line.split()[1] for line in shown] == ["2/5", "4/5", "5/5"]
    expected = "step 2/5  loss 0.5000  grad 1.250  lr 1.00e-04  margin 0.200  2,000 tokens/s  0m"
    assert shown[0].startswith(expected) and shown[0].endswith(" left") and "hidden" not in shown[0]
    assert capsys.readouterr().out.splitlines() == shown


def test_what_says_nothing_at_a_step_is_a_dash(tmp_path):
    """The accuracy of DPO while policy and reference are the same model counts roundings."""
    log = RunLog(
        tmp_path, first_step=0, total_steps=2, log_every=1,
        shown=DPOObjective.shown_metrics, blank_with=DPOObjective.blank_with,
    )  # fmt: skip
    pairs = {"reward_margin": 0.0, "reward_accuracy": 0.571}
    log.step({"step": 1, **NUMBERS, **pairs, "answers_apart": 0.0})
    log.step({"step": 2, **NUMBERS, **pairs})
    log.close()
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert "  margin 0.000  accuracy -  " in first and "  accuracy 0.571  " in second
    assert [row["reward_accuracy"] for row in lines(tmp_path / "metrics.jsonl")] == [0.571, 0.571]


def test_a_run_that_goes_on_drops_the_steps_behind_its_checkpoint(tmp_path):
    log = RunLog(tmp_path, first_step=0, total_steps=9, log_every=100)
    for step in (1, 2, 3):
        log.step({"step": step, **NUMBERS})
    log.close()
    log = RunLog(tmp_path, first_step=2, total_steps=9, log_every=100)
    log.step({"step": 3, **NUMBERS, "loss": 0.25})
    log.close()
    assert [(row["step"], row["loss"]) for row in lines(tmp_path / "metrics.jsonl")] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_what_a_killed_run_left_of_a_line_is_dropped_silently_and_damage_is_not(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    RunLog(tmp_path, first_step=2, total_steps=9, log_every=1).close()
    assert path.read_text() == '{"step": 1}\n' and "damaged" not in capsys.readouterr().out
    path.write_text('{"step": 1, "lo\n{"step": 2}\n')
    RunLog(tmp_path, first_step=2, total_steps=9, log_every=1).close()
    assert path.read_text() == '{"step": 2}\n' and "1 damaged line(s) dropped" in capsys.readouterr().out
