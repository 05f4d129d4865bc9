"""A step with a loss that is not finite, or a spike, under each policy; real jobs, compared bit for bit."""

import json
import math
import sys
from pathlib import Path

import pytest

from editcaption_mega import job_outcome
from editcaption_mega.conversion.checkpoint_folders import checkpoints
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import BadStepSettings, load_settings, save_settings
from editcaption_mega.training import bad_steps
from editcaption_mega.training.bad_steps import BadStepError, BadSteps, RewoundError
from editcaption_mega.training.job import train
from editcaption_mega.training.prepare import prepare
from editcaption_mega.training.session import session
from tests.helpers import ROOT, small_job, warm

STEPS = 8


class Poisoned(SFTObjective):
    """Multiplies the loss of some steps, counted from 1."""

    def __init__(self, at, factor=math.nan):
        self.at, self.factor, self.step = at, factor, 0

    def row_loss(self, output, batch):
        row = super().row_loss(output, batch)
        return row._replace(loss=row.loss * (self.factor if self.step in self.at else 1.0))


class Counted(Poisoned):
    """One whose count goes on where the run does: `train_step` asks for the count of each step that it computes."""

    def __init__(self, at, first=0, left_out=(), factor=math.nan):
        super().__init__(at, factor)
        self.step, self.left_out = first, left_out

    def prepare(self, micro_batches, length):
        self.step += 1
        while self.step in self.left_out:
            self.step += 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad_steps")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 12)
    return root


def job(base, name, policy="stop", stop_after=0, **options):
    settings = small_job.job(
        base / "model", base / "shards", base / name, steps=STEPS, global_batch_size=4, stop_after=stop_after
    )
    settings.checkpoint.every = 2
    settings.bad_steps = BadStepSettings(policy=policy, **options)
    return settings


def run(settings, objective):
    with session(settings) as opened:
        opened.ending = train(prepare(opened, SFTObjective), objective)
    return rows(settings.training.output)


def rows(output):
    found = [json.loads(line) for line in Path(output, "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return [(row["loss"], row["grad_norm"], row["learning_rate"], row.get("skipped")) for row in found]


@pytest.fixture(scope="module")
def whole(base):
    return run(job(base, "whole"), Counted(()))


@pytest.fixture(scope="module")
def skipped(base):
    return run(job(base, "skipped", "skip"), Counted({5}))


def test_a_policy_that_has_nothing_to_do_changes_no_bit(base, whole):
    assert run(job(base, "unused", "skip", spike_factor=1000.0), Counted(())) == whole


def test_stop(base, whole):
    with pytest.raises(FloatingPointError, match=r"step 5: the loss is nan.*newest checkpoint is that of step 4"):
        run(job(base, "stopped"), Counted({5}))
    assert rows(base / "stopped") == whole[:4]
    assert job_outcome.read_outcome(base / "stopped").kind == "error"


def test_skip(base, whole, skipped):
    assert skipped[:4] == whole[:4]
    loss, norm, rate, why = skipped[4]
    assert loss is None and norm is None and why.startswith("step 5: the loss is nan") and rate == whole[4][2]
    assert [row[3] for row in skipped[5:]] == [None] * 3 and skipped[5][0] != whole[5][0]
    assert "step 5/8  SKIPPED: step 5: the loss is nan" in (base / "skipped/log.txt").read_text()
    state = json.loads((checkpoints(base / "skipped")[-1] / "state.json").read_text())
    assert (state["step"], state["updates"], state["samples"]) == (8, 7, 32)


def test_a_run_with_a_skipped_step_resumes_bit_for_bit(base, skipped):
    run(job(base, "cut", "skip", stop_after=6), Counted({5}))
    assert run(job(base, "cut", "skip"), Counted({5}, first=6)) == skipped


def test_the_very_first_step_can_be_skipped(base):
    """The optimizer has no state yet then, which a checkpoint needs; and its weights are still those of the folder."""
    first = run(job(base, "first", "skip", stop_after=2), Counted({1, 2}))
    assert [row[0] for row in first] == [None, None]
    cut = run(job(base, "first", "skip"), Counted({1, 2}, first=2))
    assert cut == run(job(base, "first whole", "skip"), Counted({1, 2}))


def test_too_many_in_a_row(base):
    with pytest.raises(FloatingPointError, match=r"step 5.*2 steps before it were bad, too \(bad_steps.most_in"):
        run(job(base, "many", "skip", most_in_a_row=2), Counted({1, 3, 4, 5}))


def test_rewind_is_a_fault_and_the_next_start_leaves_the_step_out(base, skipped):
    """Then the numbers are those of a run in which it was skipped at once."""
    settings = job(base, "rewound", "rewind")
    with pytest.raises(RewoundError, match=r"step 5.*Rewound: step 5 will be left out .*checkpoint is that of step 4"):
        run(settings, Counted({5}))
    assert job_outcome.read_outcome(base / "rewound").kind == "fault"
    assert json.loads((base / "rewound/bad_steps.json").read_text()) == {"bad": [5], "left_out": [5]}
    again = run(settings, Counted({5}, first=4, left_out={5}))
    assert [row[:3] for row in again] == [row[:3] for row in skipped]
    assert again[4][3] == "left out since the run was rewound (bad_steps.json)"
    assert job_outcome.read_outcome(base / "rewound").kind == "finished"


def test_rewind_with_the_steps_before(base, whole):
    settings = job(base, "rewound far", "rewind", rewind_steps=2)
    with pytest.raises(RewoundError, match="steps 4 to 6 will be left out"):
        run(settings, Counted({6}))
    again = run(settings, Counted({6}, first=4, left_out={4, 5, 6}))
    # The checkpoint of step 4 has step 4: only what is done again can be left out.
    assert again[:4] == whole[:4] and [bool(row[3]) for row in again] == [False] * 4 + [True, True, False, False]


def test_a_spike_is_skipped_and_its_window_goes_on_with_the_run(base, whole, monkeypatch):
    monkeypatch.setattr(bad_steps, "LEAST", 3)
    options = {"spike_factor": 20.0}
    spiked = run(job(base, "spike", "skip", **options), Counted({7}, factor=1e3))
    loss, norm, _, why = spiked[6]
    assert spiked[:6] == whole[:6] and loss > 1000 and norm > 20 and "bad_steps.spike_factor=20 times the median" in why
    run(job(base, "spike cut", "skip", stop_after=6, **options), Counted({7}, factor=1e3))
    assert run(job(base, "spike cut", "skip", **options), Counted({7}, first=6, factor=1e3)) == spiked
    with pytest.raises(FloatingPointError, match="step 7: the gradient norm is .* more than bad_steps.spike_factor"):
        run(job(base, "spike stop", "stop", **options), Counted({7}, factor=1e3))


ON_RANKS = """
import sys
from editcaption_mega.settings import load_settings
from tests.training.test_bad_steps import Counted, run
run(load_settings(sys.argv[1]), Counted({5}))
"""


def test_ranks_skip_together(base, skipped):
    """Weights are gathered beside the passes there; a step without an update has to leave that as it was."""
    save_settings(job(base, "two", "skip"), base / "two.yaml")
    warm.run_ranks([sys.executable, "-c", ON_RANKS, base / "two.yaml"], 2, PYTHONPATH=str(ROOT))
    for ours, theirs in zip(rows(base / "two"), skipped, strict=True):
        assert [value is None for value in ours] == [value is None for value in theirs]
        numbers = [[value for value in row[:3] if value is not None] for row in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-5)


def test_rewinding_again_and_again_ends(tmp_path):
    earlier = bad_steps.LeftOut((3, 7, 8), (3, 7, 8))
    careful = BadSteps(BadStepSettings("rewind", most_in_a_row=2), tmp_path, left_out=earlier)
    with pytest.raises(RewoundError):
        careful.take(5, BadStepError("step 5: bad", math.nan), lambda: "newest")
    with pytest.raises(FloatingPointError, match="2 steps before it were bad, too") as ended:
        careful.take(9, BadStepError("step 9: bad", math.nan), lambda: "newest")
    assert not isinstance(ended.value, RewoundError)


def test_a_file_of_others(tmp_path):
    (tmp_path / bad_steps.FILE).write_text('{"left_out": 3}')
    with pytest.raises(ValueError, match="does not say which steps are left out"):
        BadSteps.of_run(BadStepSettings(), tmp_path, 0, 0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("bad_steps.policy=ignore", "bad_steps.policy is 'ignore', expected one of stop, skip, rewind"),
        ("bad_steps.spike_factor=0.5", "bad_steps.spike_factor=0.5 would call ordinary steps spikes"),
        ("bad_steps.rewind_steps=2", "bad_steps.rewind_steps=2 has a meaning with bad_steps.policy=rewind only"),
        ("bad_steps.most_in_a_row=0", "bad_steps.most_in_a_row=0 must be at least 1"),
    ],
)
def test_settings(tmp_path, override, words):
    (tmp_path / "job.yaml").write_text("model: {folder: m}\ndata: {shards: [d]}\ntraining: {output: o}\n")
    with pytest.raises(ValueError, match=words):
        load_settings(tmp_path / "job.yaml", [override])
