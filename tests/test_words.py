"""Words from outside do nothing to a terminal."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.words import LONGEST_LINE, counted, one_line, printable, without_credentials


def test_what_a_terminal_would_obey_is_spelled_out():
    assert printable("a\x1b[2J\x1b]0;title\x07b") == "a\\x1b[2J\\x1b]0;title\\x07b"
    assert printable("\u202egnp.exe\u2066 \ufeff\x9b1m\U000e0041") == "\\u202egnp.exe\\u2066 \\ufeff\\x9b1m\\U000e0041"
    assert printable("ein Käse, 修图, 👍 = 1\\x1b") == "ein Käse, 修图, 👍 = 1\\x1b"
    assert one_line("a\n b\r\n\tc\ud800") == "a b c\\ud800" and len(one_line("x" * 1000)) == LONGEST_LINE


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=400))
def test_one_printable_line_that_a_file_takes(text):
    line = one_line(text)
    line.encode()
    assert len(line) <= LONGEST_LINE and line == one_line(line)
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in line)
    assert not any(
        unicodedata.bidirectional(sign) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI") for sign in line
    )


def test_addresses_are_shown_without_what_opens_them():
    shown = "override 'models.0.endpoint.url=http://u:sk-KEY@h:1/v1' {'url': 'https://a@b?api_key=sk-KEY&x=1'}"
    assert without_credentials(shown) == (
        "override 'models.0.endpoint.url=http://[hidden]@h:1/v1' {'url': 'https://[hidden]@b?[hidden]'}"
    )
    for plain in ("http://h:8000/v1 and a@b.c", "s3://x/y", "who@where?"):
        assert without_credentials(plain) == plain


def test_one_of_a_thing_is_not_called_several():
    assert [counted(number, "pair") for number in (0, 1, 2, 2000)] == ["0 pairs", "1 pair", "2 pairs", "2,000 pairs"]
