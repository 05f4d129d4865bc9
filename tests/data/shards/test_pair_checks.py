"""What an import refuses and doubts, counted and named; a folder that exists is checked the same way."""

import io
import json
import os
import resource

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.cli import exit_code
from editcaption_mega.data import open_shards
from editcaption_mega.data.importers import FORMATS, ImportOptions, Rejected
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.pair_checks import Look, PairChecks, PairLook, own_remarks
from editcaption_mega.data.shards.reader import ShardError, ShardWriter, verify
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.records import EditPair
from tests.helpers import ROOT
from tests.helpers.image_bytes import encoded
from tests.helpers.shared_data import shared_path


def picture(seed, size=(64, 48)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def smooth(shift=0, size=(128, 96)):
    """As photographs are: neighbours alike, so that JPEG changes little."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    return Image.fromarray(np.stack([x + shift, y, x // 2 + y // 2], -1).astype(np.uint8))


def again(image, kind="JPEG", **options):
    return Image.open(io.BytesIO(encoded(image, kind, **options))).convert("RGB")


def scene(seed, size=(192, 144)):
    """Edges and colours on a smooth ground."""
    image, rng = smooth(size=size), np.random.default_rng(seed)
    for _ in range(9):
        x, y, width, height = (int(value) for value in rng.integers(0, 100, 4))
        image.paste(tuple(int(value) for value in rng.integers(0, 256, 3)), (x, y, x + width, y + height))
    return image


PAIR = EditPair(id="a", category="semantic", edit_type="x", instruction="Change it.")


def remarks_of(checks, pair, source, target):
    """Of two pictures, which are kept for later pairs."""
    source, target = Look.of(source), Look.of(target)
    look = PairLook.of(pair, source, target)
    remarks = [*own_remarks(pair, source, target), *checks.repeats(look)]
    checks.keep(look)
    return remarks


class Rows:
    """A JSONL and its pictures, added row by row."""

    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def add(self, identity, source, target, kind="PNG", **fields):
        row = {
            "id": identity,
            "category": "semantic",
            "edit_type": "add",
            "instruction": f"Add {identity} to it.",
        } | fields
        for which, image in (("source", source), ("target", target)):
            row[which] = f"{identity}.{which}.{kind.lower()}"
            data = image if isinstance(image, bytes) else encoded(image, kind)
            (self.folder / row[which]).write_bytes(data)
        self.lines.append(json.dumps(row))
        return self

    def path(self):
        path = self.folder / "pairs.jsonl"
        path.write_text("".join(line + "\n" for line in self.lines))
        return str(path)

    def ingest(self, **options):
        return ingest(FORMATS["jsonl"].read(self.path(), ImportOptions()), self.folder / "out", **options)

    def listed(self, name):
        path = self.folder / "out" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def rows(tmp_path):
    return Rows(tmp_path).add("good", picture(1), picture(2))


REFUSED = {
    "source and target are the same picture": (picture(3), picture(3), {}),
    "source image is more than 200 times longer than wide": (picture(3, (4020, 20)), picture(4, (4000, 20)), {}),
    "the instruction is a refusal": (picture(3), picture(4), {"instruction": "I'm sorry, I can't help with that."}),
    "the chosen is a refusal": (picture(3), picture(4), {"chosen": "抱歉，我无法提供。", "rejected": "Make it blue."}),
    "the same pictures and texts as another pair": (picture(1), picture(2), {"instruction": "add  GOOD to it."}),
}
DOUBTED = {
    "source image is tiny": (picture(3, (1, 1)), picture(4, (1, 1)), {}),
    "source and target differ in aspect ratio": (picture(3, (64, 48)), picture(4, (48, 64)), {}),
    "source and target differ in size": (picture(3, (64, 48)), picture(4, (640, 480)), {}),
    "source and target look the same": (smooth(), again(smooth(), quality=85), {}),
    "the same pictures as another pair, with another text": (picture(1), picture(2), {"instruction": "Paint a cat."}),
    "source and target of another pair, swapped": (picture(2), picture(1), {}),
    "the instruction holds a placeholder": (picture(3), picture(4), {"instruction": "Turn it into [v*]"}),
    "the instruction holds HTML": (picture(3), picture(4), {"instruction": "<p>Make it blue</p>"}),
    "the instruction repeats itself": (picture(3), picture(4), {"instruction": "blue " * 800}),
    "the rejected holds a placeholder": (picture(3), picture(4), {"chosen": "Make it blue.", "rejected": "n/a"}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_teaches_nothing_is_rejected_and_the_import_goes_on(rows, kind):
    source, target, fields = REFUSED[kind]
    report = rows.add("bad", source, target, **fields).add("after", picture(5), picture(6)).ingest()
    assert (report.accepted, report.rejected, report.warned) == (2, 1, 0)
    (bad,) = rows.listed("rejected.jsonl")
    assert bad["line"] == 2 and bad["id"] == "bad" and bad["reason"].startswith(kind)
    ((counted, times),) = report.reasons.items()
    assert counted.startswith(kind) and "'" not in counted and times == 1


@pytest.mark.parametrize("kind", DOUBTED)
def test_what_somebody_should_look_at_is_counted_and_listed(rows, kind):
    source, target, fields = DOUBTED[kind]
    report = rows.add("odd", source, target, **fields).ingest()
    assert (report.accepted, report.rejected, report.warned) == (2, 0, 1) and report.warnings[kind] == 1
    listed = rows.listed("warnings.jsonl")
    assert {line["id"] for line in listed} == {"odd"} and {line["line"] for line in listed} == {2}
    assert any(line["warning"].startswith(kind) for line in listed)


def test_duplicates_are_known_by_their_pixels_whatever_the_file(rows):
    for number, kind in enumerate(("PNG", "WEBP", "BMP", "TIFF")):
        options = {"lossless": True} if kind == "WEBP" else {}
        source, target = (encoded(picture(seed), kind, **options) for seed in (1, 2))
        rows.add(f"again-{number}", source, target, instruction="Add good to it.")
        rows.add(f"same-{number}", source, encoded(picture(1), "PNG", compress_level=1))
    report = rows.ingest()
    assert (report.accepted, report.rejected) == (1, 8)
    assert report.reasons == {
        "the same pictures and texts as another pair": 4, "source and target are the same picture": 4,
    }  # fmt: skip


def test_a_rejected_row_is_no_pair_that_others_could_repeat(rows):
    rows.add("bad id", picture(3), picture(4), instruction="Add x.").add(
        "x", picture(3), picture(4), instruction="Add x."
    )
    assert rows.ingest().accepted == 2


def test_one_source_with_several_targets_is_no_remark(rows):
    report = rows.add("b", picture(1), picture(3)).add("c", picture(2), picture(3)).ingest()
    assert (report.accepted, report.warned) == (3, 0)


@pytest.mark.parametrize("edit", ["small object", "brighter", "one block"])
def test_small_edits_do_not_look_the_same(edit):
    source = smooth()
    target = source.copy()
    if edit == "small object":
        target.paste((255, 0, 0), (30, 30, 42, 42))
    elif edit == "brighter":
        target = target.point(lambda value: min(255, value + 6))
    else:
        target.paste((0, 0, 0), (64, 40, 72, 48))
    assert remarks_of(PairChecks(), PAIR, source, target) == []


@pytest.mark.parametrize("kind, quality", [("JPEG", 95), ("JPEG", 75), ("JPEG", 60), ("WEBP", 85), ("WEBP", 60)])
def test_a_picture_saved_anew_looks_the_same(kind, quality):
    source = scene(1)
    (remark,) = remarks_of(PairChecks(), PAIR, source, again(source, kind, quality=quality))
    assert remark.kind == "source and target look the same"


def in_disguise(image, how):
    if how == "half":
        return image.resize((image.width // 2, image.height // 2))
    return again(image, how, quality=75)


@pytest.mark.parametrize("how", ["JPEG", "WEBP", "half"])
def test_a_pair_in_disguise_is_known_with_its_text_another_and_swapped(rows, how):
    pictures = scene(1), scene(2)
    disguised = [in_disguise(image, how) for image in pictures]
    rows.add("a", *pictures, instruction="Add a hat.").add("b", *disguised, instruction="add a  hat.")
    rows.add("c", disguised[1], pictures[0], instruction="Add a hat.")
    report = rows.add("e", in_disguise(pictures[0], how), pictures[1], instruction="Remove it.").ingest()
    assert (report.accepted, report.warned) == (5, 3)
    start = "pictures that look like those of another pair, "
    assert report.warnings == {start + "with the same text": 1, start + "with another text": 1, start + "swapped": 1}


def test_rendered_pairs_and_edits_of_one_picture_do_not_look_alike():
    checks = PairChecks()
    remarks = []
    for index in range(100):
        rendered = render_pair(WorldSettings(), 0, index)
        remarks += remarks_of(checks, rendered.pair, rendered.source, rendered.target)
    source = scene(1)
    for number in range(8):
        target = source.copy()
        target.paste((255, 0, 0), (20 * number, 30, 20 * number + 16, 46))
        pair = PAIR.model_copy(update={"id": f"edit-{number}"})
        remarks += remarks_of(checks, pair, source, target)
    assert remarks == []


def test_the_real_pairs_do_not_look_alike():
    folder = shared_path("real_pairs")
    checks = PairChecks()
    for number, row in enumerate(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["pairs"]):
        pictures = [Image.open(folder / row[which]["file"]).convert("RGB") for which in ("src", "tgt")]
        pair = PAIR.model_copy(update={"id": str(number)})
        assert not any("look" in remark.kind for remark in remarks_of(checks, pair, *pictures)), row["id"]


def test_strict_and_most_rejected_leave_no_set(rows):
    rows.add("same", picture(3), picture(3)).add("odd", picture(4), picture(5), instruction="[v*]")
    with pytest.raises(
        ShardError, match="33.3% of the rows were rejected, more than 33.0%, so no set .*1 x source and"
    ):
        rows.ingest(most_rejected=0.33)
    with pytest.raises(
        ShardError, match="so no set was written: 1 row.s. rejected: .*; 1 pair.s. with warnings: 1 x the"
    ):
        rows.ingest(strict=True)
    assert sorted(path.name for path in (rows.folder / "out").iterdir()) == ["rejected.jsonl", "warnings.jsonl"]
    assert rows.ingest(most_rejected=0.34).accepted == 2


def tool(name):
    import importlib.util

    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: exit_code(module.main, [str(argument) for argument in arguments])


def test_the_tools_say_what_they_counted(rows, capsys):
    rows.add("same", picture(3), picture(3)).add("odd", picture(4), picture(5), instruction="[v*]")
    make, check = tool("make_shards"), tool("validate_shards")
    base = ["--format", "jsonl", "--input", rows.path(), "--output", rows.folder / "out"]
    assert make(*base, "--strict") == 1 and "no set was written" in capsys.readouterr().err
    assert make(*base, "--most-rejected", "30%") == 1 and make(*base, "--most-rejected", "0.3") == 1
    for bad in ("30", "x", "-1", "nan", "101%"):
        with pytest.raises(SystemExit) as stopped:
            make(*base, "--most-rejected", bad)
        assert stopped.value.code == 2
    capsys.readouterr()
    for bad, words in (("-5%", "is written --OPTION=VALUE"), ("=-5%", "expected a share such as 5% or 0.05")):
        with pytest.raises(SystemExit):
            make(*base, *(["--most-rejected" + bad] if bad[0] == "=" else ["--most-rejected", bad]))
        assert words in capsys.readouterr().err
    os.mkfifo(rows.folder / "pipe")
    for name, value, words in (
        ("--output", "", "--output is empty: give a path"),
        ("--input", " ", "--input is empty: give a path"),
        ("--input", rows.folder / "pipe", "pipe: a pipe or device, expected a plain file"),
    ):
        assert make(*base, name, value) == 2 and words in capsys.readouterr().err
    assert make(*base, "--most-rejected", "50%") == 0
    told = capsys.readouterr().err
    assert (
        "1 row(s) rejected (33.3% of all), listed in" in told and "  1 x source and target are the same picture" in told
    )
    assert "1 pair(s) with warnings, listed in" in told and "  1 x the instruction holds a placeholder" in told
    assert check(rows.folder / "out") == 0
    told = capsys.readouterr()
    assert "2 pairs whole and sound" in told.out and "1 pair(s) with warnings (--warnings lists them)" in told.err
    assert check(rows.folder / "out", "--strict", "--warnings") == 1
    assert "odd: warning: the instruction holds a placeholder: '[v*]'" in capsys.readouterr().out


def test_a_folder_that_exists_is_checked_as_an_import_is(tmp_path, capsys):
    with ShardWriter(tmp_path / "old") as writer:
        for number, (source, target, fields) in enumerate([*REFUSED.values(), *DOUBTED.values()]):
            texts = {"instruction": f"Do {number}."} | fields
            pair = EditPair(id=f"p{number}", category="semantic", edit_type="x", **texts)
            writer.add(pair, encoded(source), "png", encoded(target), "png")
        first = EditPair(id="twin", category="semantic", edit_type="x", instruction="Do 1.")
        writer.add(first, encoded(picture(3)), "png", encoded(picture(4)), "png")
        writer.add(first.model_copy(update={"id": "twin-2"}), encoded(picture(3)), "png", encoded(picture(4)), "png")
    doubts = []
    problems = {
        checked.name: checked.problems for checked in verify(tmp_path / "old", doubt=lambda *one: doubts.append(one))
    }
    kinds = list(REFUSED)
    for number in range(4):
        assert problems[f"p{number}"][0].startswith(kinds[number])
    assert problems["twin-2"] == ["the same pictures and texts as another pair, 'twin'"] and problems["twin"] == []
    assert {remark.kind for _, remark in doubts} >= set(DOUBTED) - {
        "source and target of another pair, swapped", "the same pictures as another pair, with another text"
    }  # fmt: skip
    assert tool("validate_shards")(tmp_path / "old") == 1
    assert "p0: source and target are the same picture" in capsys.readouterr().out


def test_a_full_disk_is_named_and_nothing_stays(tmp_path):
    noise = encoded(picture(1, (200, 200)), "PNG")
    rows = Rows(tmp_path)
    for number in range(4):
        rows.add(f"row-{number}", noise, encoded(picture(number + 2, (200, 200)), "PNG"))
    rows.path()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # as a full disk: a write that is not taken
    try:
        with pytest.raises(OSError) as error:
            rows.ingest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / "out" / "shard-000000.tar.partial")
    assert not (tmp_path / "out").exists()


def test_a_kind_is_the_same_whatever_stands_in_brackets(tmp_path):
    reasons = [
        "not valid JSON (Expecting ',' delimiter: line 1 (char 0))",
        "not valid JSON (a (b) c (d)) ",
        "not valid JSON (",
    ]
    report = ingest(
        [Rejected(number, None, reason) for number, reason in enumerate(reasons)]
        + list(FORMATS["jsonl"].read(Rows(tmp_path).add("good", picture(1), picture(2)).path(), ImportOptions())),
        tmp_path / "out",
    )
    assert [kind.strip() for kind in report.reasons] == ["not valid JSON"] * len(report.reasons)
    assert report.rejected == 3


def test_provenance_that_a_user_keeps_under_images_stays(tmp_path):
    rows = Rows(tmp_path).add("a", picture(1), picture(2), kind="BMP", provenance={"images": "mine"})
    report = rows.ingest()
    assert report.warnings == {"provenance.images is needed for what an import does to pictures": 1}
    (warning,) = rows.listed("warnings.jsonl")
    assert warning["warning"].endswith("what it held is now provenance.images_before")
    provenance = open_shards(tmp_path / "out")[0].pair.provenance
    assert provenance["images_before"] == "mine" and set(provenance["images"]) == {"source", "target"}
