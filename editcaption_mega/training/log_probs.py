"""Log-probabilities of every answer in a set of shards, under any layout: the forward half of a training step."""

import dataclasses
import hashlib
import json
import math
from contextlib import closing
from itertools import batched, pairwise
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from editcaption_mega import job_outcome, phases, platform, signals
from editcaption_mega.conversion import WeightSource, load_weights
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import Round, SequenceReader, read_ahead
from editcaption_mega.data.batching.ranges import RangeReader
from editcaption_mega.data.batching.scoring import PairTexts, ScoringDataset, View
from editcaption_mega.data.shards.unreadable import UNREADABLE
from editcaption_mega.files import parse_json, place_problem
from editcaption_mega.model import build_model
from editcaption_mega.model.pipeline_split import split_notes
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records.pair import ANSWERS
from editcaption_mega.settings import JobSettings, SettingsError, before_work

from .bad_samples import BadSamples
from .inputs import ReadingAhead, on_device, reading_ahead
from .pipeline import head_outputs
from .range_files import RangeFiles
from .session import Ending, Stopped, outcome_of, stop_if_asked
from .setup import layout_of, measure_samples, open_architecture, open_dataset, open_reader, range_size


def log_probs_of_shards(
    settings: JobSettings,
    output: Path,
    *,
    with_tokens: bool,
    view: View = "given",
    texts: PairTexts | None = None,
    progress: Progress = no_progress,
) -> Ending:
    """Write one JSON object per sample, in the order of the shards, after a first line with the fingerprint.

    view: the pictures under which the answers are scored. texts: scored in place of the shards' own answers; a line
    then has the numbers of each text under `answers`.
    settings.model.checkpoint is what `WeightSource.of` takes. Collective; each rank writes its own part. The file
    appears when it is complete; a signal ends the work before that, as `Ending` says, and the same call goes on from
    there. Raises ValueError before any work for what has no log-probs."""
    if output.exists():
        raise SettingsError(f"{output} exists already: choose another file, nothing was written")
    if problem := place_problem(output):
        raise SettingsError(f"{problem}, so there can be no {output}: choose another file, nothing was written")
    with before_work():
        source = WeightSource.of(settings.model.checkpoint)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, folder=str(source.folder)))
    architecture = open_architecture(settings)
    dataset = ScoringDataset.of(open_dataset(settings, "either"), view, texts)
    for note in [*dataset.notes, *split_notes(architecture.num_layers, settings.parallel)]:
        platform.print_rank_0(note)
    failed, ending, message = True, Ending(0), f"{output} is written"
    with signals.listening():
        platform.initialize(layout_of(settings.parallel), settings.training.seed)
        try:
            lengths = measure_samples(dataset, settings.data.sequence_length)
            chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
            load_weights(chunks, architecture, source.folder, source.checkpoint, adapter=source.adapter)
            reader = open_reader(settings, dataset, lengths, architecture)
            fingerprint = fingerprint_of(source, dataset, settings.training.precision)
            reading = reading_ahead(settings.data)
            write_log_probs(chunks, reader, output, fingerprint, reading, with_tokens=with_tokens, progress=progress)
            failed = False
        except Stopped as stopped:
            failed, ending, message = False, Ending(0, stopped.signal), str(stopped)
        finally:
            platform.destroy(after_failure=failed)
    platform.print_rank_0(message)
    if platform.is_rank_zero():
        job_outcome.report(outcome_of(ending, message))
    return ending


def write_log_probs(
    chunks: list[torch.nn.Module],
    reader: SequenceReader[PairDataset],
    output: Path,
    fingerprint: dict[str, str],
    reading: ReadingAhead,
    *,
    with_tokens: bool = False,
    progress: Progress = no_progress,
    bad_samples_share: float = 1.0,
) -> None:
    """The file of log-probs of every sample of the reader's data, under the weights in `chunks`. Collective. A sample
    that cannot be read, where the reader leaves such out up to this share, has a line that says so (`unreadable`).

    Each data-parallel rank computes and writes ranges of samples of its own (`range_files`). What a killed or stopped
    process wrote is kept in OUTPUT.partial, and the same call goes on from there, with any number of ranks. Raises
    Stopped between two rounds after a signal that `signals` remembers, ValueError where OUTPUT.partial is of something
    else."""
    dataset = reader.dataset
    for chunk in chunks:
        chunk.eval()

    def is_line(line: str, i: int) -> bool:
        return line.endswith("\n") and _is_line_of(line, dataset.id(i), with_tokens)

    head = {"fingerprint": fingerprint, "with_tokens": with_tokens}
    with closing(RangeFiles.open(output, head, len(dataset), range_size(reader), is_line)) as files:
        if not files.size:
            stop_if_asked(0, f"before any sample of {output.name}")
        rounds, complete = _rounds(files, files.done(is_line), reader.packer.share.data_parallel_size)
        if complete:
            already = f"{complete:,} of {len(dataset):,} samples already"
            platform.print_rank_0(f"{files.folder} has {already}: going on from there")
        divided = parallel_state.get_expert_model_parallel_world_size() > 1
        ranges = RangeReader.of(reader, files.size, together=divided)
        arriving = BadSamples(ranges, bad_samples_share).agreed(on_device(read_ahead(ranges, rounds, **reading)))
        with closing(arriving) as read:
            for samples in progress(rounds, len(rounds), "rounds") if platform.is_rank_zero() else rounds:
                phases.enter(phases.SCORING)
                stop_if_asked(0, f"after {complete:,} of {len(dataset):,} samples of {output.name}")
                of_round = next(read)
                values = _log_probs(chunks, ranges, of_round)
                with platform.together():
                    own = ranges.own(samples)
                    if values is not None and own:
                        bad = {sample.number: sample for sample in of_round.left_out}
                        lines = (
                            {"id": dataset.id(i), UNREADABLE: bad[i].reason}
                            if i in bad
                            else _line(dataset, i, values[i], with_tokens)
                            for i in own
                        )
                        files.write(range(own[0], own[-1] + 1), lines)
                complete += len(samples)
                if platform.is_rank_zero():
                    job_outcome.note_progress(**{output.name: complete})
        phases.enter(phases.SCORING)
        files.publish(json.dumps({"fingerprint": fingerprint}) + "\n")


def _rounds(files: RangeFiles, done: set[range], ranks: int) -> tuple[list[range], int]:
    """The samples that the ranks compute at once, a range each, and how many samples need not be computed.

    A round of which a range is missing is computed whole: where experts are divided among the ranks, the numbers of
    its ranges come from products that they share."""
    rounds = list(batched(files.ranges(), ranks))
    missing = [range(of_round[0].start, of_round[-1].stop) for of_round in rounds if not done.issuperset(of_round)]
    return missing, files.samples - sum(map(len, missing))


def _is_line_of(line: str, name: str, with_tokens: bool) -> bool:
    try:
        values = parse_json(line)
    except ValueError:
        return False
    return (
        isinstance(values, dict) and values.get("id") == name and ("input_ids" in _first_answer(values)) == with_tokens
    )


def _first_answer(line: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the first answer of a line, whatever form it has."""
    part = line["answers"][0] if line.get("answers") else line.get(ANSWERS[0], line)
    return part if isinstance(part, dict) else {}


def response_log_probs(chunks: list[torch.nn.Module], micro_batches: list[PackedBatch], length: int) -> list[Tensor]:
    """Log-probs of the response tokens of each micro-batch [T] fp32, without gradients; [] before the last stage.

    Collective, as a training step's forward pass is."""
    return head_outputs(chunks, micro_batches, length)


def _log_probs(
    chunks: list[torch.nn.Module], reader: RangeReader, of_round: Round
) -> dict[int, list[list[float]]] | None:
    """Log-probs of the tokens of each answer of this rank's range, by sample: on one rank of the last stage, elsewhere
    None. Collective."""
    if not of_round.micro_batches:  # the samples have ended
        return None
    log_probs = response_log_probs(chunks, of_round.micro_batches, of_round.plan.length)
    if parallel_state.get_tensor_model_parallel_rank() or not log_probs:  # none before the last stage
        return None
    by_sample: dict[int, list[list[float]]] = {}
    for batch, tensor in zip(of_round.micro_batches, log_probs, strict=True):
        values = tensor.tolist()
        answers = (values[first:last] for first, last in pairwise(batch.response_bounds))
        for sample in batch.sample_numbers:
            by_sample[sample] = [next(answers) for _ in range(reader.lengths.num_answers(sample))]
    return by_sample


def _line(dataset: PairDataset, i: int, token_log_probs: list[list[float]], with_tokens: bool) -> dict[str, Any]:
    """The object of one sample: the numbers of its instruction, of its chosen and rejected answers, or of the texts
    that are scored in their place. Raises ValueError for one that is no finite number: no reader would take it."""
    if not all(math.isfinite(value) for values in token_log_probs for value in values):
        raise ValueError(
            f"{dataset.id(i)} has a log-prob that is no finite number: the weights hold NaN or infinity, or are too "
            "large for the precision; look at the run that they came from"
        )
    parts: list[dict[str, Any]] = [{"log_prob": sum(values), "token_log_probs": values} for values in token_log_probs]
    if with_tokens:
        sample = dataset.sample(i)
        for part, answer in zip(parts, sample.answers, strict=True):
            part |= {"input_ids": [*sample.prompt_ids, *answer], "response_start": len(sample.prompt_ids)}
    if isinstance(dataset, ScoringDataset) and dataset.texts is not None:
        texts = dataset.texts.texts(i)
        return {"id": dataset.id(i), "answers": [{"text": t} | part for t, part in zip(texts, parts, strict=True)]}
    return {"id": dataset.id(i), **(parts[0] if len(parts) == 1 else dict(zip(ANSWERS, parts, strict=True)))}


def fingerprint_of(source: WeightSource, dataset: PairDataset, precision: str) -> dict[str, str]:
    """What the numbers depend on: the weights, the data with its tokens and pictures, and the precision. Collective."""
    return {"weights": platform.from_rank_zero(source.digest), **data_parts(dataset), "precision": precision}


def data_parts(dataset: PairDataset) -> dict[str, str]:
    """The data's parts under the names that files of log-probs have: the template is a part of the tokenizer there."""
    parts = dict(dataset.fingerprints)
    template = parts.pop("chat_template")
    return parts | {"tokenizer": hashlib.sha256(f"{parts['tokenizer']} {template}".encode()).hexdigest()}
