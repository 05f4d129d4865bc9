"""The perturbation tests find a good judge good and each kind of bad judge bad."""

import io

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, plan_pair, render_pair
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge.model_judge import judge_benchmark, rule_judge_benchmark
from editcaption_mega.evaluation.judge.perturbations import (
    SHORTENED,
    SWAPPED,
    UNRELATED,
    VAGUE,
    FlippedBenchmark,
    flipped_pair,
    perturbations,
    swapped_sides,
    truth_text,
)
from editcaption_mega.evaluation.judge.rule_judge import judge
from editcaption_mega.evaluation.judge.validation import Check, check_judge, passed
from editcaption_mega.records import EditPair
from editcaption_mega.settings import EndpointSettings, JudgeSettings
from tests.helpers.judge_cases import TABLE_6, rule_reply, write_synthetic
from tests.helpers.scripted_server import ScriptedServer, at_random

PAIRS = 240  # so that each test has the 16 pairs that a verdict takes


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return Benchmark("synthetic", write_synthetic(tmp_path_factory.mktemp("check") / "shards", PAIRS))


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def test_the_rule_judge_passes(benchmark):
    checks = check_judge(benchmark, rule_judge_benchmark)
    assert verdicts(checks) == dict.fromkeys([check.name for check in checks], "pass") | {"repeats": "not tested"}
    assert passed(checks) and len(checks) == 8
    assert all(check.held == check.total and not check.unscored for check in checks)
    assert all(check.total + check.not_applicable == PAIRS for check in checks if check.name != "repeats")


def worse(change):
    """The rule judge, its rows changed by change(kind of text, row, of flipped pictures) -> fields of the row."""

    def judged(benchmark, instructions):
        rows, flipped = rule_judge_benchmark(benchmark, instructions), isinstance(benchmark, FlippedBenchmark)
        return {
            kind: [row if row.unscored else row.model_copy(update=change(kind, row, flipped)) for row in own]
            for kind, own in rows.items()
        }

    return judged


def scores(where, **other):
    return lambda kind, row, _: {"scores": row.scores | other} if where in (kind, None) else {}


@pytest.mark.parametrize(
    "change, failed",
    [
        (scores(SWAPPED, accuracy=5.0), {"sides"}),
        (scores(SHORTENED, completeness=5.0), {"omission"}),
        (scores(VAGUE, clarity=5.0), {"vague degree"}),
        (scores(UNRELATED, accuracy=3.0), {"unrelated"}),
        (scores(UNRELATED, completeness=1.5), {"unrelated"}),
        (
            scores(None, accuracy=4.0, completeness=4.0, clarity=4.0),
            {"truth", "sides", "omission", "vague degree", "unrelated"},
        ),
    ],
)
def test_a_judge_that_does_not_notice_fails(benchmark, change, failed):
    checks = check_judge(benchmark, worse(change))
    assert {name for name, verdict in verdicts(checks).items() if verdict == "fail"} == failed
    assert not passed(checks)


def test_a_judge_that_calls_an_omission_an_error_fails(benchmark):
    def change(kind, row, _):
        wrong = [one.model_copy(update={"verdict": "major"}) for one in row.assertions]
        return {"assertions": wrong} if kind == SHORTENED else {}

    assert verdicts(check_judge(benchmark, worse(change)))["omission is no error"] == "fail"


def test_D3_a_judge_that_takes_sides_by_heart_fails(benchmark):
    checks = check_judge(benchmark, worse(lambda _, row, flipped: {"scores": row.scores | {"accuracy": 5.0 - flipped}}))
    assert verdicts(checks)["mirror"] == "fail"


def one_dimension(name):
    """The rule judge's scores of one dimension."""

    def of(row):
        others = {other: f"no {other} here" for other in row.scores if other != name}
        return row.model_copy(update={"scores": {name: row.scores[name]}, "unscored": others})

    def judged(benchmark, instructions):
        rows = rule_judge_benchmark(benchmark, instructions)
        return {kind: [row if row.unscored else of(row) for row in own] for kind, own in rows.items()}

    return judged


@pytest.mark.parametrize(
    "dimension, tested",
    [
        ("accuracy", {"truth", "sides", "omission is no error", "unrelated", "mirror"}),
        ("completeness", {"truth", "omission", "unrelated", "mirror"}),
        ("clarity", {"vague degree"}),
    ],
)
def test_a_judge_of_one_dimension_is_tested_in_that_one_alone(benchmark, dimension, tested):
    checks = check_judge(benchmark, one_dimension(dimension), dimensions=(dimension,))
    assert {name for name, verdict in verdicts(checks).items() if verdict == "pass"} == tested
    assert passed(checks) and all(check.held == check.total for check in checks)
    others = {"accuracy", "completeness", "clarity"} - {dimension}
    assert not [check for check in checks if check.total and any(other in check.demand for other in others)]


def test_a_dimension_that_a_judge_should_score_and_does_not_is_not_passed_over(benchmark):
    checks = {check.name: check for check in check_judge(benchmark, one_dimension("clarity"))}
    assert checks["truth"].unscored == PAIRS and checks["truth"].verdict == "not tested"
    assert not passed(list(checks.values()))


def test_repeats_that_disagree_fail(benchmark):
    def judge_function(spread):
        def judged(benchmark, instructions):
            rows = rule_judge_benchmark(benchmark, instructions)
            again = {"scores": dict.fromkeys(("accuracy", "completeness"), 3.0) | {"clarity": 4.0 - spread}}
            first = {"scores": again["scores"] | {"clarity": 4.0}}
            return {
                model: [
                    row.model_copy(update={"repeat": repeat} | ({} if row.unscored else (first, again)[repeat]))
                    for row in own
                    for repeat in (1, 0)
                ]
                for model, own in rows.items()
            }

        return judged

    assert verdicts(check_judge(benchmark, judge_function(0.5)))["repeats"] == "pass"
    assert verdicts(check_judge(benchmark, judge_function(0.6)))["repeats"] == "fail"


def test_a_judge_model_is_checked_the_same_way(tmp_path):
    """Through the client, with faults: what stays unscored is counted and no verdict is made of it."""
    shards = write_synthetic(tmp_path / "shards", 20)
    with ScriptedServer(rule_reply, at_random(0.1, 0, ("refusal",)), keep_bodies=False) as server:
        endpoint = EndpointSettings(server.url, "judge", max_concurrency=16)
        settings = JudgeSettings("scripted", endpoint=endpoint, repeats=2)

        def judged(benchmark, instructions):
            return judge_benchmark(benchmark, instructions, settings, tmp_path / "cache")

        checks = {check.name: check for check in check_judge(Benchmark("synthetic", shards), judged)}
    assert all(check.held == check.total for check in checks.values())
    assert checks["truth"].unscored and checks["truth"].total + checks["truth"].unscored == 20
    assert checks["repeats"].verdict == "pass" and checks["mirror"].verdict == "undecided"
    assert not passed(list(checks.values()))


@pytest.mark.parametrize(
    "held, total, verdict",
    [
        (16, 16, "pass"),
        (15, 15, "undecided"),
        (8, 16, "fail"),
        (90, 100, "pass"),
        (80, 100, "undecided"),
        (0, 0, "not tested"),
    ],
)
def test_a_verdict_needs_the_whole_interval(held, total, verdict):
    check = Check("n", "d", held, total, unscored=1, not_applicable=2, threshold=0.8)
    assert check.verdict == verdict and check.to_json()["verdict"] == verdict
    assert str(check).startswith(verdict) and f"{held} of {total}" in str(check)
    assert passed([check]) == (verdict == "pass")


@pytest.mark.parametrize(
    "text, swapped",
    [
        ("Move the cup left", "Move the cup right"),
        ("the leftmost of the Right-hand cups, LEFT", "the rightmost of the Left-hand cups, RIGHT"),
        ("rightwards, leftward", "leftwards, rightward"),
        ("a bright copyright, cleft, righteous", "a bright copyright, cleft, righteous"),
        ("what is left of it: leftover", "what is right of it: leftover"),
    ],
)
def test_swapped_sides(text, swapped):
    assert swapped_sides(text) == swapped and swapped_sides(swapped) == text


def test_perturbations_of_table_6(tmp_path):
    item = render_pair(WorldSettings(canvas_size=48), 0, 0)
    buffer = io.BytesIO()
    item.source.save(buffer, "PNG")
    pair = EditPair(id="dress", category="stylistic", edit_type="colour", changes=TABLE_6)
    with ShardWriter(tmp_path / "s") as writer:
        writer.add(pair, buffer.getvalue(), "png", buffer.getvalue(), "png")
    found = {kind: rows["dress"] for kind, rows in perturbations(Benchmark("b", tmp_path / "s")).items()}
    whole = " ".join(change.text for change in TABLE_6.primary)
    assert found["truth"].instruction == whole
    assert found[SHORTENED].instruction == " ".join(change.text for change in TABLE_6.primary[:2])
    assert found[VAGUE].instruction == whole.rstrip(".") + ", slightly."
    assert found[SWAPPED].instruction is None and found[SWAPPED].reason == "this pair cannot be perturbed so"
    assert "aeroplane" in found[UNRELATED].instruction
    assert len(FlippedBenchmark(Benchmark("b", tmp_path / "s"))) == 0


def test_D3_labels_swap_with_the_sides():
    """Mirrored pictures with the sides swapped in truth and instruction: the same labels; in one: other ones."""
    tested = 0
    for index in range(400):
        pair = plan_pair(WorldSettings(), 5, index).pair
        said = truth_text(pair.changes)
        if swapped_sides(said) == said:
            continue
        tested += 1
        there = flipped_pair(pair).changes
        assert flipped_pair(flipped_pair(pair)) == pair and there != pair.changes
        assert judge(swapped_sides(said), there).correct and judge(said, pair.changes).correct
        assert not judge(said, there).correct and not judge(swapped_sides(said), pair.changes).correct
    assert tested > 40


def test_D3_the_flipped_pictures_are_mirror_images(benchmark):
    flipped = FlippedBenchmark(benchmark)
    assert 16 <= len(flipped) < PAIRS and len(flipped.fingerprint) > 8 != benchmark.fingerprint
    for i in (0, len(flipped) - 1):
        here, there = benchmark.item(benchmark.ids.index(flipped.ids[i])), flipped.item(i)
        for one, other in ((here.source, there.source), (here.target, there.target)):
            assert np.array_equal(np.asarray(decode_image(one))[:, ::-1], np.asarray(Image.open(io.BytesIO(other))))
        assert there.pair == flipped.pair(i) and there.pair.id == flipped.ids[i]
        assert "letter" not in truth_text(there.pair.changes)


def test_what_cannot_be_checked_is_refused(benchmark, tmp_path):
    with pytest.raises(ValueError, match="threshold=1 must lie between 0 and 1"):
        check_judge(benchmark, rule_judge_benchmark, threshold=1)
    item = benchmark.item(0)
    with ShardWriter(tmp_path / "bare") as writer:
        pair = EditPair(id="p1", category="semantic", edit_type="add")
        writer.add(pair, item.source, "png", item.target, "png")
    with pytest.raises(ValueError, match="benchmark bare: pair p1 has no ground truth"):
        check_judge(Benchmark("bare", tmp_path / "bare"), rule_judge_benchmark)
