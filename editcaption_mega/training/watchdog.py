"""Notices that a job stands still, says which rank does and where, leaves what each rank was doing, and ends the job
with a fault, so that it is started again.

Every rank has a thread that keeps a heartbeat file (logs/heartbeats/rank_XXXXX.json: its phase, step and process) and
compares its own place with the limits of the settings. The rank that reaches a limit first leaves word for the others,
waits until their stacks are written too, and says what the heartbeats show: a rank without a beat (stopped, or its
machine is gone), or one that is behind the others, which wait for it. Where even that thread cannot run, because
compiled code holds the interpreter, a timer of the C library writes the stacks and ends the process. A rank that
crashes in compiled code leaves its stacks on stderr.
"""

import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega import job_outcome, phases, platform, rank_log
from editcaption_mega.job_outcome import JobOutcome
from editcaption_mega.phases import HEARTBEATS, Place
from editcaption_mega.platform.flight_recorder import write_flight_record
from editcaption_mega.settings import WatchdogSettings

_WORD = "expired"  # the file that the first rank at its limit leaves
_TICK = 1.0
_BEAT = 5.0
_SILENT = 12.0  # without a beat: no sign of life
_FOR_OTHERS = 15.0  # until every rank that can has seen the word and written its stacks
_STOOD_STILL = 10.0  # between two ticks: this process itself did not run, which is no fault of its phase
_MARGIN = 60.0  # beyond a limit, for the C library's timer


@dataclass(frozen=True)
class Beat:
    """What the heartbeat file of a rank says."""

    rank: int
    host: str
    pid: int
    phase: str
    step: int
    mark: int
    silent: float  # seconds since its last beat, by the file server's clock

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.pid})"


class Watchdog:
    """`start` at the beginning of a job, `keep` once it has its folder, `stop` at its end."""

    def __init__(self, settings: WatchdogSettings, on_end: Callable[[], None] = lambda: None):
        """on_end: called before the process is ended, whose `finally` is never reached."""
        self.settings, self.on_end = settings, on_end
        self.folder: Path | None = None
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._next_beat = 0.0
        self._excused = (0, 0.0)  # mark, and the seconds of it in which this process did not run

    def start(self) -> None:
        faulthandler.enable(2)
        phases.begin()
        self._thread.start()

    def keep(self, logs: Path) -> None:
        """Beat in this folder from now on, and write stacks there. Raises OSError."""
        (logs / HEARTBEATS).mkdir(parents=True, exist_ok=True)
        self.folder = logs
        self._next_beat = 0.0  # soon: who stops before its first beat cannot be named by its process

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def limit(self, place: Place) -> float:
        """Seconds that a rank may stay there; 0 for no limit."""
        minutes = {phases.SETUP: self.settings.setup_minutes, phases.SAVE: self.settings.save_minutes}
        return 60 * minutes.get(place.phase, self.settings.step_minutes)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_TICK):
            now, place = time.monotonic(), phases.place()
            if now - last > _STOOD_STILL:
                mark, seconds = self._excused
                self._excused = (place.mark, now - last + (seconds if mark == place.mark else 0.0))
            last = now
            limit = self.limit(place)
            stays = now - place.since - (self._excused[1] if self._excused[0] == place.mark else 0.0)
            if now >= self._next_beat:
                self._next_beat = now + _BEAT
                self._beat(place)
                self._arm(limit - stays + _MARGIN if limit else 0.0)
                if self._word_of_another():
                    self._end(place, stays, speaks=False)
            if limit and stays > limit:
                self._end(place, stays, speaks=self._leave_word())

    def _beat(self, place: Place) -> None:
        if self.folder is None:
            return
        values = {"rank": platform.rank(), "host": socket.gethostname(), "pid": os.getpid()}
        values |= {"phase": place.phase, "step": place.step, "mark": place.mark}
        with suppress(OSError):  # a server that is away for a moment, or a full disk: no reason to end anything
            path = self.folder / HEARTBEATS / f"rank_{platform.rank():05d}.json"
            temporary = path.with_suffix(".partial")
            temporary.write_text(json.dumps(values), encoding="utf-8")
            os.replace(temporary, path)

    def _arm(self, seconds: float) -> None:
        faulthandler.cancel_dump_traceback_later()
        if seconds > 0:
            faulthandler.dump_traceback_later(seconds, exit=True, file=2)

    def _word_of_another(self) -> bool:
        return self.folder is not None and (self.folder / HEARTBEATS / _WORD).exists()

    def _leave_word(self) -> bool:
        """-> whether this rank is the first to do so."""
        if self.folder is None:
            return True
        try:
            (self.folder / HEARTBEATS / _WORD).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def _end(self, place: Place, stays: float, *, speaks: bool) -> None:
        """Write what this rank does; say what all do if this one is to; end the process."""
        faulthandler.cancel_dump_traceback_later()
        self._dump(place, stays)
        deadline = time.monotonic() + _FOR_OTHERS + (0 if speaks else _FOR_OTHERS)
        while time.monotonic() < deadline:  # its beats go on: it lives
            self._beat(place)
            time.sleep(_TICK)
        if speaks:
            sentence = self._sentence(place, stays)
            rank_log.say(f"error: {sentence}")
            folders = [self.folder.parent] if self.folder else []
            job_outcome.report(JobOutcome.here(job_outcome.FAULT, sentence, exit_code=1), *folders)
        with suppress(Exception):  # nothing may hold this process any more
            self.on_end()
        os._exit(1)

    def _dump(self, place: Place, stays: float) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        head = f"{when} watchdog: {stays:.0f} s in phase {place.phase} of step {place.step}; all threads:\n"
        if self.folder is None:
            rank_log.say(head)
            faulthandler.dump_traceback(2)
            return
        with suppress(OSError), open(self.folder / f"rank_{platform.rank():05d}.txt", "a", encoding="utf-8") as file:
            file.write(head)
            file.flush()
            faulthandler.dump_traceback(file)
        write_flight_record(self.folder / f"flight_recorder_{platform.rank()}")

    def _sentence(self, place: Place, stays: float) -> str:
        name = {phases.SETUP: "setup", phases.SAVE: "save"}.get(place.phase, "step")
        what = f"the job stands still: {stays:.0f} s in phase {place.phase} of step {place.step}"
        limit = f"watchdog.{name}_minutes={getattr(self.settings, f'{name}_minutes'):g}"
        where = f"what each rank was doing is in {self.folder}/rank_*.txt" if self.folder else "its stacks are above"
        beats = read_beats(self.folder / HEARTBEATS) if self.folder else []
        return f"{what} ({limit}). {diagnosis(beats, platform.world_size())}; {where}"


def read_beats(folder: Path) -> list[Beat]:
    """The heartbeats of all ranks, in their order."""
    files = []
    for path in sorted(folder.glob("rank_*.json")):
        with suppress(OSError, ValueError, TypeError):
            files.append((path.stat().st_mtime, json.loads(path.read_text(encoding="utf-8"))))
    newest = max((beat for beat, _ in files), default=0.0)
    return [Beat(**values, silent=newest - beat) for beat, values in files]


def diagnosis(beats: Sequence[Beat], world_size: int) -> str:
    """Which ranks the others wait for, as far as the heartbeats show it."""
    missing = sorted(set(range(world_size)) - {beat.rank for beat in beats})
    silent = [beat for beat in beats if beat.silent > _SILENT]
    if silent:
        names = _listed([f"{b} since {b.silent:.0f} s, in phase {b.phase} of step {b.step}" for b in silent])
        return f"No sign of life from {names}"
    if missing and beats:
        return f"No heartbeat at all from rank {_listed([str(rank) for rank in missing])}"
    furthest = max((beat.mark for beat in beats), default=0)
    behind = [beat for beat in beats if beat.mark < furthest]
    if behind:
        names = _listed([f"{beat}, in phase {beat.phase} of step {beat.step}" for beat in behind])
        return f"The others wait for {names}"
    return "All ranks are at the same place"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
