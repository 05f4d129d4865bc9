"""A key is taken out of whatever a server echoes, in any spelling."""

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.inference.endpoint.secret import Secret

KEY = "sk-planted/+&\"'-0123456789abcdefXYZ"
SPELLINGS = {
    "plain": KEY,
    "header": f"Bearer {KEY}",
    "upper": KEY.upper(),
    "lower": KEY.lower(),
    "json": json.dumps(KEY),
    "json twice": json.dumps(json.dumps(KEY)),
    "python": repr({"a": KEY}),
    "html": html.escape(KEY),
    "url": quote(KEY, safe=""),
    "url, small letters": quote(KEY, safe="").lower(),
    "every letter as %": "".join(f"%{ord(c):02X}" for c in KEY),
    "\\u": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "entities": "".join(f"&#{ord(c)};" for c in KEY),
    "hex": KEY.encode().hex(),
    "reversed": KEY[::-1],
    "url-safe base64": base64.urlsafe_b64encode(KEY.encode()).decode(),
    **{f"base64 after {n}": base64.b64encode(b"x" * n + KEY.encode() + b"tail").decode() for n in range(4)},
    "base64 of the header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "half": KEY[:26],
    "the other half": KEY[8:],
    "a third": KEY[9:21],
    "spelled out": " ".join(KEY),
    "spelled out with commas": ", ".join(KEY),
    "swapped": KEY.swapcase(),
    "a third in hex": KEY[9:21].encode().hex(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_taken_out(name):
    for before, after in (("", ""), ("You sent ", "!"), ("x" * 5, "y" * 7), (SPELLINGS[name], "")):
        found = Secret(KEY).redact(before + SPELLINGS[name] + after)
        assert "[key]" in found and found.endswith(after)
        for spelling in SPELLINGS.values():
            least = 12 if spelling in KEY else 24
            assert not any(spelling[at : at + least] in found for at in range(len(spelling) - least + 1)), (name, found)


@settings(max_examples=60, deadline=None)
@given(
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
)
def test_no_place_hides_a_key(key, before, after):
    found = Secret(key).redact(before + key + after)
    assert key not in found or key in "[key]"
    plain = before.replace(key, "") + after
    assert len(found) <= len(before + key + after) + 5 * (1 + len(plain))


def test_other_words_stay():
    assert Secret(KEY).redact("The server is down, sk- and 0123456789 are no key.") == (
        "The server is down, sk- and 0123456789 are no key."
    )
    assert Secret("EMPTY").redact("an EMPTY room") == "an EMPTY room", "what local servers take is no secret"
    assert Secret("sk-0123456789").redact("Bearer sk-0123456789!") == "Bearer [key]!"
    assert Secret("sk-0123456789").redact("c2stMDEyMzQ1Njc4OQ==") == "[key]=="
    assert Secret(KEY).redact(f"begins with {KEY[:11]}") == f"begins with {KEY[:11]}"
    long = "all is well. " * 100_000
    assert Secret(KEY).redact(long) == long


def test_a_secret_shows_itself_nowhere(monkeypatch):
    assert "0123" not in repr(Secret("sk-0123456789")) + str([Secret("sk-0123456789")])
    assert Secret("EMPTY").headers() == {"Authorization": "Bearer EMPTY"} and Secret("").headers() == {}
    assert Secret("0123456789", "Token").headers() == {"Authorization": "Token 0123456789"}
    for bad in ("two words", "line\nbreak", "tab\there", "caf\u00e9-0123456789", "\x1b[31m"):
        with pytest.raises(ValueError, match="something else than a key") as caught:
            Secret(bad)
        assert bad not in str(caught.value)
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert Secret.from_environment("SOME_KEY", "http://h/v1").headers() == {"Authorization": f"Bearer {KEY}"}
