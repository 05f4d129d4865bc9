"""Shards at an address, from a server that fails, cuts and sleeps."""

import hashlib
import http.server
import json
import multiprocessing
import random
import threading
import time
from pathlib import Path

import pytest

from editcaption_mega.data import open_shards, remote_files
from editcaption_mega.data.shards.index import load_index
from editcaption_mega.data.shards.mirrors import ShardCache, is_address
from editcaption_mega.data.shards.reader import ShardError, ShardReader
from tests.data.shards.test_shards import write
from tests.helpers.old_index import write_old_index

IDS = [f"pair-{i}" for i in range(40)]


class Server:
    """A folder over http. Of its answers one in `fails` is an error and one in `cuts` ends early; each may take a
    moment. What was asked for is in `asked`."""

    def __init__(self, folder, fails=0, cuts=0, sleep=0.0):
        self.folder, self.fails, self.cuts, self.sleep = folder, fails, cuts, sleep
        self.asked, self.random = [], random.Random(0)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self, body=True)

            def do_HEAD(self):
                outer.answer(self, body=False)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/set"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request, body):
        name = request.path.rsplit("/", 1)[1]
        self.asked += [name] * body
        time.sleep(self.random.random() * self.sleep)
        path = self.folder / name
        if self.fails and self.random.randrange(self.fails) == 0:
            request.send_error(self.random.choice([500, 502, 503, 429]))
        elif not path.is_file():
            request.send_error(404)
        else:
            content = path.read_bytes()
            cut = body and self.cuts and self.random.randrange(self.cuts) == 0
            request.send_response(200)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            if body:
                request.wfile.write(content[: self.random.randrange(len(content))] if cut else content)
            if cut:
                request.close_connection = True

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(remote_files, "_LONGEST_PAUSE", 0.02)
    monkeypatch.setenv("EDITCAPTION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "set", IDS, samples_per_shard=4)


@pytest.fixture
def server(folder):
    servers = []

    def start(**options):
        servers.append(Server(folder, **options))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


def content(reader):
    return reader.fingerprint, list(reader.ids), list(reader)


def test_an_epoch_from_a_server_that_fails_cuts_and_sleeps(folder, server):
    """One answer in ten fails, one in fifty is cut, each sleeps: every byte is what was written."""
    bad = server(fails=10, cuts=50, sleep=0.01)
    for _ in range(8):  # eighty tars and more
        reader = open_shards(bad.address)
        assert content(reader) == content(open_shards(folder))
        index = load_index(folder)
        for i, sample in enumerate(index.samples):
            for part, read in (("source", reader.picture(i, "source")), ("target", reader.picture(i, "target"))):
                assert hashlib.sha256(read).hexdigest() == getattr(sample, part).sha256
        for tar in ShardCache.default().local(bad.address).glob("*.tar"):
            tar.unlink()


def test_each_tar_is_fetched_once_and_only_if_it_is_read(folder, server):
    good = server()
    reader = open_shards(good.address)
    assert not [name for name in good.asked if name.endswith(".tar")], "opening fetches the index alone"
    assert reader[0].pair.id == "pair-0" and reader[1].pair.id == "pair-1" and reader[39].pair.id == "pair-39"
    again = open_shards(good.address)
    assert again[2].pair.id == "pair-2"
    tars = [name for name in good.asked if name.endswith(".tar")]
    assert tars == ["shard-000000.tar", "shard-000009.tar"]
    assert good.asked.count(load_columns_name(folder)) == 1, "and the arrays once"


def load_columns_name(folder):
    return json.loads((folder / "index.json").read_text())["columns"]


def test_the_cache_keeps_what_was_used_last(folder, server, tmp_path):
    size = (folder / "shard-000000.tar").stat().st_size
    good = server()
    cache = ShardCache(tmp_path / "small", most_bytes=3 * size)
    reader = ShardReader([cache.update(good.address)])
    for sample in (0, 4, 8, 0, 12):  # of tars 0, 1, 2, 0, 3
        assert reader[sample].pair.id == IDS[sample]
        time.sleep(0.02)  # so that times of files differ
    kept = sorted(path.name for path in cache.local(good.address).glob("*.tar"))
    assert kept == ["shard-000000.tar", "shard-000002.tar", "shard-000003.tar"]
    assert [sample.pair.id for sample in reader] == IDS


def test_what_changed_at_the_address_is_fetched_anew(folder, server, tmp_path):
    good = server()
    assert open_shards(good.address)[0].pair.id == "pair-0"
    good.folder = write(tmp_path / "other", ["x", "y"])
    reader = open_shards(good.address)
    assert [sample.pair.id for sample in reader] == ["x", "y"]
    assert len(list(ShardCache.default().local(good.address).glob("*.tar"))) == 1
    good.folder = write_old_index(folder)
    assert [sample.pair.id for sample in open_shards(good.address)] == IDS


def test_a_tar_that_is_not_what_the_index_says(folder, server):
    tar = folder / "shard-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"?" + whole[701:])
    reader = open_shards(server().address)
    assert reader[0].pair.id == "pair-0"
    with pytest.raises(ShardError, match=r"shard-000001.tar could not be fetched \(ValueError: .* sha256 is not"):
        reader[4]
    tar.write_bytes(whole)
    assert reader[4].pair.id == "pair-4", "it is tried again"


def test_an_index_with_another_size_than_the_tar_ends(folder, server):
    path = folder / "index.json"
    content = json.loads(write_old_index(folder).joinpath("index.json").read_text())
    content["shards"][0]["bytes"] += 512
    path.write_text(json.dumps(content))
    with pytest.raises(ShardError, match="shard-000000.tar could not be fetched"):
        open_shards(server().address)[0]


def test_a_password_is_in_no_message_and_no_name():
    with pytest.raises(ShardError) as error:
        open_shards("http://someone:hunter2@127.0.0.1:9/set")
    assert "hunter2" not in str(error.value) and "127.0.0.1:9/set/index.json" in str(error.value)
    assert "hunter2" not in str(ShardCache(Path("/c")).local("http://someone:hunter2@host/set"))


@pytest.mark.parametrize(
    "address, message",
    [
        ("http://127.0.0.1:9/set", "http://127.0.0.1:9/set/index.json could not be fetched .* tried 12 times"),
        (
            "nothing://somewhere/set",
            "nothing://somewhere/set: Protocol not known: nothing: expected an address such as",
        ),
    ],
)
def test_an_address_that_does_not_answer(address, message):
    with pytest.raises(ShardError, match=message) as error:
        open_shards(address)
    assert "\n" not in str(error.value)


def test_an_address_without_an_index(tmp_path, server):
    good = server()
    good.folder = tmp_path
    with pytest.raises(ShardError, match="index.json could not be fetched .*(404|no such file).* tried 3 times"):
        open_shards(good.address)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(ShardError, match="no index of shards: expected the address of a folder made by"):
        open_shards(good.address)


def read_all(folder, queue):
    queue.put([sample.pair.id for sample in ShardReader([Path(folder)])])


def test_processes_share_what_is_fetched(folder, server):
    good = server(sleep=0.02)
    local = ShardCache.default().update(good.address)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=read_all, args=(str(local), queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=200) for _ in processes] == [IDS] * 3
    for process in processes:
        process.join()
    tars = [name for name in good.asked if name.endswith(".tar")]
    assert len(tars) == len(set(tars)) == 10


def test_what_an_address_is():
    assert is_address("s3://bucket/set") and is_address("hf://datasets/someone/set")
    assert not any(map(is_address, ("data/set", "/data/set", Path("http://x/y"), "C:\\x", "://x")))
    cache = ShardCache(Path("/c"))
    assert cache.local("data/set") == Path("data/set")
    assert cache.local("http://h/set") == cache.local("http://h/set/") != cache.local("http://h/set2")
