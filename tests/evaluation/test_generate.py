"""Instructions of models wherever they run: the same whatever was killed or divided; refused when they do not fit."""

import json

import pytest
import small_job

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.generate import Part, generate, instructions_path
from editcaption_mega.settings import CandidateSettings, EndpointSettings, GenerationSettings
from tests.scripted_server import ScriptedServer

HOW = GenerationSettings(max_tokens=6, min_pixels=1024, batch_size=2)


def quiet(items, *_):
    return items


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("generate")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=5)
    return root


@pytest.fixture(scope="module")
def benchmark(root):
    return Benchmark("set", root / "shards")


@pytest.fixture(scope="module")
def whole(root, benchmark):
    return generate(CandidateSettings("m", folder=str(root / "model")), benchmark, HOW, root / "whole", progress=quiet)


def test_a_folder_in_process(root, benchmark, whole):
    assert [row.id for row in whole] == benchmark.ids
    assert all(row.model == "m" and row.provenance["tokens"] <= 6 for row in whole)
    assert {row.provenance["finished"] for row in whole} <= {True, False}
    model = CandidateSettings("m", folder=str(root / "gone"))
    with pytest.raises(ValueError, match="found no folder"):
        generate(model, benchmark, HOW, root / "other", progress=quiet)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_killed_run_goes_on_and_gives_the_same(root, benchmark, whole, tmp_path, written):
    model = CandidateSettings("m", folder=str(root / "model"))

    class Killed(Exception):
        pass

    def killing(items, *_):
        for number, item in enumerate(items):
            if number == written:
                raise Killed
            yield item

    with pytest.raises(Killed):
        generate(model, benchmark, HOW, tmp_path, progress=killing)
    (log,) = (tmp_path / "instructions/m").glob("*.done")
    assert len(log.read_text().splitlines()) == written
    with open(log, "a") as file:
        file.write('{"id": "torn')
    asked = []

    def counting(items, total, *_):
        asked.append(total)
        return items

    assert generate(model, benchmark, HOW, tmp_path, progress=counting) == whole
    assert asked == [5 - written // 2 * 2], "whole batches are kept, the batch that was cut off is written again"
    assert not list((tmp_path / "instructions/m").glob("*.done"))


def test_parts_make_the_same_whole(root, benchmark, whole, tmp_path):
    model = CandidateSettings("m", folder=str(root / "model"))
    assert generate(model, benchmark, HOW, tmp_path, part=Part(1, 2), progress=quiet) is None
    found = generate(model, benchmark, HOW, tmp_path, part=Part(0, 2), progress=quiet)
    assert [row.instruction for row in found] == [row.instruction for row in whole]
    assert generate(model, benchmark, HOW, tmp_path, progress=quiet) == found
    with pytest.raises(ValueError, match="part 2 of 2"):
        Part(2, 2)


def test_instructions_of_other_settings_are_refused(root, benchmark, whole):
    model = CandidateSettings("m", folder=str(root / "model"))
    other = GenerationSettings(max_tokens=7, min_pixels=1024, batch_size=2)
    with pytest.raises(ValueError, match=r"other settings \(max_tokens differ\)"):
        generate(model, benchmark, other, root / "whole", progress=quiet)


def test_instructions_written_elsewhere_are_joined_by_id(root, benchmark, whole, tmp_path):
    given = CandidateSettings("given", instructions=str(tmp_path))
    lines = [json.dumps(row.to_json()) for row in reversed(whole)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines) + "\n")
    found = generate(given, benchmark, HOW, tmp_path / "run", progress=quiet)
    assert [(row.id, row.model, row.instruction) for row in found] == [
        (row.id, "given", row.instruction) for row in whole
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(ValueError, match="1 of 5 ids are missing"):
        generate(given, benchmark, HOW, tmp_path / "run", progress=quiet)


def test_an_endpoint_gets_the_prompt_of_training_and_refusals_are_reasons(benchmark, tmp_path):
    def script(call, of_prompt):
        return "refusal" if call == 0 else "length" if call == 1 else None

    with ScriptedServer(reply=lambda body: " Add a hat. ", script=script) as server:
        model = CandidateSettings("served", endpoint=EndpointSettings(url=server.url, model="x", max_concurrency=1))
        rows = generate(model, benchmark, HOW, tmp_path, progress=quiet)
        calls = server.calls
        assert generate(model, benchmark, HOW, tmp_path, progress=quiet) == rows and server.calls == calls
        system, user = server.bodies[0]["messages"]
    refused = [row for row in rows if row.instruction is None]
    assert len(refused) == 1 and refused[0].reason.startswith("refused: ")
    assert sorted(row.instruction for row in rows if row.instruction) == ["Add a", *["Add a hat."] * 3]
    assert sorted(row.provenance["finished"] for row in rows if row.instruction) == [False, True, True, True]
    assert system["content"].startswith("You compare two pictures")
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert instructions_path(tmp_path, "served", "set").is_file()


def test_two_servers_of_one_model_name_keep_their_texts_apart(benchmark, tmp_path):
    with ScriptedServer(reply=lambda body: "base") as base, ScriptedServer(reply=lambda body: "tuned") as tuned:
        for name, server in (("base", base), ("tuned", tuned)):
            model = CandidateSettings(name, endpoint=EndpointSettings(url=server.url, model="qwen"))
            assert {row.instruction for row in generate(model, benchmark, HOW, tmp_path, progress=quiet)} == {name}
        model = CandidateSettings("base", endpoint=EndpointSettings(url=tuned.url, model="qwen"))
        with pytest.raises(ValueError, match=r"other settings \(server differ"):
            generate(model, benchmark, HOW, tmp_path, progress=quiet)
        moved = EndpointSettings(url=tuned.url, model="qwen", cache_as=base.url)
        rows = generate(CandidateSettings("base", endpoint=moved), benchmark, HOW, tmp_path, progress=quiet)
    assert {row.instruction for row in rows} == {"base"}


def test_vllm_is_asked_for_by_name_where_it_is_missing(root, benchmark, tmp_path):
    with pytest.raises(ValueError, match="needs vLLM, which is not installed"):
        generate(CandidateSettings("v", vllm=str(root / "model")), benchmark, HOW, tmp_path, progress=quiet)
