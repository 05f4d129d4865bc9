"""Where captions come from: a Hugging Face folder in this process, or a model that is asked over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editcaption_mega.curation.asked_model import AskedModel, PairRequests, Place
from editcaption_mega.curation.columns import ColumnWork
from editcaption_mega.curation.meter import Meter
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.inference.endpoint.answer import Answer
from editcaption_mega.inference.endpoint.messages import Picture, Request
from editcaption_mega.inference.endpoint.pair_messages import chat_messages, reply_answer
from editcaption_mega.inference.serving.asking import Served
from editcaption_mega.settings import CaptionSettings

from .draft_prompts import NO_DRAFT, DraftedPairs, DraftPrompt, Drafts


@dataclass(frozen=True, slots=True)
class Caption:
    """What one place of the file gets."""

    place: Place
    answer: Answer
    served: str  # the version that the server says it served; in process the folder's name
    tokens: int


def from_folder(settings: CaptionSettings, work: ColumnWork, meter: Meter) -> Iterator[Caption]:
    """From the folder. The draws of a pair depend on the seed, its id and its sample, not on the others."""
    from editcaption_mega.data.batching.dataset import open_pairs  # PyTorch is waited for where it is used
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.local.instructions import record_answer, write_missing

    options = settings.generation
    dataset = open_pairs(
        settings.shards, settings.folder, min_pixels=options.min_pixels, max_pixels=options.max_pixels,
        prompt="" if settings.drafts else options.prompt,
    )  # fmt: skip
    drafts = list(Drafts(settings.drafts, dataset.shards, settings.samples).texts()) if settings.drafts else []
    missing: dict[int, set[int]] = {}  # by sample
    for at, sample in work.missing():
        missing.setdefault(sample, set()).add(at)
    generator = Generator(settings.folder)
    meter.gpus = int(generator.device.type == "cuda")
    mine = range(work.part.number, len(dataset), work.part.count)
    position = {dataset.id(at): at for at in mine}
    for sample, places in sorted(missing.items()):
        of_sample = [texts[sample] for texts in drafts]
        prompts = DraftedPairs(dataset, DraftPrompt.load(options.prompt), of_sample) if drafts else dataset
        for record in write_missing(
            generator, prompts, mine, places, max_new_tokens=options.max_tokens, temperature=options.temperature,
            seed=options.seed + sample, batch_size=options.batch_size,
        ):  # fmt: skip
            meter.add(tokens=record["tokens"])
            answer = record_answer(record)
            yield Caption((position[record["id"]], sample), answer, Path(settings.folder).name, record["tokens"])


def from_endpoint(
    settings: CaptionSettings,
    model: AskedModel,
    reader: ShardReader,
    work: ColumnWork,
    meter: Meter,
    server: Served | None,
) -> Iterator[Caption]:
    """From an endpoint, or from the job's own server."""
    options = settings.generation
    requests = PairRequests(reader, options)
    answered = np.zeros(len(reader) * settings.samples, bool)
    prompts = _Prompts(settings, reader)
    for at, sample in prompts.without_draft(work.missing()):
        answered[at * settings.samples + sample] = True
        yield Caption((at, sample), Answer("failed", reason=NO_DRAFT), "", 0)

    def unanswered() -> Iterator[Request[None]]:
        places = ((at, sample) for at, sample in work.missing() if not answered[at * settings.samples + sample])
        return requests.of(prompts.of(places), request)

    def request(at: int, sample: int, source: Picture, target: Picture) -> Request[None]:
        return Request(
            f"{at} {sample}", chat_messages(prompts.take(at, sample), source, target), max_tokens=options.max_tokens,
            temperature=options.temperature, seed=options.seed + sample, repeat=sample,
        )  # fmt: skip

    for reply in model.replies(unanswered, work.part_folder / "cache", server):
        at, sample = map(int, reply.id.split())
        answered[at * settings.samples + sample] = True
        meter.add(reply)
        yield Caption((at, sample), reply_answer(reply), reply.model, reply.completion_tokens)


class _Prompts:
    """What is asked of each place: one prompt for all, or one that shows its draft."""

    def __init__(self, settings: CaptionSettings, reader: ShardReader):
        name = settings.generation.prompt
        self._drafts = Drafts(settings.drafts, reader, settings.samples) if settings.drafts else None
        self._with_draft = DraftPrompt.load(name) if settings.drafts else None
        self._for_all = Prompt.load("" if settings.drafts else name)
        self._shown: dict[Place, Prompt] = {}  # of places on their way

    def without_draft(self, places: Iterator[Place]) -> Iterator[Place]:
        if self._drafts is not None:
            yield from ((at, sample) for at, sample, draft in self._drafts.of(places) if not draft)

    def of(self, places: Iterator[Place]) -> Iterator[Place]:
        if self._drafts is None or self._with_draft is None:
            yield from places
            return
        for at, sample, draft in self._drafts.of(places):
            if draft:
                self._shown[at, sample] = self._with_draft.of(draft)
                yield at, sample

    def take(self, at: int, sample: int) -> Prompt:
        return self._shown.pop((at, sample)) if self._drafts is not None else self._for_all
