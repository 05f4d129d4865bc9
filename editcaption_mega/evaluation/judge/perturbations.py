"""Instructions made worse in one known way, and pairs turned left to right: what a judge is tested with.

What is perturbed is the ground truth itself: the texts of the primary changes, one sentence each."""

import re
from collections.abc import Callable
from typing import Any

from PIL import ImageOps

from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.evaluation.benchmarks import Benchmark, BenchmarkPair, truth_of
from editcaption_mega.records import Change, Changes, EditPair, Instruction

TRUTH, SWAPPED, SHORTENED, VAGUE, UNRELATED = "truth", "sides swapped", "clause dropped", "vague degree", "unrelated"
NOT_APPLICABLE = "this pair cannot be perturbed so"

_SIDES = re.compile(r"(?<![a-z])(left|right)(?=(?:most|wards?)?(?![a-z]))", re.IGNORECASE)
_DEGREES = ("slightly", "somewhat")
_ELSEWHERE = (
    "Replace the aeroplane on the runway with a submarine.",
    "Change the sauce on the spaghetti from tomato to pesto.",
    "Remove the referee from the football pitch.",
)
# Flipping a picture makes such changes false: letters are reversed, and turns go the other way.
_NOT_FLIPPABLE = re.compile(r"letter|text|word|sign|writ|clockwise|[\"“]", re.IGNORECASE)


def perturbations(benchmark: Benchmark) -> dict[str, dict[str, Instruction]]:
    """Kind of perturbation -> id -> instruction, or a row without one where a pair cannot be perturbed so."""
    makers: dict[str, Callable[[Changes, int], str | None]] = {
        TRUTH: lambda truth, _: truth_text(truth),
        SWAPPED: lambda truth, _: changed(truth_text(truth), swapped_sides),
        SHORTENED: lambda truth, _: truth_text(truth, leave_out=1) or None,
        VAGUE: lambda truth, i: f"{truth_text(truth).rstrip('.')}, {_DEGREES[i % 2]}.",
        UNRELATED: lambda truth, _: _unrelated(truth),
    }
    pairs = benchmark.pairs()
    return {
        kind: {pair.id: _row(benchmark, pair, kind, make(truth_of(pair), i)) for i, pair in enumerate(pairs)}
        for kind, make in makers.items()
    }


def truth_text(truth: Changes, *, leave_out: int = 0) -> str:
    """An instruction that says the primary changes, without the last `leave_out` of them."""
    named = truth.primary[: len(truth.primary) - leave_out]
    return " ".join(f"{change.text.rstrip('. ')}." for change in named)


def swapped_sides(text: str) -> str:
    """Left for right and right for left, in any spelling ("Left", "leftmost", "right-hand")."""

    def other(match: re.Match[str]) -> str:
        side = "right" if match[0].lower() == "left" else "left"
        return side.upper() if match[0].isupper() else side.capitalize() if match[0][0].isupper() else side

    return _SIDES.sub(other, text)


def changed(text: str, change: Callable[[str], str]) -> str | None:
    """change(text), or None where that is the same."""
    return result if (result := change(text)) != text else None


class FlippedBenchmark(Benchmark):
    """The pairs whose truth names a side, with both pictures mirrored left to right and the sides in the truth swapped:
    the mirror test. Pairs about letters, or about turns, are left out."""

    def __init__(self, benchmark: Benchmark):
        self._whole = benchmark
        ids = [pair.id for pair in benchmark.pairs() if _flippable(truth_of(pair))]
        truth = None if benchmark.truth is None else {pair_id: benchmark.truth[pair_id] for pair_id in ids}
        super().__init__(f"{benchmark.name} (flipped)", benchmark.shards, ids, truth)

    def first(self, count: int) -> "FlippedBenchmark":
        ids = self.ids[:count]
        truth = None if self.truth is None else {pair_id: self.truth[pair_id] for pair_id in ids}
        return FlippedBenchmark(Benchmark(self._whole.name, self.shards, ids, truth))

    @property
    def fingerprint(self) -> str:
        return f"flipped-{self._whole.fingerprint}"

    def pair(self, i: int) -> EditPair:
        return flipped_pair(super().pair(i))

    def item(self, i: int) -> BenchmarkPair:
        item = super().item(i)
        return BenchmarkPair(flipped_pair(item.pair), _mirrored(item.source), _mirrored(item.target))

    def truths(self) -> dict[str, dict[str, Instruction]]:
        """The (swapped) truth of each pair, as `perturbations` gives it."""
        return {TRUTH: {pair.id: _row(self, pair, TRUTH, truth_text(truth_of(pair))) for pair in self.pairs()}}


def flipped_pair(pair: EditPair) -> EditPair:
    """The record of a pair whose pictures were mirrored left to right: sides swapped in words and facts."""

    def swapped(change: Change) -> Change:
        return Change(id=change.id, text=swapped_sides(change.text), facts=_swapped_facts(change.facts))

    truth = truth_of(pair)
    changes = Changes(
        primary=list(map(swapped, truth.primary)),
        secondary=list(map(swapped, truth.secondary)),
        overall=swapped_sides(truth.overall),
    )
    texts = {
        name: swapped_sides(text) for name in ("instruction", "chosen", "rejected") if (text := getattr(pair, name))
    }
    return pair.model_copy(update={"changes": changes, **texts})


def _row(benchmark: Benchmark, pair: EditPair, kind: str, text: str | None) -> Instruction:
    outcome = {"instruction": text} if text is not None else {"reason": NOT_APPLICABLE}
    return Instruction(benchmark=benchmark.name, id=pair.id, model=kind, **outcome)


def _unrelated(truth: Changes) -> str:
    """The first sentence about another world of which the truth mentions no long word."""
    words = _long_words(f"{truth_text(truth)} {truth.overall}")
    return next((text for text in _ELSEWHERE if not words & _long_words(text)), _ELSEWHERE[0])


def _long_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{5,}", text.lower())) - {"replace", "change", "remove"}


def _flippable(truth: Changes) -> bool:
    text = truth_text(truth)
    return swapped_sides(text) != text and not _NOT_FLIPPABLE.search(text)


def _swapped_facts(facts: Any) -> Any:
    if isinstance(facts, dict):
        return {key: _swapped_facts(value) for key, value in facts.items()}
    return swapped_sides(facts) if isinstance(facts, str) else facts


def _mirrored(data: bytes) -> bytes:
    return encode_png(ImageOps.mirror(decode_image(data)))
