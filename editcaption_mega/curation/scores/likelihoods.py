"""A model's own likelihoods as scores: does it believe the instruction of these pictures more than of others?

    log_prob          the text's log-probability per token, given the pair
    margin_swapped    what it loses per token when source and target are swapped
    margin_mirrored   what it loses per token when both pictures are mirrored: near 0 for a text without left and right
    margin_opposite   log-probability of the text less that of its opposite (left for right, ..), whole texts: above 0
                      where the model believes its directions; absent for a text that names none

No judge is asked. The numbers come from `tools/log_probs.py`, under any layout; texts of a pair share their prompt.
They say what the model believes, which is wrong where it was taught wrong.
"""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.data.batching.scoring import View, view_fingerprint
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.files import parse_json

from .directions import opposite
from .scored_texts import sampled_texts


def write_log_prob_scores(
    output: Path,
    shards: ShardReader,
    captions: ColumnFile | None,
    files: Mapping[View, Path],
    *,
    part: Part | None = None,
) -> bool:
    """The columns of each text of `captions` (None: of the shards' instructions) -> whether the file is whole.

    files: by view, what `tools/log_probs.py --texts` (or --opposites) wrote of this part; `given` is needed. A text
    without numbers gets a reason. Raises ValueError as `log_prob_scores` does."""
    part = part or Part()
    heads = {view: fingerprint_of_file(path) for view, path in files.items()}
    settings = {name: value for name, value in heads["given"].items() if name != "texts"}
    samples = captions.samples if captions is not None else 1
    scores = log_prob_scores(files)
    line = next(scores, None)
    with ColumnWork(output, shards, "log-probs", settings | {"views": list(files)}, samples=samples, part=part) as work:
        for at, texts in enumerate(sampled_texts(shards, captions)):
            of_pair: Mapping[str, dict[str, float]] = {}
            if line is not None and line["id"] == shards.ids[at]:
                of_pair, line = line["texts"], next(scores, None)
            if at % part.count == part.number:
                for sample, text in enumerate(texts):
                    columns = of_pair.get(text or "", {"reason": "no text" if not text else "its text was not scored"})
                    work.keep(at, columns, sample=sample, again=bool(text) and "reason" in columns)
        if line is not None:
            raise ValueError(
                f"{files['given']} holds pair {line['id']}, which {shards} lacks or has elsewhere: another set?"
            )
        return work.merge()


def log_prob_scores(files: Mapping[View, Path]) -> Iterator[dict[str, Any]]:
    """{"id", "texts": {text: its columns}} of each pair of the files, by view.

    Raises ValueError for files of other weights, data or texts than the given view's, and for lines that do not fit."""
    heads = {view: fingerprint_of_file(path) for view, path in files.items()}
    for view, path in files.items():
        _check_view(view, path, heads[view], heads["given"], files["given"])
    for lines in zip_longest(*(_lines(path) for path in files.values())):
        ids = {None if line is None else line["id"] for line in lines}
        if len(ids) > 1:
            paths = ", ".join(map(str, files.values()))
            raise ValueError(
                f"{paths} do not hold the same pairs ({sorted(map(str, ids))[0]}): one was cut; make it again"
            )
        yield {"id": ids.pop(), "texts": _columns(dict(zip(files, lines, strict=True)))}


def _columns(of_view: Mapping[View, dict[str, Any]]) -> dict[str, dict[str, float]]:
    answers = {view: {answer["text"]: answer for answer in line["answers"]} for view, line in of_view.items()}
    scored = {}
    for text, numbers in answers["given"].items():
        tokens = len(numbers["token_log_probs"])  # with the end of the turn: never 0
        columns = {"log_prob": numbers["log_prob"] / tokens}
        for view in answers:
            if view != "given":
                columns[f"margin_{view}"] = (numbers["log_prob"] - answers[view][text]["log_prob"]) / tokens
        turned = answers["given"].get(opposite(text) or "")
        if turned is not None:
            columns["margin_opposite"] = numbers["log_prob"] - turned["log_prob"]
        scored[text] = columns
    return scored


def fingerprint_of_file(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        try:
            parts = parse_json(file.readline())["fingerprint"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path}: expected a file of tools/log_probs.py, whose first line is a fingerprint"
            ) from None
    if not isinstance(parts, dict) or "texts" not in parts:
        raise ValueError(f"{path} holds log-probs of the shards' own answers: write it with --texts or --opposites")
    return parts


def _check_view(view: View, path: Path, head: dict[str, str], first: dict[str, str], given: Path) -> None:
    if head.get("view") != (None if view == "given" else view_fingerprint(view)):
        raise ValueError(f"{path} was written under another view of the pictures: expected one of --view {view}")
    different = [name for name in first if name != "view" and head.get(name) != first[name]]
    if different:
        raise ValueError(
            f"{path} and {given} differ in {', '.join(different)}: scores compare views of one model, one set and one "
            "list of texts"
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        file.readline()
        for line in file:
            yield parse_json(line)
