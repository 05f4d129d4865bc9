"""One HTML file of pairs in sections: pictures side by side, texts and remarks; it runs no script and loads nothing."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.data.shards.reader import SIDES, ShardError, ShardReader
from editcaption_mega.evaluation.report.page.self_contained import content_hash, inline, page_environment
from editcaption_mega.evaluation.report.page.thumbnails import shrunk
from editcaption_mega.files import replacing
from editcaption_mega.records import RecordError

_PACKAGE, _REPORT = "editcaption_mega.curation.sheets", "editcaption_mega.evaluation.report"
_PICTURE_BYTES, _PICTURE_SIDE = 9_000, 240
_LONGEST_TEXT = 400


@dataclass(frozen=True)
class ShownPair:
    """One pair. pictures: (side, data URL); remarks: what is wrong with it."""

    id: str
    about: str
    text: str
    pictures: Sequence[tuple[str, str]]
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class ShownRow:
    """Pairs that stand next to one another, and what is said of them together."""

    pairs: Sequence[ShownPair]
    words: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    rows: Iterable[ShownRow]
    note: str = ""


@dataclass(frozen=True)
class PictureSheet:
    """facts: (number, what it counts, whether it is bad), above all else; tables: (title, rows of cells)."""

    title: str
    facts: Sequence[tuple[str, str, bool]]
    sections: Sequence[Section]
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]] = field(default_factory=tuple)


def write_picture_sheet(path: Path, sheet: PictureSheet) -> None:
    """Whatever stands in the pairs is escaped. Pictures are read while it is written. Raises OSError."""
    style = inline(_REPORT, ("report.css",)) + "\n" + inline(_PACKAGE, ("picture_sheet.css",))
    page = page_environment(_PACKAGE).get_template("picture_sheet.html.j2")
    with replacing(path) as file:
        file.writelines(page.generate(sheet=sheet, style=Markup(style), style_hash=content_hash(style)))


def shown_pair(shards: ShardReader, at: int, about: str = "", remarks: Sequence[str] = ()) -> ShownPair:
    """A pair of shards. What cannot be read is left out, with the reason among the remarks."""
    remarks, pictures, text = list(remarks), [], ""
    for side in SIDES:
        try:
            mime, data = shrunk(shards.picture(at, side), _PICTURE_BYTES, side=_PICTURE_SIDE, where=side)
            pictures.append((side, f"data:{mime};base64,{base64.b64encode(data).decode()}"))
        except (ImageError, ShardError) as error:
            remarks.append(str(error))
    try:
        pair = shards.pair(at)
        text = pair.instruction or pair.chosen or "no instruction"
        sizes = ", ".join("{} x {}".format(*shards.meta(at).size(side)) for side in SIDES)
        about = " · ".join(filter(None, [about, pair.category, pair.edit_type, sizes]))
    except (ShardError, RecordError) as error:
        remarks.append(str(error))
    text = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " .."
    return ShownPair(shards.ids[at], about, text, pictures, list(dict.fromkeys(remarks)))
