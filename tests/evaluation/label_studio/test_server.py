"""A real Label Studio: pushed, worked on, pulled."""

import urllib.request

import pytest

from editcaption_mega.evaluation.ground_truth import Proposal, freeze
from editcaption_mega.evaluation.human.tasks import Key, export_tasks, read_tasks
from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError
from editcaption_mega.evaluation.label_studio.change_tasks import pull_proposals, push_proposals
from editcaption_mega.evaluation.label_studio.verdict_tasks import push_tasks
from editcaption_mega.records import Changes
from tests.helpers import human_study
from tests.helpers.label_studio_work import check_work, work
from tests.helpers.real_label_studio import real_label_studio
from tests.helpers.scripted_label_studio import LEGACY_TOKEN


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    with real_label_studio(tmp_path_factory.mktemp("label_studio")) as server:
        yield server


@pytest.mark.slow
def test_a_real_server(real_server):
    url, document_root = real_server
    folder, key_file = document_root / "export", document_root / "key.json"
    benchmark = human_study.write_benchmark(document_root / "shards")
    export_tasks(benchmark, human_study.instructions(benchmark), folder, key_file)
    key = Key.read(key_file)
    client = LabelStudio(url, LEGACY_TOKEN)
    for title, root in (("pictures inside", None), ("pictures as files", document_root)):
        pushed = push_tasks(client, folder, title, document_root=root)
        assert (pushed.new, pushed.existing) == (7, 0)
        again = push_tasks(client, folder, title, document_root=root)
        assert (again.project, again.new, again.existing) == (pushed.project, 0, 7)
        tasks = work(client, pushed.project)
        check_work(client, title, key)
    shown = client.call("GET", f"/api/tasks/{tasks[0]}/")["data"]
    picture = urllib.request.Request(url + shown["picture_1"], headers={"Authorization": f"Token {LEGACY_TOKEN}"})
    row = read_tasks(folder)[shown["task"]]
    with urllib.request.urlopen(picture, timeout=30) as reply:
        assert reply.read() == (folder / row["source"]).read_bytes()

    personal = client.call("POST", "/api/token/", {})["token"]
    assert push_tasks(LabelStudio(url, personal), folder, "pictures inside").existing == 7
    with pytest.raises(LabelStudioError, match="refuses the token"):
        push_tasks(LabelStudio(url, "0" * 40), folder, "pictures inside")


@pytest.mark.slow
def test_ground_truth_is_checked_on_a_real_server(real_server):
    """The form shows the proposal as the annotation to begin with; what a person makes of it comes back."""
    url, document_root = real_server
    benchmark = human_study.write_benchmark(document_root / "truth_shards")
    changes = Changes(
        primary=[{"id": "P1", "text": "A hat is added."}, {"id": "P2", "text": "The sky turns <b>red</b>."}],
        overall="A hat and a red sky.",
    )
    rows = [Proposal(id=pair_id, changes=changes, support={"P1": ["a"]}) for pair_id in benchmark.ids]
    client = LabelStudio(url, LEGACY_TOKEN)
    assert push_proposals(client, "truth", benchmark, rows).new == len(rows)
    pushed = push_proposals(client, "truth", benchmark, rows)
    assert (pushed.new, pushed.existing) == (0, len(rows))
    listed = client.call("GET", "/api/tasks/", project=pushed.project, page=1, page_size=100)["tasks"]
    for task in listed:
        shown = client.call("GET", f"/api/tasks/{task['id']}/")
        (prediction,) = shown["predictions"]
        texts = {one["from_name"]: one["value"]["text"] for one in prediction["result"]}
        assert texts["primary"] == ["A hat is added.", "The sky turns <b>red</b>."]
        approval = {
            "from_name": "approved", "to_name": "support", "type": "choices", "value": {"choices": ["approved"]},
        }  # fmt: skip
        body = {"result": [*prediction["result"], approval], "lead_time": 2.0}
        client.call("POST", f"/api/tasks/{task['id']}/annotations/", body)
    found = pull_proposals(client, "truth", rows)
    assert all(row.approved and row.annotator == "user-1" and row.changes == changes for row in found)
    assert freeze(benchmark, found, document_root / "truth.json")
