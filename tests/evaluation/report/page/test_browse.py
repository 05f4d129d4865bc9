"""Shards in a browser: what the pairs hold is on the page, as text, and the pairs that are shown are said."""

import pytest

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.evaluation.report.page.browse import open_sets, write_browser
from tests.helpers.chromium import Page, executable

EVIL = "Remove the </script><img src=x onerror=alert(1)> star."
SHOWN = "document.getElementById('count').textContent"


def write_shards(folder, count=12):
    """Every third pair is a preference pair, every third has no text at all."""
    with ShardWriter(folder) as writer:
        for i in range(count):
            made = render_pair(WorldSettings(), 8, i)
            fields = {"provenance": {"license": "CC0-1.0", "made": {"by": f"<b>{i}</b>"}}}
            if i % 3 == 0:
                fields |= {"chosen": EVIL, "rejected": "wrong", "failure_modes": ["detail"], "severity": 0.5}
            if i % 3 != 1:
                fields |= {"instruction": None}
            if i % 3 == 2:
                fields |= {"changes": None}
            pair = made.pair.model_copy(update=fields)
            writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")
    return folder


def test_some_pairs_are_drawn_by_the_seed_and_sets_have_names(tmp_path):
    first, second = write_shards(tmp_path / "a/train"), write_shards(tmp_path / "b/train", 3)
    (some, total), (rest, _) = open_sets([str(first), str(second)], 5, seed=1)
    assert (some.name, rest.name) == (str(first), str(second)), "folders of one name are called by their paths"
    assert (len(some), total, len(rest)) == (5, 12, 3)
    ids = [name for name in some.reader.ids if name in some.ids]
    assert ids == list(some.ids), "in the order of the shards"
    assert open_sets([str(first)], 5, seed=1)[0].benchmark.ids == some.ids
    assert open_sets([str(first)], 5, seed=2)[0].benchmark.ids != some.ids
    assert open_sets([str(first)], 5, seed=1)[0].benchmark.name == "train"
    with pytest.raises(ValueError, match="a folder is named twice"):
        open_sets([str(first), str(first)], 5, seed=1)
    with pytest.raises(ValueError, match=r"has no|no index.json|no such folder"):
        open_sets([str(tmp_path / "nowhere")], 5, seed=1)


def test_the_file_is_whole_or_not_there(tmp_path):
    shards, output = write_shards(tmp_path / "pairs"), tmp_path / "page.html"
    write_browser(output, open_sets([str(shards)], 100, 0))
    page = output.read_text()
    assert EVIL not in page and "<b>0</b>" not in page, "data is never markup"
    assert page.count('id="pictures-') == 12 and "12 pairs of pairs: all there are." in page
    assert "chosen and rejected 4 (33 %)" in page and "detail 4 (33 %)" in page and "CC0-1.0 12 (100 %)" in page
    shards_file = next(shards.glob("*.tar"))
    shards_file.write_bytes(shards_file.read_bytes()[:-20000] + b"\0" * 20000)
    with pytest.raises(ValueError):
        write_browser(output, open_sets([str(shards)], 100, 0))
    assert output.read_text() == page and [p.name for p in tmp_path.iterdir()] == ["pairs", "page.html"]


@pytest.mark.skipif(executable() is None, reason="needs Chromium or Chrome")
def test_a_reader_finds_texts_facts_and_only_filters_that_mean_something(tmp_path):
    output = tmp_path / "page.html"
    write_browser(output, open_sets([str(write_shards(tmp_path / "pairs"))], 100, 0))
    with Page(tmp_path / "profile") as page:
        page.open(output.as_uri())
        page.wait("document.querySelectorAll('.row').length > 5", 60)
        assert page.run(SHOWN) == "12 of 12 samples"
        texts = "[...document.querySelectorAll('#answers h5, #answers .said')].map((one) => one.textContent)"
        assert page.run(texts) == ["chosen", EVIL, "rejected", "wrong"]
        facts = page.run("[...document.querySelectorAll('#facts dd')].map((one) => one.textContent)")
        assert {"detail", "0.5", "CC0-1.0", "<b>0</b>"} <= set(facts)
        hidden = page.run("[...document.querySelectorAll('.of-judges')].map((one) => one.offsetParent === null)")
        assert len(hidden) == 6 and all(hidden)
        rows = page.run("[...document.querySelectorAll('.row .snippet')].map((one) => one.textContent)")
        assert rows[0] == EVIL and rows[2] == ""
        page.run("document.getElementById('samples').scrollIntoView()")
        page.press("ArrowRight")
        page.press("ArrowRight")
        assert page.run("document.getElementById('answers').textContent") == "Instructionsnone for this pair"
        model = "document.getElementById('filters').elements.model"
        page.run(f"{model}.value = '0', {model}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        assert page.run(SHOWN) == "4 of 12 samples"
        assert page.complaints == [] and page.requests == [output.as_uri()]
        page.resize(390, 800, mobile=True)
        assert page.run("document.documentElement.scrollWidth") == 390
