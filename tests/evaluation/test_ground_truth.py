"""Ground truth from several models: nothing is lost between their statements and the file that judges read."""

import json
import re

import pytest

from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.ground_truth import (
    Proposal,
    freeze,
    propose,
    read_description,
    read_ground_truth,
    read_merged,
    read_proposals,
    write_proposals,
)
from editcaption_mega.inference.endpoint.address import Endpoint
from tests.helpers import small_job
from tests.helpers.scripted_server import ScriptedServer, prompt

STATEMENTS = {"M1.1": "a hat is added", "M1.2": "a shadow appears", "M2.1": "a red hat is added"}


def reply(body):
    """Two describers that agree but for one statement, and a merger that joins by number and drops the rest."""
    statements = re.findall(r"^(M\d+\.\d+): ", prompt(body), re.MULTILINE)
    if not statements:
        more = [f"only {body['model']} saw this"] if body["model"] == "second" else []
        return json.dumps(
            {"primary": ["A red hat is added."], "secondary": ["Its shadow.", *more], "overall": "A hat."}
        )
    by_number = {number: [one for one in statements if one.endswith(f".{number}")] for number in "123"}
    return json.dumps(
        {
            "primary": [{"text": "A red hat is added.", "from": by_number["1"]}],
            "secondary": [{"text": "Its shadow.", "from": by_number["2"]}],
            "overall": "A hat is added.",
            "dropped": [{"from": by_number["3"], "why": "not in the pictures"}] if by_number["3"] else [],
        }
    )


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return Benchmark("set", small_job.write_shards(tmp_path_factory.mktemp("truth") / "shards", count=3))


def quiet(items, *_):
    return items


@pytest.fixture(scope="module")
def proposals(benchmark, tmp_path_factory):
    with ScriptedServer(reply=reply) as server:
        first, second, merger = (Endpoint(server.url, name) for name in ("first", "second", "merger"))
        cache = tmp_path_factory.mktemp("cache")
        return propose(benchmark, {"first": first, "second": second}, merger, cache, quiet)


def test_what_models_say_becomes_a_proposal_with_its_support(benchmark, proposals):
    assert [row.id for row in proposals] == benchmark.ids
    one = proposals[0]
    assert [(c.id, c.text) for c in one.changes.primary] == [("P1", "A red hat is added.")]
    assert one.support == {"P1": ["first", "second"], "S1": ["first", "second"]}
    assert one.dropped == ["only second saw this (not in the pictures)"]
    assert not one.approved


def test_a_model_that_says_nothing_usable_is_named(benchmark, tmp_path):
    def silent(body):
        return "no idea" if body["model"] == "third" else reply(body)

    with ScriptedServer(reply=silent) as server:
        models = {name: Endpoint(server.url, name, max_attempts=1) for name in ("first", "second", "third")}
        merger = Endpoint(server.url, "merger")
        rows = propose(benchmark, models, merger, tmp_path / "a", quiet)
        assert all("third gave no description (malformed" in row.dropped[-1] for row in rows)
        rows = propose(benchmark, {k: models[k] for k in ("first", "third")}, merger, tmp_path / "b", quiet)
        assert all(row.changes is None and "third gave no description" in row.reason for row in rows)
    with pytest.raises(ValueError, match="at least two models"):
        propose(benchmark, {"first": models["first"]}, merger, tmp_path / "c", quiet)


def test_only_checked_proposals_become_ground_truth(benchmark, proposals, tmp_path):
    write_proposals(tmp_path / "p.jsonl", proposals)
    with pytest.raises(ValueError, match="3 of 3 proposals are not approved by a named annotator"):
        freeze(benchmark, read_proposals(tmp_path / "p.jsonl"), tmp_path / "truth.json")
    signed = [row.model_copy(update={"approved": True, "annotator": "Ada"}) for row in proposals]
    written = freeze(benchmark, signed, tmp_path / "truth.json")
    truth = read_ground_truth(tmp_path / "truth.json", benchmark)
    judged = Benchmark("set", benchmark.shards, truth=truth)
    assert judged.pair(0).changes == proposals[0].changes
    assert json.loads((tmp_path / "truth.json").read_text())["hash"] == written
    trial = Benchmark("set", benchmark.shards, benchmark.ids[1:])
    assert list(read_ground_truth(tmp_path / "truth.json", trial)) == trial.ids, "a part of what was checked"
    with ShardWriter(tmp_path / "turned") as writer:
        for item in benchmark:
            writer.add(item.pair, item.target, "png", item.source, "png")
    with pytest.raises(ValueError, match=f"made for other pairs .* {len(benchmark)} of {len(benchmark)} are not in it"):
        read_ground_truth(tmp_path / "truth.json", Benchmark("set", tmp_path / "turned"))
    (tmp_path / "truth.json").write_text((tmp_path / "truth.json").read_text().replace("red hat", "blue hat"))
    with pytest.raises(ValueError, match="changed by hand"):
        read_ground_truth(tmp_path / "truth.json")
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(ValueError, match="is no ground truth"):
        read_ground_truth(tmp_path / "truth.json")


def test_a_proposal_without_changes_cannot_be_approved_away(benchmark, proposals, tmp_path):
    rows = [Proposal(id=row.id, reason="x", approved=True, annotator="Ada") for row in proposals]
    with pytest.raises(ValueError, match="not approved"):
        freeze(benchmark, rows, tmp_path / "truth.json")


def merged(**change):
    whole = {
        "primary": [{"text": "A red hat.", "from": ["M1.1", "M2.1"]}],
        "secondary": [{"text": "A shadow.", "from": ["M1.2"]}],
        "overall": "A hat.",
    }
    return json.dumps(whole | change)


def test_a_merge_must_use_each_statement_once():
    assert read_merged(merged(), STATEMENTS)["overall"] == "A hat."
    for change, told in (
        ({"secondary": []}, "wrong: M1.2"),
        ({"secondary": [{"text": "x", "from": ["M1.2", "M1.1"]}]}, "wrong: M1.1"),
        ({"secondary": [{"text": "x", "from": ["M1.2", "M9.9"]}]}, "wrong: M9.9"),
        ({"primary": [{"text": "", "from": ["M1.1"]}]}, "must hold 'text'"),
        ({"primary": [{"text": "x"}]}, "names no statement"),
        ({"overall": ""}, "'overall' one sentence"),
        ({"dropped": "M1.2"}, "'dropped' must be a list"),
    ):
        with pytest.raises(ValueError) as error:
            read_merged(merged(**change), STATEMENTS)
        assert told in str(error.value)


def test_a_description_must_name_a_change():
    for text, told in (
        ("nothing", "no whole JSON object"),
        ('{"primary": [], "secondary": [], "overall": "x"}', "'primary' is empty"),
        ('{"primary": "x", "secondary": [], "overall": "x"}', "must be a list of sentences"),
        ('{"primary": ["x"], "secondary": []}', "'overall' must be a sentence"),
    ):
        with pytest.raises(ValueError) as error:
            read_description(text)
        assert told in str(error.value)
