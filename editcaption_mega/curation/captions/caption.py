"""Captions of a set of shards: each pair asked once, whatever is killed, divided or asked again.

NAME.jsonl      columns instruction (or reason), status, served, tokens; a line per sample
NAME.made/      what parts made, their replies and the logs of their servers
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.curation.asked_model import AskedModel
from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.curation.divided_work import Share, divided
from editcaption_mega.curation.meter import Meter
from editcaption_mega.data.shards.reader import ShardReader, open_shards
from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.evaluation.generate import Part, generation_identity
from editcaption_mega.inference.endpoint.answer import RAISE, Answer
from editcaption_mega.inference.local.folder import check_model, folder_digests
from editcaption_mega.progress import Progress
from editcaption_mega.settings import CaptionSettings

from .draft_prompts import DraftPrompt, Drafts, draft_identity
from .sources import Caption, from_endpoint, from_folder

STEP = "caption"


@dataclass
class CaptionCounts:
    """What a whole file of captions holds."""

    made: int = 0  # lines with an instruction
    by_status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of lines without one


def check(settings: CaptionSettings, reader: ShardReader) -> None:
    """Raises ValueError for a model, a prompt or drafts that cannot be used, before any work."""
    if settings.drafts:
        DraftPrompt.load(settings.generation.prompt)
        Drafts(settings.drafts, reader, settings.samples)
    else:
        Prompt.load(settings.generation.prompt)
    if settings.folder:
        check_model(settings.folder)
    else:
        asked_model(settings).check()


def asked_model(settings: CaptionSettings) -> AskedModel:
    return AskedModel(settings.endpoint, settings.server, settings.generation, settings.generation.temperature)


def caption_identity(settings: CaptionSettings, model: AskedModel) -> dict[str, Any]:
    """What captions depend on, beside the pair: the provenance of each."""
    shared = generation_identity(settings.generation)
    if settings.drafts:
        shared |= draft_identity(settings.drafts, settings.generation.prompt)
    if settings.folder:
        return shared | {"engine": "folder"} | folder_digests(settings.folder)
    return shared | model.identity


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
    with _work(settings, model, reader, part) as work:
        if work.missing_count and settings.folder:
            for made in progress(from_folder(settings, work, meter), work.missing_count, lambda: str(meter)):
                _keep(work, made)
        elif work.missing_count:
            with model.serving(work.part_folder / "server.log") as server:
                if settings.workers == 1:
                    captions = from_endpoint(settings, model, reader, work, meter, server)
                    for made in progress(captions, work.missing_count, lambda: str(meter)):
                        _keep(work, made)
                else:
                    lines = divided(
                        _caption_share, (settings, model), part=part, workers=settings.workers, server=server,
                        meter=meter,
                    )  # fmt: skip
                    for _ in progress(lines, work.missing_count, lambda: str(meter)):
                        pass
        return work.merge(), meter


def _caption_share(share: Share, settings: CaptionSettings, model: AskedModel) -> None:
    """In a process of its own."""
    reader, meter = open_shards(settings.shards), Meter("captions")
    model = model.share(share.of(settings.endpoint.max_concurrency))
    with _work(settings, model, reader, share.part) as work:
        for made in from_endpoint(settings, model, reader, work, meter, share.server):
            _keep(work, made)
            share.report(meter)
    share.report(meter, now=True)


def _work(settings: CaptionSettings, model: AskedModel, reader: ShardReader, part: Part) -> ColumnWork:
    identity = caption_identity(settings, model)
    return ColumnWork(Path(settings.output), reader, STEP, identity, samples=settings.samples, part=part)


def _keep(work: ColumnWork, made: Caption) -> None:
    at, sample = made.place
    work.keep(at, columns(made), sample=sample, again=not _is_definite(made.answer))


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
