"""Runs of adapters that one job trains after another, on weights that it loads once.

Each is the run that a job of its own would have made, in a folder of its own, and goes on as that would.
"""

import gc
from collections.abc import Callable, Mapping

from editcaption_mega import job_outcome, platform, signals
from editcaption_mega.settings import JobSettings

from .runs_check import check_data, check_settings, of_run
from .session import Ending, join_ranks, outcome_of
from .shared_base import SharedBase


def run_several[Kind: JobSettings](runs: Mapping[str, Kind], train: Callable[[Kind, SharedBase], Ending]) -> Ending:
    """Train each of `load_runs` by `train`, such as `run_sft` -> the ending of the last one. Collective.

    Raises SettingsError, with the run's name, before the first one begins for any that cannot be trained.
    A signal ends the run that it meets, and the job. So does an error, but for a run that diverges: those behind it are
    trained, and FloatingPointError is raised at the end. The same command goes on: with runs that were not begun, and
    with those that stopped or diverged, from their newest checkpoints."""
    models = check_settings(runs)
    base, ending, failed = SharedBase(), Ending(0), True
    diverged: dict[str, str] = {}
    with signals.listening():
        try:
            platform.print_rank_0(f"{len(runs)} runs: {', '.join(runs)}; each is looked at before the first begins")
            join_ranks(next(iter(runs.values())))
            base.joined = True
            check_data(runs, models)
            for number, (name, settings) in enumerate(runs.items(), start=1):
                platform.print_rank_0(f"run {name} ({number} of {len(runs)}), into {settings.training.output}")
                try:
                    with of_run(name):
                        ending = train(settings, base)
                except FloatingPointError as error:
                    if hasattr(error, "outcome"):  # another start is to go on with this very run
                        raise
                    diverged[name] = str(error)
                    platform.print_rank_0(f"run {name} ended: {error}")
                if ending.signal:
                    break
                gc.collect()  # modules and hooks lie in circles, with the memory of what this run has trained
            failed = False
        finally:
            base.forget()
            if base.joined:
                platform.destroy(after_failure=failed)
    words = f"{len(runs) - len(diverged)} of {len(runs)} runs are trained"
    if ending.signal:
        words = f"stopped by signal {ending.signal} in run {name}"
    elif diverged:
        raise FloatingPointError(f"{words}; {'; '.join(f'run {name}: {why}' for name, why in diverged.items())}")
    if platform.is_rank_zero():
        print(words, flush=True)
        job_outcome.report(outcome_of(ending, words))
    return ending
