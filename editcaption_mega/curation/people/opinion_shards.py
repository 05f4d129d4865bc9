"""Shards from people's opinions: refined instructions to train SFT on, corrected ones as preference pairs."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.formats import extension
from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.data.shards.writer import ShardWriter, refuse_used
from editcaption_mega.evaluation.human.filed_answers import Filed, Refused
from editcaption_mega.evaluation.record_files import write_records
from editcaption_mega.files import write_atomically
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import EditPair
from editcaption_mega.records.evaluation import Severity

from .annotator_quality import annotator_quality, overlap
from .consensus import Consensus, consensus
from .pair_answers import by_task, check_answers
from .same_text import same_tokens
from .task_records import PairTask, TaskOrigin, read_origins, read_pair_tasks

# The number that a severity of people's is in the shards (0 .. 1), which `preference.severity_margin` multiplies.
SEVERITY_NUMBERS: dict[Severity, float] = {"P0": 1.0, "P1": 0.5, "P2": 0.25}


@dataclass
class PeopleCounts:
    """What became of the tasks, by their opinions; what was filed; and what was written."""

    verdicts: Counter[str] = field(default_factory=Counter)  # of tasks, by what is thought of their texts
    tags: Counter[str] = field(default_factory=Counter)  # of corrections
    accepted: int = 0
    refused: list[Refused] = field(default_factory=list)
    written: int = 0
    quality: dict[str, Any] = field(default_factory=dict)


def import_pair_answers(
    reader: ShardReader,
    folders: Sequence[str | Path],
    form: str,
    answers: Iterable[Filed],
    output: str | Path,
    *,
    imported: str,
    progress: Progress = no_progress,
) -> PeopleCounts:
    """New shards in `output` of what people made of the tasks in `folders`.

    refine: pairs whose instruction is the refined one, or the draft where people say that it is right.
    preference: pairs with the correction as `chosen`, the draft as `rejected`, failure modes (the primary one first),
    severity. What is already_correct, unusable or undecided is never among them.
    Beside them: `output`.answers.jsonl (what was accepted), .refused.jsonl (each with its reason), .opinions.jsonl
    (what became of each task), .quality.json (annotators, and how far they agree).

    folders: of one form and one set of shards. imported: when, for answers without a time. Raises ValueError for a
    folder of the other form or a pair that two folders have, and, when all of the above is written, if no pair is
    left."""
    output = Path(output)
    refuse_used(output)
    tasks = _tasks(folders, form)
    origins = {name: origin for folder in folders for name, origin in read_origins(folder).items()}
    filed = list(answers)
    checked = check_answers(filed, form, tasks, _problems(reader, tasks, filed))
    opinions = {task: consensus(same, form) for task, same in by_task(checked.accepted).items()}
    quality = {
        "annotators": annotator_quality(opinions, form, checked.refused),
        "overlap": overlap(opinions, form),
    }
    counts = PeopleCounts(accepted=len(checked.accepted), refused=checked.refused, quality=quality)
    counts.verdicts.update(opinion.verdict or "undecided" for opinion in opinions.values())
    counts.verdicts["without an answer"] = len(checked.unanswered)
    write_records(_beside(output, "answers.jsonl"), checked.accepted)
    write_records(_beside(output, "refused.jsonl"), checked.refused)
    lines = [json.dumps(_opinion_line(tasks[task], opinions.get(task)), ensure_ascii=False) + "\n" for task in tasks]
    write_atomically(_beside(output, "opinions.jsonl"), "".join(lines))
    write_atomically(_beside(output, "quality.json"), json.dumps(quality, indent=1) + "\n")
    _write_shards(reader, tasks, origins, form, opinions, output, counts, imported, progress)
    return counts


def _tasks(folders: Sequence[str | Path], form: str) -> dict[str, PairTask]:
    tasks: dict[str, PairTask] = {}
    pairs: dict[str, str | Path] = {}
    for folder in folders:
        there, own = read_pair_tasks(folder)
        if there != form:
            raise ValueError(f"{folder} holds tasks of the form {there}, not {form}: use {there}-import")
        for task in own.values():
            if task.pair in pairs:
                raise ValueError(f"pair {task.pair!r} has a task in {pairs[task.pair]} and in {folder}: import one")
            pairs[task.pair] = folder
        tasks |= own
    return tasks


def _write_shards(
    reader: ShardReader,
    tasks: Mapping[str, PairTask],
    origins: Mapping[str, TaskOrigin],
    form: str,
    opinions: Mapping[str, Consensus],
    output: Path,
    counts: PeopleCounts,
    imported: str,
    progress: Progress,
) -> None:
    usable = ("corrected", "already_correct") if form == "refine" else ("corrected",)
    wanted = {tasks[name].pair: name for name, opinion in opinions.items() if opinion.verdict in usable}
    if not wanted:
        said = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.verdicts.items()) or "none"
        raise ValueError(f"no pair is left to write: of {len(tasks):,} tasks {said}; {len(counts.refused):,} refused")
    places = [at for at, pair in enumerate(reader.ids) if pair in wanted]  # in the order of the shards
    with ShardWriter(output) as writer:
        for at in progress(places, len(places), "pairs"):
            sample = reader[at]
            name = wanted[sample.pair.id]
            opinion = opinions[name]
            made = made_by_people(opinion, tasks[name], origins[name], imported)
            pair = (refined_pair if form == "refine" else preference_pair)(sample.pair, opinion, tasks[name], made)
            source, target = sample.source_bytes, sample.target_bytes
            writer.add(pair, source, extension(source), target, extension(target))
            counts.tags.update(opinion.tags)
    counts.written = len(places)


def made_by_people(opinion: Consensus, task: PairTask, origin: TaskOrigin, imported: str) -> dict[str, Any]:
    """The provenance of a text: the draft and what made it, who said what of it, and when."""
    agreeing = opinion.agreeing
    author = opinion.text_of or agreeing[0]
    return {
        "task": task.task,
        "verdict": opinion.verdict,
        "draft": task.text,
        "draft_of": origin.draft,
        "model": origin.draft.get("model", "not recorded"),
        "annotator": author.annotator,
        "annotators": [answer.annotator for answer in opinion.answers],
        "agreeing": len(agreeing),
        "time": max((answer.time for answer in agreeing if answer.time), default=imported),
        "seconds": sum(answer.seconds or 0.0 for answer in opinion.answers),
        "screens": origin.screens,
        "remarks": [answer.remark for answer in agreeing if answer.remark],
    }


def refined_pair(pair: EditPair, opinion: Consensus, task: PairTask, made: dict[str, Any]) -> EditPair:
    """The pair with the refined instruction, or the draft where it is already correct."""
    text = opinion.text_of.text if opinion.text_of is not None else task.text
    refined = made | {"objectives": list(opinion.tags)}
    return pair.model_copy(update={"instruction": text, "provenance": pair.provenance | {"refined": refined}})


def preference_pair(pair: EditPair, opinion: Consensus, task: PairTask, made: dict[str, Any]) -> EditPair:
    """The pair with the correction as chosen and the draft as rejected."""
    author, severity = opinion.text_of, opinion.severity
    assert opinion.verdict == "corrected" and author is not None and severity is not None and opinion.tags, "checked"
    assert author.text and not same_tokens(author.text, task.text), "checked: the edit changed something"
    rejected = made | {
        "primary_failure_mode": opinion.tags[0],
        "severity": severity,
        "hardness": made["screens"].get("hardness"),  # before training; the job takes that of its own reference
        "spans": [span.to_json() for span in author.spans],
    }
    update = {
        "chosen": author.text.strip(),
        "rejected": task.text,
        "failure_modes": list(opinion.tags),
        "severity": SEVERITY_NUMBERS[severity],
        "provenance": pair.provenance | {"preference": rejected},
    }
    return pair.model_copy(update=update)


def _problems(reader: ShardReader, tasks: Mapping[str, PairTask], filed: Iterable[Filed]) -> dict[str, str]:
    """task -> why no answer to it can be used; only tasks with an answer are looked at."""
    names = {row["task"] for _, row, _ in filed if isinstance(row, dict) and isinstance(row.get("task"), str)}
    places = {pair: at for at, pair in enumerate(reader.ids)}
    problems = {}
    for name in sorted(names & tasks.keys()):
        task = tasks[name]
        if task.pair not in places:
            problems[name] = f"its pair {task.pair!r} is not in the shards: give those that the tasks were made from"
            continue
        at = places[task.pair]
        digests = [hashlib.sha256(reader.picture(at, side)).hexdigest() for side in SIDES]
        if digests != [task.source_sha256, task.target_sha256]:
            problems[name] = (
                f"pair {task.pair!r} of the shards has another picture pair than its task showed (sha256 "
                f"{digests[0][:12]}, {digests[1][:12]}): give the shards that the tasks were made from"
            )
    return problems


def _opinion_line(task: PairTask, opinion: Consensus | None) -> dict[str, Any]:
    line: dict[str, Any] = {"task": task.task, "id": task.pair, "text": task.text}
    if opinion is None:
        return line | {"verdict": "without an answer"}
    line |= {"verdict": opinion.verdict or "undecided", "answers": len(opinion.answers)}
    if opinion.text_of is None:
        return line
    by = {"instruction": opinion.text_of.text, "annotator": opinion.text_of.annotator, "tags": list(opinion.tags)}
    return line | by | ({"severity": opinion.severity} if opinion.severity else {})


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.name}.{ending}")
