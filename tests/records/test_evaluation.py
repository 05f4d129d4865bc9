"""Records of the evaluation say what is wrong with a row, in a sentence."""

import pytest

from editcaption_mega.records import HumanVerdict, Instruction, Judgement, RecordError

WHO = {"benchmark": "b", "id": "p1", "model": "m"}
SCORES = {"accuracy": 5, "completeness": 4.5, "clarity": 3.7}


def test_rows_come_back_as_they_were_written():
    rows = [
        Instruction(**WHO, instruction="Add a hat."),
        Instruction(**WHO, reason="refused by the content filter", provenance={"tokens": 3}),
        Judgement(**WHO, judge="j", scores=SCORES, hits=["P1"], assertions=[{"text": "a hat", "verdict": "correct"}]),
        HumanVerdict(**WHO, annotator="a", severity="P0", rows=[4]),
    ]
    for row in rows:
        assert type(row).from_json(row.to_json()) == row
        assert None not in row.to_json().values()


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_text_without_words_is_no_instruction(text):
    with pytest.raises(RecordError, match="instruction"):
        Instruction.from_json({**WHO, "instruction": text})


@pytest.mark.parametrize(
    "kind, row, told",
    [
        (Instruction, WHO, "give 'instruction', or 'reason'"),
        (Instruction, {**WHO, "instruction": "x", "reason": "y"}, "and not both"),
        (Judgement, {**WHO, "judge": "j", "scores": {"accuracy": 5}}, "completeness must be in 'scores'"),
        (Judgement, {**WHO, "judge": "j", "scores": SCORES, "unscored": {"clarity": "late"}}, "clarity must be in"),
        (Judgement, {**WHO, "judge": "j", "scores": {**SCORES, "clarity": 0}}, "scores.clarity"),
        (HumanVerdict, {**WHO, "annotator": "a", "severity": "P3"}, "severity"),
        (HumanVerdict, {**WHO, "annotator": "a", "severity": "P0", "rows": [9]}, "rows.0"),
        (HumanVerdict, [], "expected a JSON object, found list"),
    ],
)
def test_wrong_rows_are_told(kind, row, told):
    with pytest.raises(RecordError, match="line 3: ") as error:
        kind.from_json(row, where="line 3")
    assert told in str(error.value)
