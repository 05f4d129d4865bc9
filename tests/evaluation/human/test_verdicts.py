"""Tasks hide the models, the importer keeps the hierarchy and loses nothing, table 3 adds up."""

import json
import stat

import pytest

from editcaption_mega.evaluation.human.filed_answers import Filed, read_answers
from editcaption_mega.evaluation.human.tasks import Key, checklist, export_tasks, read_tasks
from editcaption_mega.evaluation.human.verdicts import (
    adjudicate,
    import_answers,
    impossible_percentages,
    severity_table,
)
from editcaption_mega.evaluation.record_files import write_records
from editcaption_mega.records import HumanVerdict
from tests.helpers import human_study


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return human_study.write_benchmark(tmp_path_factory.mktemp("study") / "shards")


@pytest.fixture
def study(benchmark, tmp_path):
    rows = human_study.instructions(benchmark)
    exported = export_tasks(benchmark, rows, tmp_path / "tasks", tmp_path / "key.json")
    return tmp_path, exported, Key.read(tmp_path / "key.json")


# Export


def test_tasks_are_pictures_and_text(study, benchmark):
    root, exported, key = study
    tasks = read_tasks(root / "tasks")
    assert exported.tasks == len(tasks) == len(key.tasks) == 7
    assert [row.reason for row in exported.left_out] == ["refused by the content filter"]
    for task, row in tasks.items():
        assert set(row) == {"task", "source", "target", "instruction"}
        name, pair, model = key.tasks[task]
        item = benchmark.item(benchmark.ids.index(pair))
        assert (root / "tasks" / row["source"]).read_bytes() == item.source
        assert (root / "tasks" / row["target"]).read_bytes() == item.target
        assert name == "tiny" and (row["instruction"] == human_study.NASTY) == (model == human_study.MODELS[1])
    assert len(list((root / "tasks/pictures").iterdir())) == 8, "two models share a pair's pictures"


def test_nothing_that_annotators_see_names_a_model(study):
    root, _, key = study
    for path in (root / "tasks").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"secret-model" not in content and key.secret.encode() not in content
    assert list(read_tasks(root / "tasks")) == sorted(key.tasks), "in the order of random names, not of models"
    assert stat.S_IMODE((root / "key.json").stat().st_mode) == 0o600


def test_the_same_key_gives_the_same_tasks(study, benchmark):
    root, _, key = study
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    export_tasks(benchmark, human_study.instructions(benchmark), root / "tasks", root / "key.json")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == files
    other = root / "other-key.json"
    export_tasks(benchmark, human_study.instructions(benchmark), root / "other", other)
    assert not set(Key.read(other).tasks) & set(key.tasks)


def test_an_export_grows(benchmark, tmp_path):
    rows = human_study.instructions(benchmark)
    first = [row for row in rows if row.model == human_study.MODELS[0]]
    export_tasks(benchmark, first, tmp_path / "tasks", tmp_path / "key.json", ids=benchmark.ids[:2])
    before = read_tasks(tmp_path / "tasks")
    export_tasks(benchmark, rows, tmp_path / "tasks", tmp_path / "key.json")
    after = read_tasks(tmp_path / "tasks")
    assert len(before) == 2 and len(after) == 7 and before.items() <= after.items()


def test_exports_that_are_refused(study, benchmark):
    root, _, _ = study
    rows = human_study.instructions(benchmark)
    tasks, key = root / "tasks", root / "key.json"
    with pytest.raises(ValueError, match="keep it somewhere else"):
        export_tasks(benchmark, rows, root / "new", root / "new/key.json")
    with pytest.raises(ValueError, match="instructions of secret-model-two does not fit benchmark tiny: 1 of 4 ids"):
        export_tasks(benchmark, rows[:-1], root / "new", key)
    with pytest.raises(ValueError, match="1 of 1 ids are not of benchmark tiny"):
        export_tasks(benchmark, rows, root / "new", key, ids=["nobody"])
    with pytest.raises(ValueError, match="holds tasks that .* does not know"):
        export_tasks(benchmark, rows, tasks, root / "fresh.json")
    other = rows[0].model_copy(update={"instruction": "Another text."})
    with pytest.raises(ValueError, match="already shows another instruction of secret-model-one"):
        export_tasks(benchmark, [other, *rows[1:]], tasks, key)
    assert not (root / "new").exists() and not (root / "fresh.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"secret": "00"}', '{"secret": "00", "tasks": {"x": {"id": "p"}}}'])
def test_what_is_no_key(tmp_path, content):
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(ValueError, match="is not the key of an export"):
        Key.read(tmp_path / "key.json")


def test_a_changed_key_is_noticed(study):
    root, _, key = study
    row = json.loads((root / "key.json").read_text())
    row["tasks"][sorted(row["tasks"])[0]]["model"] = "another"
    (root / "key.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="not the one that its secret gives"):
        Key.read(root / "key.json")


def test_the_checklist_is_table_5():
    allowed = {row["id"]: row["severities"] for row in checklist()["rows"]}
    assert allowed == {1: ["P0", "P1"], 2: ["P0", "P1"], 3: ["P0", "P1"], 4: ["P0"]} | {
        5: ["P1"], 6: ["P1"], 7: ["P2"], 8: ["P2"],
    }  # fmt: skip
    assert list(checklist()["severities"]) == ["P0", "P1", "P2", "correct"]


# Import


def answers(key, *rows):
    """Each row is an answer to the first task by annotator "a" unless it says otherwise."""
    task = sorted(key.tasks)[0]
    return [Filed(f"line {i}", {"task": task, "annotator": "a", **row}) for i, row in enumerate(rows, start=1)]


def refusal(key, **row):
    """The reason, or None when the answer is accepted."""
    found = import_answers(answers(key, row), key)
    assert len(found.accepted) + len(found.refused) == 1
    return found.refused[0].reason if found.refused else None


def test_answers_become_verdicts(study):
    _, _, key = study
    tasks = sorted(key.tasks)
    rows = [
        {"severity": "P0", "rows": [4, 2], "remark": "left is right"},
        {"severity": "correct", "annotator": "b"},
        {"severity": "P1", "rows": ["P1-2"], "region_share": 0.05, "off_subject": True, "task": tasks[1]},
    ]
    found = import_answers(answers(key, *rows), key)
    assert not found.refused and found.unanswered == tasks[2:]
    first = found.accepted[0]
    benchmark, pair, model = key.tasks[tasks[0]]
    assert (first.benchmark, first.id, first.model, first.annotator) == (benchmark, pair, model, "a")
    assert (first.severity, first.rows, first.remark) == ("P0", [2, 4], "left is right")
    assert found.accepted[2].region_share == 0.05 and found.accepted[2].rows == [2]


def test_rule_h1_one_verdict_per_pair(study):
    """P0 > P1 > P2 > correct: one per pair, and nothing lower is filed beside a P0."""
    _, _, key = study
    assert "H1: row 5 is P1 and may not be filed beside a P0" in refusal(key, severity="P0", rows=[2, 5])
    assert "H1: row 7 is P2 and may not be filed beside a P0" in refusal(key, severity="P0", rows=[7])
    assert "H1: row 8 is P2 and may not be filed beside a P1" in refusal(key, severity="P1", rows=[5, 8])
    assert "H1: P1-2 is filed beside the verdict P0" in refusal(key, severity="P0", rows=["P0-2", "P1-2"])
    assert "H1: the verdict is correct, yet it files rows 2, 7" in refusal(key, severity="correct", rows=[2, 7])
    assert refusal(key, severity="P0", rows=[2, 4]) is None and refusal(key, severity="correct") is None

    differ = import_answers(answers(key, {"severity": "correct"}, {"severity": "P0", "rows": [2]}), key)
    assert not differ.accepted and [row.where for row in differ.refused] == ["line 1", "line 2"]
    assert "H1: one verdict per pair" in differ.refused[0].reason and "P0 (line 2)" in differ.refused[0].reason
    twice = import_answers(answers(key, {"severity": "correct"}, {"severity": "correct"}), key)
    assert len(twice.accepted) == 1 and twice.refused[0].reason == "the same as line 1"


def test_rule_h2_rows_have_their_severity(study):
    """Table 5: rows 1 to 4 P0 (1 to 3 also P1 off the subject), 5 and 6 P1, 7 and 8 P2; above 1/10 it is P0."""
    _, _, key = study
    allowed = {"P0": {1, 2, 3, 4}, "P1": {1, 2, 3, 5, 6}, "P2": {7, 8}, "correct": set()}
    for severity, rows in allowed.items():
        for row in range(1, 9):
            assert (refusal(key, severity=severity, rows=[row]) is None) == (row in rows), (severity, row)
    assert "H2: row 4 is P0, so the verdict cannot be P1" in refusal(key, severity="P1", rows=[4])
    assert "H2: row 2 is P0 or P1, so the verdict cannot be P2" in refusal(key, severity="P2", rows=[2])
    for severity in ("P0", "P1", "P2"):
        assert f"H2: the verdict {severity} rests on no row" in refusal(key, severity=severity)
    large = dict(severity="P1", rows=[3], region_share=0.11)
    assert "takes up 0.11 of the picture, more than 1/10: that is P0" in refusal(key, **large)
    assert refusal(key, **{**large, "region_share": 0.1}) is None and refusal(key, **{**large, "rows": [5]}) is None
    assert "on the main subject is P0" in refusal(key, severity="P1", rows=[1], off_subject=False)
    small = dict(severity="P0", rows=[1, 2], off_subject=True, region_share=0.1)
    assert "not more than 1/10: that is P1" in refusal(key, **small)
    assert refusal(key, **{**small, "region_share": 0.2}) is None
    assert refusal(key, **{**small, "rows": [1, 4]}) is None, "row 4 is P0 wherever it is"
    assert refusal(key, **{**small, "off_subject": False}) is None, "a small subject is still the subject"


def test_rule_h3_a_table_adds_up(study):
    """Correct + P0 + P1 + P2 = n, so every percentage is a multiple of 100 / n."""
    severities = ["correct"] * 5 + ["P0"] * 2 + ["P2"]
    verdicts = [
        HumanVerdict(benchmark="b", id=f"p{i}", model=model, annotator="a", severity=severity)
        for model in ("m", "k")
        for i, severity in enumerate(severities)
    ]
    row, other = severity_table(verdicts)
    assert (row.model, other.model) == ("m", "k") and row.n == 8 == sum(row.counts.values())
    assert row.counts == {"P0": 2, "P1": 0, "P2": 1, "correct": 5} and row.percent("correct") == 62.5
    low, high = row.interval("P1")
    assert low == 0 and high == pytest.approx(32.4, abs=0.1)
    assert row.to_json()["shares"]["P0"]["percent"] == 25
    with pytest.raises(ValueError, match="several verdicts: adjudicate first"):
        severity_table([*verdicts, verdicts[0]])
    # Of the paper's table 3 (n = 400), GLM-4.5V's row and two numbers of the last one are no such multiples.
    assert impossible_percentages([66.00, 21.00, 12.00, 1.00, 48.75, 42.25, 8.25, 0.75], 400) == []
    assert impossible_percentages([38.60, 51.20, 9.20, 1.00], 400) == [38.60, 51.20, 9.20]
    assert impossible_percentages([66.00, 23.00, 10.40, 0.60], 400) == [10.40, 0.60]


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"severity": "P3"}, "field 'severity' is 'P3'"),
        ({"severity": ["P0", "P1"]}, "field 'severity' is ['P0', 'P1']"),
        ({}, "field 'severity' is missing"),
        ({"severity": "P0", "rows": [9]}, "field 'rows.0"),
        ({"severity": "P0", "rows": ["P3-1"]}, "field 'rows.0"),
        ({"severity": "P0", "rows": [2], "region_share": 12}, "field 'region_share' is 12"),
        ({"severity": "P0", "rows": [2], "mood": "good"}, "field 'mood' is none of an answer's"),
        ({"severity": "correct", "annotator": " "}, "field 'annotator' is ' '"),
        ({"severity": "correct", "task": "nobody's"}, 'task "nobody\'s" is not in the key'),
    ],
)
def test_answers_that_break_the_form(study, row, reason):
    _, _, key = study
    assert reason in refusal(key, **row)


def test_every_line_of_a_file_ends_somewhere(study):
    root, _, key = study
    task = sorted(key.tasks)[0]
    good = {"task": task, "annotator": "a", "severity": "P2", "rows": [7]}
    lines = [
        json.dumps(good).encode(),
        b"",
        b"{not json",
        b"\xff",
        b"[]",
        b"3",
        json.dumps(good | {"rows": [1]}).encode(),
    ]
    (root / "answers.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    found = import_answers(read_answers(root / "answers.jsonl"), key)
    told = {row.where.removeprefix("answers.jsonl "): row.reason for row in found.refused}
    assert not found.accepted, "the first and the last line differ"
    assert set(told) == {f"line {i}" for i in (1, 3, 4, 5, 6, 7)}
    assert "not valid JSON" in told["line 3"] and "not UTF-8" in told["line 4"]
    assert told["line 5"] == "expected a JSON object, found list" and "H1: one verdict" in told["line 7"]
    write_records(root / "refused.jsonl", found.refused)
    assert len((root / "refused.jsonl").read_text().splitlines()) == 6


# Several annotators


def verdicts(*severities):
    rows = {"P0": [2], "P1": [5], "P2": [7], "correct": []}
    return [
        HumanVerdict(benchmark="b", id="p", model="m", annotator=f"a{i}", severity=s, rows=rows[s], remark=f"by a{i}")
        for i, s in enumerate(severities)
    ]


@pytest.mark.parametrize(
    "severities, majority, worst",
    [
        (["P1", "correct", "P1"], "P1", "P1"),
        (["P0", "correct", "correct"], "correct", "P0"),
        (["P2", "P1"], "P1", "P1"),
        (["correct", "P2", "P0"], "P0", "P0"),
        (["P2", "P2", "P1", "P1", "P0"], "P1", "P0"),
        (["correct"], "correct", "correct"),
    ],
)
def test_adjudication(severities, majority, worst):
    for rule, expected in (("majority", majority), ("worst", worst)):
        (found,) = adjudicate(verdicts(*severities), rule)
        assert (found.severity, found.annotator) == (expected, rule)
        behind = [f"by a{i}" for i, severity in enumerate(severities) if severity == expected]
        assert found.remark == " / ".join(behind) and found.rows == verdicts(expected)[0].rows


def test_adjudication_by_another_rule():
    with pytest.raises(ValueError, match="expected one of majority, worst"):
        adjudicate([], "mean")


def test_a_field_of_another_name_is_told_with_the_names_that_there_are():
    """At 837b10c the mend was a field, provenance, that an answer does not have."""
    row = {"task": "t", "annotator": "ada", "severity": "P0", "rows": [2], "comment": "no hat"}
    (refused,) = import_answers([Filed("line 1", row)], Key("")).refused
    assert (
        "field 'comment' is none of an answer's: task, annotator, " in refused.reason and "'remark'" in refused.reason
    )
