import json
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, joined
from editcaption_mega.curation.filters.column_values import read_values
from editcaption_mega.curation.filters.filter_rules import parse_rules
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter, open_shards
from editcaption_mega.records import CATEGORIES, EditPair
from tests.helpers import ROOT, chromium
from tests.helpers.curate import curate
from tests.helpers.pool import write_pool

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{ 7 * 7 }}&amp;"
COUNT = 48


def write_columns(path, pairs, rows, samples=1):
    with ColumnWork(path, pairs, path.stem, {"model": "m"}, samples=samples) as work:
        for at, columns in enumerate(rows):
            for sample, line in enumerate(columns if samples > 1 else [columns]):
                work.keep(at, line, sample=sample)
        assert work.merge()
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pairs whose score is their number; every sixth has none, every fourth a fault of the linter."""
    root = tmp_path_factory.mktemp("filter")
    with ShardWriter(root / "shards") as writer:
        for i in range(COUNT):
            shade = encode_png(Image.fromarray(np.full((40, 60, 3), 5 * i, np.uint8)))
            pair = EditPair(
                id=f"p{i:02d}", category=CATEGORIES[i % 3], edit_type="add" if i % 2 else "remove",
                instruction=HOSTILE if i == 47 else f"Instruction {i}", provenance={"license": "cc0"},
            )  # fmt: skip
            writer.add(pair, shade, "png", shade, "png")
    reader = open_shards(root / "shards")
    write_columns(
        root / "score.jsonl", reader, [{"success": i} if i % 6 else {"reason": "refused"} for i in range(COUNT)]
    )
    rows = [{"lint": ["vague"] if i % 4 == 3 else [], "identical": False, "success": 1} for i in range(COUNT)]
    write_columns(root / "lint.jsonl", reader, rows)
    texts = [[{"instruction": f"text {i}.{s}", "log_prob": -abs(s - i % 3)} for s in range(3)] for i in range(COUNT)]
    texts[5] = [{"reason": "refused"}] * 3
    write_columns(root / "caption.jsonl", reader, texts, samples=3)
    (root / "labels.jsonl").write_text(
        "".join(json.dumps({"id": f"p{i:02d}", "label": i >= 12}) + "\n" for i in range(COUNT))
    )
    return root


def run(root, output, *options):
    columns = [root / "score.jsonl", root / "lint.jsonl"]
    return curate("filter", "--shards", root / "shards", "--columns", *columns, "--output", output, *options)


def test_rules_act_in_order_and_everything_is_said(root, tmp_path, capsys):
    output = tmp_path / "kept"
    assert run(root, output, "--rules", "score.success>=10", "lint:none", "edit_type=add") == 0
    kept = [i for i in range(10, COUNT) if i % 6 and i % 4 != 3 and i % 2]
    assert f"{len(kept)} of {COUNT} pairs stay" in capsys.readouterr().out
    reader = open_shards(output)
    assert reader.ids == [f"p{i:02d}" for i in kept]
    pair = reader.pair(0)
    (made,) = pair.provenance["filters"]
    assert pair.provenance["license"] == "cc0" and pair.instruction == f"Instruction {kept[0]}"
    assert made["values"] == {"score.success": kept[0]} and made["rules"][0] == {
        "rule": "score.success>=10",
        "threshold": 10,
    }
    assert (
        made["files"]["score.jsonl"]["settings"] == {"model": "m"} and len(made["files"]["score.jsonl"]["sha256"]) == 64
    )
    assert reader.picture(0, "source") == open_shards(root / "shards").picture(kept[0], "source")
    survival = json.loads((tmp_path / "kept.survival.json").read_text())
    first, second, third = survival["stages"]
    assert (first["before"], first["dropped"], first["without_value"]) == (COUNT, 10 + 6, 8)
    assert second["before"] == COUNT - 16 and third["left"] == {
        name: sum(i % 3 == n for i in kept) for n, name in enumerate(CATEGORIES)
    }
    verdicts = [json.loads(line) for line in (tmp_path / "kept.verdicts.jsonl").read_text().splitlines()]
    assert [v["id"] for v in verdicts if v["kept"]] == reader.ids and len(verdicts) == COUNT
    assert verdicts[0]["reason"] == "score.success>=10" and verdicts[15]["reason"] == "lint:none"
    assert run(root, output, "--rules", "score.success>=10") == 2, "nothing is overwritten"


def test_pairs_without_a_value_may_pass_and_a_quantile_is_of_all_values(root, tmp_path):
    assert run(root, tmp_path / "a", "--rules", "score.success>=10?") == 0
    assert len(open_shards(tmp_path / "a")) == COUNT - 10 + 2
    assert run(root, tmp_path / "b", "--rules", "lint:none", "score.success>q0.5", "--only-page") == 0
    survival = json.loads((tmp_path / "b.survival.json").read_text())
    known = [i for i in range(COUNT) if i % 6]
    assert survival["stages"][1]["threshold"] == np.quantile(known, 0.5)
    assert not (tmp_path / "b").exists() and (tmp_path / "b.html").exists()


def test_a_precision_comes_from_labels(root, tmp_path, capsys):
    options = ["--rules", "score.success>=p0.8", "--labels", root / "labels.jsonl"]
    assert run(root, tmp_path / "kept", *options) == 0
    (stage,) = json.loads((tmp_path / "kept.survival.json").read_text())["stages"]
    told = stage["calibration"]
    assert told["threshold"] == stage["threshold"] <= 14 and told["labels"] == 40 and told["precision"] >= 0.8
    assert "on labels that chose nothing" in capsys.readouterr().out
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("".join(json.dumps({"id": f"p{i:02d}", "label": i % 2 == 0}) + "\n" for i in range(COUNT)))
    assert run(root, tmp_path / "no", "--rules", "score.success>=p0.9", "--labels", wrong) == 1
    assert "no threshold of score.success reaches a precision of 0.9" in capsys.readouterr().err
    assert not list(tmp_path.glob("no*"))


def test_quotas_by_seed(root, tmp_path):
    shares = "semantic=25,stylistic=25,structural=50"
    assert run(root, tmp_path / "a", "--quotas", shares, "--count", 24) == 0
    reader = open_shards(tmp_path / "a")
    counts = [sum(reader.pair(i).category == name for i in range(len(reader))) for name in CATEGORIES]
    assert counts == [6, 6, 12] and reader.pair(0).provenance["filters"][0]["seed"] == 0
    assert run(root, tmp_path / "b", "--quotas", shares, "--seed", 1) == 0
    assert len(open_shards(tmp_path / "b")) == 32 and open_shards(tmp_path / "b").ids != reader.ids
    assert run(root, tmp_path / "c", "--quotas", shares, "--count", 40) == 1


def test_the_best_sample_s_instruction_becomes_the_pair_s(root, tmp_path, capsys):
    texts = ["--instructions", root / "caption.jsonl", "--rules", "log_prob>=-9"]
    assert run(root, tmp_path / "none", *texts) == 2
    assert "there are 3 samples per pair: say with --best COLUMN" in capsys.readouterr().err
    assert run(root, tmp_path / "kept", *texts, "--best", "log_prob") == 0
    reader = open_shards(tmp_path / "kept")
    assert len(reader) == COUNT - 1 and "p05" not in reader.ids
    for at in (0, 7, 46):
        pair, number = reader.pair(at), int(reader.ids[at][1:])
        assert pair.instruction == f"text {number}.{number % 3}"
        assert pair.provenance["instruction"]["sample"] == number % 3
        assert pair.provenance["instruction"]["settings"] == {"model": "m"}
    (first, _) = json.loads((tmp_path / "kept.survival.json").read_text())["stages"]
    assert (first["rule"], first["dropped"]) == ("has an instruction", 1)


def test_what_no_pair_may_have_is_no_instruction(root, tmp_path):
    """Texts of files written elsewhere: what is written can be read, and what was left out is counted."""
    reader = open_shards(root / "shards")
    odd = {0: "😀", 1: "a\u0000b", 2: "  ", 3: 7, 4: ""}
    write_columns(tmp_path / "odd.jsonl", reader, [{"instruction": odd.get(i, f"text {i}")} for i in range(COUNT)])
    assert run(root, tmp_path / "kept", "--instructions", tmp_path / "odd.jsonl", "--rules", "identical=false") == 0
    kept = open_shards(tmp_path / "kept")
    assert [kept.pair(i).instruction for i in range(len(kept))] == [f"text {i}" for i in range(5, COUNT)]
    (first, _) = json.loads((tmp_path / "kept.survival.json").read_text())["stages"]
    assert (first["rule"], first["dropped"]) == ("has an instruction", 5)


def test_passes_over_one_text_are_its_mean(root, tmp_path, capsys):
    """As `score model` writes them: a line per pass, some without a score."""
    pairs = open_shards(root / "shards")
    score = tmp_path / "judged.jsonl"
    with ColumnWork(score, pairs, "score", {"passes": 3}, samples=3) as work:
        for at in range(COUNT):
            for number, value in enumerate((at, at + 3, None)):
                line = {"reason": "no JSON"} if value is None or at == 7 else {"success": value}
                work.keep(at, {"pass": number} | line, sample=number)
        work.merge()
    options = ["--columns", score, "--rules", "success>=9.5"]
    assert curate("filter", "--shards", root / "shards", "--output", tmp_path / "kept", *options) == 0
    assert open_shards(tmp_path / "kept").ids == [f"p{i:02d}" for i in range(8, COUNT)], "i + 1.5 >= 9.5"
    score = tmp_path / "both.jsonl"
    with ColumnWork(score, pairs, "score", {"passes": 2}, samples=6) as work:
        for at in range(COUNT):
            for sample in range(6):
                text, number = divmod(sample, 2)
                value = 10 * (text == at % 3) + number
                work.keep(at, {"caption": text, "pass": number, "judged": value}, sample=sample)
        work.merge()
    texts = ["--instructions", root / "caption.jsonl", "--columns", score, "--rules", "judged>=10.5"]
    output = tmp_path / "best"
    assert curate("filter", "--shards", root / "shards", "--output", output, *texts, "--best", "judged") == 0
    reader = open_shards(output)
    assert len(reader) == COUNT - 1 and reader.pair(4).instruction == "text 4.1"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--rules", "success>=1"], 2, "several files have it, say which: score.success and lint.success"),
        (["--rules", "other>=1"], 2, "no file of columns has other (there are category, edit_type, identical, "),
        (["--rules", "judge.success>=1"], 2, "no file of columns is called judge.jsonl (there are score, lint)"),
        (["--rules", "score.other>=1"], 2, "has a column 'other' (there are "),
        (["--rules", "lint>=1"], 1, "rule 'lint>=1' is about a number, and lint of pair p00 is []"),
        (["--rules", "score.success>=p0.9"], 2, "give labeled pairs with --labels FILE"),
        (["--rules", "score.success=>9"], 2, "is none: expected"),
        (["--rules", "score.success>=99"], 1, "no pair stays"),
        ([], 2, "nothing to filter by"),
        (["--rules", "lint:none", "--count", "3"], 2, "--count is shared out by --quotas"),
        (["--rules", "lint:none", "--seed", "0"], 2, "--seed is of what --quotas draw, and nothing else draws"),
        (["--rules", "lint:none", "--labels", "x.jsonl"], 2, "--labels are for rules of a precision, such as"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(root, tmp_path, capsys, options, code, words):
    assert run(root, tmp_path / "kept", *options) == code
    assert words in capsys.readouterr().err and not (tmp_path / "kept").exists()


class Many:
    """Very many pairs, of which only ids are held."""

    def __init__(self, count):
        self.ids = [f"p{i}" for i in range(count)]
        self.fingerprint = "f" * 64
        self._pair = EditPair(id="p", category="semantic", edit_type="add", instruction="x" * 500)

    def __len__(self):
        return len(self.ids)

    def pair(self, at):
        return self._pair


def test_two_files_of_one_name_are_both_named(root, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    twin = write_columns(tmp_path / "other" / "lint.jsonl", open_shards(root / "shards"), [{"vague": 1}] * COUNT)
    shards = ("filter", "--shards", root / "shards", "--rules", "success>=1", "--output", tmp_path / "kept")
    assert curate(*shards, "--columns", root / "lint.jsonl", twin) == 2
    said = capsys.readouterr().err
    assert f"one name, {root / 'lint.jsonl'} and {twin}:" in said and "rename one" in said
    assert not (tmp_path / "kept").exists()


def test_columns_of_the_pool_are_joined_to_what_a_filter_kept_of_it(root, tmp_path, capsys):
    pool, once, twice = open_shards(root / "shards"), tmp_path / "once", tmp_path / "twice"
    assert run(root, once, "--rules", "score.success>=10") == 0
    columns = [root / "score.jsonl", root / "lint.jsonl"]
    again = ("filter", "--shards", once, "--columns", *columns, "--rules", "score.success>=20", "lint:none")
    assert curate(*again, "--output", twice) == 0
    for kept in map(open_shards, (once, twice)):
        numbers = [int(identity[1:]) for identity in kept.ids]
        assert 0 < len(numbers) < COUNT and len(kept.ids) < len(pool.ids)
        rows = [
            rows
            for _, rows in joined(kept, [ColumnFile(root / name, kept) for name in ("score.jsonl", "caption.jsonl")])
        ]
        assert [line["success"] for ((line,), _) in rows] == numbers
        assert [[line["instruction"] for line in three] for _, three in rows] == [
            [f"text {i}.{s}" for s in range(3)] for i in numbers
        ]
    first = f"{root / 'score.jsonl'}:success"
    assert curate("refine-export", "--shards", twice, "--folder", tmp_path / "tasks", "--first", first) == 0
    assert len((tmp_path / "tasks/tasks.jsonl").read_text().splitlines()) == len(open_shards(twice))


def test_columns_are_joined_to_no_other_pairs_of_the_same_ids(root, tmp_path):
    kept = tmp_path / "kept"
    assert run(root, kept, "--rules", "score.success>=10") == 0
    assert curate("mirror", "--shards", kept, "--output", tmp_path / "mirrored") == 0
    said = tmp_path / "kept.survival.json"
    (tmp_path / "mirrored.survival.json").write_bytes(said.read_bytes())  # it is of other content
    assert ColumnFile(root / "score.jsonl", open_shards(kept)).samples == 1
    said.unlink()
    for folder in (tmp_path / "mirrored", kept):
        with pytest.raises(ValueError, match=r"is about another set .*FOLDER\.survival\.json, which has to lie beside"):
            ColumnFile(root / "score.jsonl", open_shards(folder))


def test_memory_is_9_bytes_per_rule_and_pair(tmp_path):
    many = Many(20_000)
    path = tmp_path / "score.jsonl"
    head = {"format": "columns 1", "step": "score", "of": many.fingerprint, "samples": 1, "settings": {}}
    with open(path, "w") as file:
        file.write(json.dumps(head) + "\n")
        file.writelines(json.dumps({"id": i, "success": 7, "reply": "y" * 500}) + "\n" for i in many.ids)
    files = [ColumnFile(path, many)]
    tracemalloc.start()
    values = read_values(many, files, parse_rules(["success>=5", "edit_type=add"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = sum(a.nbytes for a in (*values.numbers.values(), *values.marks.values(), values.category, values.sample))
    assert arrays == 20_000 * (8 + 1 + 1 + 4)
    assert peak < arrays + 1_500_000, "the file is 11 MB"


@pytest.mark.skipif(chromium.executable() is None, reason="no Chromium here")
def test_the_page_shows_everything_and_obeys_nothing(root, tmp_path):
    options = ["--rules", "score.success>=p0.8", "lint:none", "--labels", root / "labels.jsonl", "--only-page"]
    assert run(root, tmp_path / "kept", *options) == 0
    html = (tmp_path / "kept.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    with chromium.Page(tmp_path / "profile") as page:
        page.open((tmp_path / "kept.html").as_uri())
        assert page.run("document.title").startswith("Filter: ") and page.run("document.scripts.length") == 0
        assert HOSTILE in page.run("document.body.innerText")
        assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.run("document.querySelectorAll('.sheet li').length") > 20
        assert page.run("document.querySelectorAll('.bars rect').length") > 20
        assert page.run("document.querySelectorAll('polyline').length") == 2
        for width in (1280, 390):
            page.resize(width, 900)
            assert page.run("document.documentElement.scrollWidth <= window.innerWidth"), width
        assert page.complaints == [] and page.requests == [(tmp_path / "kept.html").as_uri()]
        page.resize(1280, 900)
        page.screenshot(tmp_path / "page.png", whole=True)


def test_a_rule_that_the_linter_lacks_and_empty_quotas_are_refused(root, tmp_path, capsys):
    for rule in ("lint:zzz", "lint:!zzz", "lint.lint:zzz"):
        assert run(root, tmp_path / "kept", "--rules", rule) == 2
        assert (
            f"rule '{rule}': the linter has no such rule; expected none or one of direction" in capsys.readouterr().err
        )
    assert run(root, tmp_path / "kept", "--rules", "success>=6", "--quotas", "") == 2
    assert "--quotas is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_filter_that_is_killed_writes_the_same_files_when_it_is_called_again(tmp_path):
    pool = write_pool(tmp_path / "shards", 3000, instruction="Make the sky darker.")
    scores = write_columns(tmp_path / "score.jsonl", pool, [{"success": i % 7} for i in range(3000)])

    def command(name):
        options = ["--shards", tmp_path / "shards", "--columns", scores, "--rules", "success>=2"]
        command = ["tools/curate.py", "filter", *options, "--output", tmp_path / name / "kept"]
        return [sys.executable, *map(str, command)]

    def files(name):
        return {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }

    subprocess.run(command("whole"), cwd=ROOT, check=True)
    killed_while_writing = 0
    for _ in range(3):
        process = subprocess.Popen(command("killed"), cwd=ROOT)
        while process.poll() is None and not list((tmp_path / "killed").glob("*/*.tar*")):
            time.sleep(0.002)
        process.kill()
        process.wait()
        killed_while_writing += process.returncode < 0
        assert not (tmp_path / "killed/kept/index.json").exists()
    assert killed_while_writing == 3
    subprocess.run(command("killed"), cwd=ROOT, check=True)
    assert len(files("whole")) >= 5 and files("killed") == files("whole")
