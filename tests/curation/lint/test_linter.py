import json
import time
from collections import Counter

import pytest

from editcaption_mega.curation.lint import RULES, lint, rules_broken
from tests.helpers import ROOT

LABELLED = [json.loads(line) for line in (ROOT / "tests/data_files/lint.jsonl").read_text("utf-8").splitlines()]


def table(rows) -> dict[str, tuple[int, int, int]]:
    """Rule -> (right, too many, missed)."""
    right, extra, missed = Counter(), Counter(), Counter()
    for row in rows:
        said, wanted = set(rules_broken(row["text"], row.get("mirrored"))), set(row["rules"])
        right.update(said & wanted)
        extra.update(said - wanted)
        missed.update(wanted - said)
    return {rule: (right[rule], extra[rule], missed[rule]) for rule in RULES}


@pytest.mark.parametrize("held_out", [False, True], ids=["tuned on", "held out"])
def test_each_rule_is_precise_and_misses_little(held_out):
    rows = [row for row in LABELLED if row["held_out"] == held_out]
    print(f"\n{len(rows)} instructions\nrule            right  extra  missed  precision  recall")
    for rule, (right, extra, missed) in table(rows).items():
        precision, recall = right / (right + extra), right / (right + missed)
        print(f"{rule:14}  {right:5}  {extra:5}  {missed:6}  {precision:9.2f}  {recall:6.2f}")
        assert right >= 5, f"{rule}: too few positives to say anything"
        assert precision >= 0.95 and recall >= 0.9, rule


def test_the_labelled_set_is_what_it_says():
    assert len(LABELLED) >= 300 and len({(row["text"], row.get("mirrored")) for row in LABELLED}) == len(LABELLED)
    for rule in RULES:
        about = [row for row in LABELLED if row["about"] == rule]
        chinese = [row for row in about if any(letter >= "\u4e00" for letter in row["text"])]
        clean = [row for row in about if rule not in row["rules"]]
        assert len(chinese) >= 10 and len(clean) >= 15 and len(about) - len(clean) >= 15, rule
    assert {rule for row in LABELLED for rule in row["rules"]} == set(RULES)


def test_a_finding_says_where_and_what_to_write():
    text = "Make the sky red. Enlarge the vase to 15cm."
    (finding,) = lint(text)
    assert finding.rule == "measure" and text[slice(*finding.span)] == "15cm"
    assert "cannot be checked" in finding.message and "quarter turn" in finding.hint
    text = "Remove the red flower. Paint the wall white and add a blue flower."
    (finding,) = lint(text)
    assert finding.rule == "replace"
    assert text[slice(*finding.span)] == "Remove the red flower. Paint the wall white and add a blue flower"


@pytest.mark.parametrize(
    "text",
    ["", " ", "。", '"', "İİİ Make the sky red", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
)
def test_texts_of_nothing_to_find(text):
    assert lint(text, text) == []


def test_what_a_picture_is_to_say_is_no_instruction():
    assert rules_broken('Change the sign to "Turn it left, then turn it right by 15cm".') == []
    assert rules_broken("把招牌改为“把它向左移，再向右移15厘米”。") == []
    assert "duplicate" not in rules_broken('Add "A" on the door and add "B" on the door.')
    assert "duplicate" in rules_broken('Add "A" on the door and add "A" on the door.')


@pytest.mark.parametrize(
    "piece", ["and ", "a", "把", '"', "remove the ", "add a cup, ", "to the left ", "put the ", "左", "图"]
)
def test_hostile_texts_take_no_long(piece):
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    lint(text, text)
    assert time.process_time() - start < 10
