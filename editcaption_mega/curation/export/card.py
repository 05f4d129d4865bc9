"""The data card of an exported set: what is in it, where it is from and how it was made, counted from its records."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from editcaption_mega.records import CATEGORIES, EditPair

_MOST_VALUES = 20  # of a key: more are ids or measurements, and no choice that somebody made
_LONGEST = 200  # characters of a value
_NO_LICENSE = "none given"
LICENSE_KEYS = ("license", "licence")


@dataclass
class Contents:
    """What the pairs of a set say, counted as they pass."""

    pairs: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    edit_types: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)  # instruction, chosen and rejected
    provenance: dict[str, Counter[str] | None] = field(default_factory=dict)  # dotted key; None: too many values

    def add(self, pair: EditPair) -> None:
        self.pairs += 1
        self.categories[pair.category] += 1
        self.edit_types[pair.edit_type] += 1
        self.licenses[license_of(pair) or _NO_LICENSE] += 1
        self.texts["instruction"] += pair.instruction is not None
        self.texts["chosen and rejected"] += pair.chosen is not None
        for key, value in _leaves(pair.provenance):
            self._count(key, value)

    def _count(self, key: str, value: str) -> None:
        counts = self.provenance.setdefault(key, Counter())
        if counts is not None:
            counts[value] += 1
            if len(counts) > _MOST_VALUES:
                self.provenance[key] = None


def license_of(pair: EditPair) -> str | None:
    for key in LICENSE_KEYS:
        value = pair.provenance.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _leaves(values: Mapping[str, Any], outer: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in values.items():
        name = f"{outer}{key}"
        if isinstance(value, dict):
            found += _leaves(value, f"{name}.")
        elif key not in LICENSE_KEYS and isinstance(value, str | int | float | bool):
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((name, text if len(text) <= _LONGEST else text[: _LONGEST - 2] + ".."))
    return found


def data_card(contents: Contents, form: str, fingerprint: str, remarks: list[str], survival: Any = None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads. survival: the JSON of `curate.py filter`."""
    parts = [_front_matter(contents, form), "# Image pairs with editing instructions\n"]
    texts = ", ".join(f"{count:,} with {name}" for name, count in contents.texts.items() if count)
    parts.append(
        f"{contents.pairs:,} pairs of a source and a target picture ({texts or 'no text'}), exported as {form} from "
        f"shards with the fingerprint `{fingerprint}`.\n"
    )
    parts += [f"{remark}.\n" for remark in remarks]
    shares = {name: contents.categories[name] for name in CATEGORIES}
    parts.append(_table("Category", shares, contents.pairs))
    parts.append(_table("Edit type", dict(contents.edit_types.most_common()), contents.pairs))
    parts.append("## Licenses\n\nOf each pair, from its provenance (`record` has it).\n")
    parts.append(_table("License", dict(contents.licenses.most_common()), contents.pairs))
    if survival is not None:
        parts.append(
            "## What the filter kept\n\n```json\n" + json.dumps(survival, indent=1, ensure_ascii=False) + "\n```\n"
        )
    parts.append("## How it was made\n\nWhat the pairs' provenance says, where few values stand for all.\n")
    for key, counts in sorted(contents.provenance.items()):
        if counts is not None:
            parts.append(_table(f"`{_cell(key)}`", dict(counts.most_common()), contents.pairs))
    varied = sorted(key for key, counts in contents.provenance.items() if counts is None)
    if varied:
        parts.append("Different for most pairs: " + ", ".join(f"`{_cell(key)}`" for key in varied) + ".\n")
    return "\n".join(parts)


def _front_matter(contents: Contents, form: str) -> str:
    licenses = [name.lower() for name in contents.licenses if name != _NO_LICENSE]
    one = len(licenses) == 1 and _NO_LICENSE not in contents.licenses
    lines = ["---", f"license: {json.dumps(licenses[0] if one else 'other')}", "task_categories:", "- image-to-image"]
    if form == "parquet":
        lines += ["configs:", "- config_name: default", "  data_files:", "  - split: train", "    path: data/*.parquet"]
    return "\n".join([*lines, "---", ""])


def _table(title: str, counts: Mapping[str, int], total: int) -> str:
    rows = [f"| {_cell(name)} | {count:,} | {100 * count / max(1, total):.1f} % |" for name, count in counts.items()]
    return "\n".join([f"| {title} | pairs | share |", "|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    """A value of somebody's data in a table: nothing in it is Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + sign if sign in r"\|`*_[]!#$~" else sign for sign in text)
