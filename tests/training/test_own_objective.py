"""An objective that the package does not know goes through the same door as SFT and DPO, with numbers of its own."""

import json
import math

import pytest
import torch

from editcaption_mega.objectives import Objective, RowLoss
from editcaption_mega.settings import SettingsError
from editcaption_mega.training import run_sft
from editcaption_mega.training.job import train
from editcaption_mega.training.log_probs import log_probs_of_shards
from editcaption_mega.training.prepare import prepare
from editcaption_mega.training.session import session
from tests.helpers import small_job

STEPS = 4


class MeanOverAnswers(Objective):
    """Each answer counts alike, however long: the mean over samples of the mean negative log-likelihood of its tokens.

    Its own metric: the share of a step's answers that are at least as likely, per token, as `likely` says."""

    name = "mean-over-answers"
    files = ("notes.txt",)
    shown_metrics = {"likely_answers": "likely"}
    num_statistics = 2  # answers, likely answers

    def __init__(self, likely: float, most: float = math.inf):
        self.likely, self.most = likely, most
        self.checked: list[float] = []

    @property
    def identity(self):
        return {"likely": str(self.likely)}

    def row_loss(self, output, batch):
        answers = [output[first:last].mean() for first, last in zip(batch.response_bounds, batch.response_bounds[1:])]  # noqa: B905
        means = torch.stack(answers)
        likely = (means.detach() >= self.likely).sum()
        statistics = torch.tensor([len(answers), likely], dtype=torch.float64)
        return RowLoss(-means.sum(), output.detach(), statistics)

    def count(self, response_tokens, samples):
        return samples

    def check_step(self, loss, gather):
        self.checked.append(max(gather(loss)))
        if self.checked[-1] > self.most:
            raise ValueError(f"the loss is {loss:.3f}, at most {self.most} was wanted")

    def metrics(self, statistics):
        answers, likely = statistics.tolist()
        return {"likely_answers": likely / answers}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 8)
    return root


def settings(base, name, **training):
    options = {"steps": STEPS, "global_batch_size": 8, "log_every": 1} | training
    return small_job.job(base / "model", base / "shards", base / name, **options)


def run(job_settings, objective):
    with session(job_settings) as job:
        prepared = prepare(job, MeanOverAnswers)
        (job.output / "notes.txt").write_text("what an objective writes into the run folder\n")
        job.ending = train(prepared, objective)
    return job.ending


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(base):
    """Two steps, and then the others by the same command. -> the objectives of both starts."""
    starts = [MeanOverAnswers(-6.0), MeanOverAnswers(-6.0)]
    assert run(settings(base, "run", stop_after=2), starts[0]).step == 2
    assert run(settings(base, "run"), starts[1]).step == STEPS
    return starts


def test_its_first_loss_is_what_its_definition_says(base, trained):
    scored = settings(base, "-")
    scored.model.checkpoint, scored.model.folder = str(base / "model"), "-"
    log_probs_of_shards(scored, base / "log_probs.jsonl", with_tokens=False)
    answers = [json.loads(line) for line in (base / "log_probs.jsonl").read_text().splitlines()[1:]]
    means = [answer["log_prob"] / len(answer["token_log_probs"]) for answer in answers]
    first = rows(base / "run")[0]
    assert len(means) == 8 and first["loss"] == pytest.approx(-sum(means) / 8, abs=1e-5)
    assert first["likely_answers"] == sum(mean >= -6.0 for mean in means) / 8


def test_it_trains_and_its_own_numbers_are_recorded(base, trained):
    found = rows(base / "run")
    assert [row["step"] for row in found] == [1, 2, 3, 4] and found[-1]["loss"] < found[0]["loss"] - 0.05
    assert all(0 <= row["likely_answers"] <= 1 for row in found)
    assert "  likely 0." in (base / "run/log.txt").read_text() or "  likely 1." in (base / "run/log.txt").read_text()


def test_every_step_is_checked_before_its_update(base, trained):
    assert [len(objective.checked) for objective in trained] == [2, 2]
    losses = [row["loss"] for row in rows(base / "run")]
    assert [loss for objective in trained for loss in objective.checked] == losses
    with pytest.raises(ValueError, match="at most 0.5 was wanted"):
        run(settings(base, "strict"), MeanOverAnswers(-6.0, most=0.5))
    assert (base / "strict/metrics.jsonl").read_text() == "" and not (base / "strict/checkpoints").exists()


def test_a_run_goes_on_with_the_same_objective_only(base, trained):
    with pytest.raises(ValueError, match=r"was trained with likely=-6.0, this job has likely=-5.0"):
        run(settings(base, "run", steps=STEPS + 1), MeanOverAnswers(-5.0))
    with pytest.raises(ValueError, match="was trained with objective=mean-over-answers, this job has objective=sft"):
        run_sft(settings(base, "run", steps=STEPS + 1))
    assert len(rows(base / "run")) == STEPS


def test_its_files_are_its_own(base, tmp_path):
    """A folder with them is begun in by this objective, and by no other."""
    (base / "noted").mkdir()
    (base / "noted/notes.txt.partial").write_text("half")
    with pytest.raises(SettingsError, match="already holds something else .notes.txt.partial."):
        run_sft(settings(base, "noted", steps=1))
    assert run(settings(base, "noted", steps=1), MeanOverAnswers(0.0)).step == 1
