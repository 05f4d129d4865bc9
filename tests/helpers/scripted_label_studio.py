"""The few endpoints of Label Studio that the adapter uses, on loopback: state in memory, faults on request."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"
PERSONAL_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJwZXJzb25hbCI6MX0.c2lnbmF0dXJl"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.projects, self.tasks, self.storages = [], [], []
        self.users = [{"id": 1, "email": "first@example.com"}]
        self.calls = []  # (method, path)
        self.access = 0  # short-lived tokens handed out; only the last one is valid
        self.drop_after_import = False  # take the tasks, then hang up without an answer
        self.redirect_to = ""
        self.answer = None  # (status, body) instead of any other
        self.faults = []  # of the next calls: (status, body, headers), "drop", or None for the answer itself

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handle_call("GET")

    def do_POST(self):
        self.handle_call("POST")

    def handle_call(self, method):
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        query = {name: values if name.endswith("[]") else values[0] for name, values in query.items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        self.server.calls.append((method, parts.path))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "drop":
            self.close_connection = True
            return
        if fault:
            return self.reply(*fault[:2], **fault[2])
        if self.server.answer:
            return self.reply(*self.server.answer)
        if self.server.redirect_to:
            return self.reply(302, {}, Location=self.server.redirect_to + self.path)
        if parts.path == "/api/token/refresh/":
            if body != {"refresh": PERSONAL_TOKEN}:
                return self.reply(401, {"detail": "Token is invalid"})
            self.server.access += 1
            return self.reply(200, {"access": f"access-{self.server.access}"})
        if self.headers["Authorization"] not in (f"Token {LEGACY_TOKEN}", f"Bearer access-{self.server.access}"):
            return self.reply(401, {"detail": "Invalid token."})
        name, *rest = [part for part in parts.path.removeprefix("/api/").split("/") if part]
        getattr(self, f"{method}_{'_'.join([name, *rest[1:]])}".lower())(query, body, *rest[:1])

    def reply(self, status, body, **headers):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def get_projects(self, query, body):
        found = [p for p in self.server.projects if query["title"].lower() in p["title"].lower()]
        self.reply(200, {"count": len(found), "results": found})

    def post_projects(self, query, body):
        self.server.projects.append(body | {"id": len(self.server.projects) + 1})
        self.reply(201, self.server.projects[-1])

    def post_projects_import(self, query, rows, project):
        for row in rows:
            task = {"id": len(self.server.tasks) + 1, "project": int(project), "annotations": [], **row}
            self.server.tasks.append(task)
        if self.server.drop_after_import:
            self.server.drop_after_import = False
            self.close_connection = True
            return
        self.reply(201, {"task_count": len(rows)})

    def get_projects_export(self, query, body, project):
        ids = set(map(int, query.pop("ids[]")))
        assert query == {"exportType": "JSON", "download_all_tasks": "true"}
        self.reply(200, [task for task in self.server.tasks if task["project"] == int(project) and task["id"] in ids])

    def get_tasks(self, query, body):
        """At most 3 a page, so that there are several."""
        found = [task for task in self.server.tasks if task["project"] == int(query["project"])]
        size, page = min(3, int(query["page_size"])), int(query["page"])
        if page > 1 and (page - 1) * size >= len(found):
            return self.reply(404, {"detail": "Invalid page."})
        shown = [{name: task[name] for name in query["include"].split(",")} for task in found]
        self.reply(200, {"total": len(found), "tasks": shown[(page - 1) * size : page * size]})

    def post_tasks_annotations(self, query, body, task):
        annotations = self.server.tasks[int(task) - 1]["annotations"]
        annotation = {"id": 100 * int(task) + len(annotations), "completed_by": 1, "was_cancelled": False, **body}
        annotations.append(annotation)
        self.reply(201, annotation)

    def get_users(self, query, body):
        self.reply(200, self.server.users)

    def post_users(self, query, body):
        self.server.users.append(body | {"id": len(self.server.users) + 1})
        self.reply(201, self.server.users[-1])

    def get_storages(self, query, body, kind):
        assert kind == "localfiles"
        self.reply(200, [s for s in self.server.storages if s["project"] == int(query["project"])])

    def post_storages(self, query, body, kind):
        self.server.storages.append(body | {"id": len(self.server.storages) + 1})
        self.reply(201, self.server.storages[-1])


@contextmanager
def scripted_label_studio():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
