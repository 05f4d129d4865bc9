"""The two forms in Label Studio: what is pushed shows the draft, what is pulled is what was filed."""

import urllib.request

import pytest

from editcaption_mega.curation.people.opinion_shards import import_pair_answers
from editcaption_mega.curation.people.pair_answers import PairAnswer, check_answers
from editcaption_mega.curation.people.people_projects import pair_form, pull_pair_answers, push_pair_tasks
from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.evaluation.human.filed_answers import Filed
from editcaption_mega.evaluation.label_studio.api import LabelStudio
from tests.helpers.pair_annotations import annotation, choices, varied_rows
from tests.helpers.people_tasks import answer, bare, write_study
from tests.helpers.real_label_studio import real_label_studio
from tests.helpers.scripted_label_studio import LEGACY_TOKEN, scripted_label_studio

FORMS = ("refine", "preference")
NOW = "2026-11-27T04:00:00+00:00"


def listed(client, project):
    tasks, page = {}, 1
    while True:
        query = {"project": project, "page": page, "page_size": 100, "include": "id,meta"}
        found = client.call("GET", "/api/tasks/", **query)
        tasks |= {task["meta"]["task"]: task["id"] for task in found["tasks"]}
        if len(tasks) >= found["total"]:
            return tasks
        page += 1


def annotate(client, project, study, rows):
    numbers = listed(client, project)
    assert list(numbers) == study.names or sorted(numbers) == sorted(study.names)
    for row in rows:
        body = annotation(row, study.tasks[row["task"]].text)
        client.call("POST", f"/api/tasks/{numbers[row['task']]}/annotations/", body)


def check_round_trip(client, study, title, rows):
    """What was filed as annotations comes back equal, and makes the same shards as the same answers as JSONL."""
    pulled = pull_pair_answers(client, title)
    checked = check_answers(pulled, study.form, study.tasks)
    assert not checked.refused and len(checked.accepted) == len(rows)
    assert not checked.unanswered
    by_task = {row.task: row for row in checked.accepted}
    for row in rows:
        found, wanted = by_task[row["task"]], PairAnswer.from_json(row)
        assert (found.verdict, found.remark, found.annotator) == (wanted.verdict, wanted.remark, "user-1")
        assert found.pictures == [study.tasks[row["task"]].source_sha256, study.tasks[row["task"]].target_sha256]
        assert found.seconds == 4.0
        if wanted.verdict == "corrected":
            assert (found.text, found.tags, found.level) == (wanted.text, wanted.tags, wanted.level)
            assert found.spans == wanted.spans
    made = {}
    for name, filed in (("studio", pulled), ("jsonl", [Filed("line", row) for row in rows])):
        output = study.folder.parent / name
        import_pair_answers(study.reader, [study.folder], study.form, filed, output, imported=NOW)
        shards = open_shards(output)
        made[name] = [
            (pair.id, pair.instruction, pair.chosen, pair.rejected, pair.failure_modes, pair.severity)
            for pair in map(shards.pair, range(len(shards)))
        ]
    assert made["studio"] == made["jsonl"] and len(made["studio"]) == (
        len(rows) * 4 // 5 if study.form == "refine" else len(rows) * 3 // 5
    )


@pytest.mark.parametrize("form", FORMS)
def test_against_a_scripted_server(form, tmp_path):
    study = write_study(tmp_path, form, 10)
    with scripted_label_studio() as server:
        client = LabelStudio(server.url, LEGACY_TOKEN)
        pushed = push_pair_tasks(client, study.folder, "t")
        assert (pushed.new, pushed.existing) == (10, 0)
        assert push_pair_tasks(client, study.folder, "t").existing == 10
        shown = server.tasks[1]
        assert shown["data"]["draft"] == study.tasks[study.names[1]].text
        assert shown["predictions"][0]["result"][0]["value"]["text"] == [shown["data"]["draft"]]
        rows = varied_rows(study, answer, bare)
        annotate(client, pushed.project, study, rows)
        check_round_trip(client, study, "t", rows)


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([choices("verdict", "corrected", "already_correct")], "H1: one verdict per pair, found 2"),
        ([choices("primary", "detail")], "H1: one verdict per pair, found 0"),
        ([choices("verdict", "corrected"), choices("severity", "P0", "P1"), choices("primary", "detail")], "empty"),
        ([choices("verdict", "corrected"), choices("primary", "detail", "viewpoint")], "one tag is the primary one"),
        ([choices("mood", "good")], "field 'mood' is not part of the form"),
        ([{"from_name": "verdict", "value": {}}], "not a result of this form"),
    ],
)
def test_contradictory_annotations_are_refused(results, reason, tmp_path):
    study = write_study(tmp_path, "preference", 2)
    with scripted_label_studio() as server:
        client = LabelStudio(server.url, LEGACY_TOKEN)
        push_pair_tasks(client, study.folder, "t")
        client.call("POST", "/api/tasks/1/annotations/", {"result": results})
        client.call("POST", "/api/tasks/2/annotations/", {"result": [], "was_cancelled": True})
        checked = check_answers(pull_pair_answers(client, "t"), "preference", study.tasks)
    skipped, refused = sorted((row.reason for row in checked.refused), key=lambda reason: "skipped" not in reason)
    assert not checked.accepted and reason in refused and skipped == "skipped by the annotator"


def test_the_forms_show_every_tag_and_severity():
    refine, preference = map(pair_form, FORMS)
    assert 'value="spatial"' in refine and "severity" not in refine
    assert all(f'value="{name}"' in preference for name in ("orientation", "viewpoint", "detail", "P0", "P1", "P2"))


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    with real_label_studio(tmp_path_factory.mktemp("label_studio")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_200_tasks_on_a_real_server(real_server, form):
    url, root = real_server
    study = write_study(root / form, form, 200)
    client = LabelStudio(url, LEGACY_TOKEN)
    pushed = push_pair_tasks(client, study.folder, form, document_root=root)
    assert (pushed.new, pushed.existing) == (200, 0)
    again = push_pair_tasks(client, study.folder, form, document_root=root)
    assert (again.project, again.new, again.existing) == (pushed.project, 0, 200)
    rows = varied_rows(study, answer, bare)
    annotate(client, pushed.project, study, rows)
    check_round_trip(client, study, form, rows)
    number = listed(client, pushed.project)[study.names[0]]
    shown = client.call("GET", f"/api/tasks/{number}/")["data"]
    picture = urllib.request.Request(url + shown["picture_2"], headers={"Authorization": f"Token {LEGACY_TOKEN}"})
    with urllib.request.urlopen(picture, timeout=30) as reply:
        assert reply.read() == (study.folder / study.tasks[study.names[0]].target).read_bytes()
