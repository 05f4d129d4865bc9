"""Tables of any kind with a map of their columns: rows as candidates, and what is said of those that are none."""

import csv
import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from editcaption_mega.data.importers import FORMATS, Candidate, ImportOptions, Rejected
from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.taxonomy import category_of, edit_types
from tests.helpers.image_bytes import encoded, photo

SOURCE, TARGET = encoded(photo()), encoded(photo(9, 7), "JPEG")
MAP = {"source": "before", "target": "after", "instruction": "text", "edit_type": "task"}
ROWS = [
    {"before": "a.png", "after": "a.jpg", "text": "Add a hat.", "task": "Object Addition", "score": "4.5"},
    {"before": "a.png", "after": "a.jpg", "text": "Mach es blau, rot.", "task": "color-change", "score": ""},
    {"before": "none.png", "after": "a.jpg", "text": "Move it.", "task": "zoomIn", "score": "1"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(SOURCE)
    (tmp_path / "a.jpg").write_bytes(TARGET)
    return tmp_path


def read(path, kind="table", **options):
    return list(FORMATS[kind].read(str(path), ImportOptions(**options)))


def as_csv(path, delimiter=","):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_json(path):
    path.write_text(json.dumps(ROWS, indent=1))


def as_json_by_id(path):
    path.write_text(json.dumps({f"k{i}": row for i, row in enumerate(ROWS)}))


def as_parquet(path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def as_arrow(path):
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


KINDS = {
    "t.csv": as_csv, "semicolons.csv": lambda path: as_csv(path, ";"), "t.tsv": lambda path: as_csv(path, "\t"),
    "t.jsonl": as_jsonl, "t.json": as_json, "by_id.json": as_json_by_id, "t.parquet": as_parquet, "t.arrow": as_arrow,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_same_rows_come_from_every_kind_of_file(folder, name):
    KINDS[name](folder / name)
    first, second, third = read(folder / name, columns=MAP, license="CC0-1.0", name="my set")
    assert [row.pair.id for row in (first, second)] == ["my-set-000001", "my-set-000002"]
    assert (first.pair.category, first.pair.edit_type) == ("semantic", "Object Addition")
    assert (second.pair.category, second.pair.instruction) == ("stylistic", "Mach es blau, rot.")
    assert (first.source, first.target, first.paths) == (SOURCE, TARGET, ("a.png", "a.jpg"))
    provenance = first.pair.provenance
    assert (provenance["source"], provenance["licence"], provenance["row"]) == (
        "my set".replace(" ", "-"),
        "CC0-1.0",
        1,
    )
    assert provenance["score"] == "4.5" and not second.pair.provenance.get("score")
    assert isinstance(third, Rejected) and "none.png' not found" in third.reason and third.id == "my-set-000003"
    count = FORMATS["table"].count(str(folder / name), ImportOptions(columns=MAP))
    assert count == 3


def test_places_inside_columns_alternatives_ids_and_categories(folder):
    rows = [
        {
            "id": 17,
            "images": ["a.png", {"path": "a.jpg"}],
            "meta": {"cn": "加一顶帽子", "en": ""},
            "kind": "structural",
        },
        {"id": "x.y/z", "images": ["a.png"], "meta": {"en": ["Add a hat.", "Put a hat on."]}, "kind": "semantic"},
        {"id": None, "images": ["a.png", "a.jpg"], "meta": {}, "kind": "semantic"},
        {"id": "w", "images": ["a.png", "a.jpg"], "meta": {"en": ["Add a hat.", "Put a hat on."]}, "kind": "sideways"},
    ]
    (folder / "in").mkdir()
    (folder / "in/t.json").write_text(json.dumps({"data": rows}))
    places = {
        "source": "images[0]",
        "target": "images[1]",
        "instruction": "meta.en|meta.cn",
        "category": "kind",
        "id": "id",
    }
    first, second, third, fourth = read(folder / "in", columns=places, images=str(folder))
    assert (first.pair.id, first.pair.instruction, first.pair.category) == ("17", "加一顶帽子", "structural")
    assert second.id == "x-y-z" and "holds no picture" in second.reason
    assert third.id is None and "which holds the ids, is empty" in third.reason
    assert "category" in fourth.reason
    rows[3]["kind"] = "semantic"
    (folder / "in/t.json").write_text(json.dumps(rows))
    *_, fourth = read(folder / "in", columns=places, images=str(folder))
    assert fourth.pair.instruction == "Add a hat." and fourth.pair.provenance["other_instructions"] == ["Put a hat on."]


def test_a_webdataset_of_somebody_else(tmp_path):
    members = [
        ("d/000.source.jpg", TARGET), ("d/000.edited.png", SOURCE), ("d/000.json", b'{"prompt": "Add a hat.", "n": 3}'),
        ("d/001.source.jpg", TARGET), ("d/001.edited.png", SOURCE), ("d/001.json", b"{"),
        ("d/002.source.jpg", TARGET), ("d/002.edited.png", SOURCE), ("d/002.json", b'{"prompt": "Remove it."}'),
    ]  # fmt: skip
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "info.json").write_text("{}")
    places = {"source": "source.jpg", "target": "edited.png", "instruction": "json.prompt", "id": "__key__"}
    rows = read(tmp_path, columns=places, category="semantic")
    assert [row.pair.id for row in rows[:3:2]] == ["d-000", "d-002"]
    assert rows[0].pair.instruction == "Add a hat." and (rows[0].source, rows[0].target) == (TARGET, SOURCE)
    assert rows[0].pair.provenance.get("json") is None or "prompt" not in rows[0].pair.provenance
    assert "sample 'd/001' of 0.tar: member 'json' is not valid JSON" in rows[1].reason
    assert isinstance(rows[-1], Rejected) and "1.tar" in rows[-1].reason, "a tar that is cut off says so"


def test_lines_that_are_no_rows_cost_themselves_alone(folder):
    (folder / "t.csv").write_bytes(
        b"before,after,text\na.png,a.jpg,Add a hat.\na.png,a.jpg,Add, a hat.\na.png,a.jpg,\xe9\n\na.png,a.jpg,Go.\n"
    )
    places = {"source": "before", "target": "after", "instruction": "text"}
    rows = read(folder / "t.csv", columns=places, category="structural")
    assert [type(row) for row in rows] == [Candidate, Rejected, Rejected, Candidate]
    assert "line 3 of t.csv has 4 cells, the first line 3" in rows[1].reason and "not UTF-8" in rows[2].reason
    assert rows[3].pair.id == "t-000004", "a row's number does not depend on whether others could be used"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"needs --map for source and target, such as .* \(columns here: 'before', 'after', 'text'"),
        ({"columns": MAP | {"picture": "x"}}, "--map names 'picture': expected some of source, target"),
        ({"columns": MAP | {"source": "bofore"}}, "has no column bofore: found 'before', 'after'"),
        (
            {"columns": {"source": "before", "target": "after"}},
            "does not say what kind of edits it holds: give --category",
        ),
    ],
)
def test_a_map_that_does_not_fit_is_refused_before_any_row(folder, options, words):
    as_csv(folder / "t.csv")
    with pytest.raises(InputError, match=words):
        read(folder / "t.csv", **options)


def test_files_that_are_no_table_and_folders_of_two_kinds(folder):
    as_csv(folder / "t.csv")
    as_jsonl(folder / "t.jsonl")
    with pytest.raises(InputError, match="holds 1 x csv and 1 x jsonl: name the file"):
        read(folder, columns=MAP)
    with pytest.raises(InputError, match="is no table that is known here: expected a file that ends with .parquet"):
        read(folder / "a.png", columns=MAP)
    (folder / "empty.csv").write_text("")
    with pytest.raises(InputError, match="empty.csv has no column .*: it is empty"):
        read(folder / "empty.csv", columns=MAP)
    (folder / "u.csv").write_text("before,after", encoding="utf-16")
    with pytest.raises(InputError, match="is UTF-16, as Excel and PowerShell write it: save it as UTF-8"):
        read(folder / "u.csv", columns=MAP)
    (folder / "broken.json").write_text("[1,")
    with pytest.raises(InputError, match="broken.json is not valid JSON"):
        read(folder / "broken.json", columns=MAP)
    for name in ("x.parquet", "x.arrow"):
        (folder / name).write_bytes(b"nothing of that kind")
        with pytest.raises(InputError, match="is not a readable"):
            read(folder / name, columns=MAP)


def test_sets_whose_columns_are_known_need_no_map(folder):
    picture = {"bytes": SOURCE, "path": None}
    rows = [
        {
            "edit_instruction": "Add a hat.",
            "edit_type": "add",
            "image_file": picture,
            "edited_file": picture,
            "input": "a dog",
        }
    ]
    rows.append(rows[0] | {"edit_type": "sideways"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "anyedit.parquet")
    first, second = read(folder / "anyedit.parquet", "anyedit")
    assert (first.pair.id, first.pair.category, first.pair.edit_type) == ("anyedit-000001", "semantic", "add")
    assert first.pair.provenance["licence"] == "CC-BY-4.0" and first.pair.provenance["input"] == "a dog"
    assert "edit type 'sideways' is in no category that is known here: give --category" in second.reason
    rows = [
        {"original_image": picture, "edited_image": picture, "edit_prompt": "Add a hat.", "original_prompt": "a dog"}
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pix.parquet")
    with pytest.raises(InputError, match="--format instructpix2pix does not say what kind of edits it holds"):
        read(folder / "pix.parquet", "instructpix2pix")
    (row,) = read(folder / "pix.parquet", "instructpix2pix", category="stylistic")
    assert row.pair.provenance["original_prompt"] == "a dog" and row.pair.category == "stylistic"


def test_the_taxonomy_knows_an_edit_type_however_it_is_written():
    assert len(edit_types()) > 150
    for name in ("style_transfer", "Style Transfer", "style-transfer", "styleTransfer"):
        assert category_of(name) == "stylistic"
    assert (category_of("Camera Movement"), category_of("Background")) == ("structural", "semantic")
    with pytest.raises(ValueError, match="in no category"):
        category_of("sideways")
