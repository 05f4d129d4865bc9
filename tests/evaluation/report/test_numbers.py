"""Rows joined to their pairs, repeats merged, and the numbers that come of it."""

import pytest

from editcaption_mega.evaluation.report.join import join
from editcaption_mega.evaluation.report.numbers import evaluate, places
from editcaption_mega.evaluation.report.page.panels import panels_of
from editcaption_mega.evaluation.report.tables.paper_layout import tables_of
from editcaption_mega.evaluation.rubric.opinions import merge
from editcaption_mega.evaluation.rubric.scores import weighted_score
from editcaption_mega.records import Assertion, HumanVerdict, Instruction, Judgement
from tests.helpers.report_samples import judged, people, synthetic_benchmark, written


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return synthetic_benchmark(tmp_path_factory.mktemp("shards") / "s", 12, "Eval-400")


def judgement(**fields):
    scores = {"accuracy": 5, "completeness": 5, "clarity": 5} | fields.pop("scores", {})
    unscored = fields.pop("unscored", {})
    scores = {name: value for name, value in scores.items() if name not in unscored}
    known = {"benchmark": "Eval-400", "id": "a", "model": "m", "judge": "j", "scores": scores, "unscored": unscored}
    return Judgement(**known | fields)


def test_repeats_become_one_opinion():
    one = merge(
        [
            judgement(scores={"accuracy": 2}, hits=["p1"], misses=["p2"], forbidden=["slightly"], correct=False),
            judgement(repeat=1, scores={"accuracy": 4}, hits=["p1", "p2"], forbidden=["slightly"], correct=True),
        ]
    )
    assert one.scores == {"accuracy": 3, "completeness": 5, "clarity": 5, "weighted": pytest.approx(4.2)}
    assert one.spread["accuracy"] == pytest.approx(2**0.5) and one.spread["clarity"] == 0
    assert dict(one.hits) == {"p1": 2, "p2": 1} and dict(one.misses) == {"p2": 1}
    assert one.correct is False  # a tie counts against the model
    assert one.faults == ("missed change", "forbidden term")


def test_a_repeat_without_a_score_is_counted_and_left_out_of_the_mean():
    lost = judgement(repeat=1, unscored={"accuracy": "cut off"})
    one = merge([judgement(scores={"accuracy": 3}), lost])
    assert one.scores["accuracy"] == 3 and one.partly == {"accuracy": 1} and not one.unscored
    assert one.scores["weighted"] == pytest.approx(weighted_score(3, 5, 5))
    one = merge([lost])
    assert "weighted" not in one.scores and one.unscored == {"accuracy": "cut off"}


@pytest.mark.parametrize(
    "verdict, fault", [("fabricated", "fabricated claim"), ("unrelated", "fabricated claim"), ("major", "major error")]
)
def test_faults_from_assertions(verdict, fault):
    assert merge([judgement(assertions=[Assertion(text="x", verdict=verdict)])]).faults == (fault,)


def test_means_bounds_and_shares(benchmark):
    rows = written(benchmark, "m")
    judgements = [
        judgement(
            id=pair_id,
            scores={"accuracy": 1 if i < 3 else 5},
            unscored={"clarity": "no reply"} if i == 11 else {},
            correct=i >= 3,
        )
        for i, pair_id in enumerate(benchmark.ids)
    ]
    found = evaluate(join([benchmark], rows, judgements)).scores["j"]["Eval-400"]["m"]
    accuracy, clarity, total = found.means["accuracy"], found.means["clarity"], found.means["weighted"]
    assert (accuracy.value, accuracy.scored, accuracy.unscored, accuracy.bounds) == (4, 12, 0, (4, 4))
    assert accuracy.interval[0] < 4 < accuracy.interval[1]
    assert (clarity.value, clarity.scored, clarity.unscored) == (5, 11, 1)
    assert clarity.bounds == (pytest.approx((55 + 1) / 12), 5)
    # Only the missing dimension is assumed: 0.2 * 4 points of one pair in twelve.
    assert total.bounds[1] - total.bounds[0] == pytest.approx(0.8 / 12)
    assert (found.correct.hits, found.correct.total) == (9, 12) and found.correct.interval[0] < 0.75
    assert sum(mean.scored + mean.unscored for mean in found.by_category.values()) == 12
    assert sum(mean.scored + mean.unscored for mean in found.by_edit_type.values()) == 12


def test_every_number_of_a_report_is_of_the_one_opinion(benchmark):
    """Repeats (5, 5, 5) and (3, -, 4) are 4.5 (`rubric.opinions` has why), in means, differences and tables alike."""
    both = written(benchmark, "m") + written(benchmark, "n")
    lost = dict(scores={"accuracy": 3, "clarity": 4}, unscored={"completeness": "cut off"}, repeat=1)
    judgements = [
        judgement(id=pair_id, model=model, **repeat)
        for model, second in (("m", lost), ("n", {"repeat": 1}))
        for pair_id in benchmark.ids
        for repeat in ({}, second)
    ]
    joined = join([benchmark], both, judgements)
    evaluation = evaluate(joined, draws=50)
    scores = evaluation.scores["j"]["Eval-400"]["m"]
    for mean in (scores.means["weighted"], *scores.by_category.values(), *scores.by_edit_type.values()):
        assert mean.value == pytest.approx(4.5)
    assert (scores.partly, scores.means["completeness"].value) == (12, 5)
    (comparison,) = evaluation.comparisons["j"]["Eval-400"]
    assert comparison.difference == pytest.approx(4.5 - 5)
    table = tables_of(evaluation)[1]
    assert [cell.text for cell in table.rows[0].cells[:3]] == ["m", "2", "4.500"]


def test_nothing_scored_is_no_number(benchmark):
    rows = written(benchmark, "m")
    missing = dict.fromkeys(("accuracy", "completeness", "clarity"), "refused")
    found = evaluate(join([benchmark], rows, [judgement(id=i, unscored=missing) for i in benchmark.ids]))
    total = found.scores["j"]["Eval-400"]["m"].means["weighted"]
    assert (total.value, total.interval, total.unscored, total.bounds) == (None, None, 12, (1, 5))
    assert found.unscored == found.asked == 12


def test_an_instruction_that_was_never_written_is_unscored_with_its_reason(benchmark):
    rows = written(benchmark, "m", refuses=1.0)[:1] + written(benchmark, "m")[1:]
    joined = join([benchmark], rows, judged(benchmark, rows))
    assert set(joined.labels["rule judge"]["Eval-400"]["m"][rows[0].id].unscored.values()) == {rows[0].reason}
    found = evaluate(joined)
    assert found.unscored == 1 and found.data_sets["Eval-400"].unwritten == {"m": 1}


def test_models_are_compared_on_the_pairs_that_both_have(benchmark):
    good, bad = written(benchmark, "good"), written(benchmark, "bad", mistakes=1.0, refuses=0.2, seed=1)
    lost = sum(row.instruction is None for row in bad)
    found = evaluate(join([benchmark], good + bad, judged(benchmark, good + bad)))
    (one,) = found.comparisons["rule judge"]["Eval-400"]
    assert lost and one.pairs == 12 - lost and one.difference > 0 and one.interval[0] > 0
    scores = found.scores["rule judge"]["Eval-400"]
    assert scores["good"].rank == (1, 1) and scores["bad"].rank == (2, 2)
    assert scores["good"].correct.share == 1 and scores["bad"].faults["detail"].hits > 0
    # A failure mode that a judge never tells is absent, not 0 %.
    plain = [row.model_copy(update={"failure_modes": []}) for row in judged(benchmark, good + bad)]
    assert "detail" not in evaluate(join([benchmark], good + bad, plain)).scores["rule judge"]["Eval-400"]["bad"].faults


def test_few_errors_of_models_that_are_hardly_ever_right_come_with_a_caution(benchmark):
    good, bad = written(benchmark, "good"), written(benchmark, "bad", mistakes=1.0, seed=1)
    garbage = [row.model_copy(update={"model": "garbage", "instruction": "Make it so."}) for row in good]
    rows = [*good, *bad, *garbage]
    evaluation = evaluate(join([benchmark], rows, judged(benchmark, rows)))
    scores = evaluation.scores["rule judge"]["Eval-400"]
    assert scores["garbage"].correct.share == 0
    assert scores["bad"].faults["detail"].hits > scores["garbage"].faults["detail"].hits == 0, "the worst looks best"
    (panel,) = panels_of(evaluation, None)
    assert panel.caution.startswith("bad and garbage: wholly correct on less than 10 % of the pairs.")
    (panel,) = panels_of(evaluate(join([benchmark], good, judged(benchmark, good))), None)
    assert panel.caution == ""


def test_places_are_shared_where_intervals_overlap():
    found = places({"a": (4.6, 4.8), "b": (4.5, 4.7), "c": (3.0, 3.2), "d": (4.75, 4.9)})
    assert found == {"a": (1, 3), "b": (2, 3), "c": (4, 4), "d": (1, 2)}


def test_people(benchmark):
    rows = written(benchmark, "m", mistakes=0.5)
    found = evaluate(join([benchmark], rows, [], people(benchmark, rows, share=0.5))).people["Eval-400"]["m"]
    assert (found.pairs, found.annotators) == (6, 2)
    assert sum(rate.hits for rate in found.shares.values()) == 6


def test_rows_that_do_not_fit_are_refused(benchmark):
    rows = written(benchmark, "m")
    scored = judged(benchmark, rows)
    other = Instruction(benchmark="else", id="a", model="m", instruction="x")
    verdict = HumanVerdict(benchmark="Eval-400", id=benchmark.ids[0], model="m", annotator="ann", severity="correct")
    for arguments, message in (
        (([], rows, scored), "at least one benchmark"),
        (([benchmark, benchmark], rows, scored), "names must differ"),
        (([benchmark], [], scored), "found none"),
        (([benchmark], [*rows, other], scored), "benchmark 'else'"),
        (([benchmark], rows[1:], scored), f"'m' does not fit.*{rows[0].id}"),
        (([benchmark], [*rows, rows[0]], scored), "more than once"),
        (([benchmark], rows, scored[1:]), f"lack 1 of 12 ids .first: {rows[0].id}"),
        (([benchmark], rows, [*scored, scored[0]]), f"{rows[0].id}: 0 is there more than once"),
        (([benchmark], rows, [*scored, scored[0].model_copy(update={"id": "x"})]), "not of benchmark Eval-400"),
        (([benchmark], rows, [scored[0].model_copy(update={"model": "n"})]), "of which there are no instructions"),
        (([benchmark], rows, scored, [verdict, verdict]), "'ann' is there more than once"),
        (([benchmark], rows, scored, [verdict.model_copy(update={"model": "n"})]), "people judged 'n'"),
    ):
        with pytest.raises(ValueError, match=message):
            join(*arguments)
