"""Whatever a server answers as Label Studio, each command gives its result or one sentence: LabelStudioError."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.evaluation.human.tasks import Key
from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError, TooLargeError
from editcaption_mega.evaluation.label_studio.project import exported_tasks, import_tasks, open_project, tasks_there
from editcaption_mega.evaluation.label_studio.verdict_tasks import label_config, pull_verdicts
from editcaption_mega.inference.endpoint.outcome import Response
from editcaption_mega.inference.endpoint.transport import MIB, TooLarge

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJwZXJzb25hbCI6MX0.c2lnbmF0dXJl"
PROJECT = {"id": 7, "title": "study", "label_config": label_config(), "maximum_annotations": 1}
ANNOTATION = {"id": 3, "completed_by": 1, "was_cancelled": False, "result": [
    {"from_name": "severity", "value": {"choices": ["P1"]}}, {"from_name": "P1", "value": {"choices": ["P1-2"]}},
    {"from_name": "region", "value": {"x": 1, "y": 2, "width": 3, "height": 4}},
    {"from_name": "remark", "value": {"text": ["left"]}},
]}  # fmt: skip
ANSWERS = {
    ("GET", "/api/projects/"): {"count": 1, "results": [PROJECT]},
    ("POST", "/api/projects/"): PROJECT,
    ("POST", "/api/projects/7/import"): {"task_count": 1},
    ("GET", "/api/tasks/"): {"total": 1, "tasks": [{"id": 5, "meta": {"task": "t1"}}]},
    ("GET", "/api/projects/7/export"): [{"id": 5, "data": {"task": "t1"}, "annotations": [ANNOTATION]}],
    ("POST", "/api/token/refresh/"): {"access": "access-0123456789"},
}
KEY = Key("00", {"t1": ("set", "a", "model")})


class Canned(LabelStudio):
    """Answers from a table, without a network."""

    def __init__(self, answers, token=TOKEN, http=200):
        super().__init__("http://127.0.0.1:1", token, max_attempts=1)
        self.answers, self.http, self.asked = answers, http, []

    async def _ask(self, method, address, data):
        path = address.partition("?")[0]
        self.asked.append(address)
        answer = self.answers[method, path]
        if callable(answer):
            answer = answer(address)
        if isinstance(answer, Exception):
            raise answer
        return Response(self.http, {}, bytearray(json.dumps(answer).encode()))


COMMANDS = (
    lambda server: pull_verdicts(server, "study", KEY),
    lambda server: open_project(server, "study", label_config()),
    lambda server: tasks_there(server, 7),
    lambda server: import_tasks(server, 7, [{"data": {"task": "t1"}, "meta": {"task": "t1"}}]),
)


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        yield from places(part, (*path, name))


PLACES = [(call, path) for call, answer in ANSWERS.items() for path in places(answer)]
VALUES = st.sampled_from(
    [None, True, -1, 0, 3.5, 10**400, float("nan"), "", "x", "\ud800", "\x1b[2J", [], [[]], [None], {}, {"a": []}]
) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=3
)


def changed(call, path, value):
    answers = copy.deepcopy(ANSWERS)
    if not path:
        return answers | {call: value}
    place = answers[call]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return answers


def test_the_table_works():
    found = pull_verdicts(Canned(ANSWERS), "study", KEY)
    assert [verdict.severity for verdict in found.accepted] == ["P1"] and not found.refused
    assert [command(Canned(ANSWERS)) for command in COMMANDS[1:]] == [7, {"t1"}, None]
    assert pull_verdicts(Canned(ANSWERS, PERSONAL), "study", KEY).accepted


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PLACES), VALUES, st.sampled_from(COMMANDS))
def test_any_value_in_any_place(place, value, command):
    server = Canned(changed(*place, value))
    try:
        found = command(server)
    except LabelStudioError as error:
        assert str(error).isprintable() and TOKEN not in str(error) and PERSONAL not in str(error)
        return
    if command is COMMANDS[0]:
        for one in found.refused:
            assert one.reason.isprintable() and "\x1b" not in f"{one.where}{one.annotator}"


@pytest.mark.parametrize("http", [204, 300, 302, 400, 401, 403, 404, 409, 413, 418, 429, 500, 502, 503, 599])
@pytest.mark.parametrize("token", [TOKEN, PERSONAL], ids=["legacy", "personal"])
def test_every_code_is_one_sentence(http, token):
    body = {"detail": f"no: Token {token} Bearer {token}", "validation_errors": {"title": [f"\x1b[31m{token}"]}}
    for command in COMMANDS:
        with pytest.raises(LabelStudioError) as caught:
            command(Canned(dict.fromkeys(ANSWERS, body), token, http))
        assert token not in str(caught.value) and str(caught.value).isprintable()


def test_the_access_token_is_shown_nowhere():
    """It is the server's own word, and as good as the personal one while it lives."""
    access = "access-abcdef0123456789"
    answers = ANSWERS | {("POST", "/api/token/refresh/"): {"access": access}}
    for body in ({"detail": f"Bearer {access}"}, {"results": [{"title": access}] * 2}, [access]):
        server = Canned(answers | {("GET", "/api/projects/"): body}, PERSONAL, 200 if "detail" not in body else 200)
        with pytest.raises(LabelStudioError) as caught:
            pull_verdicts(server, access, KEY)
        assert f"Bearer {access}" not in str(caught.value)
    for bad in ("two words", "line\r\nbreak: x", 17, None, ["a"]):
        with pytest.raises(LabelStudioError, match="does not answer as Label Studio does"):
            pull_verdicts(Canned(ANSWERS | {("POST", "/api/token/refresh/"): {"access": bad}}, PERSONAL), "study", KEY)


def test_an_export_that_is_too_large_is_asked_for_in_parts():
    tasks = [{"id": n, "data": {"task": f"t{n}"}, "annotations": [], "meta": {"task": f"t{n}"}} for n in range(1, 120)]
    sizes = []

    def export(address):
        ids = [int(part.partition("=")[2]) for part in address.split("&") if part.startswith("ids")]
        sizes.append(len(ids))
        return TooLarge(24 * MIB) if len(ids) > 20 else [task for task in tasks if task["id"] in ids]

    table = ANSWERS | {
        ("GET", "/api/projects/7/export"): export,
        ("GET", "/api/tasks/"): {"total": 119, "tasks": tasks},
    }
    assert [task["id"] for task in exported_tasks(Canned(table), "study")] == list(range(1, 120))
    assert max(sizes) == 50 and 1 not in sizes
    table[("GET", "/api/projects/7/export")] = lambda address: TooLarge(24 * MIB)
    with pytest.raises(TooLargeError, match="sends an answer of more than 24 MiB"):
        exported_tasks(Canned(table), "study")


def test_pages_that_do_not_end_do():
    same = {"total": 10**6, "tasks": [{"id": 5, "meta": {}}]}
    with pytest.raises(LabelStudioError, match="the pages of its 1000000 tasks do not end"):
        tasks_there(Canned(ANSWERS | {("GET", "/api/tasks/"): same}), 7)
