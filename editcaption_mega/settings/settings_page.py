"""docs/settings.md: every setting with its type, its default and the comment beside it in the source.

python -m editcaption_mega.settings.settings_page --write docs/settings.md
"""

import argparse
import ast
import dataclasses
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from .curation import CaptionSettings, ScoreSettings
from .dpo import DPOSettings
from .evaluation import EvaluationSettings
from .job import JobSettings

_TITLE = """# Settings

Every command reads one YAML file whose sections and names are these, and takes `section.name=value` behind it. `null`
is no value: the last column says what is done then. A setting that would have no effect beside the others is refused.
Written by `make settings` from the source ([editcaption_mega/settings](../editcaption_mega/settings/__init__.py)).
"""
_PARTS: tuple[tuple[str, str, type], ...] = (
    ("Training: launch/pretrain_sft.sh", "And launch/train_dpo.sh, which has all of them.", JobSettings),
    ("Preference training: launch/train_dpo.sh", "Beside those of any training.", DPOSettings),
    ("Evaluation: editcaption evaluate", "", EvaluationSettings),
    ("Captions: editcaption curate caption", "", CaptionSettings),
    ("Scores of a judge: editcaption curate score", "", ScoreSettings),
)


def settings_page() -> str:
    """The page, as Markdown."""
    lines = [_TITLE]
    seen: set[type] = set()
    for title, words, kind in _PARTS:
        lines += [f"## {title}", ""] + ([words, ""] if words else [])
        lines += _section(kind, "", seen)
    return "\n".join(lines).rstrip() + "\n"


def _section(kind: Any, prefix: str, seen: set[type]) -> Iterator[str]:
    """A table of the fields of a dataclass, then the sections inside it that were not on the page before."""
    comments = _comments(kind)
    rows, inside = [], []
    for field in dataclasses.fields(kind):
        part = _part(field.type)
        if part is not None:
            inside.append((field.name, part, comments.get(field.name, "")))
        else:
            cells = (f"`{prefix}{field.name}`", _type(field.type), _default(field), comments.get(field.name, ""))
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if rows:
        yield from ("| setting | type | default | what |", "|---|---|---|---|", *rows, "")
    for name, part, comment in inside:
        section = f"{prefix}{name}" + ("[]" if get_origin(_annotation(kind, name)) is list else "")
        if part in seen:
            if prefix or not issubclass(kind, JobSettings):
                yield from (_wrapped(f"`{section}`: as above." + (f" {comment}" if comment else "")), "")
            continue
        seen.add(part)
        yield from (f"### `{section}`", "", _wrapped(_first_line(part) + (f" {comment}" if comment else "")), "")
        yield from _section(part, f"{section}.", seen)


def _annotation(kind: Any, name: str) -> Any:
    return next(field.type for field in dataclasses.fields(kind) if field.name == name)


def _part(annotation: Any) -> Any:
    """The dataclass of a section, or of the items of a list of sections; None for a plain value."""
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return inner if dataclasses.is_dataclass(inner) else None


def _first_line(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _wrapped(words: str) -> str:
    return textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False)


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" if choice else '`""`' for choice in get_args(annotation))
    if get_origin(annotation) is not None or not isinstance(annotation, type):
        return ", or ".join("null" if part is type(None) else _name(part) for part in _choices(annotation))
    return _name(annotation)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if type(None) in get_args(annotation) else (annotation,)


def _name(annotation: Any) -> str:
    if get_origin(annotation) in (list, dict):
        inner = ", ".join(_name(part) for part in get_args(annotation))
        return f"{'list' if get_origin(annotation) is list else 'map'} of {inner}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    return names.get(annotation, str(annotation))


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _comments(kind: Any) -> dict[str, str]:
    """Field -> the words above it and behind it in the source, of the class and those that it is made from."""
    comments: dict[str, str] = {}
    for base in reversed(inspect.getmro(kind)):
        if dataclasses.is_dataclass(base):
            comments |= _comments_of(textwrap.dedent(inspect.getsource(base)))
    return comments


def _comments_of(source: str) -> dict[str, str]:
    words = {
        token.start[0]: (token.string.lstrip("# ").strip(), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt")
    }
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    comments = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            line = node.lineno - 1
            while line in words and words[line][1]:
                above.insert(0, words[line][0])
                line -= 1
            behind = [words[end][0] for end in (node.end_lineno or node.lineno,) if end in words]
            comments[node.target.id] = ". ".join(filter(None, (" ".join(above), *behind))).replace(":. ", ": ")
    return comments


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="FILE")
    parser.parse_args().write.write_text(settings_page(), encoding="utf-8")
