"""Calls of Label Studio's API: which are made again, after how long, and what the call log says of them."""

import time

import pytest

from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError
from editcaption_mega.inference.endpoint import concurrency
from editcaption_mega.inference.endpoint.cache import read_calls
from tests.helpers.scripted_label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, scripted_label_studio

PROJECTS, REFRESH = ("GET", "/api/projects/"), ("POST", "/api/token/refresh/")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.01)


@pytest.fixture
def scripted():
    with scripted_label_studio() as server:
        yield server


def fault(status, **headers):
    return status, {"detail": f"no: Token {LEGACY_TOKEN}"}, headers


@pytest.mark.parametrize("passing", [fault(500), fault(503), fault(429)], ids=str)
def test_a_call_that_only_asks_is_made_again(scripted, tmp_path, passing):
    scripted.faults = [passing, passing]
    client = LabelStudio(scripted.url, LEGACY_TOKEN, log=tmp_path)
    assert client.call("GET", "/api/projects/", title="x")["results"] == []
    assert scripted.calls == [PROJECTS] * 3
    calls = list(read_calls(tmp_path))
    assert [(call["id"], call["attempt"], call["status"]) for call in calls] == [
        ("GET /api/projects/", 1, "failed"),
        ("GET /api/projects/", 2, "failed"),
        ("GET /api/projects/", 3, "ok"),
    ]
    assert LEGACY_TOKEN not in (tmp_path / "calls.jsonl").read_text()
    assert calls[0]["reason"].endswith("no: Token [key]")


def test_a_connection_that_breaks_is_opened_again(scripted, tmp_path):
    """aiohttp repeats a GET once by itself, so two breaks are one failed attempt."""
    scripted.faults = ["drop", "drop"]
    client = LabelStudio(scripted.url, LEGACY_TOKEN, log=tmp_path)
    assert client.call("GET", "/api/projects/", title="x")["results"] == []
    assert [call["status"] for call in read_calls(tmp_path)] == ["failed", "ok"] and scripted.calls == [PROJECTS] * 3


def test_the_attempts_end(scripted):
    scripted.faults = [fault(500)] * 9
    with pytest.raises(LabelStudioError, match="failed with 500"):
        LabelStudio(scripted.url, LEGACY_TOKEN, max_attempts=4).call("GET", "/api/projects/", title="x")
    assert scripted.calls == [PROJECTS] * 4


@pytest.mark.parametrize("stays", [fault(400), fault(404), fault(302, Location="http://elsewhere/")], ids=str)
def test_what_will_not_pass_is_not_asked_again(scripted, stays):
    scripted.faults = [stays] * 9
    with pytest.raises(LabelStudioError):
        LabelStudio(scripted.url, LEGACY_TOKEN).call("GET", "/api/projects/", title="x")
    assert scripted.calls == [PROJECTS]


@pytest.mark.parametrize("broken", [fault(500), fault(503), "drop"], ids=str)
def test_a_call_that_changes_something_is_made_once(scripted, broken):
    """Nobody knows whether it has arrived; only a 429 says that it was turned away."""
    client = LabelStudio(scripted.url, LEGACY_TOKEN)
    scripted.faults = [broken]
    with pytest.raises(LabelStudioError):
        client.call("POST", "/api/projects/", {"title": "x"})
    assert scripted.calls == [("POST", "/api/projects/")] and not scripted.projects
    scripted.faults = [fault(429)]
    assert client.call("POST", "/api/projects/", {"title": "x"})["id"] == 1


def test_retry_after_is_waited_for_unless_it_is_too_long(scripted):
    client = LabelStudio(scripted.url, LEGACY_TOKEN)
    scripted.faults = [fault(429, **{"Retry-After": "0.5"})]
    begun = time.monotonic()
    client.call("GET", "/api/projects/", title="x")
    assert time.monotonic() - begun >= 0.5
    scripted.faults = [fault(503, **{"Retry-After": "86400"})]
    with pytest.raises(LabelStudioError, match="failed with 503"):
        client.call("GET", "/api/projects/", title="x")
    assert len(scripted.calls) == 3


def test_a_token_is_exchanged_again_too(scripted, tmp_path):
    scripted.faults = [fault(503), None, fault(503)]
    client = LabelStudio(scripted.url, PERSONAL_TOKEN, log=tmp_path)
    assert client.call("GET", "/api/projects/", title="x")["results"] == []
    assert scripted.calls == [REFRESH, REFRESH, PROJECTS, PROJECTS]
    kept = (tmp_path / "calls.jsonl").read_text()
    assert PERSONAL_TOKEN not in kept and "access-1" not in kept
