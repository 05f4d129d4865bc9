"""Ground truth checked in Label Studio: what the form shows, what comes back, and what is no answer."""

import pytest

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.ground_truth import Proposal, freeze
from editcaption_mega.evaluation.label_studio.api import LabelStudio, LabelStudioError
from editcaption_mega.evaluation.label_studio.change_tasks import pull_proposals, push_proposals
from editcaption_mega.records import Changes
from tests.helpers import small_job
from tests.helpers.scripted_label_studio import LEGACY_TOKEN, scripted_label_studio


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return Benchmark("set", small_job.write_shards(tmp_path_factory.mktemp("truth") / "shards", count=4))


@pytest.fixture
def proposals(benchmark):
    changes = Changes(
        primary=[{"id": "P1", "text": "A hat is added."}],
        secondary=[{"id": "S1", "text": "Its shadow."}],
        overall="Hat.",
    )
    rows = [Proposal(id=one, changes=changes, support={"P1": ["a", "b"]}, dropped=["x (no)"]) for one in benchmark.ids]
    rows[3] = Proposal(id=benchmark.ids[3], reason="a failed")
    return rows


@pytest.fixture
def studio():
    with scripted_label_studio() as server:
        yield server, LabelStudio(server.url, LEGACY_TOKEN)


def answer(server, task, primary, approved="approved", overall=("A hat.",), **more):
    result = [{"from_name": "primary", "value": {"text": list(primary)}}]
    result += [{"from_name": "overall", "value": {"text": list(overall)}}]
    result += [{"from_name": "approved", "value": {"choices": [approved]}}]
    server.tasks[task]["annotations"].append(
        {"id": len(server.tasks[task]["annotations"]), "completed_by": {"id": 7}, "result": result, **more}
    )


def test_people_edit_the_proposal_and_what_they_say_is_frozen(benchmark, proposals, studio, tmp_path):
    server, client = studio
    assert push_proposals(client, "t", benchmark, proposals).new == 4
    assert push_proposals(client, "t", benchmark, proposals).existing == 4
    first = server.tasks[0]
    shown = {one["from_name"]: one["value"]["text"] for one in first["predictions"][0]["result"]}
    assert shown == {"primary": ["A hat is added."], "secondary": ["Its shadow."], "overall": ["Hat."]}
    assert first["data"]["support"] == "P1: a, b\nleft out: x (no)"
    assert "predictions" not in server.tasks[3] and server.tasks[3]["data"]["support"] == "no proposal: a failed"
    assert not any(row.approved for row in pull_proposals(client, "t", proposals))
    answer(server, 0, ["An old answer."])
    for task in range(4):
        answer(server, task, [f"A red hat is added to {task}.", " A scarf. "])
    answer(server, 1, ["skipped"], was_cancelled=True)
    rows = pull_proposals(client, "t", proposals)
    assert [c.text for c in rows[0].changes.primary] == ["A red hat is added to 0.", "A scarf."]
    assert [c.id for c in rows[0].changes.primary] == ["P1", "P2"] and not rows[0].changes.secondary
    assert {row.annotator for row in rows} == {"user-7"}
    assert freeze(benchmark, rows, tmp_path / "truth.json")


def test_what_cannot_be_told_is_not_approved(benchmark, proposals, studio):
    server, client = studio
    push_proposals(client, "t", benchmark, proposals)
    answer(server, 2, ["?"], approved="cannot be told")
    row = pull_proposals(client, "t", proposals)[2]
    assert not row.approved and row.changes is None and row.reason == "a person could not tell"


@pytest.mark.parametrize(
    "change, told",
    [
        ({"primary": [" "]}, "0 primary changes"),
        ({"primary": ["x"], "overall": ()}, "0 sentences"),
        ({"primary": ["x"], "approved": ""}, "no approval"),
    ],
)
def test_an_answer_that_is_not_whole_is_told(benchmark, proposals, studio, change, told):
    server, client = studio
    push_proposals(client, "t", benchmark, proposals)
    answer(server, 1, **change)
    with pytest.raises(ValueError, match=told):
        pull_proposals(client, "t", proposals)


def test_projects_and_rows_that_do_not_fit_are_told(benchmark, proposals, studio):
    server, client = studio
    with pytest.raises(LabelStudioError, match="has no project 't'"):
        pull_proposals(client, "t", proposals)
    with pytest.raises(ValueError, match="1 of 4 ids are missing"):
        push_proposals(client, "t", benchmark, proposals[1:])
    push_proposals(client, "t", benchmark, proposals)
    answer(server, 0, ["x"])
    with pytest.raises(ValueError, match="tasks of other pairs"):
        pull_proposals(client, "t", proposals[1:])
    server.tasks[0]["annotations"][0]["result"][0]["from_name"] = "other"
    with pytest.raises(ValueError, match="field 'other' is not part of the form"):
        pull_proposals(client, "t", proposals)
