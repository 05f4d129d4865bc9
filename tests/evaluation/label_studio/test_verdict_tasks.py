"""Label Studio's API: pushed once whatever is cut off, answers checked, the token told to nobody.

A scripted server answers here; test_label_studio_server.py has the real one."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest

from editcaption_mega.evaluation.human.tasks import Key, checklist, export_tasks, read_tasks
from editcaption_mega.evaluation.label_studio import project as label_studio_project
from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError
from editcaption_mega.evaluation.label_studio.verdict_tasks import (
    label_config,
    pull_answers,
    pull_verdicts,
    push_tasks,
    region_share,
)
from tests.helpers import human_study
from tests.helpers.label_studio_work import annotate, box, check_work, choices, work
from tests.helpers.scripted_label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, scripted_label_studio


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The root of an export of seven tasks, and its key. Read only."""
    root = tmp_path_factory.mktemp("study").resolve()
    benchmark = human_study.write_benchmark(root / "shards")
    export_tasks(benchmark, human_study.instructions(benchmark), root / "tasks", root / "key.json")
    return root, Key.read(root / "key.json")


@pytest.fixture
def scripted():
    with scripted_label_studio() as server:
        yield server


@pytest.fixture
def client(scripted):
    return LabelStudio(scripted.url, LEGACY_TOKEN, timeout=10)


def test_push_work_pull(study, scripted, client):
    root, key = study
    pushed = push_tasks(client, root / "tasks", "study", annotators=2)
    assert (pushed.project, pushed.new, pushed.existing) == (1, 7, 0)
    assert scripted.projects[0]["maximum_annotations"] == 2
    rows = read_tasks(root / "tasks")
    for task in scripted.tasks:
        row = rows[task["data"]["task"]]
        assert task["data"]["instruction"] == row["instruction"] and task["meta"] == {"task": row["task"]}
        head, _, content = task["data"]["picture_2"].partition(",")
        assert (
            head == "data:image/png;base64"
            and base64.b64decode(content) == (root / "tasks" / row["target"]).read_bytes()
        )
        assert "secret-model" not in str(task)
    work(client, 1)
    check_work(client, "study", key)


def test_a_push_that_was_cut_off_is_repeated(study, scripted, client, monkeypatch):
    """The second import arrives, but its answer does not: the tasks are there once all the same."""
    root, _ = study
    monkeypatch.setattr(label_studio_project, "_BATCH_TASKS", 2)
    seen = []

    def break_down(rows, total, label):
        for row in rows:
            seen.append(total)
            scripted.drop_after_import = len(seen) == 5
            yield row

    with pytest.raises(LabelStudioError, match="what arrived there stays, so start again"):
        push_tasks(client, root / "tasks", "study", progress=break_down)
    assert 0 < len(scripted.tasks) < 7
    before = len(scripted.tasks)
    again = push_tasks(client, root / "tasks", "study")
    assert (again.new, again.existing) == (7 - before, before)
    assert sorted(task["data"]["task"] for task in scripted.tasks) == sorted(read_tasks(root / "tasks"))
    done = push_tasks(client, root / "tasks", "study")
    assert (done.new, done.existing, len(scripted.tasks), len(scripted.projects)) == (0, 7, 7, 1)


def test_pictures_as_local_files(study, scripted, client):
    root, _ = study
    for _ in range(2):
        push_tasks(client, root / "tasks", "study", document_root=root)
    assert [storage["path"] for storage in scripted.storages] == [str(root / "tasks")]
    address = scripted.tasks[0]["data"]["picture_1"]
    assert address.startswith("/data/local-files/?d=tasks/pictures/") and (root / address.partition("=")[2]).is_file()
    with pytest.raises(ValueError, match="must lie in a folder of"):
        push_tasks(client, root / "tasks", "study", document_root=root / "tasks")


def test_titles_that_contain_the_title(study, scripted, client):
    push_tasks(client, study[0] / "tasks", "study two")
    assert push_tasks(client, study[0] / "tasks", "study").project == 2
    assert push_tasks(client, study[0] / "tasks", "study two").existing == 7


def test_projects_that_do_not_fit(study, scripted, client):
    folder = study[0] / "tasks"
    with pytest.raises(LabelStudioError, match="has no project 'study': push the tasks first"):
        pull_answers(client, "study")
    push_tasks(client, folder, "study")
    with pytest.raises(LabelStudioError, match="wants 1 annotators per task, not 3"):
        push_tasks(client, folder, "study", annotators=3)
    scripted.projects[0]["label_config"] = "<View/>"
    with pytest.raises(LabelStudioError, match="has another form"):
        push_tasks(client, folder, "study")
    scripted.projects.append(scripted.projects[0] | {"id": 2})
    with pytest.raises(LabelStudioError, match="has 2 projects 'study'"):
        pull_answers(client, "study")


@pytest.mark.parametrize(
    "fields, reason",
    [
        ([choices("severity", "P0"), choices("mood", "good")], "field 'mood' is not part of the form"),
        ([choices("severity", "P0"), choices("severity", "P1")], r"H1: one verdict per pair, found 2 \(P0, P1\)"),
        ([{"from_name": "severity", "value": {}}], "not a result of this form"),
        ([choices("severity", "P0"), choices("P0", "P0-7")], "H1: row 7 is P2 and may not be filed beside a P0"),
        (
            [choices("severity", "P1"), choices("P1", "P1-2"), box(0, 0, 60, 50)],
            "H2: row 2 takes up 0.3 of the picture",
        ),
        (
            [choices("severity", "P0"), choices("P0", "P0-2"), choices("off_subject", "yes"), box(0, 0, 9, 9)],
            "that is P1",
        ),
    ],
)
def test_results_that_are_refused(study, client, fields, reason):
    root, key = study
    push_tasks(client, root / "tasks", "study")
    annotate(client, 1, *fields)
    found = pull_verdicts(client, "study", key)
    assert not found.accepted and len(found.refused) == 1
    assert re.search(reason, found.refused[0].reason)


def test_region_share():
    assert region_share([dict(x=0, y=0, width=50, height=20)]) == pytest.approx(0.1)
    assert region_share([dict(x=0, y=0, width=50, height=20)] * 2) == pytest.approx(0.1), "the same place counts once"
    assert region_share([dict(x=90, y=90, width=50, height=50)]) == pytest.approx(0.01), "outside does not count"
    apart = [dict(x=0, y=0, width=10, height=10), dict(x=0, y=50, width=10, height=10)]
    assert region_share(apart) == pytest.approx(0.02) and region_share([]) == 0


def test_the_form():
    """Hierarchical: a severity's rows show with it alone; nothing in it depends on the instruction's markup."""
    root = ElementTree.fromstring(label_config())
    severity = root.find(".//Choices[@name='severity']")
    assert [c.get("value") for c in severity] == ["P0", "P1", "P2", "correct"] and severity.get("required") == "true"
    for name in ("P0", "P1", "P2"):
        view = root.find(f".//View[@whenChoiceValue='{name}']")
        assert view.get("visibleWhen") == "choice-selected" and view.get("whenTagName") == "severity"
        shown = [choice.get("value") for choice in view.find(f"Choices[@name='{name}']")]
        assert shown == [f"{name}-{row['id']}" for row in checklist()["rows"] if name in row["severities"]]
    assert [image.get("value") for image in root.iter("Image")] == ["$picture_1", "$picture_2"]
    (text,) = root.iter("Text")
    assert (text.get("value"), text.get("valueType")) == ("$instruction", "text") and not list(root.iter("HyperText"))


# The token


def test_a_personal_token_is_exchanged_and_renewed(study, scripted):
    client = LabelStudio(scripted.url, PERSONAL_TOKEN)
    push_tasks(client, study[0] / "tasks", "study")
    assert scripted.access == 1
    scripted.access = 7  # the one that was handed out has expired
    assert push_tasks(client, study[0] / "tasks", "study").existing == 7 and scripted.access == 8
    other = LabelStudio(scripted.url, "a.b.c")
    with pytest.raises(LabelStudioError, match="does not take the personal access token"):
        push_tasks(other, study[0] / "tasks", "study")


def test_the_token_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(LabelStudioError, match="no token: set LABEL_STUDIO_API_KEY"):
        LabelStudio.from_environment("http://127.0.0.1:1")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "planted-secret")
    assert "planted-secret" not in repr(LabelStudio.from_environment("http://127.0.0.1:1"))


@pytest.mark.parametrize(
    "answer, told",
    [
        ((401, {"detail": "Invalid token planted-secret"}), "refuses the token"),
        ((500, "the header was Token planted-secret"), r"failed with 500: the header was Token \[key\]"),
        (
            (400, {"detail": "no", "validation_errors": {"title": ["too short"]}}),
            'failed with 400: {"title": .*too short',
        ),
        ((200, "<html>hello</html>"), r"answers with a body of 18 bytes that is not JSON .*: is it Label Studio\?"),
        ((200, [1, 2]), "does not answer as Label Studio does"),
    ],
)
def test_failures_are_sentences_without_the_token(scripted, answer, told):
    scripted.answer = answer
    with pytest.raises(LabelStudioError, match=told) as error:
        pull_answers(LabelStudio(scripted.url, "planted-secret"), "study")
    assert "planted-secret" not in str(error.value)


def test_the_token_does_not_follow_a_redirect(scripted):
    with scripted_label_studio() as other:
        scripted.redirect_to = other.url
        with pytest.raises(LabelStudioError, match=f"redirects to {other.url}/api/projects"):
            pull_answers(LabelStudio(scripted.url, LEGACY_TOKEN), "study")
        assert not other.calls


def test_no_server():
    with pytest.raises(LabelStudioError, match=r"no answer from http://127.0.0.1:9/api/projects/ \(.*no connection"):
        pull_answers(LabelStudio("http://127.0.0.1:9", LEGACY_TOKEN, timeout=5), "study")
    with pytest.raises(
        LabelStudioError, match="Label Studio's url must look like http://host:8080: this one is no such address"
    ):
        LabelStudio("localhost:8080", LEGACY_TOKEN)
