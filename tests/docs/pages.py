"""The repository's pages as its tests see them: headings, links, blocks of code, and commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

PAGES = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md") if path.is_file()]
PAGES += sorted((ROOT / "docs").rglob("*.md"))

_FENCE = re.compile(r"^( {0,3})(`{3,})([^\n`]*)\n(.*?)^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code: `language` and `options` (`name=value`) stand behind the opening fence; "" for indented ones."""

    language: str
    options: dict[str, str]
    text: str
    line: int  # of the page, where it begins


@dataclass(frozen=True)
class Page:
    path: Path
    draft: str | None = None  # text of a page that is not written yet

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.draft is None else self.draft

    def fenced(self) -> list[Block]:
        blocks = []
        for match in _FENCE.finditer(self.text):
            language, *rest = match[3].split() or [""]
            options = dict(item.partition("=")[::2] for item in rest)
            blocks.append(Block(language, options, match[4], self.text.count("\n", 0, match.start()) + 1))
        return blocks

    def prose(self) -> str:
        """The text with fenced blocks blanked out, line for line."""
        return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), self.text)

    def indented(self) -> list[Block]:
        """Blocks of lines that begin with four spaces, after an empty line, outside lists."""
        blocks, lines = [], self.prose().split("\n")
        i = 0
        while i < len(lines):
            begins = lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip())
            after = next((line for line in reversed(lines[:i]) if line.strip()), "")
            if begins and not re.match(r"\s*([-*]|\d+\.) ", after):
                j = i
                while j < len(lines) and (lines[j].startswith("    ") or not lines[j].strip()):
                    j += 1
                blocks.append(Block("", {}, "\n".join(line[4:] for line in lines[i:j]).rstrip() + "\n", i + 1))
                i = j
            i += 1
        return blocks

    def links(self) -> list[tuple[str, str]]:
        """(text, target) of each link that is no picture."""
        return [(match[1], match[2]) for match in _LINK.finditer(self.prose())]

    def anchors(self) -> set[str]:
        """What a `#..` of a link may say, as GitHub makes it from the headings."""
        found: set[str] = set()
        for heading in re.findall(r"^#{1,6} (.+?)\s*#*$", self.prose(), re.MULTILINE):
            plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            number = 0
            while (slug if not number else f"{slug}-{number}") in found:
                number += 1
            found.add(slug if not number else f"{slug}-{number}")
        return found

    def code(self) -> list[str]:
        """Each piece of `code` within a line."""
        lines = self.prose().split("\n")
        for block in self.indented():
            for i in range(block.line - 1, block.line - 1 + block.text.count("\n")):
                lines[i] = ""
        return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", "\n".join(lines))

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """(as written, its words) of each command that can be given as it is: of shell blocks and indented ones."""
        for block in [*(block for block in self.fenced() if block.language == "sh"), *self.indented()]:
            yield from _commands(block.text)

    def mentions(self) -> Iterator[tuple[str, list[str]]]:
        """(as written, its words) of each command within a line, which may leave out what it needs."""
        for piece in self.code():
            yield from _commands(piece)


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in re.sub(r"\\\n\s*", " ", text).split("\n"):
        line = line.strip().removeprefix("$ ")
        if re.match(
            r"(\w+=\S* )*(make|editcaption|python|bash|sbatch|torchrun|"
            r"\.venv/bin/\w+|\.ci/\w+|tools/\w+\.py|launch/\w+\.sh)\b",
            line,
        ):
            try:
                yield line, shlex.split(line, comments=True)
            except ValueError as error:
                raise ValueError(f"{line!r}: {error}") from None


def all_pages() -> list[Page]:
    return [Page(path) for path in PAGES]
