"""Pairs: a pure function of settings, seed and index; the paper's quotas; pictures where every edit is seen."""

import ast
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import editcaption_mega.data.synthetic as synthetic
from editcaption_mega.data.synthetic import (
    CATEGORY_OF,
    EDIT_TYPES,
    Item,
    Scene,
    WorldSettings,
    parse,
    render,
    render_pair,
)
from editcaption_mega.data.synthetic.scene import CELLS, COLOURS, COUNTS, LETTERS, SHAPES, SIZES, TEXTURES
from editcaption_mega.records import EditPair

SETTINGS = WorldSettings()


def digest(indices, seed=1):
    total = hashlib.sha256()
    for index in indices:
        found = render_pair(SETTINGS, seed, index)
        total.update(found.pair.model_dump_json().encode() + found.source.tobytes() + found.target.tobytes())
    return total.hexdigest()


def test_the_same_numbers_give_the_same_bytes_in_another_process():
    code = "import test_pairs as t; print(t.digest(range(20)))"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(range(20))


def test_a_pair_does_not_depend_on_the_pairs_before_it():
    alone = render_pair(SETTINGS, 2, 7)
    for index in range(7):
        render_pair(SETTINGS, 2, index)
    again = render_pair(SETTINGS, 2, 7)
    assert alone.pair == again.pair and alone.target.tobytes() == again.target.tobytes()
    assert render_pair(SETTINGS, 3, 7).source.tobytes() != alone.source.tobytes()


def test_the_words_do_not_change_the_pictures():
    one, four = (render_pair(WorldSettings(phrasings=n), 2, 9) for n in (1, 4))
    assert one.source.tobytes() == four.source.tobytes() and one.pair.changes == four.pair.changes


def test_quotas_hold_over_every_four_pairs_and_types_are_even():
    types = [synthetic.edit_type_at(SETTINGS, 0, index) for index in range(840)]
    for start in range(0, 840, 4):
        quota = Counter(CATEGORY_OF[name] for name in types[start : start + 4])
        assert quota == {"semantic": 1, "stylistic": 1, "structural": 2}
    counts = Counter(types)
    assert set(counts) == set(EDIT_TYPES)
    assert {counts[name] for name in EDIT_TYPES if CATEGORY_OF[name] == "structural"} == {420 // 7}


def test_a_filter_draws_only_its_types():
    settings = WorldSettings(edit_types=["move", "tone"])
    counts = Counter(render_pair(settings, 0, index).pair.edit_type for index in range(60))
    assert counts == {"move": 40, "tone": 20}
    plain = WorldSettings(textures=False)
    assert "retexture" not in plain.active_edit_types
    scenes = [synthetic.plan_pair(plain, 0, index).target for index in range(60)]
    assert {item.texture for scene in scenes for item in scene.items} == {"plain"}


def test_the_record_is_whole():
    for index in range(60):
        pair = render_pair(SETTINGS, 12, index).pair
        assert EditPair.from_json(pair.to_json()) == pair
        assert pair.id == f"syn-00000012-{index:06d}" and pair.category == CATEGORY_OF[pair.edit_type]
        assert parse(pair.instruction) == [change.facts for change in pair.changes.primary]
        assert pair.provenance["source"] == "synthetic" and pair.provenance["index"] == index
        assert 2 <= len(pair.provenance["source_scene"]["items"]) <= 4
        assert len(pair.changes.primary) == (2 if pair.edit_type == "hybrid" else 1)


@pytest.mark.parametrize("side", [96, 48, 192])
def test_every_edit_is_seen(side):
    settings = WorldSettings(canvas_size=side)
    for index in range(150):
        found = render_pair(settings, 6, index)
        assert (
            found.source.size == found.target.size == (side, side) and found.source.mode == found.target.mode == "RGB"
        )
        difference = np.abs(np.asarray(found.source, int) - np.asarray(found.target, int)).max(axis=2)
        assert (difference > 48).sum() >= 0.05 * (side / 3) ** 2, found.pair.instruction


def items(cell):
    for shape in SHAPES:
        for colour in COLOURS:
            for size in SIZES:
                for texture in TEXTURES:
                    yield Item(shape, colour, cell, size, texture)
            for count in COUNTS:
                yield Item(shape, colour, cell, "small", "plain", count)


def test_everything_stays_inside_its_cell_at_the_default_size():
    for number, item in enumerate(items((1, 1))):
        cell = CELLS[number % len(CELLS)]
        scene = Scene("white", (Item(item.shape, item.colour, cell, item.size, item.texture, item.count),))
        assert_only_in_cell(scene, cell)
    for letter in LETTERS:
        assert_only_in_cell(Scene("white", (), letter=(letter, (2, 1))), (2, 1))


def assert_only_in_cell(scene, cell):
    picture = np.asarray(render(scene, SETTINGS)).copy()
    row, col = cell
    inside = picture[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32]
    assert (inside < 200).any()
    inside[:] = 255
    assert (picture == 255).all(), scene


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"canvas_size": 100}, "canvas_size"),
        ({"grid": 4}, "grid"),
        ({"min_objects": 5}, "min_objects"),
        ({"phrasings": 0}, "phrasings"),
        ({"supersampling": 0}, "supersampling"),
        ({"edit_types": ["fly"]}, "edit_types"),
        ({"edit_types": []}, "edit_types"),
        ({"edit_types": ["retexture"], "textures": False}, "retexture"),
    ],
)
def test_wrong_settings_are_named(wrong, names):
    with pytest.raises(ValueError, match=names):
        WorldSettings(**wrong)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="seed"):
        render_pair(SETTINGS, -1, 0)


def test_no_file_of_the_world_imports_torch():
    paths = list(Path(synthetic.__file__).parent.glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])] + [getattr(node, "module", None) or ""]
            assert not (
                isinstance(node, ast.Import | ast.ImportFrom) and any(n.split(".")[0] == "torch" for n in names)
            )
