"""Scores of instructions by a model that is asked through a template, every pass and every reply kept.

Columns: the template's (numbers), or `reason` where there is none; `reply`, the model's own words; `served`, its
version. A line per caption and pass: `caption` and `pass` number them where there are several. A caption that does not
exist has a reason too."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.curation.asked_model import AskedModel, PairRequests
from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.curation.divided_work import Share, divided
from editcaption_mega.curation.meter import Meter
from editcaption_mega.data.shards.reader import ShardReader, open_shards
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.inference.endpoint.messages import Picture, Reply, Request
from editcaption_mega.inference.serving.asking import Served
from editcaption_mega.progress import Progress
from editcaption_mega.settings import ScoreSettings

from .scored_texts import sampled_texts
from .template import ScoreTemplate, load_template

STEP = "score model"
NO_TEXT = "no instruction"


def scoring_model(settings: ScoreSettings) -> AskedModel:
    return AskedModel(settings.endpoint, settings.server, settings, settings.temperature)


def check_scoring(settings: ScoreSettings, reader: ShardReader) -> None:
    """Raises ValueError for a template, a model or captions that cannot be used, before any work."""
    load_template(settings.template)
    scoring_model(settings).check()
    if settings.captions:
        ColumnFile(settings.captions, reader)


def score_with_model(
    settings: ScoreSettings, reader: ShardReader, *, part: Part = Part(), progress: Progress,  # noqa: B008 (frozen)
) -> tuple[bool, Meter]:  # fmt: skip
    """Make what is missing of this part -> (whether the whole file is written now, what this run did).

    Raises as `captions.caption.caption`."""
    template, model = load_template(settings.template), scoring_model(settings)
    captions = ColumnFile(settings.captions, reader) if settings.captions else None
    texts = captions.samples if captions else 1
    meter = Meter("scores", model.gpus)
    about = _scored_by(settings, template, model)
    lines = texts * settings.passes
    with ColumnWork(Path(settings.output), reader, STEP, about, samples=lines, part=part) as work:
        if work.missing_count:
            with model.serving(work.part_folder / "server.log") as server:
                if settings.workers == 1:
                    scorer = _Scorer(settings, template, reader, captions, work)
                    made = scorer.kept(model, meter, server)
                else:
                    made = divided(
                        _score_share, (settings, model, about), part=part, workers=settings.workers, server=server,
                        meter=meter,
                    )  # fmt: skip
                for _ in progress(made, work.missing_count, lambda: str(meter)):
                    pass
        return work.merge(), meter


def _score_share(share: Share, settings: ScoreSettings, model: AskedModel, about: dict[str, Any]) -> None:
    """In a process of its own."""
    reader, meter, template = open_shards(settings.shards), Meter("scores"), load_template(settings.template)
    captions = ColumnFile(settings.captions, reader) if settings.captions else None
    lines = settings.passes * (captions.samples if captions else 1)
    model = model.share(share.of(settings.endpoint.max_concurrency))
    with ColumnWork(Path(settings.output), reader, STEP, about, samples=lines, part=share.part) as work:
        for _ in _Scorer(settings, template, reader, captions, work).kept(model, meter, share.server):
            share.report(meter)
    share.report(meter, now=True)


def _scored_by(settings: ScoreSettings, template: ScoreTemplate, model: AskedModel) -> dict[str, Any]:
    names = ("passes", "max_tokens", "temperature", "top_p", "seed", "min_pixels", "max_pixels")
    scored = {"template": f"{Path(settings.template).stem} {template.fingerprint}", "captions": ""}
    if settings.captions:
        with open(settings.captions, "rb") as file:
            scored["captions"] = hashlib.file_digest(file, "sha256").hexdigest()
    return scored | {name: getattr(settings, name) for name in names} | model.identity


def _numbers(sample: int, texts: int, passes: int) -> dict[str, int]:
    caption, number = divmod(sample, passes)
    return ({"caption": caption} if texts > 1 else {}) | ({"pass": number} if passes > 1 else {})


class _Scorer:
    def __init__(
        self,
        settings: ScoreSettings,
        template: ScoreTemplate,
        reader: ShardReader,
        captions: ColumnFile | None,
        work: ColumnWork,
    ):
        self._settings, self._template, self._reader = settings, template, reader
        self._captions, self._work = captions, work
        self._answered = np.zeros(len(reader) * work.samples, bool)

    def kept(self, model: AskedModel, meter: Meter, server: Served | None) -> Iterator[None]:
        """Something for each line, when it is kept."""
        texts = self._work.samples // self._settings.passes
        for at, sample, columns, again in self._made(model, meter, server):
            numbers = _numbers(sample, texts, self._settings.passes)
            self._work.keep(at, numbers | columns, sample=sample, again=again)
            yield

    def _made(
        self, model: AskedModel, meter: Meter, server: Served | None
    ) -> Iterator[tuple[int, int, dict[str, Any], bool]]:
        """(place in the shards, sample, columns, whether to ask again later)."""
        yield from self._without_text()
        requests = PairRequests(self._reader, self._settings)
        part = self._work.part
        cache = Path(self._settings.cache) / part.name if self._settings.cache else self._work.part_folder / "cache"

        def unanswered() -> Iterator[Request[dict[str, float]]]:
            texts = self._missing_texts()
            wanted: dict[tuple[int, int], str] = {}

            def places() -> Iterator[tuple[int, int]]:
                for at, sample, text in texts:
                    if text:
                        wanted[at, sample] = text
                        yield at, sample

            def request(at: int, sample: int, source: Picture, target: Picture) -> Request[dict[str, float]]:
                return self._request(at, sample, self._template.messages(source, target, wanted.pop((at, sample))))

            return requests.of(places(), request)

        for reply in model.replies(unanswered, cache, server):
            at, sample = map(int, reply.id.split())
            self._answered[at * self._work.samples + sample] = True
            meter.add(reply)
            yield at, sample, *_columns(reply)

    def _without_text(self) -> Iterator[tuple[int, int, dict[str, Any], bool]]:
        for at, sample, text in self._missing_texts():
            if not text:
                self._answered[at * self._work.samples + sample] = True
                yield at, sample, {"reason": NO_TEXT}, False

    def _missing_texts(self) -> Iterator[tuple[int, int, str | None]]:
        """What is missing, in order, with its text."""
        texts = enumerate(sampled_texts(self._reader, self._captions))
        now, of_pair = next(texts)
        for at, sample in self._work.missing():
            while now < at:
                now, of_pair = next(texts)
            if not self._answered[at * self._work.samples + sample]:
                yield at, sample, of_pair[sample // self._settings.passes]

    def _request(self, at: int, sample: int, messages: Any) -> Request[dict[str, float]]:
        settings, number = self._settings, sample % self._settings.passes
        return Request(
            f"{at} {sample}", messages, max_tokens=settings.max_tokens, temperature=settings.temperature,
            top_p=settings.top_p, seed=settings.seed + number, repeat=number, quotes=True,
            parse=partial(ScoreTemplate.parse, self._template),
        )  # fmt: skip


def _columns(reply: Reply[dict[str, float]]) -> tuple[dict[str, Any], bool]:
    """A reply of no use is `unscored`, with the reason and what the model wrote; never a number."""
    about = {"reply": reply.text, "served": reply.model}
    if reply.value is not None:
        return {**reply.value, **about}, False
    return {"status": "unscored", "reason": f"{reply.status}: {reply.reason}", **about}, reply.status != "refused"


def scored_counts(path: Path) -> tuple[int, Counter[str]]:
    """(lines with a score, reasons of the others) of a whole file. Raises ValueError for none."""
    scored, reasons = 0, Counter[str]()
    for rows in ColumnFile(path):
        for row in rows:
            if "reason" in row:
                reasons[row["reason"]] += 1
            else:
                scored += 1
    return scored, reasons
