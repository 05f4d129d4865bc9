"""Instructions of models wherever they run: the same whatever was killed or divided; refused when they do not fit."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from editcaption_mega.conversion.convert import merge_adapter
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.evaluation.benchmarks import Benchmark, BenchmarkPair
from editcaption_mega.evaluation.generate import Part, collect, generate, instructions_path
from editcaption_mega.evaluation.run.preparation import check_before_work
from editcaption_mega.inference.local.generator import own_device
from editcaption_mega.settings import (
    AdapterSettings,
    BenchmarkSettings,
    CandidateSettings,
    EndpointSettings,
    EvaluationSettings,
    GenerationSettings,
    JudgeSettings,
)
from tests.helpers import small_job
from tests.helpers.random_adapter import write_random_adapter
from tests.helpers.scripted_server import ScriptedServer

HOW = GenerationSettings(max_tokens=6, min_pixels=1024, batch_size=2)


def generated(model, benchmark, settings, output, **options):
    """Have the model write, then read what is there."""
    generate(model, benchmark, settings, output, **options)
    return collect(model, benchmark, settings, output)


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
    return generated(CandidateSettings("m", folder=str(root / "model")), benchmark, HOW, root / "whole", progress=quiet)


def test_a_folder_in_process(root, benchmark, whole):
    assert [row.id for row in whole] == benchmark.ids
    assert all(row.model == "m" and row.provenance["tokens"] <= 6 for row in whole)
    assert {row.provenance["finished"] for row in whole} <= {True, False}
    model = CandidateSettings("m", folder=str(root / "gone"))
    with pytest.raises(ValueError, match="found no folder"):
        generated(model, benchmark, HOW, root / "other", progress=quiet)


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
        generated(model, benchmark, HOW, tmp_path, progress=killing)
    log = tmp_path / "instructions/m/made/set/all.jsonl"
    assert len(log.read_text().splitlines()) == written
    with open(log, "a") as file:
        file.write('{"id": "torn')
    asked = []

    def counting(items, total, *_):
        asked.append(total)
        return items

    assert generated(model, benchmark, HOW, tmp_path, progress=counting) == whole
    assert asked == [5 - written], "only what is missing, in the batches of the whole run"
    assert generated(model, benchmark, HOW, tmp_path, progress=counting) == whole and len(asked) == 1


def test_parts_make_the_same_whole(root, benchmark, whole, tmp_path):
    model = CandidateSettings("m", folder=str(root / "model"))
    assert generated(model, benchmark, HOW, tmp_path, part=Part(1, 2), progress=quiet) is None
    found = generated(model, benchmark, HOW, tmp_path, part=Part(0, 2), progress=quiet)
    assert [row.instruction for row in found] == [row.instruction for row in whole]
    assert generated(model, benchmark, HOW, tmp_path, progress=quiet) == found
    with pytest.raises(ValueError, match="part 2 of 2"):
        Part(2, 2)


def test_instructions_of_other_settings_are_refused(root, benchmark, whole):
    model = CandidateSettings("m", folder=str(root / "model"))
    other = GenerationSettings(max_tokens=7, min_pixels=1024, batch_size=2)
    with pytest.raises(ValueError, match=r"other settings \(max_tokens differ\)"):
        generated(model, benchmark, other, root / "whole", progress=quiet)


def rows_of(model, benchmark, output, settings=HOW, **options):
    return generated(model, benchmark, settings, output, progress=quiet, **options)


def served(server, **more):
    values = {"model": "x", "max_concurrency": 1, "max_attempts": 1, "cache_as": "here"} | more
    return CandidateSettings("served", endpoint=EndpointSettings(url=server.url, **values))


LENGTH, STOP = "length", "stop"
THOUGHT = "Let me compare the two pictures step by step"


@pytest.mark.parametrize(
    "message, ending, reason",
    [
        ({"content": None, "reasoning_content": THOUGHT}, LENGTH, "malformed: a thought and no answer: cut off at max"),
        ({"content": "", "reasoning": THOUGHT}, STOP, "malformed: a thought and no answer"),
        ({"content": f"<think>{THOUGHT}"}, LENGTH, "malformed: a thought that never ends: cut off"),
        ({"content": " \n"}, LENGTH, "malformed: empty answer: cut off"),
        ({"content": None, "tool_calls": [{}]}, "tool_calls", "malformed: the model called a tool"),
        ({"content": "", "refusal": "No."}, STOP, "refused: No."),
    ],
)
def test_A2_what_is_no_answer_is_no_instruction_and_asked_for_again(benchmark, tmp_path, message, ending, reason):
    """At 837b10c content null with `length` was an instruction "" that scored 1.0, and stayed for good."""
    with ScriptedServer(answer=lambda body: (message, ending)) as server:
        rows = rows_of(served(server), benchmark, tmp_path)
        assert all(row.instruction is None and row.reason.startswith(reason) for row in rows), rows[0]
        assert all(row.provenance.get("thought", THOUGHT) == THOUGHT for row in rows)
        refused = reason.startswith("refused")
        calls = server.calls
        rows_of(served(server), benchmark, tmp_path)
        assert server.calls == (calls if refused else 2 * calls) == len(rows) * (1 if refused else 2)
        server.answer = lambda body: ({"content": f"<think>{THOUGHT}</think>Add a hat."}, STOP)
        rows = rows_of(served(server), benchmark, tmp_path)
    if not refused:
        assert {row.instruction for row in rows} == {"Add a hat."}
        assert {row.provenance["thought"] for row in rows} == {THOUGHT}


def test_A3_what_an_outage_left_out_is_asked_for_again_and_nothing_else(benchmark, tmp_path):
    with ScriptedServer(reply=lambda body: "Add a hat.", script=lambda call, _: "500" if call % 2 else None) as server:
        first = rows_of(served(server), benchmark, tmp_path)
        assert [row.instruction for row in first] == ["Add a hat.", None] * 2 + ["Add a hat."]
        server.script = lambda call, _: None
        second = rows_of(served(server), benchmark, tmp_path)
        assert server.calls == 5 + 2 and {row.instruction for row in second} == {"Add a hat."}
        assert rows_of(served(server), benchmark, tmp_path) == second and server.calls == 7


def test_A12_a_text_depends_on_its_pair_and_the_settings_alone(root, benchmark, tmp_path):
    """A trial on some pairs, the full run, ground truth that comes later: no text is made twice."""
    truth = {pair.id: pair.changes for pair in benchmark.pairs()}
    other = {pair_id: one.model_copy(update={"overall": "mended"}) for pair_id, one in truth.items()}
    trial = Benchmark("set", root / "shards", [benchmark.ids[3], benchmark.ids[1]])
    with ScriptedServer(reply=lambda body: f"text {server.calls}") as server:
        tried = {row.id: row for row in rows_of(served(server), trial, tmp_path)}
        whole = rows_of(served(server), benchmark, tmp_path)
        assert server.calls == 5 and [row for row in whole if row.id in tried] == [tried[i] for i in sorted(tried)]
        for same in (Benchmark("set", root / "shards", truth=other), trial, benchmark):
            rows = rows_of(served(server), same, tmp_path)
            assert [row.id for row in rows] == same.ids and all(row in whole for row in rows)
        parts = [rows_of(served(server), benchmark, tmp_path, part=Part(k, 3)) for k in range(3)]
        assert parts == [whole] * 3 and server.calls == 5


def test_A12_draws_belong_to_the_pair(root, benchmark, tmp_path):
    """In process and sampling, too: a pair's text is the same alone, in a trial, in a part and in the whole run."""
    model = CandidateSettings("m", folder=str(root / "model"))
    how = GenerationSettings(max_tokens=6, min_pixels=1024, batch_size=2, temperature=1.0)
    whole = {row.id: row.instruction for row in rows_of(model, benchmark, tmp_path / "whole", how)}
    trial = Benchmark("set", root / "shards", [benchmark.ids[4], benchmark.ids[1], benchmark.ids[2]])
    for row in rows_of(model, trial, tmp_path / "trial", how):
        assert row.instruction == whole[row.id]
    assert len(set(whole.values())) > 1


def test_other_pictures_of_a_pair_are_another_text(root, benchmark, tmp_path):
    with ShardWriter(tmp_path / "others") as writer:
        for item in benchmark:  # under the same ids, the other way round
            writer.add(item.pair, item.target, "png", item.source, "png")
    others = Benchmark("set", tmp_path / "others")
    with ScriptedServer(reply=lambda body: f"text {server.calls}") as server:
        first = rows_of(served(server), benchmark, tmp_path / "run")
        second = rows_of(served(server), others, tmp_path / "run")
        assert server.calls == 10 and not {row.instruction for row in first} & {row.instruction for row in second}


def test_instructions_written_elsewhere_are_joined_by_id(root, benchmark, whole, tmp_path):
    given = CandidateSettings("given", instructions=str(tmp_path))
    lines = [json.dumps(row.to_json()) for row in reversed(whole)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines) + "\n")
    found = generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)
    assert [(row.id, row.model, row.instruction) for row in found] == [
        (row.id, "given", row.instruction) for row in whole
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(ValueError, match="1 of 5 ids are missing"):
        generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)
    # What everybody has: an id and a text. What is no answer is none here, either.
    texts = ["Add a hat.", f"<think>{THOUGHT}</think>Add a hat.", f"<think>{THOUGHT}", " ", None]
    lines = [json.dumps({"id": i, "instruction": text}) for i, text in zip(benchmark.ids, texts, strict=True)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines) + "\n")
    found = generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)
    assert [row.instruction for row in found] == ["Add a hat.", "Add a hat.", None, None, None]
    assert all(row.reason.startswith("the file has none: ") for row in found[2:])
    (tmp_path / "set.jsonl").write_text(lines[0].replace('"id"', '"name"') + "\n")
    with pytest.raises(ValueError, match="line 1: field 'id' is missing"):
        generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"model": "another"}, "holds texts of several models \\(another, given\\)"),
        ({"benchmark": "b2"}, "field 'benchmark' is 'b2', expected 'set' or none"),
        ({"instruction": 5}, "field 'instruction' is 5: expected a text"),
        ({"instruction": ["A"]}, r"field 'instruction' is \['A'\]: expected a text"),
        ({"id": " blank"}, "1 of 5 ids are missing .*, 1 are unknown \\( blank\\)"),
        ({"reason": "and why not"}, "give 'instruction', or 'reason'"),
    ],
)
def test_a_given_row_says_nothing_else_than_the_settings(benchmark, tmp_path, more, message):
    """At 837b10c another model's texts were reported under this one's name."""
    given = CandidateSettings("given", instructions=str(tmp_path))
    rows = [
        {"id": pair_id, "instruction": "Add a hat.", "model": "given", "benchmark": "set"} for pair_id in benchmark.ids
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, [rows[0] | more, *rows[1:]])))
    with pytest.raises(ValueError, match=message):
        generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)


def test_a_given_text_that_failed_or_refuses_is_none(benchmark, tmp_path):
    given = CandidateSettings("given", instructions=str(tmp_path))
    texts = [{"instruction": "Add a hat.", "provenance": {"status": status}} for status in ("failed", "refused", "ok")]
    texts += [{"instruction": "I'm sorry, I can't help with that."}, {"instruction": "N/A"}]
    lines = [json.dumps({"id": i} | text) for i, text in zip(benchmark.ids, texts, strict=True)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    rows = generated(given, benchmark, HOW, tmp_path / "run", progress=quiet)
    assert [row.instruction for row in rows] == [None, None, "Add a hat.", None, None]
    assert [row.reason for row in rows if row.reason] == [
        f"the file has none: {why}" for why in (
            "its provenance.status is failed", "its provenance.status is refused",
            "I'm sorry, I can't help with that.", "an answer that says nothing (N/A)",
        )
    ]  # fmt: skip


def test_a_refusal_in_words_is_no_instruction(benchmark, tmp_path):
    with ScriptedServer(reply=lambda body: "I'm sorry, I can't help with that.") as server:
        rows = rows_of(served(server), benchmark, tmp_path)
    assert {row.reason for row in rows} == {"refused: I'm sorry, I can't help with that."}
    assert all(row.instruction is None and row.provenance["status"] == "refused" for row in rows)


def test_an_endpoint_gets_the_prompt_of_training_and_refusals_are_reasons(benchmark, tmp_path):
    def script(call, of_prompt):
        return "refusal" if call == 0 else "length" if call == 1 else None

    with ScriptedServer(reply=lambda body: " Add a hat. ", script=script) as server:
        model = CandidateSettings("served", endpoint=EndpointSettings(url=server.url, model="x", max_concurrency=1))
        rows = generated(model, benchmark, HOW, tmp_path, progress=quiet)
        calls = server.calls
        assert generated(model, benchmark, HOW, tmp_path, progress=quiet) == rows and server.calls == calls
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
            assert {row.instruction for row in generated(model, benchmark, HOW, tmp_path, progress=quiet)} == {name}
        model = CandidateSettings("base", endpoint=EndpointSettings(url=tuned.url, model="qwen"))
        with pytest.raises(ValueError, match=r"other settings \(server differ"):
            generated(model, benchmark, HOW, tmp_path, progress=quiet)
        moved = EndpointSettings(url=tuned.url, model="qwen", cache_as=base.url)
        rows = generated(CandidateSettings("base", endpoint=moved), benchmark, HOW, tmp_path, progress=quiet)
    assert {row.instruction for row in rows} == {"base"}


def test_models_that_would_share_texts_are_refused_before_work(root, tmp_path):
    """And judges that would share verdicts."""

    def run(models, judges=()):
        return EvaluationSettings(
            output=str(tmp_path),
            benchmarks=[BenchmarkSettings("set", str(root / "shards"))],
            models=[CandidateSettings(name, endpoint=one) for name, one in models.items()],
            judges=[JudgeSettings(name, endpoint=one) for name, one in judges],
        )

    here, there = (EndpointSettings(url=f"http://127.0.0.1:{port}/v1", model="qwen") for port in (1, 2))
    moved = replace(there, cache_as=here.url)
    check_before_work(run({"base": here, "tuned": there}, [("a", here), ("b", there)]), [], judging=True)
    for wrong, words in (
        (run({"base": here, "tuned": replace(here)}), "model base and model tuned ask for the same: 'qwen'"),
        (run({"base": here, "tuned": moved}), "model base and model tuned ask for 'qwen' at two addresses"),
        (run({"base": here}, [("a", moved)]), "model base and judge a ask for 'qwen' at two addresses"),
        (run({"base": here}, [("a", replace(here, api_key_env="HOME"))]), r"with two keys \(none, HOME\)"),
    ):
        with pytest.raises(ValueError, match=words):
            check_before_work(wrong, [], judging=True)


def test_vllm_is_asked_for_by_name_where_it_is_missing(root, benchmark, tmp_path):
    with pytest.raises(ValueError, match="needs vLLM, which is not installed"):
        generated(CandidateSettings("v", vllm=str(root / "model")), benchmark, HOW, tmp_path, progress=quiet)


class FakeVllm:
    """The part of vLLM that is used; `outputs` are one per request."""

    def __init__(self, outputs, prompt=""):
        self.outputs, self.prompt, self.asked = iter(outputs), prompt, 0

    def LLM(self, **_):  # noqa: N802
        return self

    def SamplingParams(self, **fields):  # noqa: N802
        assert fields["stop_token_ids"] == [151645], "the end that training writes"
        return fields

    def get_tokenizer(self):
        return SimpleNamespace(get_vocab=lambda: {"<|im_end|>": 151645})

    def chat(self, conversations, sampling, use_tqdm):
        made = [next(self.outputs) for _ in conversations]
        self.asked += len(made)
        return [SimpleNamespace(outputs=one, prompt=self.prompt) for one in made]


def made(text, ending):
    return [SimpleNamespace(text=text, finish_reason=ending, token_ids=[1, 2])]


def test_every_ending_of_vllm(root, benchmark, tmp_path, monkeypatch):
    model = CandidateSettings("v", vllm=str(root / "model"))
    outputs = [made("Add a hat.", "stop"), made("Add a", "length"), made("", "length"), made("Add", "abort"), []]
    fake = FakeVllm([*outputs, *[made(f"{THOUGHT}</think>Add it.", "stop")] * 3])
    monkeypatch.setitem(sys.modules, "vllm", fake)
    rows = rows_of(model, benchmark, tmp_path)
    assert [row.instruction for row in rows] == ["Add a hat.", "Add a", None, None, None]
    assert [row.provenance.get("finished") for row in rows[:2]] == [True, False]
    assert [row.provenance.get("status") for row in rows[2:]] == ["malformed", "failed", "malformed"]
    rows = rows_of(model, benchmark, tmp_path)
    assert [row.instruction for row in rows[2:]] == ["Add it."] * 3 and fake.asked == 8
    thinking = FakeVllm([made(THOUGHT, "length")] * 5, prompt="<|im_start|>assistant\n<think>\n")
    monkeypatch.setitem(sys.modules, "vllm", thinking)
    rows = rows_of(model, benchmark, tmp_path / "thinking")
    assert all(row.instruction is None and "never ends" in row.reason for row in rows)


class VllmWithAdapters(FakeVllm):
    def LLM(self, **options):  # noqa: N802
        self.options = options
        return self

    def chat(self, conversations, sampling, use_tqdm, lora_request):
        self.lora = lora_request
        return super().chat(conversations, sampling, use_tqdm)


def test_vllm_gets_adapters_beside_the_weights(root, benchmark, tmp_path, monkeypatch):
    settings = AdapterSettings(rank=4, modules=["self_attn.*"])
    folder = write_random_adapter(tmp_path / "adapter", root / "model", settings)
    fake = VllmWithAdapters([made("Add a hat.", "stop")] * 5)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=lambda *about: about))
    rows = rows_of(CandidateSettings("v", vllm=str(folder)), benchmark, tmp_path)
    assert [row.instruction for row in rows] == ["Add a hat."] * 5
    assert fake.options["model"] == str(root / "model") and fake.options["max_lora_rank"] == 8
    assert fake.options["enable_lora"] and fake.lora == ("v", 1, str(folder))


def test_a_peft_folder_is_a_model_in_process(root, benchmark, tmp_path):
    folder = write_random_adapter(tmp_path / "adapter", root / "model", AdapterSettings(rank=4))
    merge_adapter(folder, tmp_path / "merged", base=root / "model")
    adapted, merged, base = (
        [row.instruction or row.reason for row in rows_of(CandidateSettings("m", folder=str(path)), benchmark, to)]
        for path, to in (
            (folder, tmp_path / "a"),
            (tmp_path / "merged", tmp_path / "b"),
            (root / "model", tmp_path / "c"),
        )
    )
    assert adapted == merged != base


class Damaged(Benchmark):
    def item(self, i):
        item = super().item(i)
        return item if i != 1 else BenchmarkPair(item.pair, item.source[:60], item.target)


@pytest.mark.parametrize("engine", ["vllm", "endpoint"])
def test_a_damaged_picture_is_a_reason_of_its_row(root, tmp_path, monkeypatch, engine):
    damaged = Damaged("set", root / "shards")
    monkeypatch.setitem(sys.modules, "vllm", FakeVllm([made("Add a hat.", "stop")] * 4))
    with ScriptedServer(reply=lambda body: "Add a hat.") as server:
        model = served(server) if engine == "endpoint" else CandidateSettings("v", vllm=str(root / "model"))
        rows = rows_of(model, damaged, tmp_path)
    assert [row.instruction for row in rows] == ["Add a hat.", None, *["Add a hat."] * 3]
    assert rows[1].reason.startswith("failed: ")


def test_a_rank_of_torchrun_takes_its_own_gpu(monkeypatch):
    """At 837b10c each took the first one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for rank, device in ((None, "cuda:0"), ("0", "cuda:0"), ("3", "cuda:3")):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        assert own_device() == device
