"""Every link and every path that a page names leads somewhere; every Python name beside a file is in that file."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, all_pages

FOLDERS = ("editcaption_mega", "csrc", "tools", "launch", "configs", "tests", "docs", "examples", ".ci", ".github")
# A path as pages write it within `code`; with `::name` it is a function, class or constant of that file.
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*(?:::\w+)?")
_PYTHON_NAME = re.compile(r"`(?:[\w.]+\.)?([A-Za-z_]\w+)(?:\(.*\))?`")


# Written by a program, a paragraph a line.
WRITTEN = {"docs/parity.md"}
LONGEST_LINE = 130  # characters of prose; addresses of links, tables and code do not count


@pytest.mark.parametrize("page", [page for page in all_pages() if page.name not in WRITTEN], ids=lambda page: page.name)
def test_prose_is_wrapped(page):
    code = {n for block in page.indented() for n in range(block.line, block.line + block.text.count("\n"))}
    lines = [re.sub(r"\]\([^()\s]+\)", "]", line) for line in page.prose().split("\n")]
    assert not [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if len(line) > LONGEST_LINE and number not in code and not line.startswith("|")
    ]


def defined(path) -> set[str]:
    """Names that a Python file defines: functions, classes, their members, and what is assigned."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.alias):
            names.add(node.id if isinstance(node, ast.Name) else node.asname or node.name)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def problems_of_links(page: Page) -> list[str]:
    wrong = []
    for text, target in page.links():
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.path.parent / file).resolve() if file else page.path
        if file and not (path.exists() and path.is_relative_to(ROOT)):
            wrong.append(f"[{text}]({target}): there is no {file}")
        elif anchor and path.suffix == ".md" and anchor not in (Page(path) if file else page).anchors():
            wrong.append(f"[{text}]({target}): {path.name} has no heading {anchor}")
        elif re.fullmatch(r"[\w./-]+\.\w+", text) and Path(text).name != path.name:
            wrong.append(f"[{text}]({target}): the file is named {path.name}")
        elif path.suffix == ".py" and (name := _PYTHON_NAME.fullmatch(text)):
            if name[1] not in defined(path) | {path.stem}:
                wrong.append(f"[{text}]({target}): {path.name} has no {name[1]}")
    return wrong


def problems_of_paths(page: Page) -> list[str]:
    wrong = []
    for piece in page.code():
        if not _PATH.fullmatch(piece):
            continue
        file, _, name = piece.partition("::")
        path = ROOT / file
        if not path.exists():
            wrong.append(f"`{piece}`: there is no {file}")
        elif name and name not in defined(path):
            wrong.append(f"`{piece}`: {file} has no {name}")
    return wrong


def problems_of_figures(page: Page) -> list[str]:
    """Files of the package that a figure names, from the package's folder on."""
    if "/how_to/add_" in page.name:
        return []  # there it is what a command prints
    figures = "\n".join(block.text for block in page.fenced() if block.language == "text")
    files = re.findall(r"(?<![\w/])(?:[a-z_]+/)+[a-z_]*(?:\.py)?(?![\w.])", figures)
    roots = (ROOT, ROOT / "editcaption_mega")
    return [f"a figure names {file}" for file in files if not any((root / file).exists() for root in roots)]


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    assert problems_of_links(page) + problems_of_paths(page) + problems_of_figures(page) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a](nowhere.md)", "there is no nowhere.md"),
        ("[a](#nothing)", "has no heading nothing"),
        ("[a](../README.md#nothing)", "README.md has no heading nothing"),
        ("[`Nobody`](../editcaption_mega/lock.py)", "lock.py has no Nobody"),
        ("[scores.py](../editcaption_mega/lock.py)", "the file is named lock.py"),
        ("`tests/nothing.py`", "there is no tests/nothing.py"),
        ("`tools/evaluate.py::nothing`", "tools/evaluate.py has no nothing"),
        ("```text\n a ─> b   data/nothing.py\n```", "names data/nothing.py"),
    ],
)
def test_the_checker_sees(text, message):
    page = Page(ROOT / "docs" / "unwritten.md", draft=f"# A heading\n\n{text}\n")
    found = problems_of_links(page) + problems_of_paths(page) + problems_of_figures(page)
    assert len(found) == 1 and message in found[0], found


def test_pages_are_found_and_say_something():
    assert {"README.md", "docs/data.md", "docs/evaluation.md"} <= {page.name for page in all_pages()}
    assert sum(len(page.links()) for page in all_pages()) > 20
    assert sum(len([*page.commands(), *page.mentions()]) for page in all_pages()) > 40
