"""Endpoints that answer as none should: no client hangs, none floods its machine, and a key goes nowhere.

Every answer of `hostile_server` to each client of an HTTP service: chat, image edits, Label Studio. The fast part takes
a few of each kind; `make hostile` takes all."""

import base64
import json
import logging
import threading
import time
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest

from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError
from editcaption_mega.evaluation.label_studio.verdict_tasks import pull_answers
from editcaption_mega.inference.endpoint import concurrency
from editcaption_mega.inference.endpoint.client import Endpoint, EndpointError, Message, Request, complete
from editcaption_mega.inference.endpoint.image_edits import Edit, edit_pictures
from tests.helpers.hostile_server import KEY, HostileServer, answers
from tests.helpers.image_bytes import encoded, photo

ANSWERS = answers()
TIMEOUT, ATTEMPTS = 0.4, 2
LIMIT = 30.0  # seconds until a call counts as one that hangs
MEMORY = 100 << 20
FORMS = [KEY, KEY.upper(), KEY[::-1], quote(KEY, safe=""), json.dumps(KEY)[1:-1], KEY.encode().hex()]
FORMS += [base64.b64encode(b"\0" * n + KEY.encode()).decode()[4:-4] for n in range(3)]
FORMS += ["".join(f"\\u{ord(c):04x}" for c in KEY), "".join(f"&#{ord(c)};" for c in KEY)]

FEW = [
    "fine", "HTTP 400", "HTTP 401", "HTTP 204", "HTTP 503", "moved 302 elsewhere", "reset", "moved 307 elsewhere",
    "slow body", "endless body", "half a body", "two answers", "gzip", "gzip bomb", "gzip, cut off", "deep lists",
    "deep ending",
    "body b'[[{}]]'", "usage.prompt_tokens = '100000000000'", "choices.0.message.content = '?'", "a million lists",
    "results.0.title = 'None'", "control characters, error", "control characters, validation", "the key in text",
    "the key in body", "the key in an address", "the key, base64, shifted, in an error", "Retry-After '999999999'",
    "picture: cut off", "picture: the key inside", "picture: 60000 x 60000", "picture: an address",
]  # fmt: skip


def chat(url: str, folder: Path) -> str:
    """Its replies' texts are data, so only the other words are held to be printable (repr spells out the rest)."""
    endpoint = Endpoint(f"{url}/v1", "m", "PLANTED_KEY", max_concurrency=2, timeout=TIMEOUT, max_attempts=ATTEMPTS)
    asked = [Request(name, (Message("user", (name,)),), max_tokens=8) for name in ("a", "b")]
    return f"{list(complete(endpoint, asked, folder))}"


def edit(url: str, folder: Path) -> str:
    endpoint = Endpoint(f"{url}/v1", "m", "PLANTED_KEY", timeout=4 * TIMEOUT, max_attempts=ATTEMPTS)
    asked = [Edit("a", encoded(photo(16, 16)), "Add a hat.")]
    return f"{list(edit_pictures(endpoint, asked, folder, cache=folder))}"


def label_studio(url: str, folder: Path) -> str:
    return f"{pull_answers(LabelStudio(url, KEY, timeout=TIMEOUT, max_attempts=ATTEMPTS, log=folder), 'study')}"


def outcome(client, url: str, folder: Path) -> str:
    """What the caller sees; an exception of another kind is an error of the test."""
    try:
        return client(url, folder)
    except (EndpointError, LabelStudioError) as error:
        return f"{type(error).__name__}: {error}"


def guarded(client, url: str, folder: Path) -> str:
    ended: list = []

    def run() -> None:
        try:
            ended.append(outcome(client, url, folder))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), f"{client.__name__} hangs"
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def peak_memory(reset: bool = False) -> int:
    """The most memory that the process has had, since it was last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def leaks(text: str) -> list[str]:
    """Spellings of the key, and parts of it of 24 letters, that the text holds."""
    parts = [form[at : at + 24] for form in FORMS for at in range(0, len(form) - 23)]
    return [part for part in parts if part in text]


def obeyed(text: str) -> list[str]:
    """What a terminal would obey in a text that is printed."""
    return [sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf") and sign != "\n"]


@pytest.fixture
def elsewhere():
    with HostileServer() as server:
        yield server


def check(names, elsewhere, tmp_path, caplog, capfd) -> None:
    wrong, slowest, most, calls = [], (0.0, ""), (0, ""), 0
    with caplog.at_level(logging.DEBUG), HostileServer(elsewhere=elsewhere.url) as server:
        for name in names:
            server.answer = ANSWERS[name]
            for client in (chat, edit, label_studio):
                who, calls = f"{client.__name__}, {name}", calls + 1
                before, begun = peak_memory(reset=True), time.monotonic()
                try:
                    found = guarded(client, server.url, tmp_path / str(calls))
                except BaseException as error:
                    wrong.append(f"{who}: raised {type(error).__name__}: {error}"[:300])
                    continue
                slowest = max(slowest, (time.monotonic() - begun, who))
                memory = peak_memory() - before
                most = max(most, (memory, who))
                if memory > MEMORY:
                    wrong.append(f"{who}: took {memory / (1 << 20):.0f} MiB")
                if leaks(found):
                    wrong.append(f"{who}: shows the key in {found[:300]!r}")
                if obeyed(found) and client is not chat:
                    wrong.append(f"{who}: control characters in {found[:300]!r}")
                if "SURPLUS" in found:
                    wrong.append(f"{who}: an answer that nobody asked for became somebody's")
    assert not wrong, "\n".join(wrong)
    assert elsewhere.connections == 0, elsewhere.heard
    assert all(KEY in asked.head for asked in server.heard), "the key did go where it belongs"
    output = capfd.readouterr()
    assert not leaks(caplog.text + output.out + output.err) and not obeyed(output.out + output.err)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not leaks(path.read_bytes().decode("latin-1")), path
    with capfd.disabled():
        print(
            f"\n{len(names)} answers, {calls} calls: slowest {slowest[0]:.1f} s ({slowest[1]}), most memory "
            f"{most[0] / (1 << 20):.0f} MiB ({most[1]}), nothing sent elsewhere, no key kept or shown"
        )


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.01)


def test_a_few_answers_of_each_kind(elsewhere, tmp_path, caplog, capfd):
    check(FEW, elsewhere, tmp_path, caplog, capfd)


@pytest.mark.slow
def test_every_answer(elsewhere, tmp_path, caplog, capfd):
    assert len(ANSWERS) >= 150 and set(FEW) <= set(ANSWERS)
    check(list(ANSWERS), elsewhere, tmp_path, caplog, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["endless body", "gzip bomb", "a million lists", "endless headers", "a long text"])
def test_many_at_once_take_no_more(name, tmp_path):
    """As many as the settings' default allows in flight, all of them at the limit."""
    asked = [Request(str(n), (Message("user", (str(n),)),), max_tokens=8) for n in range(40)]
    with HostileServer(ANSWERS[name]) as server:
        endpoint = Endpoint(f"{server.url}/v1", "m", max_concurrency=32, timeout=5, max_attempts=1)
        before = peak_memory(reset=True)
        found = list(complete(endpoint, asked, tmp_path))
    assert len(found) == 40 and {reply.status for reply in found} == {"failed"}
    assert peak_memory() - before < MEMORY, f"{(peak_memory() - before) >> 20} MiB"
