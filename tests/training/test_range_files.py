"""Ranges of a pass over all samples: what is kept of a killed one, what is refused, and the file in the end."""

import json
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from editcaption_mega import lock, platform, signals
from editcaption_mega.lock import FolderLock
from editcaption_mega.training.range_files import RangeFiles
from tests.helpers.ranks import on_ranks

HEAD = {"fingerprint": {"weights": "a" * 64, "shards": "b" * 64}, "with_tokens": False}
FIRST = json.dumps({"fingerprint": HEAD["fingerprint"]}) + "\n"
SAMPLES, SIZE = 11, 4


def is_line(line, i):
    try:
        return line.endswith("\n") and json.loads(line)["id"] == i
    except (ValueError, TypeError, KeyError):
        return False


def lines(samples):
    return [{"id": i, "log_prob": i / 7} for i in samples]


def text(samples):
    return "".join(json.dumps(line) + "\n" for line in lines(samples))


def opened(output, head=HEAD, size=SIZE):
    """And left to whoever opens them next, as a killed process leaves them."""
    files = RangeFiles.open(output, head, SAMPLES, size, is_line)
    files.close()
    return files


def test_ranges_in_any_order_become_one_file(tmp_path):
    files = opened(tmp_path / "out.jsonl")
    assert files.ranges() == [range(0, 4), range(4, 8), range(8, 11)]
    for samples in reversed(files.ranges()):
        files.write(samples, lines(samples))
    assert files.done(is_line) == set(files.ranges())
    files.publish(FIRST)
    assert (tmp_path / "out.jsonl").read_text() == FIRST + text(range(SAMPLES)) and not files.folder.exists()


def written_by_ranks(rank, output):
    files = opened(output)
    with platform.together():
        for samples in files.ranges()[rank::2]:
            files.write(samples, lines(samples))
    done = files.done(is_line)
    files.publish(FIRST)
    return sorted(done, key=lambda samples: samples.start)


def test_each_rank_writes_its_part(tmp_path):
    done, others = on_ranks(written_by_ranks, tmp_path, tmp_path / "out.jsonl")
    assert done == others == [range(0, 4), range(4, 8), range(8, 11)]
    assert (tmp_path / "out.jsonl").read_text() == FIRST + text(range(SAMPLES))


@settings_of(max_examples=40, deadline=None)
@given(st.data())
def test_a_range_is_kept_whole_or_computed_again(data):
    with tempfile.TemporaryDirectory() as folder:
        files = opened(Path(folder) / "out.jsonl")
        for samples in files.ranges():
            files.write(samples, lines(samples))
        path = sorted(files.folder.glob("*.jsonl"))[data.draw(st.integers(0, 2))]
        content = path.read_bytes()
        cut = content[: data.draw(st.integers(0, len(content)))]
        path.write_bytes(cut + data.draw(st.sampled_from([b"", b"\n", b"\xff", b'{"id": 4}\n'])))
        damaged = path.read_bytes() != content
        done = opened(files.output).done(is_line)
        assert len(done) == 3 - damaged and path.exists() != damaged


def test_another_start_goes_on_with_the_ranges_of_the_first(tmp_path):
    opened(tmp_path / "out.jsonl").write(range(4, 8), lines(range(4, 8)))
    again = opened(tmp_path / "out.jsonl", size=64)
    assert again.size == SIZE and again.done(is_line) == {range(4, 8)}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"fingerprint": HEAD["fingerprint"] | {"weights": "c" * 64}}, "weights (aaaa.* there, cccc.* here) differ"),
        ({"with_tokens": True}, "with_tokens (False there, True here) differ"),
        ({"fingerprint": HEAD["fingerprint"] | {"view": "d"}}, "view (None there, d here) differ"),
    ],
)
def test_ranges_of_something_else_are_refused_by_name(tmp_path, change, words):
    opened(tmp_path / "out.jsonl").write(range(4), lines(range(4)))
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        opened(tmp_path / "out.jsonl", HEAD | change)
    assert opened(tmp_path / "out.jsonl").done(is_line) == {range(4)}, "nothing is lost by it"


@settings_of(max_examples=30, deadline=None)
@given(st.data())
def test_what_an_earlier_version_left_is_kept_in_whole_ranges(data):
    """One file that grew: cut anywhere, a byte changed, or of something else."""
    content = (FIRST + text(range(SAMPLES))).encode()
    cut = content[: data.draw(st.integers(0, len(content)))]
    if cut and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(cut) - 1))
        cut = cut[:at] + bytes([data.draw(st.integers(0, 255))]) + cut[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.jsonl"
        Path(f"{output}.partial").write_bytes(cut)
        files = opened(output)
        done = sorted(files.done(is_line), key=lambda samples: samples.start)
        assert done == files.ranges()[: len(done)] and os.listdir(folder) == ["out.jsonl.partial"]
        for samples in done:
            found = (files.folder / f"{samples.start:012d}-{samples.stop:012d}.jsonl").read_text()
            assert [json.loads(line)["id"] for line in found.splitlines()] == list(samples)
        intact = re.match(rb"(?s).*\n", cut)
        if cut == content[: len(cut)] and intact and cut.startswith(FIRST.encode()):
            complete = intact[0].count(b"\n") - 1
            assert len(done) == (3 if complete == SAMPLES else complete // SIZE)


def test_two_passes_at_one_output_do_not_meet(tmp_path, monkeypatch):
    """Else one removes the ranges that the other reads."""
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(lock.FolderLock.__init__, "__kwdefaults__", {"beat": 10.0, "stale": 120.0, "patience": 0.0})
    first = RangeFiles.open(output, HEAD, SAMPLES, SIZE, is_line)
    with pytest.raises(ValueError, match="out.jsonl.partial is in use: log-probs by process"):
        opened(output)
    for samples in first.ranges():
        first.write(samples, lines(samples))
    first.publish(FIRST)
    first.close()
    assert os.listdir(tmp_path) == ["out.jsonl"]
    output.with_name("out.jsonl.partial").mkdir()  # as one that waited makes it, when the first has removed it
    with pytest.raises(ValueError, match="out.jsonl was written by another process just now"):
        opened(output)
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_pass_that_waits_for_another_one_can_be_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "asked", lambda: signal.SIGTERM)
    with FolderLock(tmp_path / "out.jsonl.partial", "log-probs"):
        assert opened(tmp_path / "out.jsonl").size == 0
