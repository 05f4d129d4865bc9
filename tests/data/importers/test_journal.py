"""An import that is killed goes on behind its last finished shard: the set is that of one that was not, to the byte."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from editcaption_mega.data import open_shards
from editcaption_mega.data.importers import Candidate, Rejected
from editcaption_mega.data.importers.ingest import ImportRun, ingest
from editcaption_mega.data.remote_files import FetchError
from editcaption_mega.data.shards.layout import ShardError
from editcaption_mega.data.shards.writer import JOURNAL_NAME
from editcaption_mega.records import EditPair
from tests.helpers.image_bytes import encoded, photo

PER_SHARD = 7


def row(number):
    """Mostly pairs of their own; some rejected, re-encoded, the same as pairs long before, or with an id twice."""
    if number % 11 == 5:
        return Rejected(number, None, "column 'a' holds no picture")
    shape = number - 40 if number % 17 == 0 and number > 40 else number
    before = encoded(photo(16 + shape % 9, 17 + shape % 7 + shape // 9 % 50), "TIFF" if shape % 6 == 0 else "PNG")
    after = encoded(photo(20 + shape % 5, 16 + shape // 5 % 60), "JPEG")
    identity = "again" if number % 23 == 0 else f"r{number}"
    pair = EditPair(id=identity, category="semantic", edit_type="add", instruction=f"Add hat {shape}.")
    return Candidate(number, pair, before, after)


def rows(count=90):
    return (row(number) for number in range(1, count + 1))


def contents(folder):
    """Hash of every file of a set but for the index, whose identity is its fingerprint."""
    with open_shards(folder) as shards:
        fingerprint, ids = shards.fingerprint, list(shards.ids)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert not [name for name in files if "partial" in name or "lock" in name], files
    return files, fingerprint, ids


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    report = ingest(rows(), folder, samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
    assert report.rejected > 10 and report.re_encoded > 5 and report.warned and report.shards > 8
    return report, contents(folder)


def test_a_stop_at_any_row_changes_nothing_in_the_end(tmp_path, whole):
    class Stopped(FetchError):
        pass

    for stop in (3, 9, 10, 30, 57, 89):

        def stopping(stop=stop):
            for number, item in enumerate(rows(), start=1):
                if number == stop:
                    raise Stopped("the network")
                yield item

        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            ingest(stopping(), folder, samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
        kept = sorted(path.name for path in folder.glob("shard-*"))
        assert bool(kept) == (stop > 9), "what is finished stays"
        report = ingest(rows(), folder, samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
        assert report == whole[0] and contents(folder) == whole[1], stop


def test_another_import_begins_again_and_another_input_is_refused(tmp_path, whole):
    def stopping():
        yield from rows(60)
        raise FetchError("the network")

    def stopped(name):
        with pytest.raises(FetchError):
            ingest(stopping(), tmp_path / name, samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
        return tmp_path / name

    folder = stopped("other arguments")
    report = ingest(rows(), folder, samples_per_shard=PER_SHARD, run=ImportRun(identity="another"))
    assert report == whole[0] and contents(folder) == whole[1]
    folder = stopped("other rows")
    changed = (item._replace(number=7) if item.number == 4 else item for item in rows())
    with pytest.raises(ShardError, match="holds a part of an import whose input has changed since"):
        ingest(changed, folder, samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))


def test_a_kept_shard_that_is_damaged_is_told(tmp_path):
    def stopping():
        yield from rows(60)
        raise FetchError("the network")

    with pytest.raises(FetchError):
        ingest(stopping(), tmp_path / "out", samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
    shard = sorted((tmp_path / "out").glob("shard-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match="shard-000001.tar.partial is damaged: remove .* and import again"):
        ingest(rows(), tmp_path / "out", samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))


def test_a_line_of_the_journal_that_a_kill_cut_off_does_not_count(tmp_path, whole):
    def stopping():
        yield from rows(60)
        raise FetchError("the network")

    with pytest.raises(FetchError):
        ingest(stopping(), tmp_path / "out", samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
    path = tmp_path / "out" / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-20])
    ingest(rows(), tmp_path / "out", samples_per_shard=PER_SHARD, run=ImportRun(identity="set"))
    assert contents(tmp_path / "out") == whole[1]


def run_import(folder, workers, seconds):
    """Run the import in a process and kill -9 all of it after so long -> (whether it was killed, seconds it took)."""
    script = (
        "import sys\n"
        "from tests.data.importers.test_journal import PER_SHARD, rows\n"
        "from editcaption_mega.data.importers.ingest import ImportRun, ingest\n"
        "if __name__ == '__main__':\n"
        "    print('begun', flush=True)\n"
        f"    ingest(rows(), sys.argv[1], samples_per_shard=PER_SHARD, run=ImportRun({workers}, 'set'))\n"
    )
    path = folder.parent / "run.py"
    path.write_text(script)
    process = subprocess.Popen([sys.executable, path, folder], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    start = time.monotonic()
    killed = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed = True
    process.stdout.close()
    assert killed or process.returncode == 0
    return killed, time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_leave_no_gap_and_no_double(tmp_path, whole, workers):
    _, duration = run_import(tmp_path / "timed", workers, 300)
    draw, kills, went_on, out = random.Random(workers), 0, 0, tmp_path / "out"
    for _ in range(100):
        before = len(list(out.glob("shard-*")))
        killed, _ = run_import(out, workers, duration * draw.uniform(0.02, 0.7))
        went_on += before > 0
        if (out / "index.json").exists():  # the set was whole, even if it was killed then
            for path in (*out.glob("*.partial"), *out.glob("lock*")):
                path.unlink()
            assert contents(out) == whole[1]
            if kills >= 10:
                break
            for path in out.iterdir():
                path.unlink()
            continue
        kills += killed
        assert len(list(out.glob("shard-*"))) >= before - 1, "a kill takes no shard but the one that was open"
    assert kills >= 10 and went_on >= 3 and contents(out) == whole[1]
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert len(listed) == whole[0].rejected
