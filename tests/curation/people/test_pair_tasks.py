"""Tasks as a folder: doubtful first, pictures whole, the same again on a second run, nothing of another export."""

import hashlib
import json

import pytest

from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.curation.people.doubt import Screen
from editcaption_mega.curation.people.drafts import caption_drafts, own_drafts
from editcaption_mega.curation.people.pair_tasks import ExportOptions, export_pair_tasks
from editcaption_mega.curation.people.task_records import exported_pairs, read_origins, read_pair_tasks
from editcaption_mega.settings import SettingsError
from tests.helpers.people_tasks import draft_of, write_columns, write_shards


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("pool") / "shards", 6)


@pytest.fixture(scope="module")
def columns(reader, tmp_path_factory):
    rows = [{"agreement": value, "lint": ["vague"] if value < 0.4 else []} for value in (0.9, 0.1, 0.5, 0.8, 0.2, 0.7)]
    return write_columns(tmp_path_factory.mktemp("columns") / "score.jsonl", reader, rows, "score")


def test_doubtful_pairs_come_first_with_their_hints_and_pictures(reader, columns, tmp_path):
    options = ExportOptions(
        first=[Screen.parse(f"{columns}:agreement", reader)], hints=[Screen.parse(f"{columns}:lint", reader)], limit=3
    )
    counts = export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "t", options)
    assert counts.tasks == 3 and counts.left_out == {"beyond the limit": 3}
    form, tasks = read_pair_tasks(tmp_path / "t")
    assert form == "refine" and [task.pair for task in tasks.values()] == [reader.ids[i] for i in (1, 4, 2)]
    assert [task.hints for task in tasks.values()] == [["lint: vague"], ["lint: vague"], []]
    first = next(iter(tasks.values()))
    sample = reader[1]
    assert first.text == sample.pair.instruction
    for name, digest, picture in (
        (first.source, first.source_sha256, sample.source_bytes),
        (first.target, first.target_sha256, sample.target_bytes),
    ):
        assert (tmp_path / "t" / name).read_bytes() == picture and digest == hashlib.sha256(picture).hexdigest()
    origin = read_origins(tmp_path / "t")[first.task]
    assert origin.doubt == 1.0 and origin.screens == {"agreement": 0.1}
    assert set(json.loads((tmp_path / "t" / "form.json").read_text())["tags"]) == {"semantics", "spatial", "detail"}


def test_the_same_export_again_writes_the_same_bytes_and_another_is_refused(reader, tmp_path):
    def files():
        return {path.name: path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file()}

    export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "t")
    before = files()
    export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "t")
    assert files() == before
    with pytest.raises(SettingsError, match="holds 6 tasks of another export"):
        export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "t", ExportOptions(limit=2))


def test_a_later_batch_has_other_pairs(reader, tmp_path):
    export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "a", ExportOptions(limit=4))
    later = ExportOptions(skip=exported_pairs([tmp_path / "a"]))
    counts = export_pair_tasks(reader, "refine", own_drafts(reader), tmp_path / "b", later)
    assert counts.tasks == 2 and counts.left_out == {"in an earlier batch": 4}
    assert exported_pairs([tmp_path / "a", tmp_path / "b"]) == set(reader.ids)


def test_of_several_captions_the_most_frequent_is_the_draft_and_a_right_one_is_no_task(reader, tmp_path):
    own = [reader.pair(i).instruction for i in range(6)]
    captions = write_columns(
        tmp_path / "c.jsonl", reader,
        [{"instruction": draft_of(0)}, {"instruction": own[1].upper()}, {"instruction": " "}, {"reason": "refused"}]
        + [{"instruction": draft_of(i)} for i in (4, 5)],
    )  # fmt: skip
    options = ExportOptions(keep_right=False)
    drafts = caption_drafts(reader, ColumnFile(captions, reader))
    counts = export_pair_tasks(reader, "preference", drafts, tmp_path / "t", options)
    assert counts.tasks == 3
    assert counts.left_out == {
        "already_correct: the same as the pair's own instruction": 1, "the model wrote nothing": 1, "refused": 1,
    }  # fmt: skip
    origin = next(iter(read_origins(tmp_path / "t").values()))
    assert origin.draft["model"] == "sft-digest" and (origin.draft["times"], origin.draft["of"]) == (1, 1)


def test_no_tasks_at_all_is_an_error(reader, tmp_path):
    with pytest.raises(ValueError, match="of 6 pairs none becomes a task \\(6 x in an earlier batch\\)"):
        export_pair_tasks(
            reader, "refine", own_drafts(reader), tmp_path / "t", ExportOptions(skip=frozenset(reader.ids))
        )
    assert not (tmp_path / "t").exists()
    with pytest.raises(ValueError, match=r"holds no tasks\.jsonl"):
        read_pair_tasks(tmp_path)
