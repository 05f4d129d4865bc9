"""The text that each task shows, and where it comes from: the shards' own instruction, or a file of captions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.records import has_words


@dataclass(frozen=True)
class Draft:
    """A text of a pair. origin: the model and the settings that made it, and how many of its samples say the same."""

    text: str
    origin: dict[str, Any] = field(default_factory=dict)


# Each call reads anew: (place in the shards, a draft, or why the pair has none).
Drafts = Callable[[], Iterable[tuple[int, Draft | str]]]


def own_drafts(reader: ShardReader) -> Drafts:
    """The instructions that the shards hold."""

    def drafts() -> Iterator[tuple[int, Draft | str]]:
        for at in range(len(reader)):
            pair = reader.pair(at)
            model = pair.provenance.get("model", "not recorded")
            yield at, Draft(pair.instruction, {"model": model}) if pair.instruction else "the pair has no instruction"

    return drafts


def caption_drafts(reader: ShardReader, captions: ColumnFile) -> Drafts:
    """Of a pair's captions the most frequent one (the first of equals)."""
    settings = captions.head["settings"]

    def drafts() -> Iterator[tuple[int, Draft | str]]:
        for at, (rows,) in joined(reader, [captions]):
            texts = [row["instruction"] for row in rows if row.get("instruction")]
            served = next((row["served"] for row in rows if row.get("served")), None)
            origin = {"model": settings.get("model") or served or "not recorded", "captions": captions.path.name}
            origin |= {"settings": settings} | ({"served": served} if served else {})
            reasons = [row["reason"] for row in rows if row.get("reason")]
            yield at, most_frequent_text(texts, len(rows), origin) or (reasons or ["the model wrote nothing"])[0]

    return drafts


def sampled_drafts(
    reader: ShardReader, samples: Mapping[str, Sequence[dict[str, Any]]], origin: dict[str, Any]
) -> Drafts:
    """Of what a model wrote in process (`model_samples.sampled_instructions`) the most frequent whole text of a pair.

    origin: the model's digest and how it was sampled."""

    def drafts() -> Iterator[tuple[int, Draft | str]]:
        for at, pair in enumerate(reader.ids):
            whole = [sample["instruction"] for sample in samples[pair] if sample["finished"]]
            yield at, most_frequent_text(whole, len(samples[pair]), origin) or "the model wrote nothing whole"

    return drafts


def most_frequent_text(texts: Sequence[str], samples: int, origin: dict[str, Any]) -> Draft | None:
    """The draft that most samples agree on; None where none has words."""
    usable = [text.strip() for text in texts if has_words(text)]
    if not usable:
        return None
    ((text, times),) = Counter(usable).most_common(1)
    return Draft(text, origin | {"times": times, "of": samples})
