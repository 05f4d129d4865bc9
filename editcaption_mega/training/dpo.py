"""A preference job: the phases of any job, with a reference between the first and the last."""

import math

from editcaption_mega.kernels import PreferenceLossConfig
from editcaption_mega.objectives import Agreement, DPOObjective
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import DPOSettings

from .dpo_reference import JobReference, reference_for
from .job import train
from .pair_facts import PairTable, pair_facts
from .prepare import prepare
from .session import Ending, session
from .shared_base import SharedBase


def run_dpo(settings: DPOSettings, progress: Progress = no_progress, base: SharedBase | None = None) -> Ending:
    """Train on chosen and rejected answers as the settings say; resumes by itself.

    Raises ValueError before any work when something cannot fit, and at the first step when policy and reference are
    not the same model though they should be. progress: for the reference's log-probs, as in `progress_display`. base:
    see `run_several`."""
    with session(settings, base) as job:
        prepared = prepare(job, DPOObjective)
        skip_bad = settings.data.skips_bad_samples
        pairs = pair_facts(prepared.dataset, settings.preference, prepared.session.tables, skip_bad=skip_bad)
        reference = reference_for(prepared, settings, progress)
        held_out = None
        if prepared.held_out is not None:
            facts = pair_facts(
                prepared.held_out.dataset, settings.preference, prepared.session.held_out_tables, skip_bad=skip_bad
            )
            held_out = dpo_objective(settings, None if reference is None else reference.of_held_out, facts)
        job.ending = train(prepared, dpo_objective(settings, reference, pairs), held_out)
    return job.ending


def dpo_objective(settings: DPOSettings, reference: JobReference | None, pairs: PairTable) -> DPOObjective:
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


def loss_at_reference(preference: PreferenceLossConfig, pairs: PairTable) -> float | None:
    """The loss while policy and reference are equal, where it is the same for every pair: ln 2 (sigmoid)."""
    plain = preference.shape == "sigmoid" and not preference.margin and not preference.nll_weight
    return math.log(2) if plain and not pairs.any_margin else None
