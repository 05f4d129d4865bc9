"""What HTTP answers mean, in the forms that providers use; nothing that a server sends raises."""

import hashlib
import json
import random

import pytest

from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.messages import Message, Picture, Request
from editcaption_mega.inference.endpoint.openai_protocol import (
    RequestWriter,
    body,
    cache_key,
    data_url,
    read_completion,
)
from editcaption_mega.inference.endpoint.outcome import Response


def answer(http, data, **headers):
    return read_completion(
        Response(http, headers, bytearray(data if isinstance(data, bytes) else json.dumps(data).encode()))
    )


def completion(message, ending="stop", **more):
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": ending}], **more}


@pytest.mark.parametrize(
    ("http", "data", "status", "reason"),
    [
        (200, completion({"content": "yes"}), "ok", ""),
        (200, completion({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ok", ""),
        (200, completion({"content": "yes"}, None), "ok", ""),
        (200, completion({"content": "cut"}, "length"), "truncated", "cut off"),
        (200, completion({"content": None}, "length"), "malformed", "cut off at max_tokens before any answer"),
        (200, completion({"content": None, "refusal": "No."}), "refused", "No."),
        (200, completion({"content": None}, "content_filter: PROHIBITED_CONTENT"), "refused", "prohibited"),
        (200, completion({"content": ""}, "SAFETY"), "refused", "safety"),
        (200, completion({"content": ""}, "sensitive"), "refused", "sensitive"),
        (200, completion({"content": " \n"}), "malformed", "empty answer"),
        (200, completion({"content": "\ud800"}), "malformed", "half a character"),
        (200, completion({"content": "x"}, "network_error"), "failed", "network_error"),
        (200, {"choices": [], "prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}}, "refused", "content filter"),
        (200, {"choices": []}, "failed", "no choices"),
        (200, completion({"content": "Add a"}, error={"code": 502, "message": "up"}), "failed", "HTTP 502: up"),
        (
            200,
            {"choices": [{"error": {"code": 502, "message": "up"}, "message": {"content": "Add a"}}]},
            "failed",
            "HTTP 502: up",
        ),
        (200, completion({"content": "Add a", "error": "gone"}), "failed", "gone"),
        (200, completion({"content": "yes"}, error=None), "ok", ""),
        (200, {"error": {"code": 502, "message": "upstream died"}}, "failed", "HTTP 502: upstream died"),
        (200, {"error": {"code": 401, "message": "bad key"}}, "failed", "bad key"),
        (200, {}, "failed", "no choices"),
        (200, b"[1, 2]", "failed", "a JSON list"),
        (200, b"\xff\xfe{", "failed", "not JSON"),
        (400, {"error": {"code": "content_filter", "message": "The response was filtered"}}, "refused", "filtered"),
        (
            400,
            {"error": {"code": "1301", "message": "may contain unsafe or sensitive content"}},
            "refused",
            "1301|sens",
        ),
        (400, {"error": {"code": "data_inspection_failed", "message": "Input data may be bad"}}, "refused", "bad"),
        (400, {"error": {"message": "it was considered high risk", "type": "x"}}, "refused", "high risk"),
        (403, {"error": {"message": "flagged by moderation"}}, "refused", "flagged"),
        (400, {"error": "context too long"}, "failed", "HTTP 400: context too long"),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, "failed", "bad"),
        (404, {"detail": "Not Found"}, "failed", "Not Found"),
        (500, b"Internal Server Error", "failed", "HTTP 500"),
    ],
)
def test_what_an_answer_means(http, data, status, reason):
    found = answer(http, data)
    assert found.status == status and reason.split("|")[-1] in found.reason, found


def test_what_may_pass_and_what_stops():
    for http in (408, 409, 425, 429, 500, 502, 503, 529):
        assert answer(http, {}).may_pass
    for http in (302, 400, 404, 413, 422):
        assert not answer(http, {}).may_pass
    assert answer(401, {}).stops == answer(402, {}).stops == "always" and answer(404, {}).stops == "first"
    money = {"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "You exceeded it"}}
    assert answer(429, money).stops == "always" and not answer(429, money).may_pass
    assert answer(429, {}).overload and answer(503, {}).overload and not answer(408, {}).overload
    assert answer(429, {}, **{"Retry-After": "7"}).retry_after == 7


def test_nothing_that_a_server_sends_raises():
    generator = random.Random(0)
    values = [None, 0, -1, 2**70, 1.5, True, "", "x", "429", [], {}, [None], [{}], [[]], {"code": None}, {"a": "b"}]
    names = ["choices", "message", "content", "finish_reason", "usage", "error", "code", "type", "innererror", "detail"]

    def thing(depth):
        if depth == 0 or generator.random() < 0.2:
            return generator.choice(values)
        if generator.random() < 0.3:
            return [thing(depth - 1) for _ in range(generator.randrange(3))]
        return {name: thing(depth - 1) for name in generator.sample(names, generator.randrange(5))}

    for _ in range(5000):
        found = answer(generator.choice([200, 200, 200, 204, 302, 400, 403, 429, 500]), thing(5))
        assert found.status == "ok" or found.reason or found.http != 200, found
    whole = json.dumps(completion({"content": "hello"})).encode()
    for cut in range(len(whole)):
        assert answer(200, whole[:cut]).may_pass
    assert answer(200, b"[" * 100_000).may_pass


def test_the_key_of_a_request():
    endpoint = Endpoint("http://h/v1", "m")
    one = Request("a", (Message("user", ("x", Picture(b"\xff\xd8\xff1"))),), 8)
    same = Request("b", (Message("user", ("x", Picture(b"\xff\xd8\xff1"))),), 8, parse=print)
    assert cache_key(endpoint, one) == cache_key(Endpoint("HTTP://H:80/v1/", "m", timeout=1), same)
    moved = Endpoint("http://other/v1", "m", cache_as="http://h/v1")
    assert cache_key(endpoint, one) == cache_key(moved, one)
    keys = {cache_key(Endpoint(url, "m"), one) for url in ("http://other/v1", "https://h/v1", "http://h:81/v1")}
    keys |= {cache_key(Endpoint("http://h/v2", "m"), one), cache_key(Endpoint("http://h/v1", "m", cache_as="x"), one)}
    keys |= {cache_key(endpoint, one), cache_key(Endpoint("http://h/v1", "n"), one)}
    keys.add(cache_key(Endpoint("http://h/v1", "m", extra={"seed": 1}), one))
    keys.add(cache_key(Endpoint("http://h/v1", "m", max_pixels=10**6), one))
    for picture, text, more in (
        (b"\xff\xd8\xff2", "x", {}),
        (b"\xff\xd8\xff1", "y", {}),
        (b"\xff\xd8\xff1", "x", {"max_tokens": 9}),
        (b"\xff\xd8\xff1", "x", {"temperature": 0.1}),
        (b"\xff\xd8\xff1", "x", {"top_p": 0.1}),
        (b"\xff\xd8\xff1", "x", {"seed": 0}),
        (b"\xff\xd8\xff1", "x", {"repeat": 1}),
    ):
        keys.add(
            cache_key(
                endpoint, Request("a", (Message("user", (text, Picture(picture))),), **({"max_tokens": 8} | more))
            )
        )
    swapped = Request("a", (Message("user", (Picture(b"\xff\xd8\xff1"), "x")),), 8)
    assert len(keys | {cache_key(endpoint, swapped)}) == 17


def test_bodies_and_keys_are_those_of_plain_json():
    """Forms that are remembered and pictures that are put in as bytes change no byte of what is sent and kept."""
    generator = random.Random(1)
    endpoint = Endpoint("http://h/v1", "m", extra={"a": [1, "\0"], "seed": None})
    writer = RequestWriter(endpoint)

    def part():
        picture = Picture(b"\xff\xd8\xff" + generator.randbytes(3))
        return generator.choice([picture, picture, "a", "\0", "\0000\0", "\0001\0", '日本"\\', ""])

    for number in range(1000):
        messages = tuple(
            Message(generator.choice(["user", "system"]), tuple(part() for _ in range(generator.randrange(1, 4))))
            for _ in range(generator.randrange(1, 3))
        )
        temperature, repeat = generator.choice([0, 0.0, 1]), generator.choice([0, 1])
        request = Request(str(number), messages, generator.choice([1, 2]), temperature, repeat=repeat)
        assert writer.body(request) == json.dumps(body(endpoint, request, data_url)).encode()
        described = {"server": endpoint.identity, "repeat": repeat}
        if any(isinstance(part, Picture) for message in messages for part in message.parts):
            described["pixels"] = [endpoint.min_pixels, endpoint.max_pixels]
        described["body"] = body(endpoint, request, lambda picture: picture.sha256)
        assert writer.key(request) == hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
