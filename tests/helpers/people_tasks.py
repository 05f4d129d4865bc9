"""Tasks for people over small synthetic pairs, and what people might answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.curation.people.drafts import caption_drafts
from editcaption_mega.curation.people.pair_tasks import ExportOptions, export_pair_tasks
from editcaption_mega.curation.people.task_records import PairTask, read_pair_tasks
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardReader, ShardWriter, open_shards
from editcaption_mega.data.synthetic import WorldSettings, render_pair

EVIL = "Move it</script><img src=x onerror=\"document.title='owned'\"> to the left & 'back' 🙂 slightly."


@dataclass
class Study:
    """Shards, the captions of their pairs, and the folder of tasks made of them."""

    reader: ShardReader
    captions: Path
    folder: Path
    form: str
    tasks: dict[str, PairTask]

    @property
    def names(self) -> list[str]:
        return list(self.tasks)


def write_shards(folder: Path, count: int) -> ShardReader:
    settings = WorldSettings(canvas_size=48, supersampling=1)
    with ShardWriter(folder) as writer:
        for index in range(count):
            pair = render_pair(settings, 5, index)
            writer.add(pair.pair, encode_png(pair.source), "png", encode_png(pair.target), "png")
    return open_shards(folder)


def write_columns(path: Path, reader: ShardReader, rows: list[dict], step: str = "caption") -> Path:
    with ColumnWork(path, reader, step, {"model": "sft-digest", "prompt": "p"}) as work:
        for at, _ in work.missing():
            work.keep(at, rows[at])
        assert work.merge()
    return path


def draft_of(at: int) -> str:
    return EVIL if at == 1 else f"Move the red ball number {at} to the left"


def write_study(root: Path, form: str, count: int = 8, options: ExportOptions = ExportOptions()) -> Study:  # noqa: B008
    reader = write_shards(root / "shards", count)
    rows = [{"instruction": draft_of(at), "status": "ok", "served": "sft-1"} for at in range(count)]
    captions = write_columns(root / "captions.jsonl", reader, rows)
    folder = root / "tasks"
    export_pair_tasks(reader, form, caption_drafts(reader, ColumnFile(captions, reader)), folder, options)
    return Study(reader, captions, folder, form, read_pair_tasks(folder)[1])


def answer(study: Study, at: int, annotator: str = "ann", **changes) -> dict:
    """A right answer to task `at`: the draft's left becomes right."""
    name = study.names[at]
    row = {
        "task": name, "annotator": annotator, "verdict": "corrected",
        "text": study.tasks[name].text.replace("left", "right"),
        "tags": ["spatial"] if study.form == "refine" else ["orientation"],
        "seconds": 20.0, "time": "2026-11-27T03:00:00Z",
    }  # fmt: skip
    if study.form == "preference":
        row["severity"] = "P0"
    row |= changes
    return {field: value for field, value in row.items() if value is not None}


def bare(study: Study, at: int, verdict: str, annotator: str = "ann", **more) -> dict:
    """An answer that corrects nothing."""
    return {"task": study.names[at], "annotator": annotator, "verdict": verdict, **more}


def write_answers(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
