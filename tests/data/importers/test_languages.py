"""In which language an instruction is written, whatever it is about."""

import pytest

from editcaption_mega.data.importers.languages import joined_sentences, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Add a hat.", "en"),
        ("加一顶帽子", "zh"),
        ("Change the sign to “你好”.", "en"),
        ("Don't touch the dog's \"你好\" sign.", "en"),
        ("Write '你好' on it, don't write '再见'.", "en"),
        ("把文字改为 'HELLO WORLD OF LETTERS'", "zh"),
        ("将“好”改为“坏”", "zh"),
        ("“你好”", "zh"),
        ("《你好》 -> 1", "zh"),
        ("Mach es blau.", "en"),
    ],
)
def test_a_text_is_chinese_by_what_stands_outside_its_quotes(text, language):
    assert language_of(text) == language


def test_joined_instructions_are_sentences():
    assert joined_sentences(["Add a hat", " Make it red! ", "改成蓝色"]) == "Add a hat. Make it red! 改成蓝色。"
