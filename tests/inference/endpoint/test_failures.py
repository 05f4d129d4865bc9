"""The one classification of failures: what waiting is asked for, what words are kept, what numbers are believed."""

import json
import math
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.inference.endpoint.concurrency import LONGEST_PAUSE
from editcaption_mega.inference.endpoint.failures import (
    Outcome,
    cleaned,
    error_words,
    read_object,
    read_retry_after,
    token_count,
)
from editcaption_mega.inference.endpoint.outcome import Response
from editcaption_mega.inference.endpoint.secret import Secret

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "type", "message", "detail", "data", "details", "status", "innererror"]),
            inner,
        )
    ),
    max_leaves=12,
)


def test_retry_after():
    assert read_retry_after({}) is None and read_retry_after({"Retry-After": "soon"}) is None
    assert read_retry_after({"Retry-After": "1.5"}) == 1.5
    for wrong in ("-3", "nan", "inf", "1e9", "0x10", "1, 2", "\u0661", "Fri, 99 Foo 2999 99:99:99 XYZ"):
        assert read_retry_after({"Retry-After": wrong}) is None, wrong
    assert read_retry_after({"Retry-After": "9" * 5000}) == 1e9
    assert read_retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert read_retry_after({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}) > 1e6
    assert read_retry_after({"retry-after-ms": "250"}) == 0.25
    assert read_retry_after({"retry-after-ms": "nan"}) is None and read_retry_after({"retry-after-ms": "-5"}) == 0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,9} [A-Z][a-z]{2} \d{1,12} \d\d:\d\d:\d\d .{1,9}"))
def test_no_pause_is_endless_or_backwards(asked):
    for headers in ({"Retry-After": asked}, {"retry-after-ms": asked}):
        found = read_retry_after(headers)
        assert found is None or (found >= 0 and math.isfinite(found))
        outcome = cleaned(Outcome("failed", may_pass=True, retry_after=found), Secret(""))
        assert not outcome.may_pass or (found or 0) <= LONGEST_PAUSE


@settings(max_examples=80, deadline=None)
@given(JSON, st.integers(100, 999), st.sampled_from(["choices", "data"]))
def test_whatever_a_server_sends_has_a_meaning(body, http, expected):
    """Never an exception; a failure has words of bounded length that every file and terminal takes."""
    found = read_object(Response(http, {}, bytearray(json.dumps(body).encode())), expected)
    if isinstance(found, dict):
        assert expected in found and 200 <= http < 300
        return
    found = cleaned(found, Secret("sk-0123456789"))
    assert found.status in ("failed", "refused") and found.reason and len(found.reason) <= 400
    assert not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in found.reason)
    code, message = error_words(body)
    assert isinstance(code, str) and isinstance(message, str)


def test_numbers_of_a_server_are_bounded():
    assert token_count(17) == 17 and token_count(0) == 0
    for wrong in (None, -1, True, 1.5, "17", [17], 10**400, 2**70, float("nan")):
        assert token_count(wrong) == 0
