"""What the command says, writes and refuses; names and texts of pairs are text in the page, not HTML."""

import json

import pytest

from editcaption_mega.cli import exit_code
from editcaption_mega.commands import duplicates
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair


def write(folder, rows):
    with ShardWriter(folder) as writer:
        for identity, index, change in rows:
            rendered = render_pair(WorldSettings(), 3, index)
            pair = rendered.pair.model_copy(update={"id": identity, "instruction": "Add <b>it</b> & go."})
            source, target = (encode_png(change(image)) for image in (rendered.source, rendered.target))
            writer.add(pair, source, "png", target, "png")
    return folder


def same(image):
    return image


def larger(image):
    return image.resize((image.width * 2, image.height * 2))


@pytest.fixture
def sets(tmp_path):
    train = write(tmp_path / "train", [*((f"t{k}", k, same) for k in range(8)), ("again", 4, larger)])
    bench = write(tmp_path / "bench", [("b0", 20, same), ("b1", 6, larger)])
    return train, bench


def run(*words):
    return exit_code(duplicates.main, list(map(str, words)))


def test_an_evaluation_pair_that_is_trained_on_is_refused(sets, tmp_path, capsys):
    train, bench = sets
    page, rows = tmp_path / "twice.html", tmp_path / "twice.jsonl"
    command = [train, "--evaluation", bench, "--page", page, "--rows", rows, "--workers", 1]
    assert run(*command) == 1
    out = capsys.readouterr()
    assert f"pair b1 of {bench} is pair t6 of {train} (re-encoded or resized): what is measured" in out.err
    assert "1 pair(s) in it twice: re-encoded or resized" in out.out
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {(row["id"], row["other_id"], row["kind"], row["swapped"]) for row in written} == {
        ("again", "t4", "re-encoded or resized", False),
        ("b1", "t6", "re-encoded or resized", False),
    }
    html = page.read_text()
    assert "default-src 'none'" in html and "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert "<b>it</b>" not in html and "Add &lt;b&gt;it&lt;/b&gt; &amp; go." in html
    assert html.count("data:image/") == 8  # both pairs of two duplicates, two pictures each
    assert run(*command, "--allow-evaluation") == 0


def test_sets_that_share_nothing_pass(sets, tmp_path, capsys):
    train, bench = sets
    other = write(tmp_path / "other", [("o", 30, same)])
    assert run(other, "--evaluation", write(tmp_path / "bench2", [("x", 31, same)]), "--strict") == 0
    assert "2 pairs compared: 0 are there twice" in capsys.readouterr().out
    assert run(train) == 0 and run(train, "--strict") == 1
    assert "1 pair(s) are there twice, which --strict does not allow" in capsys.readouterr().err


def test_a_pair_without_a_change_is_counted(tmp_path, capsys):
    image = encode_png(render_pair(WorldSettings(), 3, 0).source)
    with ShardWriter(tmp_path / "set") as writer:
        writer.add(render_pair(WorldSettings(), 3, 0).pair, image, "png", image, "png")
    assert run(tmp_path / "set", "--rows", tmp_path / "rows.jsonl") == 0
    assert "1 pair(s) whose source and target are the same picture" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.jsonl").read_text())["kind"] == "source and target are the same picture"
