"""Sessions of several edits, one row each, as pairs: each turn's pictures and text, or the first picture, the last, and
all the texts between them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from editcaption_mega.data.importers.languages import joined_sentences
from editcaption_mega.data.importers.table_cells import Row, column_of

TURNS = ("each", "first-to-last", "both")
MULTI_TURN = "multi_turn"  # the edit type of all turns together
SOURCE, TARGET, INSTRUCTION = "source", "target", "instruction"  # columns of the rows that sessions become


class Turn(NamedTuple):
    """One pair of a session: its row, what ends its id, and its edit type where that is not the session's."""

    row: Row
    suffix: str
    edit_type: str | None = None


class _Step(NamedTuple):
    source: Any
    target: Any
    instruction: Any


@dataclass(frozen=True)
class Rounds:
    """A column is a list of rounds, each with its own pictures and text, under these names. A round without pictures
    is an instruction for the session."""

    column: str
    source: str
    target: str
    instruction: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def steps(self, row: Row) -> tuple[list[_Step], list[Any]]:
        """(turns, texts for all of them). Raises ValueError."""
        cell = row[self.column]
        if not isinstance(cell, list) or not cell:
            raise ValueError(f"column {self.column!r} holds no list of turns")
        steps, for_all = [], []
        for item in cell:
            if not isinstance(item, Mapping):
                raise ValueError(f"column {self.column!r} holds {type(item).__name__} where a turn is expected")
            step = _Step(item.get(self.source), item.get(self.target), item.get(self.instruction))
            if step.source or step.target:
                steps.append(step)
            else:
                for_all.append(step.instruction)
        return steps, for_all


@dataclass(frozen=True)
class Chain:
    """Each turn's picture is the next one's source. Places hold {n}, the turn from 1 on, or {i}, from 0. last: where
    the picture of the last turn is if not at its own place."""

    first: str
    following: str
    instruction: str
    last: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (column_of(_at(self.instruction, 1)),)

    def steps(self, row: Row) -> tuple[list[_Step], list[Any]]:
        """As those of `Rounds`."""
        texts: list[Any] = []
        while (text := row[_at(self.instruction, len(texts) + 1)]) is not None:
            texts.append(text)
        pictures = [row[self.first], *(row[_at(self.following, n)] for n in range(1, len(texts) + 1))]
        if texts and pictures[-1] is None and self.last:
            pictures[-1] = row[self.last]
        return [_Step(pictures[i], pictures[i + 1], text) for i, text in enumerate(texts)], []


type Turns = Rounds | Chain


def turns_of(row: Row, turns: Turns, which: str) -> Iterator[Turn]:
    """The pairs of a session. which: one of `TURNS`. Raises ValueError for a session that has none, and for one turn
    where only the first and the last are asked for."""
    steps, for_all = turns.steps(row)
    if not steps:
        raise ValueError("the session has no turns: expected an instruction and a picture for each")
    about = {"session_instructions": for_all} if for_all else {}
    if which != "first-to-last":
        for n, step in enumerate(steps, start=1):
            values = {**step._asdict(), "turn": n, "turns": len(steps), **about}
            yield Turn(row.changed(values), f"-t{n}")
    if which == "each":
        return
    if len(steps) > 1:
        texts = [step.instruction for step in steps]
        if not all(isinstance(text, str) and text.strip() for text in (*for_all, *texts)):
            raise ValueError("a turn has no instruction, so there is none from the first picture to the last")
        values = {
            SOURCE: steps[0].source,
            TARGET: steps[-1].target,
            INSTRUCTION: joined_sentences([*for_all, *texts]),
            "turns": len(steps),
            "turn_instructions": texts,
            **about,
        }
        yield Turn(row.changed(values), "-all", MULTI_TURN)
    elif which == "first-to-last":
        raise ValueError("the session has one turn, so it is no pair from first to last: --turns each takes it")


def _at(place: str, n: int) -> str:
    return place.replace("{n}", str(n)).replace("{i}", str(n - 1))
