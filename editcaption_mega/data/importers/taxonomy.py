"""Which of the paper's categories an edit type of a public set belongs to, by one table (taxonomy.yaml)."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from editcaption_mega.records import CATEGORIES, shown


def category_of(edit_type: object) -> str:
    """semantic, stylistic or structural; of several types in one, joined by "and", theirs, or structural if theirs
    differ. Raises ValueError for an edit type that the table does not know."""
    name, known = as_written_here(str(edit_type)), edit_types()
    category = known.get(name)
    if category is None and "_and_" in name:
        parts = {known.get(part) for part in name.split("_and_")}
        if None not in parts:
            category = parts.pop() if len(parts) == 1 else "structural"
    if category is None:
        raise ValueError(
            f"edit type {shown(str(edit_type))} is in no category that is known here: give --category for all rows, or "
            "a column of categories"
        )
    return category


def as_written_here(edit_type: str) -> str:
    """`Color Alteration`, `color-alteration` and `colorAlteration` are one edit type: color_alteration."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", edit_type)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


@cache
def edit_types() -> Mapping[str, str]:
    """Edit type -> category."""
    text = resources.files("editcaption_mega.data.importers").joinpath("taxonomy.yaml").read_text(encoding="utf-8")
    table: dict[str, str] = {}
    for category, names in yaml.safe_load(text).items():
        assert category in CATEGORIES, f"taxonomy.yaml: {category} is no category"
        for name in names:
            assert table.setdefault(name, category) == category, f"taxonomy.yaml: {name} is in two categories"
            assert as_written_here(name) == name, f"taxonomy.yaml: write {as_written_here(name)} for {name}"
    return table
