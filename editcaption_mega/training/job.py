"""The last phase of a training job, whichever its objective, and the SFT job."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager

from editcaption_mega import job_outcome, phases, platform
from editcaption_mega.conversion import ParamShard, local_param_shards, rules_for
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model.pipeline_split import split_notes
from editcaption_mega.objectives import Objective, SFTObjective
from editcaption_mega.settings import JobSettings
from editcaption_mega.words import counted

from .adapter_state import BASE_WEIGHTS, train_adapters_alone
from .bad_samples import BadSamples
from .bad_steps import BadSteps
from .checkpoint import CheckpointSaver, load_optimizer, load_random_state, local_copies, write_best
from .evaluations import Evaluation, Evaluations
from .experts import ExpertLoad
from .first_lines import first_lines, trained_lines
from .held_out import HeldOut
from .held_out_texts import sampling
from .identity import check_identity, flat, thawed
from .improvement import PREFIX, Improvement
from .inputs import on_device, reading_ahead
from .loop import Care, Span, run_steps
from .megatron_optimizer import release_hooks
from .metrics import RunLog
from .next_commands import next_commands
from .optimizer import TrainState, build_train_state, freeze_modules
from .prepare import Prepared, prepare
from .profile_window import ProfileWindow
from .run_folder import keep_settings
from .saving import RunRecorder
from .session import Ending, session, stop_if_asked
from .shared_base import SharedBase
from .start_facts import start_facts
from .stragglers import Stragglers


def run_sft(settings: JobSettings, base: SharedBase | None = None) -> Ending:
    """Train as the settings say; resumes by itself. Raises ValueError before any work when something cannot fit. base:
    see `run_several`.

    A signal (`signals.STOPPING`) ends it after the present step with a checkpoint, and at once before the first."""
    with session(settings, base) as job:
        job.ending = train(prepare(job, SFTObjective), SFTObjective())
    return job.ending


def train(prepared: Prepared, objective: Objective, held_out: Objective | None = None) -> Ending:
    """Load weights and optimizer, and run the steps that are left, with checkpoints and records. Collective.

    held_out: the objective for the held-out pairs, where it knows pairs by their numbers; None: the same one.
    Raises FloatingPointError for a loss or gradient that is not finite, OSError where the last checkpoint cannot be
    written, ValueError for a run of an objective of another identity, and whatever the objective raises at a step."""
    resumed = prepared.resumed
    if resumed.checkpoint:
        check_identity(resumed.checkpoint, resumed.state, objective.identity)
    state, param_shards, notes = _train_state(prepared)
    try:
        return _train(prepared, objective, held_out or objective, state, param_shards, notes)
    finally:
        release_hooks(state.chunks)


def _train(
    prepared: Prepared,
    objective: Objective,
    held_out: Objective,
    state: TrainState,
    param_shards: list[ParamShard],
    notes: list[str],
) -> Ending:
    settings, resumed = prepared.settings, prepared.resumed
    stop_if_asked(resumed.step, "while the model was loaded")
    updates = resumed.state.get("updates", 0)
    bad_steps = BadSteps.of_run(settings.bad_steps, prepared.session.output, resumed.step, updates)
    bad_samples = _bad_samples(prepared)
    improvement = _improvement(prepared, objective, notes)
    log, facts = None, start_facts()
    with platform.together():
        if platform.is_rank_zero():
            log = _open_log(prepared, objective, facts, notes, improvement)
    saver = CheckpointSaver(
        settings.checkpoint, param_shards, state.optimizer,
        published=resumed.step, timeout_minutes=settings.watchdog.collective_minutes,
        say=log.say if log else platform.print_rank_0,
        on_published=lambda step: job_outcome.note_progress(checkpoint=step), local=local_copies(settings),
    )  # fmt: skip
    recorder = RunRecorder(
        prepared.session, prepared.side_files, prepared.metadata, prepared.identity | objective.identity,
        saver, bad_steps, log, improvement, bad_samples,
    )  # fmt: skip
    layers, experts = prepared.architecture.num_layers, prepared.architecture.experts
    expert_load = ExpertLoad(state.chunks, layers, experts.num_experts) if experts else None
    ending = Ending(resumed.step)
    ended = improvement.ending() if improvement else ""
    if ended or resumed.step >= prepared.total_steps:
        already = (
            f"{prepared.session.output} has already been trained for {counted(resumed.step, 'step')}: nothing to do"
        )
        recorder.say(f"{already}. It {ended}" if ended else already)
    else:
        span = Span(resumed.step, prepared.total_steps, settings.checkpoint.every, settings.training.stop_after)
        training, output = settings.training, prepared.session.output
        window = ProfileWindow(training.profile_steps, training.profile_ranks, output, recorder.say)
        stragglers = Stragglers(settings.watchdog.slow_rank, recorder.say)
        evaluating = _evaluations(prepared, held_out, state, recorder)
        with closing(recorder), closing(window), recorder.failing(), evaluating as evaluations:
            care = Care(stragglers, bad_steps, evaluations, window, bad_samples)
            ending = Ending(
                *run_steps(state, objective, _steps(prepared), span, recorder, expert_load, prepared.architecture, care)
            )
    if ending.step >= prepared.total_steps:
        for line in next_commands(settings, ending.step, objective.answers):
            recorder.say(line)
    with platform.together():
        if log:
            log.close()
    return ending


def _bad_samples(prepared: Prepared) -> BadSamples:
    """Those of the run until now."""
    settings, resumed = prepared.settings, prepared.resumed
    count, seen = resumed.state.get("bad_samples", 0), resumed.step * settings.training.global_batch_size
    return BadSamples(prepared.stream.reader, settings.data.bad_samples_share, count=count, seen=seen)


def _improvement(prepared: Prepared, objective: Objective, notes: list[str]) -> Improvement | None:
    """How the held-out pairs have done until now, if they are evaluated; notes get what a reader must know.
    Collective."""
    settings, resumed = prepared.settings, prepared.resumed
    if prepared.held_out is None or not settings.evaluation.every:
        return None
    metric = settings.evaluation.metric
    improvement = Improvement(
        metric, objective.better[metric.removeprefix(PREFIX)], settings.evaluation.patience,
        prepared.held_out.dataset.fingerprint, keeps_best=settings.checkpoint.keep_best,
    )  # fmt: skip

    def has_checkpoint(step: int) -> bool:
        folder = checkpoint_folder(prepared.session.output, step)
        return platform.from_rank_zero(lambda: folder in checkpoints(prepared.session.output))

    notes += improvement.restore(resumed.state.get("evaluation"), has_checkpoint)
    return improvement


@contextmanager
def _evaluations(
    prepared: Prepared, objective: Objective, state: TrainState, recorder: RunRecorder
) -> Iterator[Evaluations]:
    """What is looked at between the steps, with what it needs for as long as the block runs."""
    settings, improvement = prepared.settings, recorder.improvement
    parts: list[Evaluation] = []
    with ExitStack() as stack:
        if prepared.held_out is not None and improvement is not None:
            share = settings.data.bad_samples_share
            held_out = HeldOut(state.chunks, objective, prepared.held_out, improvement, recorder.say, share)
            parts.append(stack.enter_context(held_out.open(reading_ahead(settings.data))))
            if settings.samples.pairs:
                ends, first = prepared.side_files.end_ids(), prepared.resumed.step
                texts = sampling(state.chunks, prepared.held_out, settings.samples, ends, recorder.log, first)
                parts.append(stack.enter_context(texts))
        yield Evaluations(
            settings.evaluation.every, prepared.total_steps, state.chunks, parts,
            enough=lambda: improvement is not None and improvement.exhausted,
        )  # fmt: skip


def _steps(prepared: Prepared) -> Iterable[Step]:
    first, last = prepared.resumed.step, prepared.total_steps
    return phases.read(on_device(prepared.stream.steps(first, last, **reading_ahead(prepared.settings.data))), first)


def _train_state(prepared: Prepared) -> tuple[TrainState, list[ParamShard], list[str]]:
    """Model, optimizer and schedule as they are before the first step of this start -> also the parameters' shards, and
    lines for the log. Collective."""
    settings, resumed = prepared.settings, prepared.resumed
    prepared.load(prepared.start_source)
    if prepared.session.base is not None:
        prepared.session.base.keep(prepared.chunks, prepared.start_source, prepared.identity[BASE_WEIGHTS])
    if prepared.adapters is not None:
        param_shards = train_adapters_alone(
            prepared.chunks, prepared.adapters, seed=settings.training.seed, checkpoint=resumed.checkpoint
        )
    else:
        param_shards = local_param_shards(prepared.chunks, rules_for(prepared.architecture))
        freeze_modules(param_shards, settings.optimizer)
    state = build_train_state(
        prepared.chunks, param_shards, settings.optimizer,
        precision=settings.training.precision, total_steps=prepared.total_steps,
        overlap=settings.parallel.overlap_data_parallel,
    )  # fmt: skip
    notes: list[str] = []
    if resumed.checkpoint:
        local = local_copies(settings)
        new = thawed(resumed.state, prepared.identity)
        load_optimizer(resumed.checkpoint, resumed.state, param_shards, state.optimizer, local, new)
        notes += [
            f"note: optimizer.{module} was frozen up to step {resumed.step}: its moments begin at zero"
            for module in new
        ]
        state.scheduler.step(increment=resumed.step)
        if not load_random_state(resumed.checkpoint, local):
            notes.append(
                f"note: {resumed.checkpoint} holds the random states of another layout of ranks, so the generators "
                f"begin with training.seed={settings.training.seed} again"
            )
    for chunk in state.chunks:
        chunk.train()
    return state, param_shards, notes


def _open_log(
    prepared: Prepared, objective: Objective, facts: list[str], notes: list[str], improvement: Improvement | None
) -> RunLog:
    """The run's records, with what a reader must know of this start. Rank 0 alone."""
    settings, resumed, output = prepared.settings, prepared.resumed, prepared.session.output
    log = RunLog(
        output, first_step=resumed.step, total_steps=prepared.total_steps,
        log_every=settings.training.log_every, shown=objective.shown_metrics,
        blank_with=objective.blank_with, settings=settings,
    )  # fmt: skip
    table = trained_lines(settings, prepared.architecture, prepared.adapters)
    starts = first_lines(settings, prepared.stream, prepared.total_steps, resumed)
    split = split_notes(prepared.architecture.num_layers, settings.parallel)
    for line in [*facts, *prepared.dataset.notes, *table, *split, *starts, *prepared.notes, *notes]:
        log.say(line)
    keep_settings(output, settings, resumed.step)
    log.loggers.settings(flat(settings))
    log.loggers.text(log.first_logged, "run/config", (output / "config.yaml").read_text(encoding="utf-8"))
    log.loggers.text(log.first_logged, "run/trained", "\n".join(table))
    write_best(output, improvement.best_checkpoint if improvement else None)
    return log
