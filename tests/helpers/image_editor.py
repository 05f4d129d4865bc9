"""An image editor behind the images endpoint: a real HTTP server on loopback that mirrors, or fails as told."""

import base64
import io
import json
import threading
from collections import Counter
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageOps


def picture_reply(data):
    return json.dumps({"data": [{"b64_json": base64.b64encode(data).decode()}]})


def mirrored(data):
    out = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(data)).convert("RGB")).save(out, "PNG")
    return out.getvalue()


class EditServer(ThreadingHTTPServer):
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
