"""The data card of an exported set: what is in it, where it is from and how it was made, counted from its records."""

import json
from collections.abc import Mapping
from typing import Any

from editcaption_mega.records import CATEGORIES
from editcaption_mega.records.set_contents import NO_LICENSE, Contents


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
    licenses = [name.lower() for name in contents.licenses if name != NO_LICENSE]
    one = len(licenses) == 1 and NO_LICENSE not in contents.licenses
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
