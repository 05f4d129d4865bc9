"""The report as a reader has it: opened from its file in a real browser."""

import base64
import io
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.report.join import join
from editcaption_mega.evaluation.report.page.html import ReportOptions
from editcaption_mega.evaluation.report.training_runs import TrainingRun
from editcaption_mega.evaluation.report.training_texts import PairHistory, WrittenText
from editcaption_mega.evaluation.report.write import write_report
from editcaption_mega.records import CATEGORIES, Assertion, Instruction, Judgement
from tests.helpers.chromium import Page, executable
from tests.helpers.report_samples import judged, people, synthetic_benchmark, written

pytestmark = pytest.mark.skipif(executable() is None, reason="needs Chromium or Chrome")

PREFERENCE_RUNS = ["DPO <b>one</b>", "DPO two", "DPO three"]
EVIL = "Remove the </script><img src=x onerror=alert(1)><script>alert(2)</script> & slightly move it."


def training_runs():
    """A run on instructions, and some on preferences with held-out pairs, that learned something."""
    counts = {"samples": 32, "tokens": 1000, "seconds": 0.5}
    losses = [{"step": step, "loss": 6 * 0.99**step, **counts} for step in range(1, 901)]
    runs = [TrainingRun("SFT", losses, [changing_texts()])]
    for number, name in enumerate(PREFERENCE_RUNS):
        margins = [
            {"step": step, "loss": 1.2, "reward_margin": step / 100 + number / 10, **counts}
            | {"held_out/reward_margin": step / 50 + number / 10}
            | ({} if number else {"detail/reward_margin": step / 50})
            for step in range(1, 41)
        ]
        runs.append(TrainingRun(name, margins))
    return runs


def changing_texts():
    """Of a pair, with its picture: ten texts, of which the last is right."""
    encoded = io.BytesIO()
    Image.new("RGB", (200, 96), "teal").save(encoded, "WEBP")
    picture = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    texts = [WrittenText(50 * k, 50 * k, f"{EVIL} {k}", k < 9, k == 9) for k in range(10)]
    texts[8] = WrittenText(10_400, 12_000, f"{EVIL} 8", True, False)
    return PairHistory("pair <i>1</i>", EVIL, picture, texts)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    first = synthetic_benchmark(folder / "first", 40, "Eval-400")
    second = synthetic_benchmark(folder / "second", 20, "other/set", seed=3)
    rows, judgements = [], []
    for benchmark in (first, second):
        for model, rate in (("base", 0.6), ("SFT", 0.1)):
            found = written(benchmark, model, mistakes=rate, invents=rate / 2, vague=rate / 2, refuses=0.05)
            rows += found
            judgements += judged(benchmark, found, fails=0.03)
    evil = next(i for i, row in enumerate(rows) if row.id == first.ids[0] and row.model == "base")
    rows[evil] = rows[evil].model_copy(update={"instruction": EVIL, "reason": None})
    judgements = [one for one in judgements if (one.id, one.model) != (first.ids[0], "base")]
    judgements.append(
        Judgement(
            benchmark="Eval-400", id=first.ids[0], model="base", judge="rule judge",
            misses=["p1"], forbidden=["slightly"],
            scores={"accuracy": 2, "completeness": 1, "clarity": 3},
            assertions=[
                Assertion(text="Remove the </script><img src=x onerror=alert(1)>", verdict="fabricated"),
                Assertion(text="<b>words that are not there</b>", verdict="major", change="p1"),
            ],
            provenance={"reasoning": {"accuracy": "<i>nothing of it is so</i>"}},
        )
    )  # fmt: skip
    joined = join([first, second], rows, judgements, people(first, rows[:40]))
    options = ReportOptions(before_after=("base", "SFT"), training=training_runs(), draws=200)
    write_report(folder / "out", joined, options)
    return (folder / "out" / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, address):
    browser.resize(1280, 900)
    browser.dark(False)
    browser.open(address)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [address]


SHOWN = "document.getElementById('count').textContent"
TITLE = "document.getElementById('sample-title').textContent"
STAGE = "getComputedStyle(document.querySelector('#stage .target'))"


def choose(page, name, value):
    page.run(
        f"(() => {{ const field = document.getElementById('filters').elements[{json.dumps(name)}];"
        f"if (field.type === 'checkbox') field.checked = {json.dumps(value)}; else field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    return int(page.run(SHOWN).split(" ")[0].replace(",", ""))


def test_the_tables_and_plots_are_there_without_the_script(page):
    titles = page.run("[...document.querySelectorAll('#tables .table figcaption')].map((one) => one.textContent)")
    assert [title[:7] for title in titles] == ["Table 1", "Table 2", "Table 3", "Agreeme", "How the"]
    assert page.run("document.querySelectorAll('#table-1 tbody tr').length") == 2
    score = page.run("document.querySelector('#tables .table:nth-of-type(2) tbody td:nth-of-type(2)').textContent")
    assert "–" in score and score[1] == "."
    assert page.run("document.querySelectorAll('#plots .track circle').length") > 10
    drawn = page.run("document.querySelector('#plots .track circle').getBoundingClientRect().width")
    assert drawn == pytest.approx(9)


def test_the_malicious_instruction_is_text(page):
    said = "document.querySelector('#answers .said')"
    assert page.run(f"{said}.textContent") == EVIL
    assert page.run(f"{said}.querySelectorAll('img, script').length") == 0
    marks = page.run(f"[...{said}.querySelectorAll('mark')].map((one) => [one.className, one.textContent])")
    assert marks == [["fabricated", "Remove the </script><img src=x onerror=alert(1)>"], ["forbidden", "slightly"]]
    listed = page.run("document.querySelector('#answers .claims').textContent")
    assert listed == "<b>words that are not there</b> major, about p1"
    words = page.run("document.querySelector('#answers details').textContent")
    assert words == "the judge's wordsaccuracy: <i>nothing of it is so</i>"


def test_the_curves_of_training_are_drawn(page):
    titles = page.run("[...document.querySelectorAll('#training .curves figcaption')].map((one) => one.textContent)")
    assert titles == [
        "Loss, nats per response token",
        "Reward margin: chosen − rejected",
        "Reward margin by failure mode, DPO <b>one</b>",
    ]
    drawn = "[...document.querySelectorAll('#training .lines polyline')].map((one) => one.getBoundingClientRect())"
    boxes = page.run(f"{drawn}.map((box) => [box.width, box.height])")
    assert len(boxes) == 16 and all(width > 200 and height > 50 for width, height in boxes)
    labels = page.run("[...document.querySelectorAll('#training .key span')].map((one) => one.textContent)")
    assert labels == ["SFT", *(label for run in PREFERENCE_RUNS for label in (run, f"{run}, held out")), "detail"]
    figure = "document.querySelectorAll('#training .curves')[1]"
    style = "(({stroke, strokeDasharray}) => [stroke, strokeDasharray])(getComputedStyle(one))"
    drawn, keys = (
        page.run(f"[...{figure}.querySelectorAll('{what}')].map((one) => {style})")
        for what in (".lines polyline:not(.raw)", ".key line")
    )
    assert len(drawn) == 6 and all(len(set(looks)) == 6 for looks in zip(*drawn, strict=True)), "by color, and by dash"
    assert keys == drawn
    cells = page.run("[...document.querySelectorAll('#training-runs tbody td')].map((one) => one.textContent)")
    assert cells[:4] == ["900", "32", "900,000", "7.5"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_texts_of_training_are_beside_their_pictures(page, width):
    page.resize(width, 900)
    card = "document.querySelector('#training .pair-card')"
    assert page.run(f"{card}.querySelector('.kind').textContent") == "pair <i>1</i>"
    box = page.run(f"(({{naturalWidth, clientWidth}}) => [naturalWidth, clientWidth])({card}.querySelector('img'))")
    assert box[0] == 200 and 150 < box[1] < width
    rows = page.run(f"[...{card}.querySelector('.texts tbody').rows].map((one) => one.textContent)")
    assert len(rows) == 8 and rows[0] == f"0{EVIL} 0" and rows[-1] == f"450{EVIL} 9 … cut ✓"
    assert "10,400–12,000" in rows[-2]
    words = f"[...{card}.querySelectorAll('.texts .r')].map((one) => [one.scrollWidth, one.clientWidth])"
    assert all(inside <= given for inside, given in page.run(words)), "steps stay in their column"
    assert page.run(f"{card}.querySelectorAll('script, i i, td img').length") == 0
    assert page.run(f"{card}.querySelector('summary').textContent") == "all 10 texts"
    assert page.run("document.documentElement.scrollWidth") <= width


def test_mended_and_broken_pairs_have_their_pictures_and_lead_to_their_samples(page):
    headline = page.run("document.querySelector('#changes .headline').textContent")
    counts = page.run("[...document.querySelectorAll('#changes .headline b')].map((one) => Number(one.textContent))")
    assert "SFT mends" in headline and counts[0] > 6
    assert page.run("document.querySelectorAll('#changes h3').length") == 2, "benchmarks"
    fault = page.run("document.querySelector('#changes .faults li').textContent")
    points = r"[+-]\d+\.\d points \([+-]\d+\.\d to [+-]\d+\.\d\)"
    assert re.search(rf" % → \d+\.\d % \(\d+ % (fewer|more)\) on the same pairs {points}: (not )?settled$", fault)
    card = "document.querySelector('#changes .pair-card')"
    page.run(f"{card}.scrollIntoView()")
    page.wait(f"[...{card}.querySelectorAll('img')].every((one) => one.naturalWidth > 0)")
    marks = page.run(f"[...{card}.querySelectorAll('dd span[title]')].map((one) => one.title)")
    assert marks == ["wrong", "right"], "base, SFT"
    page.run(f"{card}.querySelector('a').click()")
    name = page.run(f"{card}.querySelector('a').textContent")
    page.wait(f"{TITLE} === {json.dumps(name)}")
    same = f"{card}.querySelector('img').src === document.getElementById('source').src"
    page.wait(same)


def test_pictures_that_are_half_read_are_not_there_yet(page):
    """A slow machine shows the page while the file is still being read: the last script has a part of its text."""
    page.run(
        "(() => { Object.defineProperty(document, 'readyState', {value: 'loading', configurable: true});"
        "window.holder = [...document.querySelectorAll('script[id^=pictures-]')].at(-1);"
        "window.whole = holder.textContent; holder.textContent = whole.split(' ')[0]; document.body.append(holder);"
        "location.hash = '#other%2Fset/syn-00000003-000019'; })()"
    )
    page.wait(f"{TITLE} === 'syn-00000003-000019'")
    time.sleep(0.2)  # it asks every 50 ms
    assert page.run("document.getElementById('target').getAttribute('src')") is None
    page.run("(() => { holder.textContent = whole; document.body.append(' '); })()")
    page.wait("document.getElementById('target').naturalWidth > 0")


def test_filters(page):
    assert page.run(SHOWN) == "60 of 60 samples"
    assert choose(page, "set", "1") == 20
    assert choose(page, "set", "") == 60
    categories = [choose(page, "category", name) for name in ("semantic", "stylistic", "structural", "")]
    assert categories == [15, 15, 30, 60]
    kinds = page.run("[...document.getElementById('filters').elements.type.options].map((one) => one.value)")
    assert sum(choose(page, "type", kind) for kind in kinds[1:]) == 60
    choose(page, "type", "")
    low, high = choose(page, "most", "4"), choose(page, "most", "5")
    assert 0 < low < high == 60
    assert 0 < choose(page, "unscored", True) < 30
    choose(page, "unscored", False)
    apart = choose(page, "disagree", True)
    assert 0 < apart < 60
    choose(page, "disagree", False)
    detail, forbidden, correct = (choose(page, "fault", value) for value in ("2", "6", "correct"))
    assert min(detail, forbidden, correct) > 0
    assert choose(page, "model", "1") < correct  # SFT alone
    page.run("document.querySelector('#filters button[type=reset]').click()")
    page.wait(f"{SHOWN} === '60 of 60 samples'")
    assert choose(page, "text", "SLIGHTLY remove the onerror") == 1
    assert choose(page, "text", "no such words") == 0
    assert page.run("document.getElementById('rows').textContent") == "No sample fits these filters."


def test_the_list_holds_only_what_is_in_view_and_orders(page):
    assert page.run("document.querySelectorAll('#rows .row').length") < 30
    page.run("document.getElementById('list').scrollTop = 40 * 64")
    page.wait("[...document.querySelectorAll('#rows .row')].some((one) => one.ariaPosInSet === '45')")
    choose(page, "order", "low")
    score = "[...document.querySelectorAll('#rows .row:first-child .chip')].map((one) => one.textContent)"
    lowest = page.run(score)
    choose(page, "order", "high")
    assert lowest != page.run(score) == ["5.0", "5.0"]


def test_the_slider_by_mouse_and_by_keyboard(page):
    page.wait("document.getElementById('target').naturalWidth > 0")
    page.run("document.getElementById('stage').scrollIntoView({block: 'center'})")
    box = page.run("document.getElementById('stage').getBoundingClientRect().toJSON()")
    middle = box["y"] + box["height"] / 2
    page.drag(box["x"] + box["width"] / 2, middle, box["x"] + box["width"] / 4, middle)
    assert page.run("document.getElementById('cut').value") == "25"
    assert page.run(f"{STAGE}.clipPath") == "inset(0px 0px 0px 25%)"
    title = page.run(TITLE)
    page.run("document.getElementById('cut').focus()")
    page.press("ArrowRight")
    assert page.run("document.getElementById('cut').value") == "26" and page.run(TITLE) == title


def test_flip_and_steps_by_keyboard(page):
    page.run("document.getElementById('list').focus()")
    page.press(" ")
    assert page.run("document.getElementById('compare').dataset.mode") == "flip"
    assert page.run(f"{STAGE}.visibility") == "hidden"
    page.press(" ")
    assert page.run(f"{STAGE}.visibility") == "visible"
    first = page.run(TITLE)
    page.press("ArrowRight")
    second = page.run(TITLE)
    assert second != first and page.run("location.hash") == f"#Eval-400/{second}"
    page.press("ArrowDown")
    page.press("ArrowLeft")
    assert page.run(TITLE) == second
    page.press("ArrowLeft")
    page.press("ArrowLeft")  # stays at the first
    assert (
        page.run(TITLE) == first and page.run("document.querySelector('.row[aria-selected=true]').ariaPosInSet") == "1"
    )
    page.run("document.querySelector('[name=text]').focus()")
    page.press(" ")
    page.press("ArrowRight")  # typing moves nothing
    assert page.run(TITLE) == first


def test_deep_links(page, address):
    last = page.run("(location.hash = '#other%2Fset/syn-00000003-000019', 1)") and "syn-00000003-000019"
    page.wait(f"{TITLE} === '{last}'")
    assert page.run("document.getElementById('sample-kind').textContent").startswith("other/set")
    page.run("(location.hash = '#other%2Fset/%E0%A4%A', 1)")
    page.wait(f"{SHOWN}.startsWith('This report has no sample')")
    assert page.run(TITLE) == last


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_and_everything_has_a_name(page, width):
    page.resize(width, 844, mobile=width < 500)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, [role=listbox], [role=option]')].filter((one) => !("
        "one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(page, dark):
    """WCAG AA, 4.5 : 1, of every text colour of the page on what lies under it."""
    page.dark(dark)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run(CONTRAST) == []


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const under = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const bad = new Set();
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.getClientRects().length || one.closest('script, svg')) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(under(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.add(`${one.tagName} ${one.className} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()"""


GRAIN = np.random.default_rng(1).normal(0, 4, (600, 600, 3))


def photo(rng, side=512):
    """Smooth shapes of many sizes, edges and grain: as hard to compress as a photograph."""
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC))
        for n in (4, 16, 64)
    ]
    x, y = rng.integers(0, len(GRAIN) - side, 2)
    picture = 0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2] + GRAIN[x : x + side, y : y + side]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_two_thousand_photographs(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(2000):
        for side in ("source", "target"):
            photo(rng).save(tmp_path / f"{i}-{side}.jpg", quality=92)
        row = {"id": f"p{i:04}", "category": CATEGORIES[i % 3], "edit_type": f"kind {i % 7}",
               "source": f"{i}-source.jpg", "target": f"{i}-target.jpg", "instruction": "x",
               "changes": {"primary": [{"id": "p1", "text": f"change {i}"}], "overall": "x"}}  # fmt: skip
        lines.append(json.dumps(row))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    ingest(FORMATS["jsonl"].read(str(tmp_path / "pairs.jsonl"), ImportOptions()), str(tmp_path / "shards"))
    benchmark = Benchmark("big", tmp_path / "shards")
    rows, judgements = [], []
    for number in range(4):
        for pair_id in benchmark.ids:
            text = f"Change number {pair_id}: replace the wooden table at the lower left with a round one. " * 3
            own = {"benchmark": "big", "id": pair_id, "model": f"model {number}"}
            rows.append(Instruction(**own, instruction=text))
            scores = dict(zip(("accuracy", "completeness", "clarity"), map(int, rng.integers(1, 6, 3)), strict=True))
            claim = Assertion(text="replace the wooden table", verdict="correct", change="p1")
            judgements.append(Judgement(**own, judge="j", scores=scores, hits=["p1"], assertions=[claim]))
    write_report(tmp_path / "out", join([benchmark], rows, judgements))
    report = tmp_path / "out" / "report.html"
    assert 30e6 < report.stat().st_size < 60e6
    with Page(tmp_path / "profile") as page:
        # The clock of the page itself: when the first sample's picture is shown and when a filter has been applied.
        page.call("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        page.open(report.as_uri())
        page.wait("window.filtered")
        shown, filtered, loaded = page.run(
            "[shown, filtered, performance.timing.loadEventEnd - performance.timing.navigationStart]"
        )
        size = report.stat().st_size / 1e6
        print(f"{size:.1f} MB; first sample {shown:.0f} ms, filter {filtered:.0f} ms, loaded {loaded} ms")
        assert shown < 2000 and filtered < 2000
        assert page.run(SHOWN) == f"{sum(i % 3 == 0 for i in range(2000))} of 2,000 samples"
        page.run("(location.hash = '#big/p1999', 1)")
        page.wait("document.getElementById('target').naturalWidth === 384")
        assert page.complaints == [] and page.requests == [report.as_uri()]


CLOCK = """
const watch = setInterval(() => {
  const image = document.getElementById('source');
  if (!image || !image.naturalWidth || !image.complete) return;
  clearInterval(watch);
  image.decode().then(() => requestAnimationFrame(() => {
    window.shown = performance.now();
    const field = document.querySelector('[name=category]');
    field.value = 'semantic';
    field.dispatchEvent(new Event('input', {bubbles: true}));
    requestAnimationFrame(() => { window.filtered = performance.now(); });
  }));
}, 5);
"""
