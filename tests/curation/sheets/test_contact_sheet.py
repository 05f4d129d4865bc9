"""The page of a check: problems first, then warnings, then a sample that the seed draws."""

import re

import pytest

from editcaption_mega.cli import exit_code
from editcaption_mega.commands import validate_shards
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers import ROOT

QWEN = ROOT / "tests/data_files/qwen_cut"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet") / "set"
    with ShardWriter(folder) as writer:
        for index in range(20):
            rendered = render_pair(WorldSettings(), 3, index)
            text = "Write <b>it</b>." if index == 11 else rendered.pair.instruction
            pair = rendered.pair.model_copy(update={"id": f"p{index}", "instruction": text})
            source = encode_png(rendered.source)
            target = source if index == 15 else encode_png(rendered.target)
            writer.add(pair, source, "png", target, "png")
    return folder


def sheet(folder, path, *words):
    code = exit_code(validate_shards.main, [str(folder), "--contact-sheet", str(path), *map(str, words)])
    return code, re.findall(r"<small>(p\d+)", path.read_text())


def test_problems_come_first_then_warnings_then_a_sample(folder, tmp_path, capsys):
    code, shown = sheet(folder, tmp_path / "a.html", "--pairs", 6)
    assert code == 1 and shown[0] == "p15" and len(shown) == len(set(shown)) == 6 and "p11" in shown[1:]
    html = (tmp_path / "a.html").read_text()
    assert "source and target are the same picture" in html and "holds HTML" in html
    assert "Write &lt;b&gt;it&lt;/b&gt;." in html and "<b>it</b>" not in html
    assert html.count("data:image/") == 12 and "<script" not in html
    assert sheet(folder, tmp_path / "b.html", "--pairs", 6)[1] == shown
    assert sheet(folder, tmp_path / "b.html", "--pairs", 6, "--seed", 1)[1] != shown
    assert "structural" in capsys.readouterr().out


def test_processes_say_what_this_one_does(folder, tmp_path, capsys):
    outs = []
    for workers in (1, 2):
        assert exit_code(validate_shards.main, [str(folder), "--warnings", "--workers", str(workers)]) == 1
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] and "p15: source and target are the same picture" in outs[0]


def test_a_tokenizer_counts_the_texts(folder, capsys):
    assert exit_code(validate_shards.main, [str(folder), "--tokenizer", str(QWEN)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "tokens in the mean over 20 pairs" in line]
    assert re.search(r"instruction: \d+\.\d tokens .*, \d+ at most \(p\d+\)", line)


def test_the_quota_says_what_is_scarce(folder, tmp_path, capsys):
    with ShardWriter(tmp_path / "set") as writer:
        for index in range(12):
            rendered = render_pair(WorldSettings(), 4, index)
            if rendered.pair.category != "stylistic" or index < 4:
                writer.add(rendered.pair, encode_png(rendered.source), "png", encode_png(rendered.target), "png")
    assert exit_code(validate_shards.main, [str(tmp_path / "set")]) == 0
    out = capsys.readouterr().out
    assert "stylistic: 1 pairs, 10.0% (paper: 25%)" in out
    assert "in the paper's shares 4 pairs at most, as stylistic ones are scarce: editcaption curate filter" in out
