"""A Label Studio of one's own: its token stays with the data and is nobody else's; gone with whoever started it."""

import json
import os
import sys
import urllib.request

import pytest

from editcaption_mega.evaluation.label_studio.local_server import PROGRAM, installed_program, local_server
from editcaption_mega.settings import SettingsError

# What is started: answers everything, and writes down what it was given.
SERVER = f"""#!{sys.executable}
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        kept = {{name: value for name, value in os.environ.items() if name.startswith("LABEL_STUDIO_")}}
        self.wfile.write(json.dumps([sys.argv[1:], kept]).encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "a folder" / "label-studio"
    path.parent.mkdir()
    path.write_text(SERVER)
    path.chmod(0o755)
    return str(path)


def test_the_token_stays_with_the_data_and_on_no_command_line(program, tmp_path):
    tokens = []
    for _ in range(2):
        with local_server(program, tmp_path / "server", say=str) as server:
            words, variables = json.loads(urllib.request.urlopen(server.url, timeout=10).read())
            tokens.append(server.token)
        assert variables["LABEL_STUDIO_USER_TOKEN"] == server.token and server.token not in " ".join(words)
        assert variables["LABEL_STUDIO_BASE_DATA_DIR"] == str(tmp_path / "server/data") and "--internal-host" in words
        with pytest.raises(OSError):
            urllib.request.urlopen(server.url, timeout=10)
    assert tokens[0] == tokens[1] and len(tokens[0]) == 40
    assert (tmp_path / "server/token").stat().st_mode & 0o077 == 0
    assert tokens[0] not in (tmp_path / "server/log.txt").read_text()
    assert not [name for name in os.environ if name.startswith("LABEL_STUDIO_USER")]


def test_which_program_is_installed(program, tmp_path, monkeypatch):
    monkeypatch.delenv(PROGRAM, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed_program() is None and installed_program(program) == program
    monkeypatch.setenv(PROGRAM, program)
    assert installed_program() == program
    monkeypatch.setenv(PROGRAM, str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="nowhere is no executable: name the label-studio"):
        installed_program()
