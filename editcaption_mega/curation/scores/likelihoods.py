"""A model's own likelihoods as scores: does it believe the instruction of these pictures more than of others?

    log_prob             of the whole text, given the pair; log_prob_per_token beside it
    margin_swapped       what the text loses when source and target are swapped
    margin_mirrored      what it loses when both pictures are mirrored: near 0 for a text without left and right
    margin_opposite      log_prob less that of its opposite (left for right, ..): above 0 where the model believes the
                         text's directions; absent for a text that names none
    reward               log_prob less that of the same text by the reference of the model's DPO: what preference
                         training has moved, which says more of a mistake than log_prob does (Rafailov et al.
                         2023, eq. 5, without beta)

No judge is asked. The numbers come from `editcaption log-probs`, under any layout; texts of a pair share their prompt.
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
from editcaption_mega.records import shown

from .directions import opposite
from .scored_texts import sampled_texts

_REFERENCE = "reference"


def write_log_prob_scores(
    output: Path,
    shards: ShardReader,
    captions: ColumnFile | None,
    files: Mapping[View, Path],
    *,
    reference: Path | None = None,
    part: Part | None = None,
) -> bool:
    """The columns of each text of `captions` (None: of the shards' instructions) -> whether the file is whole.

    files: by view, what `editcaption log-probs --texts` (or --opposites) wrote of this part; `given` is needed.
    reference: the same of the given pictures by another model. Where a pair has no text there is a reason. Raises
    ValueError as `log_prob_scores` does, and for files of other texts."""
    part = part or Part()
    heads = {view: fingerprint_of_file(path) for view, path in files.items()}
    settings: dict[str, Any] = {name: value for name, value in heads["given"].items() if name != "texts"}
    if reference is not None:
        settings["reference"] = fingerprint_of_file(reference)["weights"]
    samples = captions.samples if captions is not None else 1
    scores = log_prob_scores(files, reference)
    line = next(scores, None)
    with ColumnWork(output, shards, "log-probs", settings | {"views": list(files)}, samples=samples, part=part) as work:
        for at, texts in enumerate(sampled_texts(shards, captions)):
            of_pair: Mapping[str, dict[str, float]] = {}
            if line is not None and line["id"] == shards.ids[at]:
                of_pair, line = line["texts"], next(scores, None)
            if at % part.count == part.number:
                for sample, text in enumerate(texts):
                    if text and text not in of_pair:
                        raise ValueError(
                            f"{files['given']} does not hold the text {shown(text)} of pair {shards.ids[at]}: it was "
                            f"made of other texts than {captions.path if captions else 'those of the shards'}"
                        )
                    if work.lacks(at, sample):
                        work.keep(at, of_pair[text] if text else {"reason": "no text"}, sample=sample)
        if line is not None:
            raise ValueError(
                f"{files['given']} holds pair {line['id']}, which {shards} lacks or has elsewhere: another set?"
            )
        return work.merge()


def log_prob_scores(files: Mapping[View, Path], reference: Path | None = None) -> Iterator[dict[str, Any]]:
    """{"id", "texts": {text: its columns}} of each pair of the files, by view.

    Raises ValueError for files of other weights, data or texts than the given view's, and for lines that do not fit."""
    given = fingerprint_of_file(files["given"])
    for view, path in files.items():
        _check_goes_with(path, files["given"], given, view)
    opened: dict[str, Path] = {str(view): path for view, path in files.items()}
    if reference is not None:
        _check_goes_with(reference, files["given"], given, "given", but={"weights"})
        opened[_REFERENCE] = reference
    for lines in zip_longest(*(_lines(path) for path in opened.values())):
        ids = {None if line is None else line["id"] for line in lines}
        if len(ids) > 1:
            paths = ", ".join(map(str, opened.values()))
            raise ValueError(
                f"{paths} do not hold the same pairs ({sorted(map(str, ids))[0]}): one was cut, make it again"
            )
        yield {"id": ids.pop(), "texts": _columns(dict(zip(opened, lines, strict=True)))}


def _columns(lines: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each text of a pair, from the lines of the files: by view, and of the reference."""
    log_probs = {
        name: {answer["text"]: answer["log_prob"] for answer in line["answers"]} for name, line in lines.items()
    }
    scored = {}
    for answer in lines["given"]["answers"]:
        text, log_prob = answer["text"], answer["log_prob"]
        columns = {"log_prob": log_prob, "log_prob_per_token": log_prob / len(answer["token_log_probs"])}
        for name in log_probs.keys() - {"given"}:
            columns["reward" if name == _REFERENCE else f"margin_{name}"] = log_prob - log_probs[name][text]
        turned = log_probs["given"].get(opposite(text) or "")
        if turned is not None:
            columns["margin_opposite"] = log_prob - turned
        scored[text] = columns
    return scored


def fingerprint_of_file(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        try:
            parts = parse_json(file.readline())["fingerprint"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path}: expected a file of editcaption log-probs, whose first line is a fingerprint"
            ) from None
    if not isinstance(parts, dict) or "texts" not in parts:
        raise ValueError(f"{path} holds log-probs of the shards' own answers: write it with --texts or --opposites")
    return parts


def _check_goes_with(
    path: Path, given: Path, first: dict[str, str], view: View, but: frozenset[str] | set[str] = frozenset()
) -> None:
    head = fingerprint_of_file(path)
    if head.get("view") != (None if view == "given" else view_fingerprint(view)):
        raise ValueError(f"{path} was written under another view of the pictures: expected one of --view {view}")
    different = [name for name in first if name not in but | {"view"} and head.get(name) != first[name]]
    if different:
        raise ValueError(
            f"{path} and {given} differ in {', '.join(different)}: scores compare views of one model, one set and one "
            "list of texts (--opposites for all of them, or for none)"
        )
    if same := [name for name in but if head.get(name) == first[name]]:
        raise ValueError(f"{path} and {given} have the same {', '.join(same)}: a reference is another model")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        file.readline()
        for number, line in enumerate(file, start=2):
            try:
                yield parse_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}: it was cut or changed; make it again") from None
