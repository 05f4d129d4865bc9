"""A preference job: the phases of any job, with a reference between the first and the last."""

import math

from editcaption_mega import platform
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.kernels import PreferenceLossConfig
from editcaption_mega.objectives import Agreement, DPOObjective, PairFacts
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import EditPair
from editcaption_mega.settings import DPOSettings, PreferenceSettings

from .dpo_reference import JobReference, reference_for
from .job import train
from .prepare import prepare
from .session import Ending, session


def run_dpo(settings: DPOSettings, progress: Progress = no_progress) -> Ending:
    """Train on chosen and rejected answers as the settings say; resumes by itself.

    Raises ValueError before any work when something cannot fit, and at the first step when policy and reference are
    not the same model though they should be. progress: as `cli.progress`, for the reference's log-probs."""
    with session(settings) as job:
        prepared = prepare(job, DPOObjective)
        pairs = pair_facts(prepared.dataset, settings.preference)
        reference = reference_for(prepared, settings, progress)
        job.ending = train(prepared, dpo_objective(settings, reference, pairs))
    return job.ending


def dpo_objective(settings: DPOSettings, reference: JobReference | None, pairs: dict[str, PairFacts]) -> DPOObjective:
    """The objective of these settings. One that begins with policy and reference equal checks at its first step that
    they are."""
    options = settings.preference
    preference = PreferenceLossConfig(
        options.loss, options.beta, options.label_smoothing, options.margin, options.nll_weight
    )
    if reference is None:
        return DPOObjective(preference, None, pairs, per_mode=options.failure_mode_metrics)
    agreement = None
    if reference.equals_start:
        expected = loss_at_reference(preference, pairs)
        agreement = Agreement(settings.training.precision, expected, preference.beta)
    return DPOObjective(
        preference, reference.log_probs, pairs,
        per_mode=options.failure_mode_metrics, agreement=agreement, reference_weights=reference.weights,
    )  # fmt: skip


def loss_at_reference(preference: PreferenceLossConfig, pairs: dict[str, PairFacts]) -> float | None:
    """The loss while policy and reference are equal, where it is the same for every pair: ln 2 (sigmoid)."""
    plain = preference.shape == "sigmoid" and not preference.margin and not preference.nll_weight
    own = any(pair.margin or pair.hardness_margin for pair in pairs.values())
    return math.log(2) if plain and not own else None


def pair_facts(dataset: PairDataset, preference: PreferenceSettings) -> dict[str, PairFacts]:
    """What the objective must know of each pair, by id. Collective: the ranks share the reading.

    Raises ValueError, alike on every rank, for a pair that lacks it."""
    facts: dict[str, PairFacts] = {}
    problems: list[tuple[int, str]] = []
    for i in platform.share(range(len(dataset))):
        pair = dataset.shards.pair(i)
        problem = _lack(pair, preference)
        if problem:
            problems.append((i, problem))
        facts[pair.id] = _facts(pair, preference)
    parts = platform.gather((facts, problems))
    problems = sorted(problem for _, part in parts for problem in part)
    if problems:
        raise ValueError(problems[0][1])
    return {name: pair for part, _ in parts for name, pair in part.items()}


def _facts(pair: EditPair, preference: PreferenceSettings) -> PairFacts:
    """A pair's primary failure mode is its first; one without any has the weight 1."""
    modes = tuple(pair.failure_modes or ())
    weight = preference.failure_mode_weights[modes[0]] if modes else 1.0
    margin = weight * preference.severity_margin * (pair.severity or 0.0)
    return PairFacts(modes, margin, weight * preference.hardness_margin)


def _lack(pair: EditPair, preference: PreferenceSettings) -> str | None:
    """What the settings need of a pair and it does not say."""
    # An empty list is a tag too: wrong, but in none of the three ways.
    if preference.failure_mode_metrics and pair.failure_modes is None:
        return (
            f"sample {pair.id} says no failure_modes, and preference.failure_mode_metrics asks for metrics per "
            "failure mode: tag the pair, or set preference.failure_mode_metrics=false"
        )
    weights = preference.failure_mode_weights
    if pair.failure_modes is None and any(weight != 1 for weight in weights.values()):
        said = ", ".join(f"preference.{mode}_weight={weight}" for mode, weight in weights.items())
        return f"sample {pair.id} says no failure_modes, and {said} go by them: tag the pair, or set them to 1"
    if preference.severity_margin and pair.severity is None:
        return (
            f"sample {pair.id} has no severity, and preference.severity_margin={preference.severity_margin} makes "
            "its margin from it: give the pair one (0 .. 1), or set preference.severity_margin=0"
        )
    return None
