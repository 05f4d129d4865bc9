"""Shards as a page to look through, without any model: the report's browser of samples over what the pairs hold."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.report.join import Joined
from editcaption_mega.files import replacing
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import CATEGORIES, EditPair, Instruction
from editcaption_mega.records.set_contents import Contents, leaves, license_of

from .html import DISAGREE, FILE_BYTES, PACKAGE, SCRIPTS, STYLES
from .samples import chunks, overview
from .self_contained import content_hash, inline, inline_script, page_environment, script_json
from .thumbnails import THUMBNAIL_SIDE, byte_budget, pairs_as_text

TEXTS = ("instruction", "chosen", "rejected")  # of a pair
_MOST_COUNTS = 12  # values of a fact that are counted one by one


class BrowsedSet(NamedTuple):
    """Pairs of a folder of shards that are shown, and how many it has."""

    benchmark: Benchmark
    total: int


def open_sets(folders: Sequence[str], limit: int, seed: int) -> list[BrowsedSet]:
    """At most `limit` pairs of each folder, drawn by the seed, in the order of the shards. Sets are called as their
    folders, or by their whole paths where two are called alike. Raises ValueError for folders that cannot be read."""
    paths = [Path(folder) for folder in folders]
    alike = len({path.resolve().name for path in paths}) < len(paths)
    sets = []
    for path in paths:
        whole = Benchmark(str(path) if alike else path.resolve().name, path)
        if not len(whole):
            raise ValueError(f"{path} holds no pairs, so there is nothing to look at")
        places = range(len(whole))
        if len(whole) > limit:
            places = sorted(random.Random(seed).sample(places, limit))
        shown = Benchmark(whole.name, path, [whole.ids[place] for place in places])
        sets.append(BrowsedSet(shown, len(whole)))
    if len({of_folder.benchmark.name for of_folder in sets}) < len(sets):
        raise ValueError(f"a folder is named twice among {', '.join(folders)}: name each once")
    return sets


def write_browser(output: Path, sets: Sequence[BrowsedSet], progress: Progress = no_progress) -> None:
    """One self-contained HTML file, whole or not there. Raises ValueError for shards that cannot be read."""
    benchmarks = {benchmark.name: benchmark for benchmark, _ in sets}
    written = {name: _texts(benchmark) for name, benchmark in benchmarks.items()}
    joined = Joined(benchmarks, written, labels={}, verdicts={name: {} for name in benchmarks})
    with replacing(output) as file:
        file.writelines(_page(joined, sets, progress))


def _texts(benchmark: Benchmark) -> dict[str, dict[str, Instruction]]:
    """What the pairs hold, each kind of text as if a model of that name had written it; where a pair lacks one there is
    none."""
    written: dict[str, dict[str, Instruction]] = {kind: {} for kind in TEXTS}
    for pair in benchmark.pairs():
        for kind, by_id in written.items():
            if (text := getattr(pair, kind)) is not None:
                by_id[pair.id] = Instruction(benchmark=benchmark.name, id=pair.id, model=kind, instruction=text)
    return {kind: by_id for kind, by_id in written.items() if by_id}


def _page(joined: Joined, sets: Sequence[BrowsedSet], progress: Progress) -> Iterator[str]:
    style, script = inline(PACKAGE, STYLES), inline_script(PACKAGE, SCRIPTS)
    samples = list(chunks(joined, facts=_facts))
    budget = byte_budget(2 * joined.pairs, FILE_BYTES - sum(len(chunk.encode()) for chunk in samples) - 1_000_000)
    pictures = (Markup(text) for benchmark in joined.benchmarks.values() for text in pairs_as_text(benchmark, budget))
    return page_environment(PACKAGE).get_template("browse.html.j2").generate(
        title=", ".join(joined.benchmarks), sets=sets,
        counts=_counts(joined), pairs=joined.pairs,
        style=Markup(style), style_hash=content_hash(style), script=Markup(script), script_hash=content_hash(script),
        side=THUMBNAIL_SIDE, budget=budget, pictures=progress(pictures, joined.pairs, "pictures"),
        chunks=map(Markup, samples), overview=Markup(script_json(overview(joined, disagree=DISAGREE))),
    )  # fmt: skip


def _facts(benchmark: Benchmark, number: int, pair: EditPair) -> list[tuple[str, str]]:
    """What is known of a pair beside its texts and its ground truth."""
    meta = benchmark.reader.meta(benchmark.position(number))
    facts = [("source", _size(meta.source_size)), ("target", _size(meta.target_size))]
    if pair.failure_modes is not None:
        facts.append(("failure modes", ", ".join(pair.failure_modes) or "none"))
    if pair.severity is not None:
        facts.append(("severity", f"{pair.severity:g}"))
    if license := license_of(pair):
        facts.append(("license", license))
    return facts + leaves(pair.provenance)


def _size(size: tuple[int, int]) -> str:
    return "{} x {} pixels".format(*size)


def _counts(joined: Joined) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(fact, its most frequent values with their counts, how many other values there are)."""
    contents, modes = Contents(), Counter[str]()
    for benchmark in joined.benchmarks.values():
        for pair in benchmark.pairs():
            contents.add(pair)
            modes.update(pair.failure_modes or ())
    counts = {
        "Category": {name: contents.categories[name] for name in CATEGORIES if contents.categories[name]},
        "Edit type": contents.edit_types,
        "Text": {name: count for name, count in contents.texts.items() if count},
        "Failure mode": modes,
        "License": contents.licenses,
    }
    listed = []
    for name, values in counts.items():
        frequent = sorted(values.items(), key=lambda item: -item[1])
        if frequent:
            listed.append((name, frequent[:_MOST_COUNTS], max(0, len(frequent) - _MOST_COUNTS)))
    return listed
