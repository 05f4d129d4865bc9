"""What a job holds to its end, process groups and the lock on its folder, and how it ended."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega import job_outcome, platform, rank_log, signals
from editcaption_mega.data.start_tables import HELD_OUT_TABLES, TABLES
from editcaption_mega.job_outcome import JobOutcome
from editcaption_mega.kernels import require_cuda_variant
from editcaption_mega.lock import FolderLock
from editcaption_mega.settings import JobSettings

from .loggers import check_chosen
from .setup import layout_of
from .shared_base import SharedBase
from .watchdog import Watchdog

# What users can mend: these have a sentence and need no traceback.
_EXPECTED = (ValueError, OSError, FloatingPointError)


@dataclass(frozen=True)
class Ending:
    """How a job ended: after which step, and by which signal (0: by itself)."""

    step: int
    signal: int = 0


class Stopped(Exception):
    """A signal ended the job before its first step, when there is nothing to save."""

    def __init__(self, step: int, number: int, when: str):
        super().__init__(f"stopped by signal {number} {when}; the same command goes on from there")
        self.step, self.signal = step, number


def stop_if_asked(step: int, when: str) -> None:
    """Raises Stopped on every rank when any of them was asked to stop. Collective."""
    number = max(platform.gather(signals.asked()))
    if number:
        raise Stopped(step, number, when)


def join_ranks(settings: JobSettings) -> None:
    """Join the other ranks, as the settings divide them. Collective."""
    training = settings.training
    platform.initialize(
        layout_of(settings.parallel), training.seed, settings.watchdog.collective_minutes,
        deterministic=training.deterministic,
    )  # fmt: skip
    platform.print_rank_0(platform.what_computes())


class Session:
    """The job of these settings, while `session` is open."""

    def __init__(self, settings: JobSettings, base: SharedBase | None = None):
        self.settings, self.base = settings, base
        self.output = Path(settings.training.output)
        self.lock = FolderLock(self.output, "training", on_lost=signals.ask)
        self.ending = Ending(0)
        self.watchdog = Watchdog(settings.watchdog, on_end=self.lock.release)
        self.joined = self.holds_folder = self.owns_folder = False

    @property
    def tables(self) -> Path:
        """Where the job keeps what it found out about its data."""
        return self.output / TABLES

    @property
    def held_out_tables(self) -> Path:
        """The same of its held-out pairs."""
        return self.tables / HELD_OUT_TABLES

    def begin(self) -> None:
        """Join the other ranks and take the folder. Collective: all raise alike."""
        training = self.settings.training
        if self.base is not None and self.base.joined:
            platform.seed_ranks(training.seed)
        else:
            join_ranks(self.settings)
        self.joined = True
        if self.base is not None:
            self.base.joined = True
        if platform.is_rank_zero():
            parallel = self.settings.parallel
            job_outcome.note_layout(
                rank_multiple=parallel.rank_multiple, model_parallel_size=parallel.model_parallel_size,
                global_batch_size=training.global_batch_size, sequence_multiple=parallel.sequence_multiple,
                packing=self.settings.data.packing,
            )  # fmt: skip
        platform.from_rank_zero(lambda: check_chosen(self.settings))
        self.holds_folder = platform.from_rank_zero(lambda: self.lock.acquire(give_up=signals.asked))
        stop_if_asked(0, "while it waited for its folder")

    def own_folder(self) -> None:
        """The folder has been looked at and is this job's: what it says of an end is of this start from now on."""
        self.owns_folder = True
        with platform.together():
            self.watchdog.keep(self.output / "logs")
            if not platform.is_rank_zero():
                rank_log.redirect(rank_file(self.output))

    def end(self, ended: JobOutcome) -> None:
        """Write how this start ended, if this rank is to say it."""
        if platform.is_rank_zero() or ended.kind in (job_outcome.ERROR, job_outcome.FAULT):
            job_outcome.report(ended, *([self.output] if self.owns_folder else []), of_job=self.base is None)


@contextmanager
def session(settings: JobSettings, base: SharedBase | None = None) -> Iterator[Session]:
    """A block in which signals are remembered, and after which folder and ranks are free, however it ended. base: of
    several runs of one job, after each of which the ranks stay together.

    Stopped ends the block without an error, and is its `ending`. Any other error is written into the run folder, if it
    is the job's, and raised."""
    if settings.model.kernels == "auto":
        require_cuda_variant()
    with signals.listening():
        opened, failed = Session(settings, base), False
        opened.watchdog.start()
        try:
            yield opened
        except Stopped as stopped:
            platform.print_rank_0(str(stopped))
            opened.ending = Ending(stopped.step, stopped.signal)
            opened.end(outcome_of(opened.ending, str(stopped)))
        except Exception as error:
            failed = True
            if opened.holds_folder:
                record_failure(opened.output, error)
            opened.end(JobOutcome.of_error(error))
            raise
        else:
            why = f"stopped by signal {opened.ending.signal} " if opened.ending.signal else ""
            opened.end(outcome_of(opened.ending, f"{why}after step {opened.ending.step}"))
        finally:
            opened.watchdog.stop()
            rank_log.restore()
            if opened.joined:
                opened.lock.release()
                if base is None:
                    platform.destroy(after_failure=failed)


def outcome_of(ending: Ending, message: str) -> JobOutcome:
    """What an ending without an error is for whoever started the job. message: one sentence."""
    kind = job_outcome.SAVED if ending.signal else job_outcome.FINISHED
    return JobOutcome.here(kind, message, step=ending.step, signal=ending.signal)


def rank_file(output: Path) -> Path:
    """The file of what this rank prints, unless it is the first, and of how it failed."""
    return output / "logs" / f"rank_{platform.rank():05d}.txt"


def record_failure(output: Path, error: Exception) -> None:
    """Write how this rank failed: the sentence into log.txt, the traceback of a defect into logs/rank_XXXXX.txt."""
    unexpected = not isinstance(error, _EXPECTED) and not hasattr(error, "exit_code")
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        if unexpected:
            path = rank_file(output)
            path.parent.mkdir(exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{when}\n{''.join(traceback.format_exception(error))}\n")
            error.add_note(f"its traceback is in {path}")
        if (unexpected or platform.is_rank_zero()) and (output / "log.txt").is_file():
            with open(output / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{when} rank {platform.rank()}: {type(error).__name__}: {error}\n")
    except OSError as problem:  # a full disk may be what it failed of
        error.add_note(f"{problem.filename} could not be written: {problem.strerror}")
