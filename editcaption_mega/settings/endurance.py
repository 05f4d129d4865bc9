"""What a job does when it does not go as it should: stands still, or has a step that would spoil the weights."""

from dataclasses import dataclass

from .checks import SettingsError, at_least, choice, within

POLICIES = ("stop", "skip", "rewind")
_MOST_MINUTES = 7 * 24 * 60  # no phase takes weeks, and the backend's clock ends at some time


@dataclass
class WatchdogSettings:
    """How long a rank may stay in one phase. Then the job ends with the stacks of all ranks, and is started again."""

    setup_minutes: float = 60.0  # from the start to the end of the first step; 0: no limit
    step_minutes: float = 15.0  # a step or a batch of log-probs, and the wait for its data; 0: no limit
    save_minutes: float = 60.0  # a checkpoint; 0: no limit
    slow_rank: float = 1.5  # a rank is named whose own time for steps is so many times the median's; 0: none is

    def validate(self) -> None:
        for name in ("setup_minutes", "step_minutes", "save_minutes"):
            within(f"watchdog.{name}", getattr(self, name), 0, _MOST_MINUTES)
        at_least("watchdog.slow_rank", self.slow_rank, 0)
        if 0 < self.slow_rank <= 1:
            raise SettingsError(
                f"watchdog.slow_rank={self.slow_rank} would name ranks that are as fast as the others: give a factor "
                "above 1, or 0 to name none"
            )

    @property
    def collective_minutes(self) -> float:
        """How long the backend lets a rank wait for others: longer than any phase, so that the watchdog comes first."""
        limits = (self.setup_minutes, self.step_minutes, self.save_minutes)
        return max(limits) + 5 if all(limits) else 24 * 60.0


@dataclass
class BadStepSettings:
    """What is done with a step whose loss or gradient norm is not finite, or whose gradient norm is a spike."""

    # stop: the job ends before the update. skip: no update is made, the next step goes on from the same weights.
    # rewind: back to the newest checkpoint, and on without this step and the `rewind_steps` before it.
    policy: str = "stop"
    spike_factor: float = 0.0  # a gradient norm above so many times the median of the last 64 updates; 0: none is
    most_in_a_row: int = 5  # skip and rewind: more bad steps in a row than that end the job
    rewind_steps: int = 0  # steps before it that are left out, too

    def validate(self) -> None:
        choice("bad_steps.policy", self.policy, POLICIES)
        at_least("bad_steps.spike_factor", self.spike_factor, 0)
        if 0 < self.spike_factor <= 1:
            raise SettingsError(
                f"bad_steps.spike_factor={self.spike_factor} would call ordinary steps spikes: give one well above 1, "
                "such as 10, or 0 for none"
            )
        at_least("bad_steps.most_in_a_row", self.most_in_a_row, 1)
        at_least("bad_steps.rewind_steps", self.rewind_steps, 0)
        if self.rewind_steps and self.policy != "rewind":
            raise SettingsError(
                f"bad_steps.rewind_steps={self.rewind_steps} has a meaning with bad_steps.policy=rewind only: "
                "set it to 0"
            )
