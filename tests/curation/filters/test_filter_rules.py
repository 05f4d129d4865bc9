import math

import pytest

from editcaption_mega.curation.filters.filter_rules import parse_rule, parse_rules
from editcaption_mega.settings import SettingsError


def test_each_form_is_read():
    rule = parse_rule(" success >= 6 ")
    assert (rule.column, rule.kind, rule.sign, rule.value, rule.absent_passes) == ("success", "number", ">=", 6, False)
    assert parse_rule("brightness<-0.5").value == -0.5
    assert parse_rule("ssim<q0.9").kind == "quantile" and parse_rule("over_editing<=p0.95").kind == "precision"
    assert parse_rule("scores.success>6?").absent_passes and parse_rule("scores.success>6?").column == "scores.success"
    assert parse_rule("edit_type=add|remove").words == ("add", "remove")
    assert math.isnan(parse_rule("lint:none").value)


@pytest.mark.parametrize(
    ("rule", "value", "passes"),
    [
        ("lint:none", [], True), ("lint:none", ["vague"], False), ("lint:vague", ["vague", "mirror"], True),
        ("lint:vague", [], False), ("lint:!vague", ["mirror"], True), ("lint:!vague", ["vague"], False),
        ("identical=false", False, True), ("identical=false", True, False), ("identical!=true", False, True),
        ("kind=add|remove", "remove", True), ("kind=add|remove", "replace", False), ("kind!=add|remove", "add", False),
        ("turns=2", 2, True), ("turns=2", 2.0, True), ("turns=2", 3, False),
    ],
)  # fmt: skip
def test_words_and_lists(rule, value, passes):
    assert parse_rule(rule).passes(value) is passes


def test_a_list_rule_on_something_else_is_refused():
    with pytest.raises(ValueError, match="rule 'lint:none' is about a list, and lint is 'vague'"):
        parse_rule("lint:none").passes("vague")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "rule '' is none: expected COLUMN>=6"), ("success", "is none"), ("success>=", "is none"),
        ("success>=six", "is none"), (">=6", "is none"), ("success=>6", "is none"), ("success>=6 or x<1", "is none"),
        ("ssim<q90", "a quantile is a number from 0 to 1, found 90"), ("ssim>=p1", "between 0 and 1, found 1"),
        ("ssim>p0.9", "write >="), ("lint:", "is none"), ("success>=1e5", "is none"), ("success>=nan", "is none"),
        ("a.b.c>=1", "is none"), ("__import__('os')>=1", "is none"), ("x=a|", "is none"), ("x>=1\ny>=2", "is none"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_in_a_sentence(text, words):
    with pytest.raises(SettingsError) as error:
        parse_rule(text)
    assert words in str(error.value)


def test_a_rule_twice_is_refused():
    with pytest.raises(SettingsError, match="'a>=1' is given twice"):
        parse_rules(["a>=1", "b>=1", "a>=1"])
