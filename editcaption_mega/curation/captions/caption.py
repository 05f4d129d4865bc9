"""Captions of a set of shards: each pair asked once, whatever is killed, divided or asked again.

NAME.jsonl      columns instruction (or reason), status, served, tokens; a line per sample
NAME.made/      what parts made, their replies and the logs of their servers
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.curation.asked_model import AskedModel
from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.curation.meter import Meter
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.evaluation.generate import Part, generation_identity
from editcaption_mega.inference.endpoint.answer import RAISE, Answer
from editcaption_mega.inference.local.folder import check_model, folder_digests
from editcaption_mega.progress import Progress
from editcaption_mega.settings import CaptionSettings

from .sources import Caption, from_endpoint, from_folder

STEP = "caption"


@dataclass
class CaptionCounts:
    """What a whole file of captions holds."""

    made: int = 0  # lines with an instruction
    by_status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of lines without one


def check(settings: CaptionSettings) -> None:
    """Raises ValueError for a model or a prompt that cannot be used, before any work."""
    Prompt.load(settings.generation.prompt)
    if settings.folder:
        check_model(settings.folder)
    else:
        asked_model(settings).check()


def asked_model(settings: CaptionSettings) -> AskedModel:
    return AskedModel(settings.endpoint, settings.server, settings.generation)


def caption_identity(settings: CaptionSettings) -> dict[str, Any]:
    """What captions depend on, beside the pair: the provenance of each."""
    shared = generation_identity(settings.generation)
    if settings.folder:
        return shared | {"engine": "folder"} | folder_digests(settings.folder)
    return shared | asked_model(settings).identity()


def caption(
    settings: CaptionSettings,
    reader: ShardReader,
    *,
    part: Part = Part(),  # noqa: B008 (frozen)
    progress: Progress,
) -> tuple[bool, Meter]:
    """Make what is missing of this part -> (whether the whole file is written now, what this run did).

    Raises SettingsError for a file of other settings, lock.HeldError where another process makes this part, and what
    the model's engine raises."""
    model = asked_model(settings)
    meter = Meter("captions", 0 if settings.folder else model.gpus)
    with ColumnWork(
        Path(settings.output), reader, STEP, caption_identity(settings), samples=settings.samples, part=part
    ) as work:
        if work.missing_count:
            for one in progress(_made(settings, model, reader, work, meter), work.missing_count, lambda: str(meter)):
                at, sample = one.place
                work.keep(at, columns(one), sample=sample, again=not _is_definite(one.answer))
        return work.merge(), meter


def _made(
    settings: CaptionSettings, model: AskedModel, reader: ShardReader, work: ColumnWork, meter: Meter
) -> Iterator[Caption]:
    if settings.folder:
        return from_folder(settings, work, meter)
    return from_endpoint(settings, model, reader, work, meter)


def columns(one: Caption) -> dict[str, Any]:
    answer = one.answer
    about = {"status": answer.status, "served": one.served, "tokens": one.tokens}
    if answer.text:
        return {"instruction": answer.text, **about}
    # One file holds texts of one max_tokens.
    where = ", in a new output" if answer.reason.endswith(RAISE) else ""
    return {"reason": f"{answer.status}: {answer.reason}{where}", **about}


def _is_definite(answer: Answer) -> bool:
    """Whether a later run need not ask again: there is a text, or the model refuses."""
    return bool(answer.text) or answer.status == "refused"


def counts(path: Path) -> CaptionCounts:
    """Of a whole file. Raises ValueError for none."""
    counted = CaptionCounts()
    for rows in ColumnFile(path):
        for row in rows:
            counted.made += "instruction" in row
            counted.by_status[row["status"]] += 1
            if "reason" in row:
                counted.reasons[row["reason"]] += 1
    return counted
