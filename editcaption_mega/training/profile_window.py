"""A profile of a few steps, by PyTorch's own profiler: `training.profile_steps`."""

import time
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from editcaption_mega import platform

FOLDER = "profile"  # of the run folder
_OPERATORS = 40  # lines of the table


class ProfileWindow:
    """Profiles the steps from `first` to `last`, both included, where this rank is to be profiled. Outside of them it
    compares two numbers a step; inside it changes no number.

    output/profile gets, for each rank, rank_00000.json.gz (a trace for https://ui.perfetto.dev or chrome://tracing) and
    rank_00000.txt (the operators that took most time). What cannot be written costs a line. say: takes lines for the
    log, on every rank."""

    def __init__(self, steps: list[int] | None, ranks: str, output: Path, say: Callable[[str], None]):
        first, last = steps if steps and (ranks == "all" or platform.is_rank_zero()) else (0, -1)
        self._steps = range(first, last + 1)
        self._output, self._say = output / FOLDER, say
        self._profile: profile | None = None

    def step_begins(self, step: int) -> None:
        if step in self._steps and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if platform.device().type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def step_ended(self, step: int) -> None:
        if self._profile is not None and step + 1 not in self._steps:
            self.close()

    def close(self) -> None:
        """End the profile, if there is one: also of a run that leaves in the middle of its steps."""
        ended, self._profile = self._profile, None
        if ended is None:
            return
        began = time.monotonic()
        ended.stop()
        name = f"rank_{platform.rank():05d}"
        try:
            self._output.mkdir(exist_ok=True)
            ended.export_chrome_trace(str(self._output / f"{name}.json.gz"))
            device = "cuda" if platform.device().type == "cuda" else "cpu"
            table = ended.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=_OPERATORS)
            (self._output / f"{name}.txt").write_text(table, encoding="utf-8")
        except (OSError, RuntimeError) as error:
            self._say(f"WARNING: no profile ({error}); training goes on")
            return
        self._say(
            f"profile of steps {self._steps[0]} to {self._steps[-1]}: {self._output / name}.json.gz and .txt, written "
            f"in {time.monotonic() - began:.1f} s"
        )
