"""Tables at an address: over real HTTP, with a server that fails, cuts off and lacks files."""

import http.server
import io
import tarfile
import threading
from collections import Counter

import pytest

from editcaption_mega.data import remote_files
from editcaption_mega.data.importers import FORMATS, ImportOptions, Rejected
from editcaption_mega.data.importers.candidates import InputError
from tests.helpers.image_bytes import encoded, photo

PLACES = {"source": "source.jpg", "target": "edited.png", "instruction": "json.prompt", "id": "__key__"}


def tar(keys):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for key in keys:
            record = b'{"prompt": "Add hat %d."}' % key
            members = {"source.jpg": encoded(photo(8, 6 + key), "JPEG"), "edited.png": encoded(photo(9, 7))}
            for name, content in (members | {"json": record}).items():
                info = tarfile.TarInfo(f"{key:04d}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Server:
    """Serves files under their paths; `faults` are what the first requests for a file get in its place."""

    def __init__(self, files):
        self.files, self.faults, self.requests = files, {}, Counter()

    def __enter__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                outer.requests[path] += 1
                fault = outer.faults.get(path, []).pop(0) if outer.faults.get(path) else None
                data = outer.files.get(path)
                self.send_response(500 if fault == "fail" else 404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                if data and fault != "fail":
                    self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

            def do_HEAD(self):
                data = outer.files.get(self.path.partition("?")[0])
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote_files, "_LONGEST_PAUSE", 0.01)
    with Server({"/set/000.tar": tar(range(3)), "/set/001.tar": tar(range(3, 5))}) as server:
        yield server


def read(path, **options):
    options = {"columns": PLACES, "category": "semantic"} | options
    return list(FORMATS["table"].read(path, ImportOptions(**options)))


def test_a_webdataset_at_addresses_is_read_in_their_order(server):
    path = server.address + "/set/{000..001}.tar"
    rows = read(path)
    assert [row.pair.id for row in rows] == [f"{key:04d}" for key in range(5)]
    assert rows[4].pair.instruction == "Add hat 4." and rows[4].source == encoded(photo(8, 10), "JPEG")
    assert FORMATS["table"].count(path, ImportOptions(columns=PLACES)) is None
    assert read(server.address + "/set/000.tar?token=secret", columns=PLACES | {"id": "__key__"})[0].pair.id == "0000"


def test_a_server_that_fails_and_cuts_off_is_asked_again_and_no_row_is_lost(server):
    server.faults = {"/set/000.tar": ["cut", "fail", "cut"], "/set/001.tar": ["fail"]}
    rows = read(server.address + "/set/{000..001}.tar")
    assert [row.pair.id for row in rows] == [f"{key:04d}" for key in range(5)]
    assert server.requests["/set/000.tar"] == 4


def test_a_server_that_never_answers_right_ends_the_work_and_rejects_no_row(server):
    server.faults = {"/set/001.tar": ["cut"] * 20}
    with pytest.raises(OSError, match=r"set/001.tar could not be fetched \(.*\), tried 12 times"):
        read(server.address + "/set/{000..001}.tar")
    with pytest.raises(InputError, match=r"set/002.tar could not be fetched \(no such file\), tried 3 times"):
        read(server.address + "/set/002.tar")


@pytest.mark.parametrize(
    "path",
    ["pipe:touch {marker}; cat x.tar", "http://127.0.0.1:9/a.tar::pipe:touch {marker}", "shell://touch {marker}.tar",
     "file:///etc/passwd.tar", "simplecache::http://127.0.0.1:9/a.tar", "github://a:b@main/x.tar"],
)  # fmt: skip
def test_no_address_runs_a_command_or_leads_elsewhere(tmp_path, path):
    marker = tmp_path / "ran"
    with pytest.raises(InputError):
        read(path.format(marker=marker))
    assert not marker.exists()


def test_paths_of_pictures_do_not_begin_at_an_address(server):
    server.files["/t.jsonl"] = b'{"a": "/etc/hostname", "b": "b.png"}\n'
    (row,) = read(server.address + "/t.jsonl", columns={"source": "a", "target": "b"})
    assert isinstance(row, Rejected) and "embed the pictures" in row.reason
