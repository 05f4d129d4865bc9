"""Each contradiction is refused by name, with its line; everything else is kept; nothing is lost."""

import pytest

from editcaption_mega.curation.people.pair_answers import check_answers
from editcaption_mega.evaluation.human.filed_answers import Filed, read_answers
from tests.helpers.people_tasks import answer, bare, write_answers, write_study


@pytest.fixture(scope="module", params=["refine", "preference"])
def study(request, tmp_path_factory):
    return write_study(tmp_path_factory.mktemp(request.param), request.param)


def refusal(study, **changes):
    checked = check_answers([Filed("line 1", answer(study, 0, **changes))], study.form, study.tasks)
    assert len(checked.accepted) + len(checked.refused) == 1
    return checked.refused[0].reason if checked.refused else None


OTHER = ["0" * 64, "1" * 64]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"task": "0" * 20}, "is not in the folder: give the folder of the export"),
        ({"text": "  "}, "the text is empty"),
        ({"text": None}, "the text is empty"),
        ({"text": "!!"}, "the text is empty"),
        ({"text": "a\x07b"}, "holds a control character"),
        ({"text": "MOVE the red  ball number 0 to the LEFT."}, "the edit changed nothing"),
        ({"pictures": OTHER}, "it is about another picture pair than its task"),
        ({"tags": []}, "it has no tag: say what was mended"),
        ({"tags": ["sideways"]}, "tag 'sideways' is none of the form's"),
        ({"verdict": "already_correct"}, "the verdict is already_correct, yet it holds a correction"),
        ({"verdict": "unusable", "text": None}, "the verdict is unusable, yet it holds tags"),
        ({"verdict": "right"}, "field 'verdict' is 'right'"),
        ({"annotator": "a.person@example.com"}, "the annotator is an e-mail address"),
        ({"time": "yesterday"}, "expected ISO 8601"),
        ({"seconds": -1}, "field 'seconds' is -1"),
        ({"comment": "x"}, "field 'comment' is none of an answer's"),
        ({"spans": [{"start": 5, "end": 900, "tag": "detail"}]}, "is not within the draft's"),
        ({"spans": [{"start": 3, "end": 3, "tag": "detail"}]}, "is not within the draft's"),
        ({"spans": [{"start": 0, "end": 4, "tag": "detail"}]}, "is tagged 'detail', and the answer"),
    ],
)
def test_contradictions_are_refused_by_name(study, changes, reason):
    found = refusal(study, **changes)
    assert (found is None) if reason is None else (found is not None and reason in found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"severity": None}, "it has no severity: choose one of P0, P1, P2"),
        ({"severity": ["P0", "P1"]}, "H1: P0 and P1 are filed beside each other"),
        ({"severity": "correct"}, "severity 'correct' is none of"),
        ({"severity": ["P1"]}, None),
        ({"spans": [{"start": 0, "end": 4, "tag": "orientation", "severity": "P1"}]}, "H1: the span 0 to 4 is P1"),
        ({"spans": [{"start": 0, "end": 4, "tag": "orientation", "text": "Turn"}]}, "the draft has 'Move' there"),
        ({"spans": [{"start": 0, "end": 4, "tag": "orientation", "text": "Move", "severity": "P0"}]}, None),
        (
            {"text": None, "verdict": "already_correct", "tags": None},
            "the verdict is already_correct, yet it holds sev",
        ),
    ],
)
def test_contradictions_of_preference(study, changes, reason):
    if study.form == "refine":
        assert "has the severity P0, which this form does not ask for" in refusal(study, severity="P0")
        return
    found = refusal(study, **changes)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_every_answer_is_accepted_or_refused_with_its_line(study, tmp_path):
    first = answer(study, 0)
    rows = [
        first, first, answer(study, 1, text=None),
        answer(study, 2, annotator="b"), answer(study, 2, annotator="b", text="Turn it right"),
        bare(study, 3, "already_correct"), bare(study, 4, "unusable"),
        bare(study, 5, "unusable", remark="both are the same picture"),
        bare(study, 6, "already_correct", text=study.tasks[study.names[6]].text),
    ]  # fmt: skip
    path = write_answers(tmp_path / "a.jsonl", rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write("{half\n[1]\n")
    checked = check_answers(read_answers(path), study.form, study.tasks)
    assert len(checked.accepted) + len(checked.refused) == len(rows) + 2
    assert [answer.task for answer in checked.accepted] == [study.names[i] for i in (0, 3, 5, 6)]
    lines = {refused.where: refused.reason for refused in checked.refused}
    assert set(lines) == {f"a.jsonl line {n}" for n in (2, 3, 4, 5, 7, 10, 11)}
    assert lines["a.jsonl line 2"] == "the same as a.jsonl line 1"
    assert "H1: one verdict per pair, but this annotator filed 2" in lines["a.jsonl line 4"]
    assert "unusable without a remark" in lines["a.jsonl line 7"] and "not valid JSON" in lines["a.jsonl line 10"]
    assert all("\n" not in reason for reason in lines.values())
    assert set(checked.unanswered) == {study.names[i] for i in (1, 2, 4, 7)}
