"""Shards from people: what must hold of every row, whatever people file."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editcaption_mega.curation.people.opinion_shards import SEVERITY_NUMBERS, import_pair_answers
from editcaption_mega.curation.people.pair_answers import PairAnswer
from editcaption_mega.curation.people.same_text import same_tokens
from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.evaluation.human.filed_answers import Filed
from editcaption_mega.evaluation.record_files import read_records
from tests.helpers.people_tasks import EVIL, answer, bare, write_shards, write_study

NOW = "2026-11-27T04:00:00+00:00"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return {form: write_study(tmp_path_factory.mktemp(form), form) for form in ("refine", "preference")}


def bring(study, rows, output, reader=None):
    filed = [Filed(f"line {n}", row) for n, row in enumerate(rows, 1)]
    return import_pair_answers(reader or study.reader, [study.folder], study.form, filed, output, imported=NOW)


def test_refined_drafts_become_instructions(studies, tmp_path):
    study = studies["refine"]
    rows = [
        answer(study, 0), answer(study, 1, remark="was wrong"), bare(study, 2, "already_correct"),
        bare(study, 3, "unusable", remark="the same picture twice"),
        answer(study, 4), bare(study, 4, "already_correct", "second"),
    ]  # fmt: skip
    counts = bring(study, rows, tmp_path / "sft")
    assert counts.written == 3 and not counts.refused
    assert counts.verdicts == {
        "corrected": 2, "already_correct": 1, "unusable": 1, "undecided": 1, "without an answer": 3,
    }  # fmt: skip
    made = open_shards(tmp_path / "sft")
    assert made.ids == study.reader.ids[:3]
    for at in range(3):
        before, after = study.reader[at], made[at]
        assert (before.source_bytes, before.target_bytes) == (after.source_bytes, after.target_bytes)
        provenance = after.pair.provenance["refined"]
        assert provenance["draft"] == study.tasks[study.names[at]].text and provenance["model"] == "sft-digest"
        assert provenance["annotator"] == "ann" and provenance["draft_of"]["settings"]["prompt"] == "p"
        assert provenance["time"] == ("2026-11-27T03:00:00Z" if at < 2 else NOW)
    assert made.pair(0).instruction == "Move the red ball number 0 to the right"
    assert made.pair(1).instruction == EVIL.replace("left", "right") and made.pair(2).instruction.endswith("left")
    opinions = [json.loads(line) for line in (tmp_path / "sft.opinions.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in opinions][3:] == ["unusable", "undecided", *["without an answer"] * 3]
    assert len(read_records(tmp_path / "sft.answers.jsonl", PairAnswer)) == len(rows)
    assert set(json.loads((tmp_path / "sft.quality.json").read_text())["annotators"]) == {"ann", "second"}


def test_other_pictures_and_pairs_that_are_gone_are_refused(studies, tmp_path):
    study = studies["preference"]
    fewer = write_shards(tmp_path / "fewer", 1)
    counts = bring(study, [answer(study, 0), answer(study, 1)], tmp_path / "p", fewer)
    assert counts.written == 1
    assert ["is not in the shards" in row.reason for row in counts.refused] == [True]
    swapped = study.folder.parent / "swapped"
    swapped.mkdir()
    for path in study.folder.rglob("*.json*"):
        text = path.read_text()
        digest = next(iter(study.tasks.values())).source_sha256
        (swapped / path.name).write_text(text.replace(digest, "0" * 64))
    filed = [Filed("line 1", answer(study, 0)), Filed("line 2", answer(study, 2))]
    counts = import_pair_answers(study.reader, [swapped], "preference", filed, tmp_path / "q", imported=NOW)
    assert counts.written == 1 and "has another picture pair than its task showed" in counts.refused[0].reason


def test_what_is_refused_is_listed_even_when_nothing_is_left(studies, tmp_path):
    study = studies["preference"]
    with pytest.raises(ValueError, match=r"no pair is left to write: of 8 tasks 1 already_correct, .*; 1 refused"):
        bring(study, [bare(study, 0, "already_correct"), answer(study, 1, tags=[])], tmp_path / "p")
    (refused,) = (tmp_path / "p.refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["where"] == "line 2" and not (tmp_path / "p").exists()
    with pytest.raises(ValueError, match="holds tasks of the form preference, not refine: use preference-import"):
        import_pair_answers(study.reader, [study.folder], "refine", [], tmp_path / "p", imported=NOW)
    with pytest.raises(ValueError, match="has a task in"):
        import_pair_answers(study.reader, [study.folder] * 2, "preference", [], tmp_path / "p", imported=NOW)


MISHAPS = (
    {}, {}, {}, {"text": ""}, {"text": None}, {"tags": []}, {"tags": ["x"]}, {"severity": None}, {"severity": "P1"},
    {"severity": ["P0", "P2"]}, {"verdict": "already_correct"}, {"remark": "why"}, {"task": "nowhere"},
    {"pictures": ["0" * 64] * 2}, {"spans": [{"start": 0, "end": 3, "tag": "detail"}]}, {"text": "Another altogether"},
)  # fmt: skip


@st.composite
def filings(draw, study):
    """Answers as people and tools file them, right and wrong."""
    rows = []
    for at, name in enumerate(study.names):
        text = study.tasks[name].text
        for annotator in draw(st.sampled_from(["", "a", "ab", "abc", "aab"])):
            kind = draw(st.sampled_from(["corrected", "corrected", "same", "already_correct", "unusable"]))
            if kind == "corrected":
                row = answer(study, at, annotator)
            elif kind == "same":
                row = answer(study, at, annotator, text=draw(st.sampled_from([text, text.upper(), f" {text}. "])))
            else:
                row = bare(study, at, kind, annotator, remark="why")
            rows.append(row | draw(st.sampled_from(MISHAPS)))
    return rows


@pytest.mark.parametrize("form", ["refine", "preference"])
def test_whatever_is_filed_the_rows_hold(studies, form):
    study = studies[form]
    written = []

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(filings(study))
    def holds(rows):
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "made"
            try:
                counts = bring(study, rows, output)
            except ValueError as error:
                assert "no pair is left to write" in str(error)
                return
            assert counts.accepted + len(counts.refused) == len(rows)  # nothing is lost
            made = open_shards(output)
            drafts = {task.pair: task.text for task in study.tasks.values()}
            for pair in (made.pair(at) for at in range(len(made))):
                written.append(pair.id)
                (check_refined if form == "refine" else check_preference)(pair, drafts[pair.id], rows)
            made.close()

    holds()
    assert len(written) > 40


def check_provenance(provenance, draft):
    assert {"annotator", "annotators", "draft", "draft_of", "model", "time", "verdict", "task"} <= provenance.keys()
    assert provenance["draft"] == draft and provenance["model"] == "sft-digest" and provenance["time"]
    assert provenance["annotator"] in provenance["annotators"]


def check_refined(pair, draft, rows):
    provenance = pair.provenance["refined"]
    check_provenance(provenance, draft)
    assert provenance["verdict"] in ("corrected", "already_correct")
    assert same_tokens(pair.instruction, draft) == (provenance["verdict"] == "already_correct")
    assert bool(provenance["objectives"]) == (provenance["verdict"] == "corrected")


def check_preference(pair, draft, rows):
    provenance = pair.provenance["preference"]
    check_provenance(provenance, draft)
    assert provenance["verdict"] == "corrected"  # never already_correct
    assert pair.rejected == draft and not same_tokens(pair.chosen, pair.rejected)
    assert pair.failure_modes and pair.failure_modes[0] == provenance["primary_failure_mode"]
    assert pair.severity == SEVERITY_NUMBERS[provenance["severity"]]
    votes = [row["verdict"] for row in rows if row["task"] == provenance["task"]]
    assert "corrected" in votes
