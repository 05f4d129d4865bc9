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
        prompt=options.prompt,
    )  # fmt: skip
    missing: dict[int, set[int]] = {}  # by sample
    for at, sample in work.missing():
        missing.setdefault(sample, set()).add(at)
    generator = Generator(settings.folder)
    meter.gpus = int(generator.device.type == "cuda")
    mine = range(work.part.number, len(dataset), work.part.count)
    position = {dataset.id(at): at for at in mine}
    for sample, places in sorted(missing.items()):
        for record in write_missing(
            generator, dataset, mine, places, max_new_tokens=options.max_tokens, temperature=options.temperature,
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
    prompt, options = Prompt.load(settings.generation.prompt), settings.generation
    requests = PairRequests(reader, options)
    answered = np.zeros(len(reader) * settings.samples, bool)

    def unanswered() -> Iterator[Request[None]]:
        places = ((at, sample) for at, sample in work.missing() if not answered[at * settings.samples + sample])
        return requests.of(places, request)

    def request(at: int, sample: int, source: Picture, target: Picture) -> Request[None]:
        return Request(
            f"{at} {sample}", chat_messages(prompt, source, target), max_tokens=options.max_tokens,
            temperature=options.temperature, seed=options.seed + sample, repeat=sample,
        )  # fmt: skip

    for reply in model.replies(unanswered, work.part_folder / "cache", server):
        at, sample = map(int, reply.id.split())
        answered[at * settings.samples + sample] = True
        meter.add(reply)
        yield Caption((at, sample), reply_answer(reply), reply.model, reply.completion_tokens)
