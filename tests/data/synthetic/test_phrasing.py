"""The grammar both ways: whatever it writes it reads back, and it reads any string without raising."""

import random
import re
import string

import pytest

from editcaption_mega.data.synthetic import (
    EDIT_TYPES,
    WorldSettings,
    corpus_texts,
    parse,
    phrase,
    plan_pair,
    vocabulary,
)
from editcaption_mega.data.synthetic.phrasing import every_facts, phrase_all, phrase_each
from editcaption_mega.data.synthetic.templates import FORMS, JOINERS

RED_CIRCLE = {"colour": "red", "shape": "circle"}
MOVE = {"action": "move", "object": RED_CIRCLE, "direction": "left"}
RECOLOUR = {"action": "recolour", "object": {"colour": "green", "shape": "star"}, "to": "orange"}


def test_every_edit_in_every_template_is_read_back():
    for facts in every_facts():
        for sentence in phrase_each(facts):
            assert parse(sentence) == [facts], sentence


def test_the_grammar_covers_every_edit_type_with_four_templates_of_4_to_14_words():
    assert {form.action for form in FORMS} | {"hybrid"} == set(EDIT_TYPES)
    assert all(len(form.templates) >= 4 and len(set(form.templates)) == len(form.templates) for form in FORMS)
    assert all(4 <= len(sentence.split()) <= 14 for facts in every_facts() for sentence in phrase_each(facts))


def test_the_vocabulary_is_compact_and_holds_every_word_that_is_written():
    words = set(vocabulary())
    assert len(words) < 150
    written = {
        word for facts in every_facts() for text in phrase_each(facts) for word in re.findall(r"[a-z]+", text.lower())
    }
    assert words == written | {"and", "then", "also"}


def test_no_template_holds_a_joiner():
    for form in FORMS:
        for template in form.templates:
            assert not re.search(r"\b(and|then|also)\b|[.,;:!?]", re.sub(r"\{.*?\}", "", template)), template


def test_a_hybrid_is_two_clauses_in_order():
    seen = set()
    for seed in range(30):
        sentence = phrase_all([RECOLOUR, MOVE], random.Random(seed))
        assert parse(sentence) == [RECOLOUR, MOVE], sentence
        seen.update(joiner for joiner in JOINERS if joiner in sentence)
    assert seen == set(JOINERS)


@pytest.mark.parametrize(
    "text",
    [
        "MOVE THE RED CIRCLE ONE CELL LEFT",
        "  move the   red circle, one cell left ".replace(",", ""),
        'Move the "red" circle one cell left!!!',
        "Nonsense first. Move the red circle one cell left; then sing a song.",
    ],
)
def test_case_and_punctuation_do_not_matter(text):
    assert parse(text) == [MOVE]


def test_american_spelling_is_read():
    assert parse("Change the color of the red circle to gray") == []  # grey is a background, not an object's colour
    assert parse("Change the background to gray.") == [{"action": "background", "to": "grey"}]
    assert parse("Change the color of the red circle to blue") == [
        {"action": "recolour", "object": RED_CIRCLE, "to": "blue"}
    ]
    assert parse("Make the whole picture greyscale.") == [{"action": "tone", "to": "grayscale"}]


def test_a_left_out_colour_or_size_is_absent_from_the_facts():
    assert parse("Remove the circle from the picture.") == [{"action": "remove", "object": {"shape": "circle"}}]
    assert parse("Add a red circle at the center.") == [{"action": "add", "object": RED_CIRCLE, "place": "center"}]


def test_parse_never_raises():
    rng = random.Random(0)
    words = [*vocabulary(), ".", ",", "и", "\x00", "{to}", "(?P<", "\\", "İ"]
    for _ in range(3000):
        parse(" ".join(rng.choice(words) for _ in range(rng.randrange(20))))
        parse("".join(rng.choice(string.printable) for _ in range(40)))
    assert parse("") == [] and parse("move " * 20_000) == []


def test_phrase_refuses_facts_that_are_not_canonical():
    rng = random.Random(0)
    for wrong in ({}, {"action": "fly"}, {**MOVE, "direction": "north"}, {"action": "move", "object": RED_CIRCLE}):
        with pytest.raises(ValueError, match="no template says"):
            phrase(wrong, rng)


def test_fewer_phrasings_make_a_smaller_language():
    settings = WorldSettings(phrasings=1, edit_types=("remove",))
    assert all(plan_pair(settings, 0, i).pair.instruction.startswith("Remove the ") for i in range(20))


def test_corpus_holds_every_word_in_both_cases_of_a_clause_and_is_always_the_same():
    texts = corpus_texts(WorldSettings(), 5, 10)
    assert texts == corpus_texts(WorldSettings(), 5, 10)
    assert texts[3] == plan_pair(WorldSettings(), 5, 3).pair.instruction
    assert {word for text in texts for word in re.findall(r"[a-z]+", text.lower())} >= set(vocabulary())
    exact = {word for text in corpus_texts(WorldSettings(), 0, 0) for word in re.findall(r"[A-Za-z]+", text)}
    for seed in range(300):
        instruction = plan_pair(WorldSettings(), 11, seed).pair.instruction
        assert set(re.findall(r"[A-Za-z]+", instruction)) <= exact, instruction
