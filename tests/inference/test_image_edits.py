"""The images endpoint: a real HTTP server on loopback that edits, or fails as told."""

import base64
import io
import json
import threading
from collections import Counter
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from image_bytes import encoded, photo
from PIL import Image, ImageOps

from editcaption_mega.inference import pace
from editcaption_mega.inference.endpoint import Endpoint
from editcaption_mega.inference.image_edits import Edit, edit_pictures

KEY = "sk-planted-0123456789"
SOURCE = encoded(photo())


def mirrored(data):
    out = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(data)).convert("RGB")).save(out, "PNG")
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Mirrors each picture. faults: prompt -> what its first answers are."""

    def __init__(self, faults=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.calls, self.fields = faults or {}, Counter(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        fields = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in form.get_payload()
        }
        prompt = fields["prompt"].decode()
        faults = self.server.faults.get(prompt, ())
        fault = faults[self.server.calls[prompt]] if self.server.calls[prompt] < len(faults) else None
        self.server.calls[prompt] += 1
        self.server.fields.append(fields)
        picture = base64.b64encode(mirrored(fields["image"])).decode()
        content = json.dumps({"data": [{"b64_json": picture}]})
        if fault == "drop":
            return self.connection.close()
        if fault in (400, 429, 500):
            content = json.dumps({"error": {"message": f"no: {self.headers['Authorization']}"}})
        elif fault:
            content = fault
        content = content.encode()
        self.send_response(fault if isinstance(fault, int) else 200)
        if fault == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def run(server, folder, *edits, **options):
    endpoint = Endpoint(server.url, "editor", **options)
    asked = [Edit(name, SOURCE, text) for name, text in edits]
    made = edit_pictures(endpoint, asked, folder, size="64x64", log=folder.with_name(folder.name + "_log"))
    return {one.id: one for one in made}


def test_pictures_are_edited_once_and_kept(tmp_path):
    with Server() as server:
        found = run(server, tmp_path, ("a", "Mirror it."), ("b", "Mirror it, too."))
        assert found["a"].path.read_bytes() == mirrored(SOURCE) and not found["a"].reason
        again = run(server, tmp_path, ("a", "Mirror it."), ("b", "Another text."))
        assert again["a"] == found["a"]
        assert server.calls == {"Mirror it.": 1, "Mirror it, too.": 1, "Another text.": 1}
        fields = server.fields[0]
    assert fields["image"] == SOURCE
    assert (fields["model"], fields["size"], fields["response_format"]) == (b"editor", b"64x64", b"b64_json")


def test_faults_that_pass_are_tried_again_and_others_are_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "FIRST_BACKOFF", 0.02)
    faults = {
        "passes": [500, 429, "drop", "not json"], "stays": ["{}"] * 9, "refused": [400],
        "no picture": [json.dumps({"data": [{"b64_json": base64.b64encode(b"text").decode()}]})] * 9,
    }  # fmt: skip
    with Server(faults) as server:
        found = run(server, tmp_path, *((text, text) for text in faults), max_attempts=5)
    assert found["passes"].path and server.calls["passes"] == 5
    assert found["stays"].reason == "the answer has no data (after 5 attempts)"
    assert "not an image" in found["no picture"].reason
    assert found["refused"].reason.startswith("HTTP 400") and server.calls["refused"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"passes.png", "passes.json"}


def test_the_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITOR_KEY", KEY)
    with Server({"x": [400]}) as server:
        (one,) = run(server, tmp_path, ("x", "x"), api_key_env="EDITOR_KEY").values()
        run(server, tmp_path, ("y", "y"), api_key_env="EDITOR_KEY")
    assert "no: Bearer [key]" in one.reason and KEY not in one.reason
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    monkeypatch.delenv("EDITOR_KEY")
    with pytest.raises(ValueError, match="EDITOR_KEY is missing or empty"):
        run(server, tmp_path, ("z", "z"), api_key_env="EDITOR_KEY")
