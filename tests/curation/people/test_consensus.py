"""Several opinions made one by the stated rule, and annotators measured against the others."""

import pytest

from editcaption_mega.curation.people.annotator_quality import annotator_quality, overlap
from editcaption_mega.curation.people.consensus import consensus
from editcaption_mega.curation.people.pair_answers import PairAnswer


def says(annotator, verdict="corrected", text="turn it right", tags=("orientation",), severity="P1", **more):
    if verdict != "corrected":
        return PairAnswer(task=more.pop("task", "t"), annotator=annotator, verdict=verdict, **more)
    return PairAnswer(
        task=more.pop("task", "t"), annotator=annotator, verdict=verdict, text=text, tags=list(tags), severity=severity,
        **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["corrected"], "corrected"),
        (["corrected", "corrected", "already_correct"], "corrected"),
        (["already_correct", "already_correct", "corrected"], "already_correct"),
        (["corrected", "already_correct"], None),
        (["corrected", "already_correct", "unusable"], None),
    ],
)
def test_more_than_half_decide(verdicts, expected):
    found = consensus([says(f"a{i}", verdict) for i, verdict in enumerate(verdicts)], "preference")
    assert found.verdict == expected and (found.text_of is not None) == (expected == "corrected")


def test_tags_severity_and_text_of_the_corrections():
    opinion = consensus(
        [
            says("a", text="turn the red cup right", tags=("detail", "orientation"), severity="P1"),
            says("b", text="turn the red cup to the right", tags=("orientation",), severity="P0"),
            says("c", text="something else altogether", tags=("orientation", "viewpoint"), severity="P2"),
            says("d", "already_correct"),
        ],
        "preference",
    )
    assert opinion.tags == ("orientation",)  # most often first; the others have one vote or a third
    assert opinion.severity == "P0"  # of equally frequent ones the worst
    assert opinion.text_of.annotator == "a"  # a and b are nearest; the first by name
    assert [answer.annotator for answer in opinion.agreeing] == ["a", "b", "c"]


def test_a_refined_draft_has_no_severity():
    opinion = consensus([says("a", tags=("spatial", "detail"), severity=None)], "refine")
    assert opinion.tags == ("spatial",) or opinion.tags == ("spatial", "detail")
    assert opinion.severity is None


def test_annotators_are_compared_with_the_others_alone():
    answers = {
        f"t{i}": [
            says("good", task=f"t{i}", seconds=10.0 + i),
            says("other", task=f"t{i}", tags=("orientation", "detail")),
            says("rash", "already_correct", task=f"t{i}", seconds=1.0),
            says("third", task=f"t{i}"),
        ]
        for i in range(10)
    }
    opinions = {task: consensus(given, "preference") for task, given in answers.items()}
    quality = annotator_quality(opinions, "preference")
    assert quality["good"]["verdict_agreement"] == 1.0 and quality["rash"]["verdict_agreement"] == 0.0
    assert quality["good"]["seconds"] == 14.5 and quality["other"]["seconds"] is None
    assert quality["rash"]["compared"] == 10 and quality["rash"]["tag_agreement"] is None
    assert quality["other"]["tag_agreement"] == 0.5 and quality["good"]["text_similarity"] == 1.0
    shared = overlap(opinions, "preference")
    assert shared["answers_per_task"] == {4: 10} and shared["undecided"] == 0
    assert shared["verdict_agreement"]["value"] == pytest.approx(0.5)  # 3 of 6 pairs of annotators
    assert shared["text_similarity"]["value"] == 1.0 and shared["text_similarity"]["n"] == 10
    assert set(shared["tag_alpha"]) == {"orientation", "viewpoint", "detail"}
    assert shared["severity_alpha"]["n"] == 10


def test_a_single_annotator_is_compared_with_nobody():
    opinions = {"t": consensus([says("a")], "preference")}
    quality = annotator_quality(opinions, "preference")["a"]
    assert (quality["answers"], quality["compared"], quality["verdict_agreement"]) == (1, 0, None)
    assert overlap(opinions, "preference")["verdict_alpha"]["value"] is None
