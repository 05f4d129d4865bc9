"""The report's files, and what makes its page safe and small."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.evaluation.report.join import join
from editcaption_mega.evaluation.report.numbers import Mean, ModelScores
from editcaption_mega.evaluation.report.page.html import ReportOptions
from editcaption_mega.evaluation.report.page.plots import floor_of, score_plot
from editcaption_mega.evaluation.report.page.self_contained import script_json
from editcaption_mega.evaluation.report.page.thumbnails import (
    LEAST_BYTES,
    MOST_BYTES,
    THUMBNAIL_SIDE,
    byte_budget,
    shrunk,
)
from editcaption_mega.evaluation.report.tables.agreement_table import agreement_table
from editcaption_mega.evaluation.report.write import write_report
from editcaption_mega.progress_display import progress
from tests.helpers.report_samples import judged, people, synthetic_benchmark, written

EVIL = "</script><img src=x onerror=alert(1)><!--<script>\u2028\u2029 {{ 7 * 7 }}"


class Page(HTMLParser):
    """Scripts by id or type, and the names of all other elements."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.tags, self.policy, self._open = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "script":
            self._open = attributes
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_data(self, data):
        if self._open is not None:
            self.scripts.append((self._open, data))

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    benchmark = synthetic_benchmark(folder / "shards", 12, "set <i>one</i>")
    good, bad = written(benchmark, "good"), written(benchmark, "<b>bad</b>", mistakes=0.8)
    bad[0] = bad[0].model_copy(update={"instruction": EVIL})
    bad[1] = bad[1].model_copy(update={"instruction": None, "reason": EVIL})
    rows = good + bad
    verdicts = people(benchmark, good)
    verdicts[0] = verdicts[0].model_copy(update={"remark": EVIL})
    facts = [("prompts", EVIL)]
    judgements = judged(benchmark, rows, repeats=2, wobble=0.5)
    about = {"reasoning": {"accuracy": "as I see it"}, "replies": {"clarity": EVIL + "x" * 1000}}
    judgements[0] = judgements[0].model_copy(update={"provenance": about})
    numbers = write_report(
        folder / "out", join([benchmark], rows, judgements, verdicts), ReportOptions(facts=facts, draws=200)
    )
    return folder / "out", numbers, benchmark


def test_the_five_files(folder):
    output, numbers, _ = folder
    assert sorted(path.name for path in output.iterdir()) == [
        "numbers.json", "report.html", "tables.csv", "tables.md", "tables.tex",
    ]  # fmt: skip
    # Tuples become lists, nothing else changes.
    assert json.loads((output / "numbers.json").read_text()) == json.loads(json.dumps(numbers))
    mean = numbers["scores"]["rule judge"]["set <i>one</i>"]["good"]["means"]["accuracy"]
    assert mean["value"] == 5 and mean["scored"] == 12
    rows = csv.DictReader(io.StringIO((output / "tables.csv").read_text()))
    assert any(row["row"] == "good" and row["column"] == "Acc" and float(row["value"]) == 5 for row in rows)


def test_B4_what_the_judge_wrote_is_in_the_page(folder):
    page = (folder[0] / "report.html").read_text()
    assert '"words":{"accuracy":["as I see it"],"clarity":["\\u003c/script>' in page
    assert "x" * 500 in page and "x" * 1000 not in page


def test_nothing_of_the_data_becomes_markup(folder):
    text = (folder[0] / "report.html").read_text()
    page = Page(text)
    assert not any(tag in ("i", "h7") or "onerror" in attributes for tag, attributes in page.tags)
    assert not any(attributes.get("src") for _, attributes in page.tags)  # pictures come when they are shown
    data = json.loads("".join(data for attributes, data in page.scripts if attributes.get("class") == "samples"))
    overview = json.loads(next(data for attributes, data in page.scripts if attributes.get("id") == "overview"))
    assert data[0]["texts"][overview["models"].index("<b>bad</b>")] == EVIL
    assert data[1]["texts"][1] == {"reason": EVIL} and data[0]["people"][0][0][3] == EVIL
    assert (
        "&lt;b&gt;bad&lt;/b&gt;" in text
        and "{{ 7 * 7 }}" in text
        and "\u2028" not in "".join(d for _, d in page.scripts)
    )


def test_only_our_script_and_style_may_run(folder):
    page = Page((folder[0] / "report.html").read_text())
    assert page.policy.startswith("default-src 'none'; img-src data: blob:;") and "unsafe" not in page.policy
    (script,) = [data for attributes, data in page.scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    assert not any(
        "style" in attributes or any(name.startswith("on") for name in attributes) for _, attributes in page.tags
    )


def test_pictures_stand_in_the_order_of_the_samples(folder):
    output, _, benchmark = folder
    page = Page((output / "report.html").read_text())
    texts = [data for attributes, data in page.scripts if attributes.get("type") == "text/plain"]
    assert len(texts) == len(benchmark)
    for item, text in zip(benchmark, texts, strict=True):
        for original, part in zip((item.source, item.target), text.split(" "), strict=True):
            mime, encoded = part.split(",")
            assert base64.b64decode(encoded) == original and mime == "image/png"  # small enough to stay as they are


def test_bad_rows_are_refused_before_anything_is_written(folder, tmp_path):
    with pytest.raises(ValueError, match="does not fit benchmark"):
        write_report(tmp_path / "out", join([folder[2]], written(folder[2], "m")[1:]))
    joined = join([folder[2]], written(folder[2], "m"))
    with pytest.raises(ValueError, match="there is no model 'n' to compare; models here: m"):
        write_report(tmp_path / "out", joined, ReportOptions(before_after=("m", "n")))
    assert not (tmp_path / "out").exists()


def test_a_report_before_any_judging(folder, tmp_path, capsys):
    write_report(tmp_path, join([folder[2]], written(folder[2], "m")), progress=progress)
    assert "No judge has scored them yet" in (tmp_path / "report.html").read_text()
    assert "pictures of the report: 12 of 12 in" in capsys.readouterr().err


def noise(side=700):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side * 3 // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_keep_their_budget():
    data = noise()
    for budget in (24_000, 9_000):
        mime, small = shrunk(data, budget)
        size = decode_image(small).size
        assert mime == "image/webp" and len(small) <= budget and max(size) <= THUMBNAIL_SIDE
        assert size[0] / size[1] == pytest.approx(0.75, abs=0.02)
    assert max(decode_image(shrunk(data, 10)[1]).size) == 128  # never smaller, whatever the budget


def test_the_budget_of_a_picture():
    assert byte_budget(100, 56_000_000) == MOST_BYTES and byte_budget(10**6, 56_000_000) == LEAST_BYTES
    assert 4000 * byte_budget(4000, 48_000_000) * 4 / 3 <= 48_000_000


def test_json_that_is_safe_in_a_script_element():
    text = script_json({"a": EVIL})
    assert "<" not in text and "\u2028" not in text and "\u2029" not in text and json.loads(text) == {"a": EVIL}


def test_everything_that_is_drawn_lies_on_its_axis():
    far = Mean(3.0, (2.9, 3.1), 9, 1, (2.6, 3.2))
    near = Mean(4.0, (3.9, 4.1), 9, 0, (4.0, 4.0))
    scores = [ModelScores({"weighted": mean}, None, {}, {}, None, {}, 1, 0, {}) for mean in (far, near)]
    assert floor_of(scores) == 2.5 and floor_of(scores, [2.2]) == 2.0 and floor_of(scores[1:], [3.48]) == 3.0
    plot = score_plot("s", {"A 1": far, "b": near}, floor_of(scores, [2.2]), {"a1": 2.2})
    one, two = plot.marks
    assert 0 < one.paper < one.bounds[0] < one.low < one.at < one.high < one.bounds[1] < two.at < 100
    assert two.paper is None and two.bounds is None and [label for _, label in plot.ticks] == ["2", "3", "4", "5"]


def test_agreement_of_people_and_judges(folder):
    _, numbers, benchmark = folder
    assert [row["between"] for row in numbers["agreement"]][:2] == ["annotators", "ann and ben"]
    rows = written(benchmark, "m", mistakes=0.5)
    verdicts = people(benchmark, rows, annotators=("ann",))
    table = agreement_table(join([benchmark], rows, judged(benchmark, rows), verdicts), draws=200)
    found = {row.cells[0].text + ", " + row.cells[1].text: row.cells[3:] for row in table.rows}
    # These people call correct what the rule judge calls correct.
    kappa, same, count = found["rule judge and people, correct or not"]
    assert (kappa.value, same.value, count.value) == (1, 100, 12)
    assert agreement_table(join([benchmark], rows, judged(benchmark, rows))) is None
