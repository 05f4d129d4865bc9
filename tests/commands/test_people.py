"""What people take part in, said before it is done: nothing is sent, nothing is written, and then it comes so."""

import json

import pytest
import yaml

from editcaption_mega import cli
from editcaption_mega.commands import evaluate
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.ground_truth import Proposal, write_proposals
from editcaption_mega.evaluation.human.tasks import Key
from tests.helpers import small_job
from tests.helpers.judge_cases import rule_reply
from tests.helpers.scripted_server import ScriptedServer

PAIRS = 3
NOBODY = "http://127.0.0.1:9/v1"
FIRST = "dry run: nothing is sent, and nothing is written"


@pytest.fixture(scope="module")
def main():
    return evaluate.main


@pytest.fixture
def root(tmp_path):
    small_job.write_shards(tmp_path / "shards", count=PAIRS)
    rows = [{"id": pair.id, "instruction": pair.instruction} for pair in Benchmark("set", tmp_path / "shards").pairs()]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    served = [{"name": name, "endpoint": {"url": NOBODY, "model": name}} for name in ("a", "b", "c")]
    values = {
        "output": str(tmp_path / "run"),
        "benchmarks": [{"name": "set", "shards": str(tmp_path / "shards")}],
        "models": [{"name": "m", "instructions": str(tmp_path / "texts")}],
        "judges": [
            {"name": "rules", "kind": "rule"},
            {"name": "asked", "repeats": 2, "endpoint": {"url": NOBODY, "model": "j"}},
        ],
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(values | {"models": served}))
    return tmp_path


def run(main, capsys, root, words: str, *, dry: bool = True):
    """-> the lines of a command; a dry one leaves every file as it is."""
    command, *options = words.format(root=root).split()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    code = cli.exit_code(main, [command, *options, *["--dry-run"] * dry])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    if dry:
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
        assert lines.pop(0) == FIRST
    return code, lines, printed.err


EXPORT = "human-export {root}/eval.yaml --benchmark set --key {root}/key --folder {root}/tasks"
IMPORT = "human-import {root}/eval.yaml --benchmark set --key {root}/key --output {root}/verdicts.jsonl"
TRUTH = "ground-truth {root}/served.yaml --benchmark set --proposals {root}/proposals.jsonl"


def test_tasks_and_verdicts(main, capsys, root):
    said = f"{root}/tasks: {PAIRS} tasks; 0 pairs have no instruction to judge"
    url = "http://127.0.0.1:9"
    code, lines, _ = run(main, capsys, root, f"{EXPORT} --label-studio {url}")
    assert (code, lines) == (0, [said, f"{url}: project editcaption set, at most {PAIRS} new tasks"])
    code, lines, _ = run(main, capsys, root, EXPORT, dry=False)
    assert code == 0 and lines[0] == said

    tasks = list(Key.read(root / "key").tasks)
    answers = [{"task": task, "annotator": "ada", "severity": "correct"} for task in (*tasks[:2], "unknown")]
    (root / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    dry = run(main, capsys, root, IMPORT + " --answers {root}/answers.jsonl")
    assert dry == run(main, capsys, root, IMPORT + " --answers {root}/answers.jsonl", dry=False)
    assert dry[0] == 1 and "2 verdicts; 1 refused" in dry[1][1] and "1 tasks without an answer" in dry[1][1]
    assert len((root / "verdicts.jsonl").read_text().splitlines()) == 2
    code, lines, _ = run(main, capsys, root, f"{IMPORT} --label-studio {url}")
    assert (code, lines) == (0, [f"{url}: the answers of project editcaption set would be asked for"])


def test_ground_truth(main, capsys, root):
    code, lines, _ = run(main, capsys, root, TRUTH + " --step propose --describe a b --merge c")
    assert (code, lines) == (
        0,
        [
            f"set, model a: {PAIRS} of {NOBODY}, a (one for each pair)",
            f"set, model b: {PAIRS} of {NOBODY}, b (one for each pair)",
            f"set, merged by c: {PAIRS} of {NOBODY}, c (at most)",
        ],
    )
    code, _, errors = run(main, capsys, root, TRUTH + " --step propose --describe a --merge c")
    assert code == 2 and "at least two models" in errors

    rows = [
        Proposal(id=pair.id, changes=pair.changes, approved=True, annotator="ada")
        for pair in Benchmark("set", root / "shards").pairs()
    ]
    write_proposals(root / "proposals.jsonl", rows)
    for step, what in (("push", f"at most {PAIRS} new tasks"), ("pull", f"what people made of {PAIRS} proposals")):
        code, lines, _ = run(main, capsys, root, TRUTH + f" --step {step} --label-studio http://127.0.0.1:9")
        assert (code, lines) == (0, [f"http://127.0.0.1:9: project ground truth set, {what}"])
    freeze = TRUTH + " --step freeze --output {root}/truth.json"
    dry = run(main, capsys, root, freeze)
    assert dry[0] == 0 and not (root / "truth.json").exists()
    assert run(main, capsys, root, freeze, dry=False) == dry and (root / "truth.json").is_file()


def test_a_check_of_a_judge(main, capsys, root):
    code, lines, _ = run(main, capsys, root, "check-judge {root}/eval.yaml --judge rules")
    assert (code, lines) == (
        0,
        ["set, judge rules: asks nobody (a parser: reads each instruction against the pair's facts)"],
    )
    with ScriptedServer(rule_reply) as server:
        config = (root / "eval.yaml").read_text().replace(NOBODY, server.url)
        (root / "asked.yaml").write_text(config)
        check = "check-judge {root}/asked.yaml --judge asked --pairs 2"
        code, lines, _ = run(main, capsys, root, check)
        assert code == 0 and server.calls == 0
        run(main, capsys, root, check, dry=False)
        assert lines[0].startswith(f"set, judge asked: {server.calls} of {server.url}, j (at most: "), server.calls


def test_what_asks_nobody_says_so(main, capsys, root):
    code, lines, _ = run(main, capsys, root, "check-paper")
    assert (code, lines) == (0, ["check-paper asks nobody: it reads the tables that the package holds"])
