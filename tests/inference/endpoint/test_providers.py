"""Every documented error and ending of the servers that are met: what it means for the row, and for the run."""

import json

import pytest

from editcaption_mega.inference.endpoint import concurrency
from editcaption_mega.inference.endpoint.client import Endpoint, EndpointError, Message, Request, complete
from editcaption_mega.inference.endpoint.openai_protocol import read_completion
from editcaption_mega.inference.endpoint.outcome import Response
from tests.helpers.hostile_server import HostileServer, http
from tests.helpers.provider_answers import ROWS


def body_of(row):
    return (row.body if isinstance(row.body, str) else json.dumps(row.body)).encode()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.provider}, {row.what}" for row in ROWS])
def test_what_it_means(row):
    headers = {name.lower(): value for name, value in row.headers.items()}
    found = read_completion(Response(row.http, _Headers(headers), bytearray(body_of(row))))
    status = found.status if row.meaning in ("ok", "truncated", "refused", "malformed") else row.meaning
    assert (found.status == "ok") == (row.meaning == "ok") and row.words.lower() in found.reason.lower(), found
    assert found.retry_after == row.wait, found
    assert {
        "ok": not found.may_pass,
        "truncated": found.text and not found.may_pass,
        "refused": not found.may_pass and not found.stops,
        "malformed": found.may_pass and not found.text,
        "again": found.status == "failed" and found.may_pass and not found.stops,
        "row": found.status in ("failed", "malformed") and not found.may_pass and not found.stops,
        "stop": found.stops == "always" and not found.may_pass,
        "first": found.stops == "first",
    }[status], found


class _Headers(dict):
    """Names whatever their case, as aiohttp gives them."""

    def get(self, name, default=None):
        return super().get(name.lower(), default)

    def __contains__(self, name):
        return super().__contains__(name.lower())


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.meaning == "stop"], ids=lambda row: f"{row.provider}, {row.what}"
)
def test_a_wrong_key_and_an_empty_purse_stop_the_run(row, monkeypatch):
    """At the first answer, also when others have been well before; nobody pays for a thousand refusals."""
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.01)
    asked = [Request(str(n), (Message("user", (str(n),)),), max_tokens=8) for n in range(40)]
    with HostileServer(http(body_of(row), row.http)) as server:
        with pytest.raises(EndpointError, match="can't be used for m"):
            list(complete(Endpoint(f"{server.url}/v1", "m", max_concurrency=1), asked, None))
        assert len(server.heard) == 1
