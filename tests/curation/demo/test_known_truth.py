"""The pool says nothing of its pairs, and the truth beside it says all."""

import json

import pytest

from editcaption_mega.curation.demo.known_truth import is_synthetic, read_truth, verdict_of, write_pool
from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers.shared_data import DATA_FILES

REAL = DATA_FILES / "pairs/pairs.jsonl"


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    lines = []
    for index in range(6):
        made = render_pair(WorldSettings(canvas_size=48, supersampling=1, edit_types=("camera_pan",)), 5, index)
        row = made.pair.to_json()
        for side, image in (("source", made.source), ("target", made.target)):
            row[side] = f"{index}.{side}.png"
            (folder / row[side]).write_bytes(encode_png(image))
        lines.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n\n")
    return [folder / "pairs.jsonl", REAL]


def test_the_pool_has_pictures_and_no_words(sets, tmp_path):
    assert write_pool(tmp_path, sets) == 8
    importer = FORMATS["jsonl"]
    rows = importer.read(str(tmp_path / "pool.jsonl"), ImportOptions())
    report = ingest(rows, tmp_path / "pool", require_instruction=False)
    assert (report.accepted, report.rejected) == (8, 0)
    pool, truth = open_shards(tmp_path / "pool"), read_truth(tmp_path / "truth.jsonl")
    for pair in map(pool.pair, range(8)):
        assert pair.instruction is None and pair.changes is None and not pair.provenance.get("source_scene")
        assert truth[pair.id].instruction and (pair.category, pair.edit_type) == (
            truth[pair.id].category,
            truth[pair.id].edit_type,
        )
    assert [is_synthetic(truth[name]) for name in pool.ids] == [True] * 6 + [False] * 2
    for at, pair in enumerate(truth[name] for name in pool.ids):
        assert verdict_of(pair.instruction, pair).correct
        if at < 6:
            assert "orientation" in verdict_of(opposite(pair.instruction), pair).failure_modes
        else:
            assert verdict_of("Add a hat.", pair).failure_modes == ("detail",)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 1: not valid JSON"), ("[1]", "expected an object with source"), ('{"source": "a"}', "source and")],
)
def test_what_is_no_pair_is_named(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(ValueError, match=rf"x\.jsonl, line 1: .*{message.removeprefix('line 1: ')}"):
        write_pool(tmp_path, [tmp_path / "x.jsonl"])
