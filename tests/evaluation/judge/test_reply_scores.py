"""Labels to scores, rule by rule (S, A, C, L: the rules of listings 1 to 3, tables 5 and 7)."""

import pytest

from editcaption_mega.evaluation.judge import rule_judge
from editcaption_mega.evaluation.rubric.flags import flags, redundancies, unverifiable_measures
from editcaption_mega.evaluation.rubric.scores import weighted_score
from editcaption_mega.records import Change, Changes
from tests.helpers.judge_cases import TABLE_6, accuracy_reply, clarity_reply, completeness_reply, scored


def truth(primary, secondary=0):
    return Changes(
        primary=[Change(id=f"p{i}", text="a change") for i in range(1, primary + 1)],
        secondary=[Change(id=f"s{i}", text="a change") for i in range(1, secondary + 1)],
        overall="a change",
    )


def accuracy(*labels, of=TABLE_6, own=5):
    return scored(accuracy_reply(*labels, score=own), of)


def completeness(hits, secondary=(), of=TABLE_6, **options):
    primary = [change.id for change in of.primary]
    return scored(completeness_reply(hits, secondary, primary=primary), of, **options)


def clarity(text, own=5.0, terms=(), points=5, source="lexicon"):
    return scored(clarity_reply(terms, points, own), TABLE_6, text, terms=source)


# ---- form and sum ----------------------------------------------------------------------------------------------------


def test_S1_the_weighted_score_is_computed_from_computed_scores():
    """The judge says 5, 5, 5; its labels say 3, 2, 3."""
    found = [accuracy(("major", "p1")), completeness(["p1"]), clarity("Make it pink")]
    assert [one.judge_score for one in found] == [5, 5, 5]
    assert weighted_score(*[one.score for one in found]) == pytest.approx(0.4 * 3 + 0.4 * 2 + 0.2 * 3)


def test_S3_scores_off_the_scale_are_told():
    assert "S3: accuracy 3.5 is no whole number" in accuracy(("correct", "p1"), ("correct", "p2"), own=3.5).deviations
    found = scored(completeness_reply(["p1", "p2", "p3"], score=4.7))
    assert found.score == 5.0 and "S3: completeness 4.7 is in no row of the table" in found.deviations
    assert clarity("Paint the dress pink", own=4.3).deviations == ()


# ---- accuracy --------------------------------------------------------------------------------------------------------


def test_A1_N_is_the_number_of_primary_changes():
    """Whatever the judge counts: the same label covers 1 of 1, 1 of 3, 1 of 4."""
    assert [accuracy(("correct", "p1"), of=truth(n)).score for n in (1, 3, 4)] == [5, 4, 3]


def test_A2_coverage_counts_each_primary_change_once():
    repeated = accuracy(("correct", "p1"), ("correct", "p1"), ("correct", "p1"), ("correct", "s1"))
    assert repeated.details == {"acc_no_coverage": 5, "covered": 1} and repeated.score == 4
    assert accuracy(("fabricated", "p1"), ("correct", "p2")).details["covered"] == 1, "an invention covers nothing"


def test_A3_a_fabrication_caps_at_2():
    complete = [("correct", "p1"), ("correct", "p2"), ("correct", "p3")]
    assert accuracy(*complete).score == 5
    assert accuracy(*complete, ("fabricated", None)).score == 2
    assert accuracy(*complete, ("fabricated", None), ("fabricated", None)).score == 2
    assert accuracy(*complete, ("unrelated", None)).score == 2, "beside true claims, an unrelated one is an invention"


@pytest.mark.parametrize("covered, expected", [(0, 3), (29, 3), (30, 4), (49, 4), (50, 5), (100, 5)])
def test_A4_coverage_caps(covered, expected):
    found = accuracy(*[("correct", f"p{i}") for i in range(1, covered + 1)] or [("correct", "s1")], of=truth(100, 1))
    assert found.score == expected and found.details["acc_no_coverage"] == 5


@pytest.mark.parametrize(
    "errors, expected",
    [
        ([], 5),
        ([("minor", None)], 4),
        ([("minor", None), ("minor", "s1")], 4),
        ([("major", "p3")], 3),
        ([("major", "p3"), ("minor", None)], 3),
        ([("major", "p3"), ("major", "p2")], 2),
        ([("major", "p3"), ("major", None), ("major", "p2")], 2),
    ],
)
def test_A5_errors_cap(errors, expected):
    assert accuracy(("correct", "p1"), ("correct", "p2"), *errors).score == expected


def test_A5_unrelated_texts_score_1():
    assert accuracy(("unrelated", None), ("unrelated", None)).score == 1
    assert accuracy().score == 1, "nothing is claimed at all"


def test_A5_what_an_error_is_about_says_how_grave_it_is():
    found = accuracy(("minor", "p1"), ("major", "s1"), own=3)
    assert [one.verdict for one in found.labels["assertions"]] == ["major", "minor"] and found.score == 3
    assert found.deviations == (
        "A5: 'it' is wrong about p1: major, the judge says minor",
        "A5: 'it' is wrong about s1: minor, the judge says major",
    )


def test_A6_a_missing_degree_is_no_error():
    """ "deep red" told as "red": the judge labels it correct (its prompt says so), and the rule judge takes a missing
    colour for no error."""
    assert accuracy(("dress to red", "correct", "p1"), ("correct", "p2")).score == 5
    facts = {"action": "remove", "object": {"colour": "red", "shape": "circle"}}
    world = Changes(primary=[Change(id="p1", text="a change", facts=facts)], overall="a change")
    assert rule_judge.judge("Remove the circle from the picture", world).accuracy == 5


def test_accuracy_deviations_name_the_rule():
    assert accuracy(("correct", "p1"), ("fabricated", None)).deviations == (
        "A3: accuracy 5, its labels give 2 (1 fabricated, 1 of 3 changes covered)",
    )
    assert accuracy(("major", "p1")).deviations[0].startswith("A5: accuracy 5, its labels give 3 (1 major")
    assert accuracy(("correct", "p1")).deviations == (
        "A4: accuracy 5, its labels give 4 (no error, 1 of 3 changes covered)",
    )


# ---- completeness ----------------------------------------------------------------------------------------------------


def test_C1_hits_and_misses_are_all_primary_changes():
    found = completeness(["p3", "p1"])
    assert found.labels == {"hits": ["p1", "p3"], "misses": ["p2"], "secondary_hits": []}


@pytest.mark.parametrize(
    "hits, total, expected",
    [(1, 1, 5.0), (3, 4, 4.5), (2, 3, 4.0), (3, 5, 4.0), (1, 2, 3.0), (1, 3, 2.0), (1, 5, 2.0), (0, 3, 1.0)],
)
def test_C2_score_is_the_table_of_listing_2(hits, total, expected):
    assert completeness([f"p{i}" for i in range(1, hits + 1)], of=truth(total)).score == expected


def test_C2_the_missing_row_of_listing_2():
    """0 < R < 20 %, reachable from six primary changes on (resolution 1): 1.0, or 2.0 by setting."""
    assert completeness(["p1"], of=truth(6)).score == 1.0
    assert completeness(["p1"], of=truth(6), table="listing2_any_hit").score == 2.0
    assert completeness([], of=truth(6), table="listing2_any_hit").score == 1.0


def test_C3_secondary_changes_add_half_a_point():
    assert completeness([], ["s1"]).score == 1.5
    assert completeness(["p1", "p2"], ["s1"]).score == 4.5
    assert completeness(["p1", "p2"], ["s1", "s1"]).score == 4.5, "once, however many"
    assert completeness(["p1", "p2", "p3"], ["s1"]).score == 5.0, "not at 100 %"
    assert completeness(["p1", "p2", "p3"], of=truth(4, 1), secondary=["s1"]).score == 5.0, "4.5 + 0.5"


def test_C3_nothing_lowers_the_score():
    found = scored(completeness_reply(["p1", "p2", "p3"], score=3))
    assert found.score == 5 and found.deviations == ("C2: completeness 3, its labels give 5 (3 of 3 hit, 0 secondary)",)


def test_C3_a_bonus_that_the_judge_forgot():
    found = scored(completeness_reply(["p1", "p2"], ["s1"], score=4.0))
    assert found.score == 4.5 and found.deviations[0].startswith("C3: completeness 4, its labels give 4.5")


def world(*facts):
    changes = [Change(id=f"p{i}", text="a change", facts=one) for i, one in enumerate(facts, 1)]
    return Changes(primary=changes, overall="a change")


RED_CIRCLE = {"colour": "red", "shape": "circle"}
ADD = {"action": "add", "object": {**RED_CIRCLE, "size": "small"}, "place": "top left"}
REMOVE = {"action": "remove", "object": RED_CIRCLE}
RECOLOUR = {"action": "recolour", "object": RED_CIRCLE, "to": "blue"}
RETEXTURE = {"action": "retexture", "object": RED_CIRCLE, "to": "striped"}
RESIZE = {"action": "resize", "object": RED_CIRCLE, "to": "small"}


@pytest.mark.parametrize(
    "text, facts, hit",
    [
        ("Remove the red circle from the picture", ADD, False),
        ("Add a small red circle at the top left", REMOVE, False),
        ("Zoom the camera out", {"action": "camera_zoom", "direction": "in"}, False),
        ("Add a large green circle at the bottom right", ADD, True),  # wrong attributes
        ("Recolour the circle to green", RECOLOUR, True),
        ("Remove the circle from the picture", REMOVE, True),  # less is told
    ],
)
def test_C4_a_reversed_operation_is_a_miss_and_a_wrong_attribute_is_not(text, facts, hit):
    assert bool(rule_judge.judge(text, world(facts)).hits) == hit


@pytest.mark.parametrize(
    "printed, told",
    [
        ("3 changes, 2 hits (R=67%)", None),
        ("3 changes, 2 hits (R=66.7%)", None),
        ("R = 66 %", None),
        ("no rate", None),
        ("3 changes, 3 hits (R=100%)", "C5: it says R=100%, its labels give 67 %"),
    ],
)
def test_C5_the_printed_rate_is_the_labels_rate(printed, told):
    found = scored(completeness_reply(["p1", "p2"], score=4, reasoning=printed))
    assert found.deviations == ((told,) if told else ())


# ---- clarity ---------------------------------------------------------------------------------------------------------


def test_L1_whose_list_of_forbidden_terms_counts_is_a_setting():
    text = "Change that piece of clothing slightly, optimizing colours"
    judge = ["that", "Optimizing", "dazzling"]
    expected = {
        "lexicon": (["slightly", "optimize"], 2.5),
        "judge": (["that", "optimizing"], 2.5),
        "union": (["slightly", "optimize", "that"], 2.0),
        "intersection": (["optimize"], 3.0),
    }
    for source, (terms, score) in expected.items():
        found = clarity(text, own=5.0, terms=judge, source=source)
        assert (found.labels["forbidden"], found.score) == (terms, score)
        assert found.details["judge_forbidden"] == ["that", "optimizing"]
        assert "L1: it names a forbidden term that is not in the text: 'dazzling'" in found.deviations


@pytest.mark.parametrize(
    "text, ceiling",
    [("Paint the circle red", 5.0), ("Make it red", 3.0), ("Make it slightly red", 2.5)]
    + [("Make it slightly red, a bit larger", 2.0), ("Make it slightly red, a bit larger, somewhat round", 2.0)],
)
def test_L2_the_ceiling_is_an_upper_bound(text, ceiling):
    assert clarity(text, own=5.0).score == ceiling
    assert clarity(text, own=1.4).score == 1.4, "a judge may give less (resolution 7)"


def test_L2_a_judge_over_its_own_ceiling_is_told():
    found = clarity("Make it red", own=4.0, terms=["it"])
    assert found.score == 3.0
    assert found.deviations == ("L2: clarity 4 over the ceiling 3 of the 1 terms that it names",)


@pytest.mark.parametrize("words, points, cost", [(151, 4, 0.5), (150, 4, 0), (151, 5, 0), (400, 0, 0.5)])
def test_L3_many_words_and_little_information_cost_half_a_point(words, points, cost):
    assert clarity("red " * words, own=4.0, points=points).score == 4.0 - cost
    assert clarity("red " * words, own=1.0, points=points).score == 1.0, "1 is the least"


@pytest.mark.parametrize(
    "text, measures",
    [
        ("Enlarge to 15cm", ["15cm"]),
        ("Rotate 37 degrees", ["37 degrees"]),
        ("Rotate the car by 180 degrees, then by 90°", []),
        ("Shift by 12.5 px and brighten by 20 %", ["12.5 px", "20 %"]),
        ("Change two cats to three, at 3 m", ["3 m"]),
        ("Change the sign to 50", []),
        ("Make 3 main parts", []),
    ],
)
def test_L4_measures_that_no_one_can_check_are_flagged(text, measures):
    assert unverifiable_measures(text) == measures
    assert len(flags(text)) == len(measures)


@pytest.mark.parametrize(
    "text, told",
    [
        ("Paint the star red. Paint the star red.", "said 2 times: paint the star red"),
        (
            "Remove red flower, add blue flower at same location",
            "removes and adds one flower at one place: say replace",
        ),
        (
            "Remove the cup on the table and add a cup on the table",
            "removes and adds one cup at one place: say replace",
        ),
        ("Remove the cup on the table and add a cup on the floor", None),
        ("Remove the cup, add a plate", None),
        ("Keep white unchanged, change to white", "keeps and changes the white"),
        ("Keep the dress, then change the dress to pink", "keeps and changes the dress"),
        ("Keep the bag unchanged and change the dress to pink", None),
        ("", None),
    ],
)
def test_L5_redundant_descriptions_are_flagged(text, told):
    assert redundancies(text) == ([told] if told else [])
