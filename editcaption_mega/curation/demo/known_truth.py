"""Raw pairs, of which nothing is said, and beside them what is true of each: the pool of a demonstration.

pool.jsonl      pairs without instruction and changes, as they are before anybody has described them
truth.jsonl     the same pairs' instructions, and the synthetic ones' machine-readable changes
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.curation.people.same_text import same_tokens
from editcaption_mega.curation.truth_verdicts import Verdict, verdict
from editcaption_mega.files import parse_json, plain_file, write_atomically
from editcaption_mega.records import EditPair

_TRUTH = ("instruction", "changes", "chosen", "rejected", "failure_modes", "severity")
_TOLD = ("source_scene", "target_scene", "caption_mistakes")  # of a synthetic pair's provenance


def write_pool(folder: Path, sets: Sequence[Path]) -> int:
    """The pool and its truth of some JSONL files, as `make_shards --format jsonl` reads them -> how many pairs.

    Paths of pictures become absolute. Raises ValueError for a line that is no pair, with its file and number."""
    pool, truth = [], []
    for path in sets:
        for number, line in enumerate(plain_file(path).read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            row = _row(path, number, line)
            pictures = {side: str((path.parent / row.pop(side)).resolve()) for side in ("source", "target")}
            pair = EditPair.from_json(row, where=f"{path}, line {number}")
            provenance = {name: value for name, value in pair.provenance.items() if name not in _TOLD}
            raw = pair.model_copy(update={name: None for name in _TRUTH} | {"provenance": provenance})
            pool.append(raw.to_json() | pictures)
            truth.append(pair.to_json())
    for name, rows in (("truth.jsonl", truth), ("pool.jsonl", pool)):
        write_atomically(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(pool)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
        if not isinstance(row, dict) or not all(isinstance(row.get(side), str) for side in ("source", "target")):
            raise ValueError("expected an object with source and target, the paths of its pictures")
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    return row


def read_truth(path: Path) -> dict[str, EditPair]:
    """id -> the pair with all that is true of it."""
    with open(path, encoding="utf-8") as file:
        pairs = [EditPair.from_json(json.loads(line), where=f"{path}, line {n}") for n, line in enumerate(file, 1)]
    return {pair.id: pair for pair in pairs}


def is_synthetic(truth: EditPair) -> bool:
    """Whether code can read what changed; else a text is right only if it says what the pair's own instruction says."""
    return truth.changes is not None and all(change.facts is not None for change in truth.changes.primary)


def verdict_of(text: str, truth: EditPair) -> Verdict:
    """What the truth says of an instruction. Without machine-readable changes an instruction of other words is wrong in
    detail, and a pair without an instruction has none that is right."""
    if is_synthetic(truth):
        assert truth.changes is not None
        return verdict(text, truth.changes)
    right = truth.instruction is not None and same_tokens(text, truth.instruction)
    return Verdict(right, () if right else ("detail",), 0.0 if right else 1.0)
