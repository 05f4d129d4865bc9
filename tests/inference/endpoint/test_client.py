"""The endpoint client against a scripted server: what is sent, how each fault ends, what is kept, what it refuses."""

import base64
import collections
import io
import json
import logging
import os
import re
import sqlite3
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from editcaption_mega import cli, progress_display
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.images.patches import limit_picture
from editcaption_mega.inference.endpoint import concurrency
from editcaption_mega.inference.endpoint.address import refuse_mixed
from editcaption_mega.inference.endpoint.cache import ReplyCache
from editcaption_mega.inference.endpoint.client import (
    Endpoint,
    EndpointError,
    Message,
    Picture,
    Request,
    Usage,
    complete,
    read_calls,
)
from editcaption_mega.inference.endpoint.openai_protocol import cache_key
from editcaption_mega.progress_display import progress
from tests.helpers.hostile_server import HostileServer, good, http
from tests.helpers.image_bytes import encoded, photo
from tests.helpers.scripted_server import (
    QUICK,
    SLOW,
    ScriptedServer,
    always,
    at_random,
    burst,
    each_prompt,
    prompt,
    server_process,
)

PNG, JPEG = encoded(photo(96, 64)), encoded(photo(64, 96), "JPEG")


def request(name, **more):
    return Request(name, (Message("user", (f"prompt {name}",)),), **({"max_tokens": 16} | more))


def requests(count, **more):
    return [request(str(i), **more) for i in range(count)]


def ask(server, asked, cache=None, **more):
    url = server if isinstance(server, str) else server.url
    return {reply.id: reply for reply in complete(Endpoint(url, "m", **more), asked, cache)}


def starts_with_reply(text):
    if not text.startswith("reply"):
        raise ValueError(f"expected a reply, found {text!r}")
    return text.split()


def never(text):
    raise ValueError("never good")


@pytest.fixture(autouse=True)
def short_waits(request, monkeypatch):
    if not request.node.get_closest_marker("slow"):  # rates are measured with the waits as they are
        monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.05)


def test_what_is_sent_and_what_comes_back(tmp_path):
    messages = (
        Message("system", ("Be brief.",)),
        Message("user", ("Picture 1:", Picture(PNG), "Picture 2:", Picture(JPEG), "What changed?")),
    )
    asked = Request("a", messages, max_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    with ScriptedServer() as server:
        endpoint = Endpoint(
            server.url,
            "m",
            prompt_price=2.0,
            completion_price=5.0,
            extra={"max_tokens": None, "max_completion_tokens": 7},
        )
        (reply,) = complete(endpoint, [asked], tmp_path)
    body = server.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Picture 1:"},
                {"type": "image_url", "image_url": {"url": url("image/png", PNG)}},
                {"type": "text", "text": "Picture 2:"},
                {"type": "image_url", "image_url": {"url": url("image/jpeg", JPEG)}},
                {"type": "text", "text": "What changed?"},
            ],
        },
    ]
    del body["messages"]
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stream": False}
    assert body == {"model": "m", "max_completion_tokens": 7, **sampling}, "null takes a field out"
    assert (reply.status, reply.text) == ("ok", "reply to Picture 1: Picture 2: What changed?")
    assert (reply.model, reply.attempts, reply.cached, reply.reason) == ("scripted-1", 1, False, "")
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.cost == pytest.approx((100 * 2 + 20 * 5) / 1e6)
    (call,) = read_calls(tmp_path)
    assert call["status"] == "ok" and call["http"] == 200 and call["cost"] == reply.cost and call["id"] == "a"


@pytest.mark.filterwarnings("error")
def test_large_pictures_are_sent_whole_again_at_each_attempt():
    noise = os.urandom(1120 * 1152 * 3)
    picture = Picture(encoded(Image.frombytes("RGB", (1120, 1152), noise)))  # does not compress: 4 MB
    with ScriptedServer(script=each_prompt("500")) as server:
        (reply,) = ask(server, [Request("a", (Message("user", ("x", picture)),), 8)]).values()
    sent = [body["messages"][0]["content"][1]["image_url"]["url"] for body in server.bodies]
    assert reply.status == "ok" and sent == [url("image/png", picture.data)] * 2


def url(mime, data):
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("fault", "status", "reason", "attempts"),
    [
        ("500", "failed", "HTTP 500: scripted 500", 3),
        ("429", "failed", "HTTP 429: scripted 429", 3),
        ("408", "failed", "HTTP 408", 3),
        ("hang", "failed", r"no answer within 0\.2 s", 3),
        ("drop", "failed", "the connection broke", 3),
        ("cut", "failed", "the connection broke", 3),
        ("not json", "failed", "a body of 24 bytes that is not JSON", 3),
        ("no choices", "failed", "the answer has no choices", 3),
        ("empty", "malformed", "^empty answer$", 3),
        ("malformed", "malformed", "expected a reply, found '{repl", 3),
        ("fenced", "malformed", "expected a reply, found 'Here", 3),
        ("400", "failed", "HTTP 400: scripted 400", 1),
        ("422", "failed", "HTTP 422", 1),
        ("302", "failed", "give the final address", 1),
        ("429 5000", "failed", "come back in 5000 s", 1),
        ("refusal", "refused", "I can't help with that", 1),
        ("filter", "refused", "content filter", 1),
        ("filter 400", "refused", "content management policy", 1),
        ("length", "truncated", "cut off at max_tokens", 1),
    ],
)
def test_each_fault_ends_with_a_named_reason(tmp_path, fault, status, reason, attempts):
    with ScriptedServer(script=lambda call, of_prompt: None if call == 0 else fault) as server:
        (good,) = ask(server, [request("good")]).values()
        timeout = 0.2 if fault == "hang" else 60.0  # a machine that stops for a while is no fault
        found = ask(server, requests(6, parse=starts_with_reply), tmp_path, max_attempts=3, timeout=timeout)
    assert good.status == "ok" and len(found) == 6
    for reply in found.values():
        assert reply.status == status and re.search(reason, reply.reason), reply
        assert reply.attempts == attempts
        assert bool(reply.text) == (status == "truncated" or fault in ("malformed", "fenced"))
    calls = list(read_calls(tmp_path))
    assert len(calls) == 6 * attempts and all(re.search(reason, call["reason"]) for call in calls)


@pytest.mark.parametrize("fault", ["500", "429", "hang", "drop", "cut", "not json", "no choices", "empty", "malformed"])
def test_each_fault_that_passes_ends_well(fault):
    with ScriptedServer(script=each_prompt(fault, fault)) as server:
        found = ask(server, requests(12, parse=starts_with_reply), timeout=1.0 if fault == "hang" else 60.0)
    assert {(reply.status, reply.attempts) for reply in found.values()} == {("ok", 3)}
    assert set(server.counts.values()) == {3}


def test_a_burst_and_one_in_five(tmp_path):
    with ScriptedServer(script=burst("500", 20, 40), latency=0.01) as server:
        found = ask(server, requests(200))
    assert {reply.status for reply in found.values()} == {"ok"}
    with ScriptedServer(script=at_random(0.2, 7, [*QUICK, *SLOW, "hang"]), latency=0.005) as server:
        found = ask(server, requests(300, parse=starts_with_reply), tmp_path, max_attempts=10, timeout=5.0)
    assert {reply.status for reply in found.values()} == {"ok"} and len(found) == 300
    assert sum(reply.attempts for reply in found.values()) == server.calls == len(list(read_calls(tmp_path)))
    usage = Usage()
    for reply in found.values():
        usage.add(reply)
    assert usage.attempts == server.calls and usage.by_status == {"ok": 300} and "300 ok; 0 cached" in str(usage)


@pytest.mark.parametrize(("asked", "least"), [("429 0.6", 0.6), ("503 0.6", 0.6), ("429 date 2", 1.0)])
def test_retry_after_is_waited_for(asked, least):
    with ScriptedServer(script=each_prompt(asked)) as server:
        found = ask(server, requests(2))
    for reply, (first, second) in zip(found.values(), server.times.values(), strict=True):
        assert reply.status == "ok" and least <= second - first < 60


def test_a_request_that_waits_gives_its_place_to_others():
    with ScriptedServer(script=lambda call, _: "429 3" if call in (0, 9, 18) else None, latency=0.01) as server:
        begin = time.monotonic()
        ends = [
            (reply.id, time.monotonic() - begin)
            for reply in complete(Endpoint(server.url, "m", max_concurrency=3), requests(40), None)
        ]
    waited = {body["messages"][0]["content"] for body in server.bodies[40:]}
    assert {f"prompt {name}" for name, _ in ends[-3:]} == waited, "the three that were told to wait come last"
    assert ends[37][1] > 2.9 and server.most_in_flight <= 3


def test_all_wait_when_the_endpoint_turns_most_away():
    with ScriptedServer(script=burst("429 0.5", 0, 12)) as server:
        found = ask(server, requests(60), max_concurrency=12)
    arrivals = sorted(at for times in server.times.values() for at in times)
    assert {reply.status for reply in found.values()} == {"ok"} and server.calls == 72
    assert arrivals[12 + 12] - arrivals[0] >= 0.4, "at most those under way were sent before the pause"


def test_concurrency_finds_what_the_server_bears():
    server = ScriptedServer(latency=0.02, fault_latency=0.0)
    server.script = lambda call, of_prompt: "429" if server.in_flight >= 8 else None
    with server:
        found = ask(server, requests(400), max_concurrency=64, max_attempts=10)
    assert {reply.status for reply in found.values()} == {"ok"}
    assert server.calls < 400 * 1.5, "most requests are not turned away"


def test_the_limit_halves_once_per_window_and_grows_back():
    limit = concurrency.ConcurrencyLimiter(64)
    for _ in range(64):
        limit.record(0, True, None, 0.0)  # all of one window; the epoch ends with the first third
    assert limit.limit == 32 and limit.epoch == 1 and limit.in_trouble
    for _ in range(11):
        limit.record(1, True, 5.0, 100.0)
    assert limit.limit == 16 and limit.not_before == 105.0
    for _ in range(1000):
        limit.record(2, False, None, 200.0)
    assert limit.limit == 64 and not limit.in_trouble
    for i in range(1000):
        limit.record(2, i % 5 == 0, None, 200.0)
    assert limit.limit == 64, "one in five may be chance"
    waits = [concurrency.backoff(3, None) for _ in range(200)]
    assert 0 <= min(waits) < 0.1 < 0.3 < max(waits) <= concurrency.FIRST_BACKOFF * 8
    assert 7 <= concurrency.backoff(5, 7.0) <= 7.7


def test_replies_are_kept_and_asked_for_once(tmp_path):
    with ScriptedServer(script=lambda call, _: {1: "length", 2: "refusal", 3: "400"}.get(call)) as server:
        first = ask(server, requests(5), tmp_path, max_concurrency=1)
        assert [reply.status for reply in first.values()] == ["ok", "truncated", "refused", "failed", "ok"]
        again = ask(server, requests(5), tmp_path, max_concurrency=1)
        assert [again[str(i)].cached for i in range(5)] == [True, False, True, False, True]
        assert [again[str(i)].status for i in range(5)] == ["ok", "ok", "refused", "ok", "ok"]
        assert again["0"].text == first["0"].text and again["0"].prompt_tokens == 100
        assert server.calls == 7
        # What the answer depends on is in the key; who asks and where is not.
        other = [request("0", temperature=0.1), request("0 again"), request("other", repeat=1)]
        assert not any(reply.cached for reply in ask(server, other, tmp_path).values())
        same = Request("renamed", request("0").messages, max_tokens=16)
        assert ask(server.url + "/", [same], tmp_path)["renamed"].cached
        assert not ask(server, [same], tmp_path, extra={"a": 1})["renamed"].cached
        pictures = [Request(str(i), (Message("user", (Picture(data),)),), 8) for i, data in enumerate((PNG, JPEG))]
        assert not any(reply.cached for reply in ask(server, pictures, tmp_path).values())
        assert all(reply.cached for reply in ask(server, pictures, tmp_path).values())
        assert not any(reply.cached for reply in ask(server, pictures, tmp_path, max_pixels=5000).values())
        usage = Usage()
        for reply in ask(server, requests(5), tmp_path).values():
            usage.add(reply)
        assert (usage.calls, usage.cached, usage.attempts, usage.prompt_tokens) == (5, 5, 0, 0)


def test_two_servers_of_one_model_name_are_told_apart(tmp_path):
    """The base model and the tuned one, both served as "m"; the second one's texts were the first's."""
    with (
        ScriptedServer(reply=lambda body: "I am the base model") as base,
        ScriptedServer(reply=lambda body: "I am the tuned model") as tuned,
    ):
        for _ in range(2):
            assert {r.text for r in ask(base, requests(5), tmp_path).values()} == {"I am the base model"}
            assert {r.text for r in ask(tuned, requests(5), tmp_path).values()} == {"I am the tuned model"}
        assert base.calls == tuned.calls == 5
        moved = ask(tuned, requests(5), tmp_path, cache_as=base.url)
        assert {r.text for r in moved.values()} == {"I am the base model"} and tuned.calls == 5


def test_candidates_that_would_be_one_are_refused():
    base, tuned = Endpoint("http://h:1/v1", "m"), Endpoint("http://h:2/v1", "m")
    refuse_mixed({"model base": base, "model tuned": tuned}, {"judge a": base, "judge b": tuned})
    twice = {"judge a": base, "judge b": base}
    with pytest.raises(ValueError, match="judge a and judge b ask for the same: 'm' of .* one set of judgements"):
        refuse_mixed({}, twice)
    refuse_mixed({}, twice, {"judge a": {"rules_role": "system"}, "judge b": {"rules_role": "user"}})
    warm = Endpoint("http://h:1/v1", "m", extra={"temperature": 1})
    refuse_mixed({}, {"judge a": base, "judge b": warm})
    with pytest.raises(ValueError, match="ask for the same"):
        refuse_mixed(
            {}, {"judge a": base, "judge b": warm}, {"judge a": {"temperature": 1}, "judge b": {"temperature": 0}}
        )
    refuse_mixed({"model base": base, "model tuned": Endpoint("http://h:1/v1", "m", cache_as="step 2000")}, {})
    refuse_mixed({"model base": base, "model warm": Endpoint("http://h:1/v1", "m", extra={"top_k": 5})}, {})
    moved = Endpoint("http://h:2/v1", "m", cache_as="http://h:1/v1/")
    for candidates, others in (
        ({"a": base, "b": moved}, {}),
        ({"a": base}, {"b": moved}),
        ({}, {"a": moved, "b": base}),
    ):
        with pytest.raises(ValueError, match="a and b ask for 'm' at two addresses"):
            refuse_mixed(candidates, others)
    keyed = Endpoint("http://h:1/v1", "m", "OTHER_KEY")
    with pytest.raises(ValueError, match=r"a and b ask for 'm' of http://h:1/v1 with two keys \(none, OTHER_KEY\)"):
        refuse_mixed({"a": base}, {"b": keyed})
    with pytest.raises(ValueError, match="a and b ask for the same: 'm' of http://h:1/v1"):
        refuse_mixed({"a": base, "b": Endpoint("http://H:1/v1/", "m")}, {})


@pytest.mark.parametrize("name", ["timeout", "prompt_price", "completion_price", "max_request_mib", "max_reply_mib"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_numbers_of_an_endpoint_are_within_limits(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.* must lie in"):
        Endpoint("http://h:1/v1", "m", **{name: value})


def test_the_same_question_is_asked_once_and_repeats_are_calls(tmp_path):
    with ScriptedServer(latency=0.02) as server:
        same = [Request(str(i), request("x").messages, max_tokens=16) for i in range(20)]
        found = ask(server, same, tmp_path)
        assert (
            server.calls == 1 and len(found) == 20 and {reply.text for reply in found.values()} == {"reply to prompt x"}
        )
        assert sum(not reply.cached for reply in found.values()) == 1
        repeats = [Request(str(i), request("y").messages, 16, repeat=i) for i in range(5)]
        ask(server, repeats, tmp_path)
        assert server.counts["prompt y"] == 5
        ask(server, same, None)
        assert server.calls == 26, "without a cache each is a call"


def test_a_kept_reply_that_is_now_refused_is_asked_for_anew(tmp_path):
    with ScriptedServer() as server:
        ask(server, [request("a")], tmp_path)
        assert ask(server, [request("a", parse=starts_with_reply)], tmp_path)["a"].cached

        reply = ask(server, [request("a", parse=never)], tmp_path, max_attempts=2)["a"]
        assert (reply.status, reply.reason, reply.attempts) == ("malformed", "never good", 2) and server.calls == 3


def test_a_reply_is_parsed_once_and_what_parse_makes_of_it_is_its_value(tmp_path):
    parsed = []

    def words(text):
        parsed.append(text)
        return starts_with_reply(text)

    with ScriptedServer(script=each_prompt("malformed")) as server:
        for cached in (False, True):
            parsed.clear()
            reply = ask(server, [request("a", parse=words)], tmp_path)["a"]
            assert (reply.value, reply.cached) == (["reply", "to", "prompt", "a"], cached)
            # Each text once: that of the first attempt, which is of no use, and the reply's own; or the kept one.
            assert len(parsed) == (1 if cached else 2) and parsed[-1] == reply.text
        assert ask(server, [request("a")], tmp_path)["a"].value is None
        with pytest.raises(EndpointError, match="none in a form"):
            ask(server, [request(str(i), parse=never) for i in range(30)], max_attempts=1)
    with sqlite3.connect(tmp_path / "responses.sqlite") as cache:
        ((kept,),) = cache.execute("SELECT reply FROM replies").fetchall()
    assert "value" not in json.loads(kept)


def test_requests_are_taken_as_places_become_free():
    taken = []

    def source():
        for item in requests(1000):
            taken.append(item.id)
            yield item

    before = threading.active_count()
    with ScriptedServer(latency=0.01) as server:
        replies = complete(Endpoint(server.url, "m", max_concurrency=4), source(), None)
        assert not taken
        for count, _ in zip(range(1, 51), replies, strict=False):
            assert len(taken) <= count + 4 + 64 + 1
        replies.close()
        called = server.calls
        time.sleep(0.1)
        assert server.calls <= called + 4 and server.most_in_flight <= 4
    assert threading.active_count() == before, "an abandoned run ends its thread"


@pytest.mark.parametrize("ids_differ", [True, False])
def test_ids_that_differ_by_themselves_are_not_remembered(ids_differ):
    class Name(str):
        """Unlike a plain text, it can be referred to weakly."""

    count, names = 800, []

    def named():
        for i in range(count):
            name = Name(i)
            names.append(weakref.ref(name))
            yield request(name)

    with ScriptedServer() as server:
        for number, _ in enumerate(complete(Endpoint(server.url, "m"), named(), None, ids_differ=ids_differ), 1):
            if number == count // 2:
                there, taken = sum(name() is not None for name in names), len(names)
    assert there < count // 4 if ids_differ else there == taken >= count // 2


def test_no_endpoint_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment variable SOME_KEY is missing or empty"):
        complete(Endpoint("http://127.0.0.1:1/v1", "m", api_key_env="SOME_KEY"), [], tmp_path / "cache")
    monkeypatch.setenv("SOME_KEY", "two words")
    with pytest.raises(ValueError, match="something else than a key") as caught:
        complete(Endpoint("http://127.0.0.1:1/v1", "m", api_key_env="SOME_KEY"), [], tmp_path / "cache")
    assert "two words" not in str(caught.value) and not (tmp_path / "cache").exists()
    with pytest.raises(EndpointError, match="127.0.0.1:1/v1 can't be used for m: no connection"):
        ask("http://127.0.0.1:1/v1", requests(500), tmp_path)
    for fault in ("401", "403", "404", "402"):
        with ScriptedServer(script=always(fault), latency=0.02) as server:
            with pytest.raises(EndpointError, match=f"HTTP {fault}: scripted {fault}"):
                ask(server, requests(500), tmp_path / fault)
            assert server.calls <= 64
    # Once it has answered, a 404 is one row's, a refused key still everyone's.
    with ScriptedServer(script=lambda call, _: "404" if call == 5 else None) as server:
        assert [r.status for r in ask(server, requests(9), max_concurrency=1).values()].count("failed") == 1
    with ScriptedServer(script=lambda call, _: "401" if call == 5 else None) as server:
        found = []
        with pytest.raises(EndpointError):
            found.extend(complete(Endpoint(server.url, "m", max_concurrency=1), requests(9), tmp_path / "401 late"))
        assert len(ask(server, requests(9), tmp_path / "401 late")) == 9 and server.calls == 10
    with ScriptedServer(script=lambda call, _: None if call < 10 else "500") as server:
        with pytest.raises(EndpointError, match="failed 50 requests in a row, the last with: HTTP 500"):
            ask(server, requests(5000), max_attempts=2)
        assert server.calls < 400


def test_bad_input_is_refused(tmp_path):
    good = {"url": "http://h/v1", "model": "m"}
    for bad, words in (
        ({"url": "h:8000"}, "must look like http://host:8000/v1"),
        ({"url": "http://user:hunter22@h/v1"}, "user name, a password"),
        ({"url": "http://h/v1?key=hunter22"}, "a query"),
        ({"model": ""}, "model is empty"),
        ({"api_key_env": "sk-hunter22"}, "not the key itself"),
        ({"api_key_env": "AIzaSyhunter22"}, "not the key itself"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"extra": {"messages": []}}, "extra must not hold"),
        ({"extra": {"x": object()}}, "plain JSON"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            Endpoint(**(good | bad))
        assert "hunter22" not in str(caught.value)
    with ScriptedServer() as server:
        with pytest.raises(ValueError, match="two requests have the id 1"):
            ask(server, [request("1"), request("1")])
        assert server.calls == 0

        def broken(text):
            raise KeyError("a defect")

        with pytest.raises(KeyError):
            ask(server, [request("a", parse=broken)])


def test_pictures_are_sent_as_a_model_in_process_sees_them(tmp_path):
    """Upright, opaque, within the limits; what is so already, byte for byte. Damaged ones fail their row alone."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = encoded(photo(320, 160), "JPEG", exif=exif)
    clear = photo(64, 64).convert("RGBA")
    clear.putalpha(0)
    pictures = {
        "plain": encoded(photo(96, 64)), "large": encoded(photo(640, 320)), "sideways": sideways,
        "small": encoded(photo(8, 8)), "clear": encoded(clear),
        "cut": encoded(photo(640, 320))[:2000], "none": b"BM6", "bar": encoded(photo(804, 4)),
    }  # fmt: skip
    asked = [Request(name, (Message("user", (name, Picture(data))),), 8) for name, data in pictures.items()]
    with ScriptedServer() as server:
        found = ask(server, asked, tmp_path, min_pixels=64 * 64, max_pixels=128 * 128)
    sent = {}
    for body in server.bodies:
        name, picture = body["messages"][0]["content"]
        sent[name["text"]] = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in sent.items()}
    assert sizes == {"plain": (96, 64), "large": (160, 64), "sideways": (64, 160), "small": (64, 64), "clear": (64, 64)}
    assert sent["plain"] == pictures["plain"]
    assert Image.open(io.BytesIO(sent["clear"])).getextrema() == ((255, 255),) * 3, "on white"
    expected = limit_picture(decode_image(sideways), min_pixels=64 * 64, max_pixels=128 * 128)
    assert Image.open(io.BytesIO(sent["sideways"])).tobytes() == expected.tobytes()
    assert {name for name, reply in found.items() if reply.status == "failed"} == {"cut", "none", "bar"}
    assert "truncated" in found["cut"].reason and found["cut"].attempts == 0
    assert "not an image" in found["none"].reason and "200 times longer" in found["bar"].reason


def test_a_request_that_is_too_large_is_not_sent():
    noise = Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3))
    asked = [Request("a", (Message("user", ("x", Picture(encoded(noise)))),), 8), request("b")]
    with ScriptedServer() as server:
        found = ask(server, asked, max_request_mib=0.5)
    assert found["b"].status == "ok" and server.calls == 1
    assert (
        found["a"].status == "failed"
        and "a request of 1.0 MiB is not sent: more than max_request_mib=0.5" in found["a"].reason
    )


def test_another_version_of_the_model_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for model, first in (("m-2025-01", 0), ("m-2025-02", 5)):
            with ScriptedServer(model=model) as server:
                ask(server, requests(10)[first : first + 5], tmp_path, cache_as="one server")
    (record,) = caplog.records
    assert "now says it serves m-2025-02; kept replies are of m-2025-01" in record.getMessage()


PLANTED = "sk-planted/+&\"'-0123456789abcdef"


def test_the_key_is_nowhere(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("PLANTED_KEY", PLANTED + "\n")
    shown = []
    with caplog.at_level(logging.DEBUG):
        for fault in ("echo text", "echo 500", "echo 400", "echo 401", "cut", "drop", None):
            with ScriptedServer(script=always(fault)) as server:
                endpoint = Endpoint(server.url, "m", api_key_env="PLANTED_KEY", max_attempts=2)

                def main(_, endpoint=endpoint, fault=fault):
                    for reply in complete(endpoint, requests(3), tmp_path / str(fault), progress=progress, total=3):
                        shown.append(repr(reply))

                code = cli.exit_code(main, ["--debug"])
                assert code == (1 if fault == "echo 401" else 0)
                shown.append(repr(endpoint) + repr(endpoint.secret()) + str(vars(endpoint)))
    output = capfd.readouterr()
    written = "".join(shown) + caplog.text + output.out + output.err
    for path in tmp_path.rglob("*"):
        if path.is_file():
            written += path.read_bytes().decode("latin-1")
    assert "unexpected" not in output.err and "error: http://127.0.0.1" in output.err
    assert "EndpointError" in written and "[key]" in written, "the server did echo it"
    assert "Bearer [key]" in shown[0]
    for form in (PLANTED, PLANTED[:14], json.dumps(PLANTED)[1:-1], base64.b64encode(PLANTED.encode()).decode()[:20]):
        assert form not in written


def test_progress_says_the_time_left(monkeypatch, capsys):
    """By a clock of its own: on a busy machine the true one says nothing about the sentence."""
    clock = [0.0]
    monkeypatch.setattr(progress_display, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with ScriptedServer() as server:
        for _ in complete(Endpoint(server.url, "m"), requests(150), None, progress=progress, total=150):
            clock[0] += 0.125
    assert capsys.readouterr().err.splitlines() == [
        "m: 40 of 150 after 5 s",
        "m: 80 of 150 after 10 s, about 9 s left",
        "m: 120 of 150 after 15 s, about 4 s left",
        "m: 150 of 150 in 18.8 s",
    ]


@pytest.mark.slow
def test_rate_and_memory_at_ten_thousand_requests(tmp_path):
    import psutil

    process, rates = psutil.Process(os.getpid()), []
    with server_process("--latency", "0.05") as server:
        for run in range(3):  # the best counts: what other processes take is not the client's
            begin, memory = time.monotonic(), []
            endpoint = Endpoint(server.url, "m", max_concurrency=128)
            for number, reply in enumerate(complete(endpoint, iter(requests(10_000)), tmp_path / str(run))):
                assert reply.status == "ok"
                if number % 1000 == 999:
                    memory.append(process.memory_info().rss)
            rates.append(10_000 / (time.monotonic() - begin))
            assert memory[-1] - memory[1] < 16 << 20, memory
    assert max(rates) >= 0.8 * 128 / 0.05, rates


@pytest.mark.slow
def test_one_in_five_faulty_keeps_four_fifths_of_the_rate():
    """Gateways turn away at once; unusable bodies take as long as replies. The whole run counts, its end included."""
    rates = []
    for faults in ((), ("--faulty", "0.2", "--fault-latency", "0", "--seed", "3")):
        with server_process("--latency", "0.1", *faults) as server:
            begin = time.monotonic()
            found = ask(server.url, requests(10_000, parse=starts_with_reply), max_concurrency=64)
            rates.append(len(found) / (time.monotonic() - begin))
            assert all(reply.status == "ok" or reply.reason for reply in found.values())
    assert rates[1] >= 0.8 * rates[0], rates


def test_an_endpoint_that_is_refused_at_once_says_so_however_fast(tmp_path):
    """The loop may end while requests are still being handed to it."""
    for _ in range(30):
        with pytest.raises(EndpointError, match="no connection"):
            list(complete(Endpoint("http://127.0.0.1:9/v1", "m"), requests(200), tmp_path))


def refusing(text):
    raise ValueError("not in the form asked for")


def held_to(form, count, **fields):
    return [replace(one, parse=form, **fields) for one in requests(count)]


def test_B4_a_model_that_never_answers_in_form_stops_the_run_and_shows_what_it_wrote(tmp_path):
    """At 837b10c 54 of 54 replies of no use were paid for twice each, and their words were kept nowhere."""
    with ScriptedServer(reply=lambda body: "Certainly! As a judge I would say 4.") as server:
        endpoint = Endpoint(server.url, "m", max_concurrency=2, max_attempts=2)
        for run in (1, 2):
            with pytest.raises(EndpointError) as error:
                list(complete(endpoint, held_to(refusing, 200), tmp_path))
            assert "as m answered 20 requests in a row and none in a form that is of use" in str(error.value)
            assert "not in the form asked for (it begins 'Certainly! As a judge I would say 4.')" in str(error.value)
            assert server.calls <= run * 46
        calls = server.calls
        # What is kept is read again by whoever asks for less, without a call.
        found = [reply for reply in complete(endpoint, requests(5), tmp_path)]
        assert {reply.status for reply in found} == {"ok"} and server.calls <= calls + 5
        lax = list(complete(endpoint, held_to(lambda text: None, 5), tmp_path))
        assert all(reply.cached and reply.text.startswith("Certainly!") for reply in lax)


def test_B4_what_is_known_to_be_of_no_use_is_asked_once_more_by_a_later_run(tmp_path):
    """And stops nothing where the others are in form."""

    def form(text):
        if int(text.split()[-1]) % 2:
            raise ValueError("odd")

    with ScriptedServer(reply=prompt) as server:
        endpoint = Endpoint(server.url, "m", max_concurrency=4, max_attempts=3)
        asked = [replace(one, messages=(Message("user", (f"say {i}",)),)) for i, one in enumerate(held_to(form, 60))]
        for run in range(3):
            statuses = collections.Counter(reply.status for reply in complete(endpoint, asked, tmp_path))
            assert statuses == {"ok": 30, "malformed": 30}
            assert server.calls == 30 + 30 * 3 + 30 * run


@pytest.mark.parametrize("count", [10**400, -1, 2**64, 1e308, True, "7", None, [7], {"a": 1}])
def test_counts_of_tokens_that_are_none_cost_nothing_and_end_nothing(tmp_path, count):
    """400 digits made the cost overflow, in a callback that nobody waits for: the run hung for ever."""
    body = good("fine") | {"usage": {"prompt_tokens": count, "completion_tokens": 2}}
    with HostileServer(http(body)) as server:
        endpoint = Endpoint(f"{server.url}/v1", "m", prompt_price=3.0, completion_price=5.0)
        (reply,) = complete(endpoint, [request("a")], tmp_path)
    assert (reply.status, reply.prompt_tokens, reply.completion_tokens) == ("ok", 0, 2)
    assert reply.cost == pytest.approx(1e-5)


def test_whatever_fails_on_our_side_reaches_the_caller(tmp_path):
    """A full disk, a defect in `parse`, in what keeps replies: an exception, never a run that waits for ever."""

    def defect(text):
        raise OverflowError("int too large to convert to float")

    with ScriptedServer() as server:
        with pytest.raises(OverflowError):
            ask(server, requests(20, parse=defect))
        replies = complete(Endpoint(server.url, "m"), requests(200), tmp_path)
        next(replies)
        (tmp_path / "calls.jsonl").unlink()
        with sqlite3.connect(tmp_path / "responses.sqlite") as connection:
            connection.execute("DROP TABLE replies")
        connection.close()
        with pytest.raises(ValueError, match="no such table: replies"):
            list(replies)


@pytest.mark.parametrize("field", ["status", "text", "prompt_tokens", "cost", "attempts", "new", None])
@pytest.mark.parametrize("value", [None, [], {}, 10**40, "x", True])
def test_a_kept_reply_of_another_form_is_one_sentence(tmp_path, field, value):
    row = {"status": "ok", "text": "a", "reason": "", "model": "m", "prompt_tokens": 1, "completion_tokens": 1}
    row |= {"cost": 0.0, "attempts": 1}
    endpoint, asked = Endpoint("http://127.0.0.1:9/v1", "m"), request("a")
    cache = ReplyCache(tmp_path)
    cache.put("m", endpoint.identity, [(cache_key(endpoint, asked), row)])
    assert [reply.cached for reply in complete(endpoint, [asked], tmp_path)] == [True]
    with sqlite3.connect(tmp_path / "responses.sqlite") as connection:
        connection.execute(
            "UPDATE replies SET reply = ?", [json.dumps(value if field is None else row | {field: value})]
        )
    connection.close()
    cache.close()
    fits = {"text": ("x",), "prompt_tokens": (10**40, True), "cost": (10**40, True), "attempts": (10**40, True)}
    if value in fits.get(field, ()):
        assert list(complete(endpoint, [asked], tmp_path))[0].cached
    else:
        with pytest.raises(ValueError, match="holds a reply of another form: use another folder"):
            list(complete(endpoint, [asked], tmp_path))
