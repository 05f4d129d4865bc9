"""How a job ended, as its ranks write it."""

import errno

import pytest

from editcaption_mega import cli, job_outcome
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.conversion.manifest import MANIFEST
from editcaption_mega.job_outcome import JobOutcome
from editcaption_mega.settings import CheckpointSettings, JobSettings, SettingsError
from editcaption_mega.training.run_folder import where_to_start


@pytest.fixture
def job_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(job_outcome.JOB_FOLDER, str(tmp_path))
    return tmp_path


def marked(error, kind):
    error.outcome = kind
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("a picture is damaged"), "error"),
        (OSError(errno.ENOSPC, "No space left on device"), "error"),
        (OSError(errno.ESTALE, "Stale file handle"), "fault"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "fault"),
        (FloatingPointError("the loss is nan"), "error"),
        (RuntimeError("Connection closed by peer"), "fault"),
        (KeyError("patches"), "fault"),
        (marked(FloatingPointError("back to step 4"), "fault"), "fault"),
        (cli.ArgumentError("no such option"), "error"),
    ],
)
def test_what_an_error_means_for_the_job(error, kind):
    assert JobOutcome.of_error(error).kind == kind


def test_the_first_rank_writes_it_and_only_the_cause_of_a_fault_takes_its_place(job_folder):
    job_outcome.report(JobOutcome.here("fault", "lost a rank", rank=0))
    job_outcome.report(JobOutcome.here("error", "too late", rank=1))
    assert job_outcome.read_outcome(job_folder).message == "lost a rank"
    job_outcome.report(JobOutcome.here("fault", "rank 1 was killed", rank=1), overrule=True)
    assert job_outcome.read_outcome(job_folder).rank == 1
    job_outcome.clear(job_folder)
    assert job_outcome.read_outcome(job_folder) is None
    job_outcome.report(JobOutcome.here("saved", "stopped", step=7, signal=10))
    job_outcome.report(JobOutcome.here("fault", "killed after it had saved"), overrule=True)
    saved = job_outcome.read_outcome(job_folder)
    assert (saved.kind, saved.step, saved.signal) == ("saved", 7, 10)


def test_a_good_end_takes_the_place_of_a_fault_of_a_rank_that_an_earlier_start_has_left(job_folder):
    for kind in ("finished", "saved"):
        job_outcome.clear(job_folder)
        job_outcome.report(JobOutcome.here("fault", "connection closed by peer", rank=1))
        job_outcome.report(JobOutcome.here(kind, "after step 7", step=7))
        assert job_outcome.read_outcome(job_folder).kind == kind


def test_it_says_which_node_was_lost_and_what_was_done(job_folder, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    monkeypatch.setenv(job_outcome.NODES, "n1 does not answer: starting again on n0, n2")
    job_outcome.report(JobOutcome.here("finished", "after step 7", step=7))
    outcome = job_outcome.read_outcome(job_folder)
    assert (outcome.node, outcome.nodes) == ("n2", "n1 does not answer: starting again on n0, n2")


@pytest.mark.parametrize("content", ["", '{"kind": "saved", "mess', '{"kind": "lost"}', "[]"])
def test_half_a_file_is_none(tmp_path, content):
    (tmp_path / job_outcome.NAME).write_text(content)
    assert job_outcome.read_outcome(tmp_path) is None


def test_progress_adds_up(job_folder):
    job_outcome.note_progress(checkpoint=10)
    job_outcome.note_progress(checkpoint=20, **{"reference.jsonl": 64})
    assert job_outcome.reached_so_far(job_folder) == {"checkpoint": 20, "reference.jsonl": 64}


def test_a_requeue_goes_on_where_only_new_runs_are_allowed(job_folder, tmp_path):
    """Of checkpoint.resume=false, which refuses the checkpoints of earlier runs."""
    settings = JobSettings(checkpoint=CheckpointSettings(resume=False))
    settings.training.output = str(tmp_path / "run")
    manifest = checkpoint_folder(settings.training.output, 10) / MANIFEST
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    with pytest.raises(SettingsError, match="checkpoint.resume is false"):
        where_to_start(settings, {})
    job_outcome.note_progress(checkpoint=10)
    with pytest.raises(ValueError, match="tensors.json|state.json"):  # it looks at the checkpoint, which is none here
        where_to_start(settings, {})


def test_a_folder_that_is_gone_hides_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(job_outcome.JOB_FOLDER, str(tmp_path / "gone"))
    job_outcome.report(JobOutcome.here("finished", "after step 3"))
    job_outcome.note_progress(checkpoint=3)
    assert job_outcome.reached_so_far(tmp_path / "gone") == {}


@pytest.mark.parametrize(
    ("body", "code", "kind"),
    [("raise ValueError('x')", 1, "error"), ("raise KeyError('x')", 1, "fault"), ("sys.exit(2)", 2, "error")],
)
def test_a_training_command_writes_it_whatever_it_ends_of(job_folder, body, code, kind, monkeypatch):
    monkeypatch.setattr(cli.signals, "listen", dict)

    def main(argv):
        exec(body, {"sys": __import__("sys")})

    with pytest.raises(SystemExit) as ended:
        cli.run_job(main, [])
    assert ended.value.code == code and job_outcome.read_outcome(job_folder).kind == kind
