"""The demonstration's report: one HTML file, its numbers and some of its pairs."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from editcaption_mega.data.shards.reader import SIDES, open_shards
from editcaption_mega.evaluation.report.page.self_contained import content_hash, inline, page_environment
from editcaption_mega.evaluation.report.page.thumbnails import shrunk
from editcaption_mega.evaluation.report.page.training_plots import training_plots
from editcaption_mega.evaluation.report.training_runs import read_run
from editcaption_mega.files import replacing

from .demo_files import DemoFiles
from .known_truth import read_truth, verdict_of

_PAIRS = 12  # that people changed
_PICTURE_BYTES, _PICTURE_SIDE = 9_000, 240
_PACKAGE, _REPORT, _FILTERS = (
    "editcaption_mega.curation.demo",
    "editcaption_mega.evaluation.report",
    "editcaption_mega.curation.filters",
)


@dataclass(frozen=True)
class RefinedPair:
    """A pair on both sides of people's work. pictures: (side, data URL)."""

    id: str
    about: str
    pictures: Sequence[tuple[str, str]]
    draft: str
    refined: str
    right: bool


def write_demo_page(files: DemoFiles, figures: dict[str, Any], made: Sequence[tuple[str, str]]) -> None:
    """report.html in the demonstration's folder. figures: of `demo_figures`, with `stages`: name, what, seconds, kills.
    made: what is said of how it was made. The page runs no script and loads nothing."""
    style = inline(_REPORT, ("report.css", "report_panels.css")) + "\n" + inline(_FILTERS, ("filter.css",))
    template = page_environment(_PACKAGE, _REPORT).get_template("demo.html.j2")
    with replacing(files.root / "report.html") as file:
        file.writelines(
            template.generate(
                figures=figures, made=made, style=Markup(style), style_hash=content_hash(style),
                plots=training_plots([read_run("sft", files.run)]), refined=list(_refined(files)),
            )
        )  # fmt: skip


def _refined(files: DemoFiles) -> Iterator[RefinedPair]:
    truth = read_truth(files.truth)
    with open(files.beside("sft", "opinions.jsonl"), encoding="utf-8") as file:
        opinions = [line for line in map(json.loads, file) if line["verdict"] == "corrected"]
    with open_shards(files.shards("sft")) as shards:
        places = {name: at for at, name in enumerate(shards.ids)}
        for line in opinions[:_PAIRS]:
            at = places[line["id"]]
            pair = shards.pair(at)
            refined = pair.instruction or ""
            pictures = [(side, _data_url(shards.picture(at, side))) for side in SIDES]
            right = verdict_of(refined, truth[pair.id]).correct
            yield RefinedPair(pair.id, f"{pair.category}, {pair.edit_type}", pictures, line["text"], refined, right)


def _data_url(picture: bytes) -> str:
    mime, data = shrunk(picture, _PICTURE_BYTES, side=_PICTURE_SIDE, where="a picture")
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
