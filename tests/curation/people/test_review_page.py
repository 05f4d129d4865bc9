"""The page as an annotator has it: opened from its file in a real browser."""

import json
import time

import pytest

from editcaption_mega.curation.people.drafts import own_drafts
from editcaption_mega.curation.people.pair_answers import check_answers
from editcaption_mega.curation.people.pair_tasks import export_pair_tasks
from editcaption_mega.curation.people.review_page import write_pages
from editcaption_mega.curation.people.task_records import read_pair_tasks
from editcaption_mega.evaluation.human.filed_answers import read_answers
from tests.helpers.chromium import Page, executable
from tests.helpers.people_tasks import EVIL, write_study

pytestmark = pytest.mark.skipif(executable() is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("page"), "preference", 7)


@pytest.fixture(scope="module")
def addresses(study):
    pages = write_pages(study.folder, 4)
    assert [page.name for page in pages] == ["review-001.html", "review-002.html"]
    return [page.as_uri() for page in pages]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile"), width=1400, height=900) as page:
        yield page


def click(page, selector):
    page.run(f"document.querySelector({selector!r}).click()")


def key(page, text):
    code = {"Enter": 13}.get(text, ord(text[0].upper()))
    sent = {"key": text, "windowsVirtualKeyCode": code, **({"text": text} if len(text) == 1 else {})}
    page.call("Input.dispatchKeyEvent", type="keyDown", **sent)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=text, windowsVirtualKeyCode=code)


def shown(page, selector):
    return page.run(f"document.querySelector({selector!r}).textContent")


def select(page, start, end):
    """Characters of the draft's first text, in JavaScript's units."""
    page.run(
        f"(() => {{ const node = document.getElementById('draft').firstChild; const range = document.createRange();"
        f"range.setStart(node, {start}); range.setEnd(node, {end});"
        "getSelection().removeAllRanges(); getSelection().addRange(range); })()"
    )


def type_text(page, text):
    key(page, "e")
    page.run("document.activeElement.select()")
    page.call("Input.insertText", text=text)
    page.run("document.activeElement.blur()")


def save(page, folder):
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    key(page, "s")
    deadline = time.monotonic() + 20
    while not (files := list(folder.glob("answers-*.jsonl"))):
        assert time.monotonic() < deadline, shown(page, "#notice")
        time.sleep(0.05)
    return files[0]


def test_tag_edit_save_reload(study, addresses, browser, tmp_path):
    page = browser
    page.open(addresses[0])
    assert shown(page, "#progress") == "0 of 4 done"
    key(page, "s")
    assert "Give a pseudonym first" in shown(page, "#notice")
    page.run("document.getElementById('annotator').focus()")
    page.call("Input.insertText", text="ann-7")
    page.run("document.activeElement.blur()")

    # The first task by keys alone: the wrong word marked, the text corrected, the severity chosen.
    draft = study.tasks[study.names[0]].text
    at = draft.index("left")
    select(page, at, at + 4)
    key(page, "4")
    assert "a change of the text" in shown(page, "#missing")
    type_text(page, draft.replace("left", "right"))
    assert "a severity" in shown(page, "#missing")
    assert shown(page, "#difference ins") == "right" and shown(page, "#difference del") == "left"
    key(page, "7")
    assert shown(page, "#missing") == "Done." and shown(page, "#progress") == "1 of 4 done"

    # The second one holds hostile text and a sign of two units; it is shown, and does nothing.
    key(page, "Enter")
    assert shown(page, "#draft") == EVIL and page.run("document.querySelectorAll('#draft img').length") == 0
    start = EVIL.index("slightly") + 1  # JavaScript counts the sign before it twice
    select(page, start, start + 8)
    key(page, "6")
    assert shown(page, "#draft mark") == "slightly"
    type_text(page, EVIL.replace("slightly", "by a third"))
    key(page, "9")
    assert page.run("document.title").startswith("Correct the instruction")
    key(page, "n")
    key(page, "2")  # already correct
    key(page, "n")
    key(page, "1")  # begun, not done
    page.run("new Promise((done) => setTimeout(done, 50))")

    page.open(addresses[0])  # reloaded: what was kept is there
    assert shown(page, "#progress") == "3 of 4 done"
    assert page.run("document.getElementById('annotator').value") == "ann-7"
    file = save(page, tmp_path)
    assert "3 answers saved" in shown(page, "#notice") and "1 begun, but not done, is not" in shown(page, "#notice")
    form, tasks = read_pair_tasks(study.folder)
    checked = check_answers(read_answers(file), form, tasks)
    assert not checked.refused and len(checked.accepted) == 3
    first, second, third = checked.accepted
    assert (first.text, first.tags, first.level) == (draft.replace("left", "right"), ["orientation"], "P0")
    assert [(span.start, span.end, span.text) for span in first.spans] == [(at, at + 4, "left")]
    assert second.text == EVIL.replace("slightly", "by a third") and second.spans[0].start == EVIL.index("slightly")
    assert third.verdict == "already_correct" and third.text is None
    assert all(row.annotator == "ann-7" and row.pictures and row.time and row.seconds >= 0 for row in checked.accepted)
    assert page.complaints == [] and not [url for url in page.requests if url.startswith("http")]

    # Another browser takes the saved file up.
    page.run("localStorage.clear(); addEventListener('pagehide', () => localStorage.clear())")
    page.open(addresses[0])
    page.run("localStorage.clear()")
    text = json.dumps(file.read_text(encoding="utf-8") + '{"task": "another"}\n{half\n')
    page.run(
        f"(() => {{ const files = new DataTransfer(); files.items.add(new File([{text}], 'a.jsonl'));"
        "const input = document.getElementById('file'); input.files = files.files;"
        "input.dispatchEvent(new Event('change')); })()"
    )
    page.wait("document.getElementById('notice').textContent.includes('taken up')")
    assert shown(page, "#notice") == "3 answers taken up; 2 lines are not of this page."
    assert shown(page, "#progress") == "3 of 4 done"


def test_pages_share_no_answers_and_a_tag_is_taken_back(study, addresses, browser):
    page = browser
    page.open(addresses[1])
    assert shown(page, "#progress") == "0 of 3 done"
    key(page, "5")
    key(page, "4")
    assert page.run("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.dataset.tag)") == [
        "orientation", "viewpoint",
    ]  # fmt: skip
    assert shown(page, "[data-tag=viewpoint] i") == "(the main one)"
    key(page, "5")
    assert page.run("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.dataset.tag)") == [
        "orientation"
    ]
    page.press(" ")
    assert not page.run("document.getElementById('picture-1').classList.contains('over')")
    click(page, "#picture-2")
    assert page.run("document.getElementById('large').open")
    assert page.complaints == []


def test_a_page_of_drafts_to_refine_asks_for_no_severity(study, browser, tmp_path):
    export_pair_tasks(study.reader, "refine", own_drafts(study.reader), tmp_path / "t")
    (path,) = write_pages(tmp_path / "t", 100)
    browser.open(path.as_uri())
    assert browser.run("document.querySelectorAll('[data-severity]').length") == 0
    assert browser.run("[...document.querySelectorAll('[data-tag]')].map((b) => b.dataset.tag)") == [
        "semantics", "spatial", "detail",
    ]  # fmt: skip
    assert browser.complaints == []
