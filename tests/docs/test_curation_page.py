"""The page of curation can be followed from its first command to its last: each reads what one before it has made."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import yaml

from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs/curation.md")
_READ = ("--columns", "--first", "--hints", "--instructions", "--captions", "--shards")
# Of commands that the page tells in words: captions of the mirrored pairs, and captions and scores of eight samples.
_IN_WORDS = {"data/pool", "runs/captions/pool_mirrored.jsonl", "runs/captions/eight.jsonl", "runs/scores/eight.jsonl"}


def steps() -> list[list[str]]:
    return [words[2:] for _, words in PAGE.commands() if words[:2] == ["python", "tools/curate.py"]]


def values(words: list[str], option: str) -> Iterator[str]:
    """Of an option that takes several, or is given several times; a column's name behind its file is left out."""
    inside = False
    for word in words:
        inside = word == option if word.startswith("--") else inside
        if inside and word != option:
            yield word.partition(":")[0]


def made(words: list[str]) -> list[str]:
    config = next((word for word in words if word.startswith("configs/")), None)
    settings = yaml.safe_load((ROOT / config).read_text(encoding="utf-8")) if config else {}
    settings |= {name: value for name, sign, value in (word.partition("=") for word in words) if sign}
    return [*values(words, "--output"), *values(words, "--folder"), settings.get("output", "")]


def test_every_step_reads_what_a_step_before_it_has_made():
    there, reads = set(_IN_WORDS), 0
    for words in steps():
        for name in [name for option in _READ for name in values(words, option)]:
            assert name in there, f"{' '.join(words[:3])} reads {name}, which no command before it makes"
            reads += 1
        there.update(made(words))
    assert reads > 15


def test_files_that_a_filter_reads_together_have_names_of_their_own():
    (words,) = [words for words in steps() if words[0] == "filter"]
    files = [*values(words, "--columns"), *values(words, "--instructions")]
    assert len({PurePosixPath(name).name for name in files}) == len(files) == 4
