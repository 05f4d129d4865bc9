"""Whether held-out pairs still get better, and which checkpoint is the best of the run."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from editcaption_mega.settings import SettingsError

PREFIX = "held_out/"  # of the metrics of held-out pairs, before their names in training
Better = Literal["lower", "higher"]


class Score(NamedTuple):
    step: int
    value: float


class Improvement:
    """Follows one metric over the evaluations of a run. On every rank alike.

    best: of all evaluations; waited: evaluations since. checkpoint: the best of those that have a checkpoint.
    patience: evaluations without a better value, after which it has seen enough; 0: never."""

    def __init__(self, metric: str, better: Better, patience: int, data: str, *, keeps_best: bool = False):
        """data: the fingerprint of the held-out pairs: values of others are not compared with theirs."""
        self.metric, self.better, self.patience, self.data = metric, better, patience, data
        self.keeps_best = keeps_best
        self.best: Score | None = None
        self.checkpoint: Score | None = None
        self.waited = 0
        self._last: Score | None = None
        self._saving: Score | None = None  # the best, if the checkpoint that is being written will be whole

    def take(self, step: int, value: float | None) -> bool:
        """The value of an evaluation, None for one that is not finite -> whether it is the best so far."""
        self._last = None if value is None else Score(step, value)
        if self._last is not None and self._is_better(self._last, self.best):
            self.best, self.waited = self._last, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return bool(self.patience) and self.waited >= self.patience

    def ending(self) -> str:
        """Why the run ends here; "" where it goes on."""
        if not self.exhausted:
            return ""
        since = f"step {self.best.step} ({self.best.value:.4f})" if self.best else "the first step"
        return (
            f"ended early: no better {self.metric} since {since}, in {self.waited} evaluation"
            f"{'s' if self.waited > 1 else ''}, and evaluation.patience is {self.patience}; to go on, raise it above "
            f"{self.waited}, or set it to 0"
        )

    @property
    def best_checkpoint(self) -> dict[str, Any] | None:
        """Metric, step and value of it, for those who read best.json."""
        return None if self.checkpoint is None else {"metric": self.metric, **self.checkpoint._asdict()}

    def saved(self, newest: int) -> None:
        """newest: the step of the newest checkpoint that is whole, when none is being written."""
        if self._saving is not None and self._saving.step <= newest:
            self.checkpoint = self._saving
        self._saving = None

    def state(self, step: int) -> dict[str, Any]:
        """What the checkpoint of this step says, for the run that goes on from it. After `saved`."""
        self._saving = self.checkpoint
        if self.keeps_best and self._last is not None and self._last.step == step:
            self._saving = self._last if self._is_better(self._last, self.checkpoint) else self.checkpoint
        return {
            "metric": self.metric,
            "data": self.data,
            "best": None if self.best is None else self.best._asdict(),
            "waited": self.waited,
            "checkpoint": None if self._saving is None else self._saving._asdict(),
        }

    def restore(self, state: dict[str, Any] | None, has_checkpoint: Callable[[int], bool]) -> list[str]:
        """Go on from a checkpoint's `state`, None for one without -> lines that say what could not be taken over.

        has_checkpoint: whether the run still has that of a step."""
        if not state:
            return []
        if (state["metric"], state["data"]) != (self.metric, self.data):
            was = f"{state['metric']} of other pairs" if state["metric"] == self.metric else state["metric"]
            return [
                f"note: earlier evaluations of this run were of {was}: the best one and evaluation.patience begin anew"
            ]
        self.best, self.checkpoint = _score(state["best"]), _score(state["checkpoint"])
        self.waited = state["waited"]
        if self.checkpoint and not has_checkpoint(self.checkpoint.step):
            step, self.checkpoint = self.checkpoint.step, None
            return [f"note: the best checkpoint so far, that of step {step}, is gone: the next one takes its place"]
        return []

    def _is_better(self, score: Score, than: Score | None) -> bool:
        if than is None:
            return True
        return score.value < than.value if self.better == "lower" else score.value > than.value


def check_metric(metric: str, better: Mapping[str, Better]) -> None:
    """Raises SettingsError for a metric that is none of an objective's `better`."""
    if metric.removeprefix(PREFIX) not in better:
        known = ", ".join(f"{PREFIX}{name}" for name in better)
        raise SettingsError(f"evaluation.metric={metric} is none by which this job can choose: expected {known}")


def _score(values: dict[str, Any] | None) -> Score | None:
    return None if values is None else Score(**values)
