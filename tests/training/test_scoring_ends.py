"""Log-probs by real ranks that are stopped, killed, and go on with another number of ranks: the file is the same."""

import json
import os
import random
import signal
import socket
import sys
import time

import pytest

from editcaption_mega import job_outcome
from tests.helpers import ROOT, preference_job, small_job, warm

TOOL = ROOT / "tools/log_probs.py"
PAIRS = 160
RANGE = 4  # pairs; of 64 there would be three, and a run could be over before a busy machine has sent its signal


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring_ends")
    small_job.write_folder(root / "model")
    preference_job.write_shards(root / "pairs", PAIRS)
    return root


class Scoring:
    """The tool on `ranks` ranks, without torchrun between."""

    def __init__(self, base, output, ranks, **environment):
        command = [sys.executable, str(TOOL), "--checkpoint", str(base / "model"), "--shards", str(base / "pairs")]
        command += ["--output", str(output), "--min-pixels", "1024", "--sequence-length", "512"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        values = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
        self.output, self.partial = output, output.with_name(output.name + ".partial")
        self.ranks = [
            warm.Popen(command, env={**values, "RANK": str(rank), "WORLD_SIZE": str(ranks)}) for rank in range(ranks)
        ]

    def ranges(self):
        return len(list(self.partial.glob("0*.jsonl"))) if self.partial.is_dir() else 0

    def runs(self):
        return all(rank.poll() is None for rank in self.ranks)

    def wait_for(self, ranges):
        deadline = time.monotonic() + 120
        while self.ranges() < ranges and self.runs() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.ranges()

    def send(self, number):
        for rank in self.ranks:
            rank.send_signal(number)

    def end(self):
        """-> exit codes, and what the first rank printed."""
        texts = [rank.communicate(timeout=300) for rank in self.ranks]
        return [rank.returncode for rank in self.ranks], "".join(texts[0])


def begin(output, fingerprint):
    """What a run that was killed at once leaves: it goes on in ranges of RANGE."""
    partial = output.with_name(output.name + ".partial")
    partial.mkdir(exist_ok=True)
    if not (partial / "head.json").exists():
        head = {"fingerprint": fingerprint, "with_tokens": False, "range": RANGE}
        (partial / "head.json").write_text(json.dumps(head))


@pytest.fixture(scope="module")
def of_large_ranges(base):
    scoring = Scoring(base, base / "large.jsonl", 2)
    codes, text = scoring.end()
    assert codes == [0, 0] and "large.jsonl is written\n" in text, text
    return (base / "large.jsonl").read_bytes()


@pytest.fixture(scope="module")
def fingerprint(of_large_ranges):
    return json.loads(of_large_ranges.splitlines()[0])["fingerprint"]


@pytest.fixture(scope="module")
def whole(base, fingerprint):
    output = base / "whole.jsonl"
    begin(output, fingerprint)
    codes, text = Scoring(base, output, 2).end()
    assert codes == [0, 0], text
    return output.read_bytes()


@pytest.mark.parametrize("number, first, then", [(signal.SIGTERM, 2, 1), (signal.SIGUSR1, 1, 2)])
def test_a_signal_ends_it_saved_and_another_number_of_ranks_goes_on(
    base, fingerprint, whole, tmp_path, number, first, then
):
    output = tmp_path / "stopped.jsonl"
    begin(output, fingerprint)
    environment = {job_outcome.JOB_FOLDER: str(tmp_path), "EDITCAPTION_STOPPED_CODE": "75"}
    scoring = Scoring(base, output, first, **environment)
    assert scoring.wait_for(1), scoring.end()
    scoring.send(number)
    codes, text = scoring.end()
    assert codes == [75] * first, text
    ended = job_outcome.read_outcome(tmp_path)
    assert (ended.kind, ended.signal) == (job_outcome.SAVED, number)
    assert f"stopped by signal {int(number)} after" in ended.message and not output.exists()
    assert 0 < job_outcome.reached_so_far(tmp_path)[output.name] < PAIRS
    kept = {path: path.stat().st_mtime_ns for path in scoring.partial.glob("0*.jsonl")}
    assert kept, "what was computed is there"
    job_outcome.clear(tmp_path)
    codes, text = Scoring(base, output, then, **environment).end()
    assert codes == [0] * then and "samples already: going on from there" in text
    assert output.read_bytes() == whole and not scoring.partial.exists()
    assert job_outcome.read_outcome(tmp_path).kind == job_outcome.FINISHED


def test_a_part_of_other_data_is_refused_by_name(base, fingerprint, tmp_path):
    output = tmp_path / "other.jsonl"
    begin(output, fingerprint | {"weights": "f" * 64})
    scoring = Scoring(base, output, 1)
    (code,), text = scoring.end()
    assert code == 1 and f"log-probs of something else: weights ({'f' * 64} there, " in text, text


@pytest.mark.slow
def test_ten_kills_change_nothing(base, fingerprint, whole, of_large_ranges, tmp_path):
    """kill -9 of both ranks at random moments: what was there stays there."""
    output = tmp_path / "killed.jsonl"
    begin(output, fingerprint)
    # Six of these moments wait for a range, so that no fast start is needed to hit the computing often enough.
    moments, before, during = random.Random(6), 0, 0
    for _ in range(10):
        scoring, more = Scoring(base, output, 2), moments.choice([0, 1, 2])
        scoring.wait_for(before + more)
        time.sleep(moments.uniform(0, 0.1 if more else 0.6))
        assert scoring.runs(), scoring.end()
        scoring.send(signal.SIGKILL)
        scoring.end()
        assert not scoring.output.exists() and scoring.ranges() >= before + more
        during += scoring.ranges() > before
        before = scoring.ranges()
    assert during >= 5, "kills that hit the computing itself"
    codes, text = Scoring(base, output, 2).end()
    assert codes == [0, 0] and "samples already: going on from there" in text, text
    assert output.read_bytes() == whole
    numbers, expected = (
        [json.loads(line) for line in content.splitlines()[1:]] for content in (whole, of_large_ranges)
    )
    for line, of_larger in zip(numbers, expected, strict=True):
        assert line["id"] == of_larger["id"]
        assert line["chosen"]["token_log_probs"] == pytest.approx(of_larger["chosen"]["token_log_probs"], abs=2e-5)
