"""Each page of docs/how_to is followed word for word in a copy of the repository, and ends with what it promises.

Of a page's blocks, in their order: `file=PATH` writes a new file; `diff file=PATH` replaces the lines that begin with
`-` (and a blank) by those with `+`, where the unchanged lines of the block stand; `sh` is run; and each line of a
`text` block must be in what the commands before it printed. The commands of the index come after each page."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, Page

INDEX = Page(ROOT / "docs" / "how_to" / "README.md")
RECIPES = [Page(path) for path in sorted((ROOT / "docs" / "how_to").glob("*.md")) if path.stem != "README"]


def known_to_git(*which: str) -> list[Path]:
    """Files of this checkout from its root: `--cached`, what git tracks; `--others`, what it would take."""
    command = ["git", "ls-files", "-z", *which, "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]


def copy_of_the_repository(folder: Path) -> Path:
    """Files that git knows or would take, and what was built here."""
    names = known_to_git("--cached", "--others")
    names += [path.relative_to(ROOT) for path in (ROOT / "editcaption_mega").rglob("*.so")]
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def follow(page: Page, folder: Path, *, commands: bool = True) -> list[str]:
    """Do what the page says in the folder -> what its commands printed. Raises AssertionError where that fails.

    Without `commands` files are written and edited, and Python must compile; nothing is run."""
    printed: list[str] = []
    for block in page.fenced():
        where = f"{page.name}:{block.line}"
        path = folder / block.options["file"] if "file" in block.options else None
        if block.language == "diff":
            assert path, f"{where}: a diff says no file"
            edit(path, block, where)
        elif path:
            assert not path.exists(), f"{where}: {path.name} exists already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif not commands:
            continue
        elif block.language == "sh":
            printed.append(run(block.text, folder, where))
        elif block.language == "text":
            said = " ".join(printed[-1].split())
            for line in block.text.splitlines():
                assert " ".join(line.split()) in said, f"{where}: {line!r} is not in\n{printed[-1]}"
    return printed


def edit(path: Path, block: Block, where: str) -> None:
    before = "".join(line[2:] or "\n" for line in block.text.splitlines(keepends=True) if line[0] in " -\n")
    after = "".join(line[2:] or "\n" for line in block.text.splitlines(keepends=True) if line[0] in " +\n")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{where}: these lines are {text.count(before)} times in {path.name}:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def followed_here(page: Page) -> bool:
    """Whether somebody follows the page in this checkout: its files are there, and git does not track them."""
    files = {block.options["file"] for block in page.fenced() if block.language != "diff" and "file" in block.options}
    return bool(files) and files <= {str(name) for name in known_to_git("--others")}


@pytest.fixture(params=RECIPES, ids=lambda page: page.path.stem)
def recipe(request) -> Page:
    if followed_here(request.param):
        pytest.skip("somebody follows this page here: its files are there already, and not committed")
    return request.param


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory) -> str:
    """mypy reads the package for the first page, and then what the others change."""
    return str(tmp_path_factory.mktemp("mypy"))


def run(commands: str, folder: Path, where: str) -> str:
    environment = dict(os.environ, PYTHONPATH=str(folder), OMP_NUM_THREADS="1", EDITCAPTION_CUDA_ARCHS="")
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{said}"
    return said


@pytest.mark.slow
def test_a_recipe_followed_word_for_word_ends_as_it_says(recipe, mypy_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("MYPY_CACHE_DIR", mypy_cache)
    copy = copy_of_the_repository(tmp_path / "copy")
    printed = follow(recipe, copy)
    assert printed, "a recipe ends with a command that shows it"
    assert follow(INDEX, copy), "and the gates come after it"


def test_what_a_recipe_edits_is_there(recipe, tmp_path):
    """Without a command run: the quick half of the test above."""
    copy = copy_of_the_repository(tmp_path / "copy")
    follow(recipe, copy, commands=False)
    for block in recipe.fenced():
        path = copy / block.options.get("file", "")
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_there_is_a_recipe_for_each_noun():
    nouns = {"loss", "importer", "benchmark", "judge", "measure", "layer_backend"}
    assert {page.path.stem for page in RECIPES} == {
        f"add_{'an' if noun == 'importer' else 'a'}_{noun}" for noun in nouns
    }
    assert {page.path.name for page in RECIPES} <= {target for _, target in INDEX.links()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("```sh\necho one\n```\n\n```text\ntwo\n```\n", "'two' is not in"),
        ("```diff file=LICENSE\n- nothing of this kind\n```\n", "these lines are 0 times"),
        ("```text file=LICENSE\nanother\n```\n", "exists already"),
    ],
)
def test_a_recipe_that_fails_is_seen(text, message, tmp_path):
    (tmp_path / "LICENSE").write_text("some text\n")
    with pytest.raises(AssertionError, match=message):
        follow(Page(ROOT / "docs" / "how_to" / "unwritten.md", draft=text), tmp_path)


def test_a_diff_replaces_what_stands_there(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n\ny = 2\nz = 3\n")
    follow(Page(ROOT / "x.md", draft="```diff file=a.py\n  x = 1\n\n- y = 2\n+ y = 4\n+ w = 5\n```\n"), tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 1\n\ny = 4\nw = 5\nz = 3\n"
