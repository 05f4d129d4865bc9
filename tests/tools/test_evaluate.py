"""tools/evaluate.py and launch/batch_eval.sh as users run them; a real model server writes, a scripted judge reads."""

import contextlib
import errno
import fcntl
import importlib.util
import io
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from editcaption_mega import cli
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.execution.measures import MEASURES
from editcaption_mega.evaluation.ground_truth import truth_hash
from editcaption_mega.lock import FolderLock
from tests.docs.pages import Page
from tests.helpers import ROOT, small_job, warm
from tests.helpers.image_editor import EditServer
from tests.helpers.judge_cases import rule_reply
from tests.helpers.scripted_server import ScriptedServer

PAIRS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=PAIRS)
    return root


@pytest.fixture(scope="module")
def written(root):
    """Instructions of two models by hand: one says the truth, one always the same."""
    benchmark = Benchmark("set", root / "shards")
    for name, text in (("truthful", None), ("stubborn", "Zoom the camera in.")):
        (root / name).mkdir()
        rows = [
            {"benchmark": "set", "id": pair.id, "model": name, "instruction": text or pair.instruction}
            for pair in benchmark.pairs()
        ]
        (root / name / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"name": name, "instructions": str(root / name)} for name in ("truthful", "stubborn")]


def settings(root, output, models, **more):
    values = {
        "output": str(output),
        "benchmarks": [{"name": "set", "shards": str(root / "shards")}],
        "models": models,
        "judges": [{"name": "rules", "kind": "rule"}],
        "generation": {"max_tokens": 8, "min_pixels": 1024, "batch_size": 2},
    }
    path = root / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(values | more))
    return path


spec = importlib.util.spec_from_file_location("evaluate", ROOT / "tools/evaluate.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def evaluate(*arguments):
    """The command in this process, where PyTorch is loaded already."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.exit_code(tool.main, [str(one) for one in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


def test_step_by_step_is_the_same_as_run(root, written, tmp_path):
    done = evaluate("run", settings(root, tmp_path / "one", written))
    assert done.returncode == 0, done.stderr
    assert "| truthful |" in done.stdout and "report.html" in done.stdout
    config = settings(root, tmp_path / "two", written)
    for command in ("generate", "judge", "report"):
        done = evaluate(command, config)
        assert done.returncode == 0, done.stderr
    written_files = list((tmp_path / "one").rglob("*.jsonl"))
    assert written_files
    for path in written_files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    found = json.loads((tmp_path / "two/report/numbers.json").read_text())["scores"]["rules"]["set"]
    best, other = (found[name]["means"]["weighted"]["value"] for name in ("truthful", "stubborn"))
    assert best == 5.0 > other


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_pairs_alone_have_results_of_their_own(root, written, tmp_path):
    """What is there of all pairs stays as it is, and texts that were made for the first ones are not made again."""
    with ScriptedServer(reply=lambda body: "Zoom the camera in.") as server:
        models = [*written, {"name": "served", "endpoint": {"url": server.url, "model": "m"}}]
        config = settings(root, tmp_path / "run", models)
        done = evaluate("run", config, "--limit", 2)
        assert done.returncode == 0 and "report.first-2/report.html" in done.stdout, done.stderr
        assert server.calls == 2
        assert not (tmp_path / "run/report").exists() and not (tmp_path / "run/config.yaml").exists()
        numbers = json.loads((tmp_path / "run/report.first-2/numbers.json").read_text())
        assert numbers["data_sets"]["set"]["pairs"] == 2
        assert ["limit", "the first 2 pairs of each benchmark alone"] in numbers["facts"]
        assert "the first 2 pairs of each benchmark alone" in (tmp_path / "run/report.first-2/report.html").read_text()
        assert evaluate("run", config).returncode == 0 and server.calls == PAIRS, "the other pairs alone"
        whole = files_of(tmp_path / "run")
        numbers = json.loads((tmp_path / "run/report/numbers.json").read_text())
        assert numbers["data_sets"]["set"]["pairs"] == PAIRS and "limit" not in dict(numbers["facts"])
        for command in ("generate", "judge", "report"):
            assert evaluate(command, config, "--limit", 3).returncode == 0 and server.calls == PAIRS
    after = files_of(tmp_path / "run")
    assert {path: after[path] for path in whole} == whole
    for path in ("instructions/served", "judgements/rules/truthful"):
        lines = (tmp_path / f"run/{path}/set.jsonl").read_text().splitlines()
        assert (tmp_path / f"run/{path}/set.first-3.jsonl").read_text().splitlines() == lines[:3]
    done = evaluate("run", config, "--limit", -1)
    assert done.returncode == 2 and "limit" in done.stderr


def test_the_page_has_every_file_of_a_run(root, written, tmp_path):
    """docs/evaluation.md, the table of a run folder."""
    with ScriptedServer(reply=lambda body: "Zoom the camera in.") as server, EditServer() as editor:
        models = [*written, {"name": "served", "endpoint": {"url": server.url, "model": "m"}}]
        config = settings(root, tmp_path / "run", models, editor={"url": editor.url, "model": "mirror"})
        assert evaluate("run", config).returncode == 0
        assert evaluate("run", config, "--limit", 2).returncode == 0
        evaluate("check-judge", config, "--judge", "rules")
    table = Page(ROOT / "docs/evaluation.md").text.split("| in the run folder |")[1].split("\n\n")[0]
    named = [name for name in re.findall(r"`([^`\s]+)`", table) if "/" in name or name.endswith(".yaml")]
    stand_for = {"MODEL": "[^/]+", "JUDGE": "[^/]+", "BENCHMARK": r"set(\.first-2)?", "first-N": "first-2"}
    patterns = []
    for name in named:
        pattern = re.escape(name).replace(r"\-", "-")
        for word, meaning in stand_for.items():
            pattern = pattern.replace(word, meaning)
        patterns.append(re.compile(pattern + ".*" * name.endswith("/")))
    files = [str(path) for path in files_of(tmp_path / "run")]
    assert len(files) > 20 and len(patterns) >= 8
    assert [path for path in files if not any(pattern.fullmatch(path) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(map(pattern.fullmatch, files))] == []


def test_people_may_have_judged_more_than_the_first_pairs(root, written, tmp_path):
    benchmark = Benchmark("set", root / "shards")
    rows = [
        {"benchmark": "set", "id": pair_id, "model": "truthful", "annotator": "ada", "severity": "correct"}
        for pair_id in benchmark.ids
    ]
    (tmp_path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = settings(root, tmp_path / "run", written, human=[str(tmp_path / "verdicts.jsonl")])
    done = evaluate("run", config, "--limit", 2)
    assert done.returncode == 0, done.stderr
    people = json.loads((tmp_path / "run/report.first-2/numbers.json").read_text())["people"]
    assert people["set"]["truthful"]["pairs"] == 2


def test_a_dry_run_counts_what_would_be_asked_and_sends_and_writes_nothing(root, written, tmp_path):
    with ScriptedServer(reply=rule_reply) as judge, ScriptedServer(reply=lambda body: "Zoom in.") as server:
        served = {"name": "served", "endpoint": {"url": server.url, "model": "m"}}
        judges = [
            {"name": "asked", "repeats": 2, "endpoint": {"url": judge.url, "model": "judge-1"}},
            {"name": "rules", "kind": "rule"},
        ]
        editor = {"url": "http://127.0.0.1:9/v1", "model": "e"}
        folder = {"name": "own", "folder": str(root / "model")}
        config = settings(root, tmp_path / "run", [*written, served, folder], judges=judges, editor=editor)
        done = evaluate("run", config, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "dry run: nothing is sent, and nothing is written",
            f"set, model truthful: 0 of {root / 'truthful'} (its texts are given)",
            f"set, model stubborn: 0 of {root / 'stubborn'} (its texts are given)",
            f"set, model served: 5 of {server.url}, m (0 of 5 texts are written)",
            f"set, model own: 5 of {root / 'model'}, in this process (0 of 5 texts are written)",
            f"set, judge asked: 120 of {judge.url}, judge-1 (at most: 20 instructions x 3 dimensions x 2 repeats)",
            "set, judge rules: asks nobody (a parser: reads each instruction against the pair's facts)",
            "set, the editor: 20 of http://127.0.0.1:9/v1, e (at most: one edit for each instruction)",
        ]
        assert server.calls == judge.calls == 0 and not (tmp_path / "run").exists()
        config = settings(root, tmp_path / "run", [*written, served], judges=judges)
        assert evaluate("generate", config, "--limit", 2).returncode == 0
        before = files_of(tmp_path / "run")
        done = evaluate("generate", config, "--dry-run", "--part", "0/2")
        assert f"set, model served: 2 of {server.url}, m (1 of 3 texts are written)" in done.stdout
        assert "judge" not in done.stdout
        asked = evaluate("judge", config, "--dry-run", "--limit", 1)
        assert "set, judge asked: 18 of" in asked.stdout and "model served" not in asked.stdout
        assert evaluate("report", config, "--dry-run").stdout.endswith("a report asks nobody\n")
        assert files_of(tmp_path / "run") == before and server.calls == 2 and judge.calls == 0


def test_a_judge_model_agrees_with_the_rules_through_the_whole_command(root, written, tmp_path):
    with ScriptedServer(reply=rule_reply) as server:
        judge = {"name": "model judge", "endpoint": {"url": server.url, "model": "judge-1"}}
        config = settings(root, tmp_path / "run", written, judges=[judge, {"name": "rules", "kind": "rule"}])
        done = evaluate("run", config)
        assert done.returncode == 0, done.stderr
        calls = server.calls
        assert calls == 2 * 3 * PAIRS and "30 replies" in done.stdout
        assert evaluate("run", config).returncode == 0 and server.calls == calls, "all from the cache"
        done = evaluate("check-judge", config, "--judge", "model judge", "--pairs", "3")
        assert "truth scores 5" in done.stdout
    found = json.loads((tmp_path / "run/report/numbers.json").read_text())["scores"]
    for name in ("truthful", "stubborn"):
        one, other = (found[judge]["set"][name]["means"]["weighted"]["value"] for judge in ("model judge", "rules"))
        assert one == pytest.approx(other)


@contextlib.contextmanager
def served(folder):
    """`transformers serve` with the model in a folder -> its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = Path(sys.executable).parent / "transformers"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [tool, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(folder / "serve.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                break
            assert server.poll() is None, (folder / "serve.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def test_a_real_server_in_the_loop(root, tmp_path):
    """transformers serves and writes what the same weights write in process; a judge behind HTTP scores it."""
    picture_limits = json.loads((root / "model/preprocessor_config.json").read_text())["size"]
    with served(root / "model") as url, ScriptedServer(reply=rule_reply) as judge:
        models = [
            {"name": "served", "endpoint": {"url": url, "model": str(root / "model"), "max_concurrency": 2}},
            {"name": "in process", "folder": str(root / "model")},
        ]
        generation = {
            "max_tokens": 8, "min_pixels": picture_limits["shortest_edge"], "max_pixels": picture_limits["longest_edge"]
        }  # fmt: skip
        judges = [{"name": "judge", "endpoint": {"url": judge.url, "model": "judge-1"}}]
        done = evaluate("run", settings(root, tmp_path / "run", models, judges=judges, generation=generation))
    assert done.returncode == 0, done.stderr
    texts = {}
    for name in ("served", "in process"):
        lines = (tmp_path / f"run/instructions/{name}/set.jsonl").read_text().splitlines()
        # The server keeps the special tokens of a text, which an untrained model writes.
        texts[name] = [re.sub(r"<\|.*?\|>", "", json.loads(line)["instruction"]).strip() for line in lines]
    assert texts["served"] == texts["in process"] and any(texts["served"])
    numbers = json.loads((tmp_path / "run/report/numbers.json").read_text())
    assert set(numbers["scores"]["judge"]["set"]) == {"served", "in process"}


# A rank is a part as a task of an array is (the tests of D7), so ranks are among the slow tests.
@pytest.mark.parametrize("way", ["array", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_batch_evaluation_is_divided_and_put_together(root, tmp_path, way):
    config = settings(root, tmp_path / "run", [{"name": "m", "folder": str(root / "model")}])
    script = ROOT / "launch/batch_eval.sh"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if way == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
        done = warm.run_cold([*command, config], env=environment)
        assert done.returncode == 0, done.stderr
    else:
        for number in (2, 1):  # an array of 1-2
            array = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_COUNT": 2}
            array = {name: str(value) for name, value in array.items()}
            start, program = (warm.run_cold, "bash") if number == 1 else (warm.run, sys.executable)
            done = start([program, script, config], env=environment | array, cwd=ROOT)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "run/report/report.html").is_file() == (number == 1)
    assert len((tmp_path / "run/judgements/rules/m/set.jsonl").read_text().splitlines()) == PAIRS


def array(ids, number, **more):
    names = {"ID": number, "MIN": min(ids), "MAX": max(ids), "COUNT": len(ids), **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize("told", ["0-3", "5-8", "0-7:2", "1-7:3", "3,5", "6", "0,2,4,6"])
@pytest.mark.parametrize("with_step", [False, True])
def test_D7_the_tasks_of_an_array_are_its_parts(told, with_step):
    """At 837b10c 0-7:2 did parts 0, 2 and two that there are not."""
    part = runpy.run_path(str(ROOT / "launch/batch_eval.sh"), run_name="looked_at")["part"]
    ids = {"0-3": [0, 1, 2, 3], "5-8": [5, 6, 7, 8], "0-7:2": [0, 2, 4, 6], "1-7:3": [1, 4, 7]}
    ids = ids.get(told) or [int(one) for one in told.split(",")]
    more = {"STEP": told.partition(":")[2] or (2 if told.count(",") > 1 else 1)} if with_step else {}
    found = [part(array(ids, number, **more)) for number in ids]
    assert found == ([["--part", f"{k}/{len(ids)}"] for k in range(len(ids))] if len(ids) > 1 else [[]])


def test_D7_an_array_without_a_rule_is_refused_with_the_mend(capfd):
    part = runpy.run_path(str(ROOT / "launch/batch_eval.sh"), run_name="looked_at")["part"]
    for ids, number, more in (([1, 4, 5], 4, {}), ([1, 4, 5], 1, {"STEP": 1}), ([0, 1, 5, 6], 1, {})):
        with pytest.raises(ValueError, match=rf"no regular series: write it as --array 0-{len(ids) - 1}, or set EDIT"):
            part(array(ids, number, **more))
        assert part(array(ids, number, **more) | {"EDITCAPTION_PART": "1/3"}) == ["--part", "1/3"]
    ranks = {"RANK": "1", "WORLD_SIZE": "2"}
    assert part(ranks) == ["--part", "1/2"] and part({}) == []
    assert part(array([0, 1], 1) | ranks) == ["--part", "3/4"], "an array of jobs with several ranks each"
    script = ROOT / "launch/batch_eval.sh"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **array([1, 4, 5], 4)}
    done = subprocess.run(["bash", script, "no.yaml"], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: task 4 of an array of 3 numbers")


def test_A3_nothing_that_succeeded_is_an_error_and_the_same_command_asks_again(root, tmp_path):
    """At 837b10c: exit 0, and no call afterwards."""
    with ScriptedServer(reply=lambda body: "Zoom the camera in.", script=lambda call, _: "400") as server:
        endpoint = {"url": server.url, "model": "m", "max_attempts": 1}
        config = settings(root, tmp_path / "run", [{"name": "m", "endpoint": endpoint}])
        for command in ("generate", "run"):
            done = evaluate(command, config)
            assert done.returncode == 1, done.stderr
            assert "m wrote no instruction for set (failed: HTTP 400" in done.stderr
            assert "give the same command again" in done.stderr
        assert server.calls == 2 * PAIRS
        rows = (tmp_path / "run/judgements/rules/m/set.jsonl").read_text().splitlines()
        assert len(rows) == PAIRS and all("scores" not in row or not json.loads(row)["scores"] for row in rows)
        server.script = lambda call, _: None
        done = evaluate("run", config)
        assert done.returncode == 0 and server.calls == 3 * PAIRS, done.stderr
        assert evaluate("run", config).returncode == 0 and server.calls == 3 * PAIRS


def test_A2_thoughts_that_use_up_the_tokens_score_nothing(root, written, tmp_path):
    thinking = ({"content": None, "reasoning_content": "Let me compare"}, "length")
    with ScriptedServer(answer=lambda body: thinking) as server:
        models = [*written, {"name": "thinker", "endpoint": {"url": server.url, "model": "m", "max_attempts": 2}}]
        done = evaluate("run", settings(root, tmp_path / "run", models))
    assert done.returncode == 1 and "thinker wrote no instruction for set (malformed: a thought" in done.stderr
    assert "raise max_tokens" in done.stderr and server.calls == PAIRS
    numbers = json.loads((tmp_path / "run/report/numbers.json").read_text())
    assert numbers["data_sets"]["set"]["unwritten"] == {"truthful": 0, "stubborn": 0, "thinker": PAIRS}
    found = numbers["scores"]["rules"]["set"]
    assert found["thinker"]["means"]["weighted"]["value"] is None and found["truthful"]["rank"] == [1, 1]


def test_A12_a_report_of_judgements_on_another_truth_is_refused(root, written, tmp_path):
    """Texts stay when ground truth is mended, judgements do not."""
    config = settings(root, tmp_path / "run", written)
    assert evaluate("run", config).returncode == 0 and evaluate("report", config).returncode == 0
    benchmark = Benchmark("set", root / "shards")
    truth = {pair.id: pair.changes.model_dump(exclude_none=True) for pair in benchmark.pairs()}
    truth[benchmark.ids[2]]["overall"] = "mended"
    content = {"schema": 1, "benchmark": "set", "fingerprint": benchmark.fingerprint, "hash": truth_hash(truth)}
    (tmp_path / "truth.json").write_text(json.dumps(content | {"annotators": ["ada"], "changes": truth}))
    benchmarks = [{"name": "set", "shards": str(root / "shards"), "ground_truth": str(tmp_path / "truth.json")}]
    config = settings(root, tmp_path / "run", written, benchmarks=benchmarks)
    done = evaluate("report", config)
    assert done.returncode == 1 and "holds 1 judgements of another text or another ground truth" in done.stderr
    assert evaluate("judge", config).returncode == 0 and evaluate("report", config).returncode == 0


def test_a_judge_that_scores_nothing_is_an_error(root, written, tmp_path):
    with ScriptedServer(reply=rule_reply, script=lambda call, _: "filter") as server:
        judge = {"name": "silent", "endpoint": {"url": server.url, "model": "judge-1"}}
        config = settings(root, tmp_path / "run", written, judges=[judge, {"name": "rules", "kind": "rule"}])
        done = evaluate("run", config)
    assert done.returncode == 1 and "judge silent scored nothing (refused: " in done.stderr
    assert (tmp_path / "run/report/report.html").is_file()


def test_B5_only_a_process_that_judges_keeps_another_from_it(root, written, tmp_path, monkeypatch):
    """At 837b10c any error of flock, which network file systems lack, was taken for one."""
    config = settings(root, tmp_path / "run", written)

    def no_flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    done = evaluate("run", config)
    assert done.returncode == 0 and "report.html" in done.stdout, done.stdout + done.stderr
    (tmp_path / "run/report/report.html").unlink()
    with FolderLock(tmp_path / "run", "judging"):
        done = evaluate("run", config)
    assert done.returncode == 0 and "another process judges and reports already" in done.stdout
    assert not (tmp_path / "run/report/report.html").exists()
    assert evaluate("run", config).returncode == 0 and (tmp_path / "run/report/report.html").exists()


def test_people_see_no_model_and_their_answers_come_back(root, written, tmp_path):
    config = settings(root, tmp_path / "run", written)
    assert evaluate("generate", config).returncode == 0
    tasks, key = tmp_path / "tasks", tmp_path / "key.json"
    done = evaluate("human-export", config, "--benchmark", "set", "--folder", tasks, "--key", key)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tasks / "tasks.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * PAIRS
    assert all(name.encode() not in path.read_bytes() for path in tasks.glob("*.json*") for name in ("truthful",))
    wrong = {row["task"] for row in rows if row["instruction"] == "Zoom the camera in."}
    answers = [
        {"task": row["task"], "annotator": "ada"}
        | ({"severity": "P0", "rows": [2]} if row["task"] in wrong else {"severity": "correct"})
        for row in rows
    ]
    answers[0] |= {"severity": "P2", "rows": [2]}  # row 2 is never P2
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    arguments = ("--benchmark", "set", "--key", key, "--answers", tmp_path / "answers.jsonl")
    done = evaluate("human-import", config, *arguments, "--output", tmp_path / "verdicts.jsonl")
    assert done.returncode == 1 and "9 verdicts; 1 refused" in done.stdout and "refused: " in done.stdout, done.stderr
    config = settings(root, tmp_path / "run", written, human=[str(tmp_path / "verdicts.jsonl")])
    assert evaluate("run", config).returncode == 0
    assert "Table 3" in (tmp_path / "run/report/tables.md").read_text()


def test_an_editor_executes_what_was_written(root, written, tmp_path):
    with EditServer() as server:
        editor = {"url": server.url, "model": "mirror"}
        config = settings(root, tmp_path / "run", written, editor=editor)
        done = evaluate("run", config)
        assert done.returncode == 0, done.stderr
    assert "## Blind execution" in done.stdout and "| set | copy | ssim |" in done.stdout
    tables = (tmp_path / "run/report/tables.md").read_text()
    assert "## How the judges score" in tables
    assert evaluate("report", config).returncode == 0
    assert (tmp_path / "run/report/tables.md").read_text() == tables


def test_the_papers_own_numbers_are_checked():
    done = evaluate("check-paper")
    assert done.returncode == 0 and "5 weighted scores do not follow" in done.stdout
    assert done.stdout.count("eq. 4 gives") == 5


NOBODY = {"url": "http://127.0.0.1:9/v1", "model": "m"}


@pytest.mark.parametrize(
    "change, code, told",
    [
        ({"judges": [{"name": "g", "endpoint": NOBODY | {"api_key_env": "NO_KEY"}}]}, 2, "NO_KEY is missing or empty"),
        ({"judges": [{"name": "g", "endpoint": NOBODY}]}, 1, "127.0.0.1:9"),
        ({"benchmarks": [{"name": "set", "shards": "/nowhere"}]}, 2, "/nowhere"),
        ({"models": [{"name": "m", "folder": "/nowhere"}]}, 2, "found no folder"),
        ({"models": [{"name": "m", "instructions": "/nowhere"}]}, 2, "/nowhere/set.jsonl does not exist"),
        ({"human": ["/nowhere.jsonl"]}, 2, "/nowhere.jsonl does not exist"),
        ({"editor": NOBODY | {"measures": ["psnr"]}}, 2, f"one of {', '.join(MEASURES)}"),
        ({"models": []}, 2, "models is empty"),
    ],
    ids=["key", "nobody there", "shards", "folder", "instructions", "human", "measure", "no model"],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(root, written, tmp_path, change, code, told):
    done = evaluate("run", settings(root, tmp_path / "run", **({"models": written} | change)))
    assert done.returncode == code and told in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.stderr and "unexpected" not in last
