"""Judges that are functions: what they may return, and what is said of one that nobody has written."""

import re

import pytest

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge.code_judges import CODE_JUDGES, CodeJudge, code_judge
from editcaption_mega.evaluation.judge.model_judge import rule_judge_benchmark
from editcaption_mega.records import DIMENSIONS, Instruction, Judgement
from tests.docs.pages import ROOT, Page
from tests.helpers.judge_cases import write_synthetic

SCORED = {"scores": {"clarity": 4.0}, "unscored": dict.fromkeys(("accuracy", "completeness"), "by clarity alone")}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return Benchmark("synthetic", write_synthetic(tmp_path_factory.mktemp("code") / "shards", 2))


def judged(benchmark, monkeypatch, returned, dimensions=DIMENSIONS):
    """The rows of a judge that returns the same for every instruction."""
    monkeypatch.setitem(CODE_JUDGES, "own", CodeJudge(lambda text, truth: returned, False, "of this test", dimensions))
    rows = {
        pair_id: Instruction(benchmark=benchmark.name, id=pair_id, model="m", instruction="Move the circle.")
        for pair_id in benchmark.ids
    }
    return rule_judge_benchmark(benchmark, {"m": rows}, name="mine", kind="own")["m"]


def test_what_a_function_returns_is_a_judgement(benchmark, monkeypatch):
    returned = SCORED | {"forbidden": ["slightly"], "provenance": {"why": "a word"}}
    for row in judged(benchmark, monkeypatch, returned, ("clarity",)):
        assert (row.judge, row.scores, row.forbidden) == ("mine", {"clarity": 4.0}, ["slightly"])
        assert row.provenance["why"] == "a word" and row.provenance["mode"] == "rules"


@pytest.mark.parametrize(
    "returned, words",
    [
        ({"scores": {"clarity": 7}}, "field 'scores.clarity' is 7"),
        ({"score": 3}, "field 'score' is not part of the schema"),
        ({"scores": {"clarity": 4.0}}, "accuracy must be in 'scores', or in 'unscored' with a reason"),
        (
            SCORED | {"assertions": [{"text": "it moved", "verdict": "right"}]},
            "field 'assertions.0.verdict' is 'right'",
        ),
        (SCORED | {"id": "other"}, "field 'id' is not the judge's to say"),
        (SCORED | {"provenance": "a word"}, "expected the fields of a Judgement as a dict"),
        ([4.0, 4.0, 4.0], r"is \[4.0, 4.0, 4.0\]: expected the fields of a Judgement as a dict"),
    ],
)
def test_what_is_no_judgement_is_told_in_one_sentence(benchmark, monkeypatch, returned, words):
    with pytest.raises(ValueError, match=words) as told:
        judged(benchmark, monkeypatch, returned)
    sentence = str(told.value)
    assert "judge mine (kind own, evaluation/judge/code_judges.py) returned for pair " in sentence
    assert "pydantic" not in sentence and "\n" not in sentence


def test_a_score_beyond_the_dimensions_of_a_judge_is_refused(benchmark, monkeypatch):
    with pytest.raises(ValueError, match="scores clarity, and its dimensions are accuracy alone"):
        judged(benchmark, monkeypatch, SCORED, ("accuracy",))


def test_a_kind_without_a_function_is_told(benchmark):
    with pytest.raises(ValueError, match="no function judges for kind unwritten: expected one of rule.*CODE_JUDGES"):
        code_judge("unwritten")


def test_the_recipe_names_every_field_of_a_judgement():
    page = Page(ROOT / "docs/how_to/add_a_judge.md").text
    written_by_the_run = {"benchmark", "id", "model", "judge", "repeat"}
    of_paper_mode = {"judge_scores", "deviations"}
    for field in set(Judgement.model_fields) - written_by_the_run - of_paper_mode:
        assert re.search(rf"^\|[^|]*`{field}`[^|]*\|", page, re.MULTILINE), field
