"""A preference job: the SFT job with another objective, and the reference's log-probs that it needs."""

import math

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.kernels import Preference
from editcaption_mega.objectives import Agreement, DPOObjective, Objective, PairFacts
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import DPOSettings, PreferenceSettings

from .job import Ending, Start, run_job
from .reference import resident_reference, stored_reference


def run_dpo(settings: DPOSettings, progress: Progress = no_progress) -> Ending:
    """Train on chosen and rejected answers as the settings say; resumes by itself.

    Raises ValueError before any work when something cannot fit, and at the first step when policy and reference are
    not the same model though they should be. progress: as `cli.progress`, for the reference's log-probs."""
    preference = settings.preference
    how = Preference(
        preference.loss, preference.beta, preference.label_smoothing, preference.margin, preference.nll_weight
    )

    def make_objective(start: Start) -> tuple[Objective, dict]:
        facts = pair_facts(start.stream.reader.dataset, preference)
        if settings.reference.mode == "none":
            return DPOObjective(how, None, facts, per_mode=preference.failure_mode_metrics), {}
        make = stored_reference if settings.reference.mode == "stored" else resident_reference
        reference, weights, is_start = make(settings, start, progress)
        agreement = None
        if start.resumed.checkpoint is None and is_start:
            agreement = Agreement(settings.training.precision, loss_at_reference(how, facts), how.beta)
        objective = DPOObjective(
            how, reference, facts, per_mode=preference.failure_mode_metrics, agreement=agreement
        )  # fmt: skip
        return objective, {"reference_weights": weights}

    return run_job(settings, "preference", make_objective, "dpo")


def loss_at_reference(how: Preference, facts: dict[str, PairFacts]) -> float | None:
    """The loss while policy and reference are equal, where it is the same for every pair: ln 2 (sigmoid)."""
    plain = how.shape == "sigmoid" and not how.margin and not how.nll_weight
    return math.log(2) if plain and not any(pair.margin for pair in facts.values()) else None


def pair_facts(dataset: PairDataset, preference: PreferenceSettings) -> dict[str, PairFacts]:
    """What the objective must know of each pair. Raises ValueError for a pair that lacks it."""
    facts = {}
    for i in range(len(dataset)):
        pair = dataset.shards.pair(i)
        # An empty list is a tag too: wrong, but in none of the three ways.
        if preference.failure_mode_metrics and pair.failure_modes is None:
            raise ValueError(
                f"sample {pair.id} says no failure_modes, and preference.failure_mode_metrics asks for metrics per "
                "failure mode: tag the pair, or set preference.failure_mode_metrics=false"
            )
        if preference.severity_margin and pair.severity is None:
            raise ValueError(
                f"sample {pair.id} has no severity, and preference.severity_margin={preference.severity_margin} makes "
                "its margin from it: give the pair one (0 .. 1), or set preference.severity_margin=0"
            )
        margin = preference.severity_margin * (pair.severity or 0.0)
        facts[pair.id] = PairFacts(tuple(pair.failure_modes or ()), margin)
    return facts
