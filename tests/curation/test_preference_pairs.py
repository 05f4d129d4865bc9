"""Preference pairs from a model's own instructions: what becomes of each pair, resumption, refusals."""

import json
import shutil
import sys

import pytest

from editcaption_mega.curation import model_samples
from editcaption_mega.curation.model_samples import SamplingSettings
from editcaption_mega.curation.preference_pairs import sample_rejected
from editcaption_mega.curation.truth_verdicts import verdict
from editcaption_mega.data import open_shards
from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.records import has_words
from editcaption_mega.records.pair import FAILURE_MODES
from tests.helpers import ROOT, small_job, warm

TOOL = ROOT / "tools/curate.py"
SETTINGS = SamplingSettings(samples=3, temperature=1.0, batch_size=4, max_new_tokens=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("curation")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "pool", count=10)
    return root


def dataset(base, shards="pool"):
    return open_pairs([str(base / shards)], base / "model", min_pixels=1024, max_pixels=1 << 20)


def scripted(texts, monkeypatch, calls=None, stop_after=None):
    """Instructions as a model would return them: texts[round][pair]."""

    def write(generator, data, *, seed, batch_size, first, **_):
        number = seed // len(data)
        for i in range(first, len(data)):
            if calls is not None:
                calls.append((number, i))
            if stop_after is not None and len(calls) > stop_after:
                raise KeyboardInterrupt
            text, finished = texts(number, i)
            yield {"id": data.shards.ids[i], "instruction": text, "tokens": 3, "finished": finished}

    monkeypatch.setattr(model_samples, "write_instructions", write)


def sample(base, output, settings=SETTINGS, **options):
    return sample_rejected(dataset(base), lambda: None, output, settings, model="m", **options)


def test_what_becomes_of_each_pair(base, tmp_path, monkeypatch):
    reader = open_shards(base / "pool")
    truths = [reader.pair(i).instruction for i in range(10)]
    wrong = "Mirror the picture horizontally, and zoom in"

    def texts(number, i):
        if i == 0:
            return truths[0], True  # always right
        if i == 1:
            return (truths[1] if number else wrong), True  # wrong once
        if i == 2:
            return truths[3], False  # always cut off
        if i == 3:
            return "", True
        if i == 4:
            return (truths[5] if number == 0 else wrong), True  # wrong in two ways, one of them twice
        return truths[i], True

    scripted(texts, monkeypatch)
    counts = sample(base, tmp_path / "out")
    assert counts.verdicts == {"rejected": 2, "unusable": 2, "already_correct": 6}
    assert counts.failure_modes.keys() <= {*FAILURE_MODES, "no failure mode"}
    assert sum(counts.failure_modes.values()) >= counts.verdicts["rejected"]
    made = open_shards(tmp_path / "out")
    assert list(made.ids) == [reader.ids[1], reader.ids[4]]
    pairs = [made.pair(i) for i in range(2)]
    for pair, truth in zip(pairs, (truths[1], truths[4]), strict=True):
        assert pair.chosen == truth == pair.instruction and pair.rejected == wrong
        assert pair.failure_modes is not None and 0 < pair.severity <= 1
    assert pairs[0].provenance["rejected"] == {"model": "m", "temperature": 1.0, "seed": 0, "times": 1, "of": 3}
    assert pairs[1].provenance["rejected"]["times"] == 2
    assert made[0].source_bytes == reader[1].source_bytes
    verdicts = [json.loads(line) for line in (tmp_path / "out.verdicts.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in verdicts[:5]] == [
        "already_correct", "rejected", "unusable", "unusable", "rejected",
    ]  # fmt: skip


def test_a_killed_run_goes_on(base, tmp_path, monkeypatch):
    def texts(number, i):
        return f"Remove the red circle {number} {i}", True

    scripted(texts, monkeypatch)
    sample(base, tmp_path / "whole")
    calls = []
    scripted(texts, monkeypatch, calls, stop_after=17)
    with pytest.raises(KeyboardInterrupt):
        sample(base, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    path = tmp_path / "cut.samples.jsonl"
    with open(path, "a") as file:
        file.write('{"id": "half a li')
    calls.clear()
    scripted(texts, monkeypatch, calls)
    sample(base, tmp_path / "cut")
    assert calls[0] == (1, 4), "from the last whole batch of the second round"
    assert path.read_text() == (tmp_path / "whole.samples.jsonl").read_text()
    assert open_shards(tmp_path / "cut").fingerprint == open_shards(tmp_path / "whole").fingerprint
    shutil.rmtree(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"holds samples made with other settings \(temperature differ\)"):
        sample(base, tmp_path / "cut", SamplingSettings(3, 0.5, 0, 8, 4))


def test_refusals(base, tmp_path, monkeypatch):
    scripted(lambda number, i: (open_shards(base / "pool").pair(i).instruction, True), monkeypatch)
    with pytest.raises(ValueError, match="no pair became a preference: of 10 pairs 10 are already_correct"):
        sample(base, tmp_path / "all_right")
    assert not (tmp_path / "all_right/index.json").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        sample(base, tmp_path / "there")
    with ShardWriter(tmp_path / "plain") as writer:
        made = render_pair(WorldSettings(), 1, 0)
        pair = made.pair.model_copy(update={"changes": None})
        writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")
    plain = open_pairs([str(tmp_path / "plain")], base / "model", min_pixels=1024, max_pixels=1 << 20)
    with pytest.raises(ValueError, match="no instruction with machine-readable truth"):
        sample_rejected(plain, lambda: None, tmp_path / "x", SETTINGS, model="m")
    for bad, words in (
        (dict(samples=0), "samples=0"),
        (dict(samples=2), "temperature 0"),
        (dict(temperature=-1), "-1"),
    ):
        with pytest.raises(ValueError, match=words):
            SamplingSettings(**bad)


def test_severity_and_failure_modes():
    pairs = [render_pair(WorldSettings(), 3, i).pair for i in range(120)]
    move = next(p for p in pairs if p.edit_type == "move" and len(p.changes.primary) == 1)
    right = verdict(move.instruction, move.changes)
    assert right.correct and right.severity == 0 and right.failure_modes == ()
    turn = {"left": "right", "right": "left", "up": "down", "down": "up"}
    wrong = " ".join(turn.get(word, word) for word in move.instruction.rstrip(".").split())
    turned = verdict(wrong, move.changes)
    assert not turned.correct and turned.failure_modes == ("orientation",) and turned.severity == 0.5, wrong
    nothing = verdict("", move.changes)
    assert not nothing.correct and nothing.failure_modes == () and nothing.severity == 1.0
    more = verdict(f"{move.instruction.rstrip('.')}, and make the camera zoom in", move.changes)
    assert not more.correct and more.severity == 0.5


def test_the_tool_with_a_real_model(base, tmp_path):
    command = [sys.executable, str(TOOL), "sample-rejected", "--model", str(base / "model"), "--shards"]
    command += [
        str(base / "pool"),
        "--output",
        str(tmp_path / "out"),
        "--max-new-tokens",
        "64",
        "--min-pixels",
        "1024",
    ]
    done = warm.run_cold([*command, "--samples", "2"])
    assert done.returncode == 2 and "set a temperature" in done.stderr and "Traceback" not in done.stderr
    done = warm.run(command)
    # A random model ends its answers or does not; either way it is said, and nothing is half-written.
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert "preference pairs from 10" in done.stdout and len(open_shards(tmp_path / "out"))
    else:
        assert "no pair became a preference" in done.stderr
    assert len((tmp_path / "out.samples.jsonl").read_text().splitlines()) == 11


def test_what_a_real_model_writes_becomes_tasks_for_people(base, tmp_path):
    command = [sys.executable, str(TOOL), "sample-rejected", "--model", str(base / "model"), "--shards"]
    command += [str(base / "pool"), "--folder", str(tmp_path / "tasks"), "--min-pixels", "1024"]
    done = warm.run([*command, "--max-new-tokens", "64"])
    assert "Traceback" not in done.stderr
    samples = [json.loads(line) for line in (tmp_path / "tasks.samples.jsonl").read_text().splitlines()[1:]]
    whole = {row["id"]: row["instruction"] for row in samples if row["finished"] and has_words(row["instruction"])}
    if whole:
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / "tasks" / "tasks.jsonl").read_text("utf-8").splitlines()]
        assert {row["pair"]: row["text"] for row in rows} == {pair: text.strip() for pair, text in whole.items()}
    else:
        assert done.returncode == 1 and "of 10 pairs none becomes a task" in done.stderr


def test_a_pair_whose_own_instruction_is_wrong_cannot_be_chosen(base, tmp_path):
    world = WorldSettings(edit_types=("camera_pan",), caption_mistakes={"orientation": 1.0})
    with ShardWriter(tmp_path / "pool") as writer:
        made = render_pair(world, 1, 0)
        writer.add(made.pair, encode_png(made.source), "png", encode_png(made.target), "png")
    with pytest.raises(ValueError, match=rf"{made.pair.id}: its own instruction .* cannot be the chosen answer"):
        sample_rejected(dataset(base, tmp_path / "pool"), None, tmp_path / "out", SETTINGS, model="m")
    assert not list(tmp_path.glob("out*"))
