"""Metrics of training runs as a report takes them."""

import json

import pytest

from editcaption_mega.evaluation.report.page.training_plots import training_plots
from editcaption_mega.evaluation.report.tables.training_table import training_table
from editcaption_mega.evaluation.report.training_runs import read_run


def step(number, loss, **more):
    return {"step": number, "loss": loss, "samples": 8 * number, "tokens": 100, "seconds": 30.0, **more}


def run_folder(folder, steps, end=""):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps) + end)
    return folder


def test_what_a_run_took(tmp_path):
    folder = run_folder(tmp_path / "a", [step(1, 6.5), step(2, 3.0), step(3, float("nan"))], end='{"step": 4, "lo')
    run = read_run("SFT", folder)
    took = {"steps": 3, "samples": 24, "tokens": 300, "seconds": 90.0, "first_loss": 6.5, "last_loss": None}
    assert run.to_json() == took, "half a line, of a run that goes on, is passed over; NaN is no number"
    (row,) = training_table([run]).rows
    assert [cell.text for cell in row.cells] == ["SFT", "3", "24", "300", "1.5", "6.500", "–"]
    (plot,) = training_plots([run])
    assert [len(line.points.split()) for line in plot.lines] == [2]


def test_preferences_have_a_margin_for_each_failure_mode(tmp_path):
    steps = [step(i, 0.7, **{"reward_margin": i / 10, "detail/reward_margin": i / 5}) for i in range(1, 9)]
    steps[0]["viewpoint/reward_margin"] = -0.1
    runs = [read_run("SFT", run_folder(tmp_path / "a", [step(1, 2.0)]))]
    runs.append(read_run("DPO", run_folder(tmp_path / "b", steps)))
    plots = {plot.title: plot for plot in training_plots(runs)}
    assert list(plots) == [
        "Loss, nats per response token", "Reward margin: chosen − rejected", "Reward margin by failure mode, DPO",
    ]  # fmt: skip
    by_mode = plots["Reward margin by failure mode, DPO"]
    assert [line.label for line in by_mode.lines] == ["viewpoint", "detail"]
    margin = plots["Reward margin: chosen − rejected"].lines[0]
    assert margin.last == pytest.approx((0.7 + 0.8) / 2) and len(margin.points.split()) == 8


def test_what_was_measured_on_held_out_pairs_is_beside_its_curve(tmp_path):
    sft = [step(i, 5.0 / i, **({"held_out/loss": 6.0 / i} if i % 2 == 0 else {})) for i in range(1, 9)]
    dpo = [step(i, 0.7, reward_margin=i, **{"held_out/reward_margin": i / 2}) for i in range(1, 9)]
    runs = [read_run("SFT", run_folder(tmp_path / "a", sft)), read_run("DPO", run_folder(tmp_path / "b", dpo))]
    loss, margin = training_plots(runs)
    assert [line.label for line in loss.lines] == ["SFT", "SFT, held out"]
    assert [len(line.points.split()) for line in loss.lines] == [8, 4]
    assert [line.label for line in margin.lines] == ["DPO", "DPO, held out"]
    assert [line.last for line in margin.lines] == [7.5, 4.0], "held-out numbers are means already"


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "metrics.jsonl does not exist; name the folder of a training run"),
        ("", "has no step yet"),
        ('{"step": 1}\n{"step": 2}\n', "line 1: it lacks loss, samples, tokens, seconds"),
        ("[1]\n[2]\n", "line 1: it lacks step, loss"),
        ("nothing\nnothing\n", "line 1: "),
    ],
)
def test_a_folder_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"training run SFT: .*{message}"):
        read_run("SFT", tmp_path)
