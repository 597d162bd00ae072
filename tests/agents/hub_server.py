"""A server on this machine that speaks the part of the Hugging Face Hub's API which uploads and downloads use."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_write"


@dataclass
class Hub:
    """Repositories by type and name: their commits, each a dict of files by path."""

    url: str
    commits: dict[tuple[str, str], list[dict[str, bytes]]] = field(default_factory=dict)
    private: dict[tuple[str, str], bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: int = 0
    """Number of downloads that end early."""

    def files(self, repo_id: str, kind: str = "model") -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[kind, repo_id][-1]


def sha(number: int) -> str:
    return f"{number:040x}"


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

        def answer(self, status: int, body: Any = None, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def repo(self) -> tuple[str, str, str] | None:
            """The type, the name and the rest of the path of a repository that exists."""
            match = re.match(r"/(?:api/)?(models/|datasets/)?([^/]+/[^/]+)(?:/(.*))?$", self.path.partition("?")[0])
            assert match, self.path
            kind = "dataset" if match[1] == "datasets/" else "model"
            if (kind, match[2]) not in hub.commits:
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return None
            return kind, match[2], match[3] or ""

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid username or password."})
                return
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                key = asked.get("type", "model"), name
                exists = key in hub.commits
                hub.commits.setdefault(key, [])
                hub.private.setdefault(key, asked.get("private") or asked.get("visibility") == "private")
                url = f"{hub.url}/{'datasets/' if key[0] == 'dataset' else ''}{name}"
                self.answer(409 if exists else 200, {"url": url, "name": name, "id": name})
                return
            if self.path == "/api/validate-yaml":
                front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
                errors = [] if front.get("library_name") == "worldmodel" else [{"message": "no library_name"}]
                self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
                return
            if not (found := self.repo()):
                return
            kind, name, rest = found
            commits = hub.commits[kind, name]
            if rest.startswith("preupload/"):
                files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                self.answer(200, {"files": files})
            elif rest.startswith("commit/"):
                files = dict(commits[-1]) if commits else {}
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        assert line["value"]["encoding"] == "base64"
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                commits.append(files)
                oid = sha(len(commits))
                self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{name}/commit/{oid}"})
            else:
                self.answer(404, {"error": rest})

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if self.path.count("/") == 2:  # what the client asks about itself
                self.answer(200, {})
                return
            if not (found := self.repo()):
                return
            kind, name, rest = found
            commits = hub.commits[kind, name]
            what, _, rest = rest.partition("/")
            revision, _, path = rest.partition("/")
            revision = revision or "main"
            numbers = {sha(number + 1): number for number in range(len(commits))} | {"main": len(commits) - 1}
            if revision not in numbers:
                self.answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
                return
            number = numbers[revision]
            files, oid = commits[number], sha(number + 1)
            if what in ("", "revision"):
                siblings = [{"rfilename": file} for file in files]
                self.answer(200, {"id": name, "sha": oid, "private": hub.private[kind, name], "siblings": siblings})
            elif what == "tree":
                entries = [
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
                self.answer(200, entries)
            elif what == "resolve" and path in files:
                data = files[path]
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": oid}
                if self.command == "GET" and hub.broken:
                    hub.broken -= 1
                    self.close_connection = True
                    self.answer(500, {"error": "stopped"})
                    return
                self.answer(200, data, **headers)
            else:
                self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")

        do_HEAD = do_GET

    return Handler


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve an empty hub while a block runs."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
