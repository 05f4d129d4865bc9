"""Where a set keeps what."""

from dataclasses import dataclass

from editcaption_mega.data.importers.table_cells import columns_in, place_columns
from editcaption_mega.data.importers.turns import Turns


@dataclass(frozen=True)
class Columns:
    """Where a set keeps what. A column is named, or a place inside one is: `meta.prompt`, `images[1]`, or
    `files[id=a].url` (of a list, the first object whose `id` is a); `a|b` is b where a is empty or not there. Of
    `instruction` the first that is there and not empty counts."""

    name: str
    source: str
    target: str
    instruction: tuple[str, ...]
    edit_type: str | None = None
    category: str | None = None  # of every row; None: the set does not say, so the user must, or the edit type does
    provenance: tuple[str, ...] = ()  # columns that go into it
    license: str = ""
    record: str | None = None  # holds the whole record as JSON, and the other columns say nothing more
    id: str | None = None  # holds ids; None: they are the set's name and the row's number
    categories: str | None = None  # holds the category of each row
    keep_others: bool = False  # whatever other columns there are goes into the provenance, too
    by_edit_type: bool = False  # the category follows from the edit type (`taxonomy`)
    type_in_file: str | None = None  # the edit type is the group of this pattern in the name of the table
    turns: Turns | None = None  # a row is a session of several edits, whose columns `source`.. name
    pictures: str = "."  # where paths of pictures begin, from the folder of the table on
    answer: str | None = None  # the set has no targets: a path among an editor's answers, {of columns} of the row
    mend: str = ""  # what to do where the source picture is missing

    @property
    def needs_category(self) -> bool:
        says = self.category or self.record or self.by_edit_type or self.categories
        return not says

    def needed(self) -> list[set[str]]:
        """Columns that every file must have, one of each set."""
        if self.turns is not None:
            return [{name} for name in self.turns.columns]
        places = (self.source, None if self.answer else self.target, self.edit_type, self.record, self.id)
        return [place_columns(place) for place in (*places, self.categories) if place]

    def read(self) -> list[str]:
        """Every column that is read, others aside."""
        places = (self.source, self.target, *self.instruction, self.edit_type, self.record, self.id, self.categories)
        return list(dict.fromkeys([*(name for p in places if p for name in columns_in(p)), *self.provenance]))
