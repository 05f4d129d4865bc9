"""Two texts are the same when their tokens are: case, blanks and the last full stop aside."""

import pytest

from editcaption_mega.curation.people.same_text import same_tokens, text_tokens, token_similarity


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Move the ball left.", "  move  THE ball\nleft ", True),
        ("Move the ball left", "Move the ball right", False),
        ("Change the sign to 'OPEN'", "Change the sign to 'OPEN!'", False),
        ("Turn by 2.5", "Turn by 25", False),
        ("把球移到左边。", "把 球 移到左边", True),
        ("把球移到左边", "把球移到右边", False),
        ("Ｍove it", "move it", True),  # a full-width letter
    ],
)
def test_tokens_decide(first, second, same):
    assert same_tokens(first, second) is same
    assert (token_similarity(first, second) == 1.0) is same


def test_signs_of_chinese_are_tokens_of_their_own():
    assert text_tokens("把red球, left.") == ["把", "red", "球", ",", "left"]
    assert token_similarity("a b c d", "a b x d") == 0.75
