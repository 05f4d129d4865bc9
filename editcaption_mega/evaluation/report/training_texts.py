"""How the texts that a training run wrote for a few pairs, at each of its evaluations, changed."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

LINES = "samples.jsonl"  # of a run folder
_NEEDED = {"step": int, "id": str, "text": str, "finished": bool, "reference": str, "picture": str}
_MOST_SHOWN = 8  # texts of a pair that a page shows at first


@dataclass(frozen=True)
class WrittenText:
    """What the weights after steps `first` to `last`, as far as there was an evaluation, write for a pair.

    finished: false for a text that was cut at its longest. right: it is the reference, word for word."""

    first: int
    last: int
    text: str
    finished: bool
    right: bool

    @property
    def steps(self) -> str:
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,}–{self.last:,}"


@dataclass(frozen=True)
class PairHistory:
    """A pair, and its texts in the order of training: neighbors differ. picture: of source and target side by side, as
    a data: address; "" where it is not there."""

    id: str
    reference: str
    picture: str
    texts: Sequence[WrittenText]

    @property
    def shown(self) -> list[WrittenText]:
        """The first, the last, and some between them."""
        last = len(self.texts) - 1
        if last < _MOST_SHOWN:
            return list(self.texts)
        return [self.texts[round(k * last / (_MOST_SHOWN - 1))] for k in range(_MOST_SHOWN)]


def read_texts(name: str, folder: Path) -> list[PairHistory]:
    """Those of the run whose folder this is, in the order of its records; none where it wrote none.

    Half a last line, of a run that goes on, is passed over. Raises ValueError for other damaged lines."""
    path = folder / LINES
    if not path.is_file():
        return []
    by_pair: dict[str, list[dict[str, Any]]] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is no object")
            if bad := [key for key, kind in _NEEDED.items() if type(row.get(key)) is not kind]:
                raise ValueError(f"it lacks {', '.join(bad)}")
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"training run {name}: {path}, line {number}: {error}") from None
            continue
        by_pair.setdefault(row["id"], []).append(row)
    return [
        PairHistory(pair, rows[-1]["reference"], _picture(folder, rows[-1]["picture"]), _changes(rows))
        for pair, rows in by_pair.items()
    ]


def _changes(rows: Sequence[dict[str, Any]]) -> list[WrittenText]:
    """Neighbors that are the same as one."""
    texts = []
    for (text, finished), same in groupby(rows, key=lambda row: (row["text"], row["finished"])):
        of_text = list(same)
        right = finished and text == of_text[0]["reference"].strip()
        texts.append(WrittenText(of_text[0]["step"], of_text[-1]["step"], text, finished, right))
    return texts


def _picture(folder: Path, name: str) -> str:
    """Only of the folder's own samples, whatever the line says."""
    path = folder / "samples" / Path(name).name
    if path.suffix != ".webp" or not path.is_file():
        return ""
    return f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
