"""The Hub's API on the loopback interface: what a push and a pull need, and errors on demand.

Answers as huggingface.co does for: whoami, repository info, creation, branches, pre-upload, LFS
batch, LFS upload and verify, commits (NDJSON), pull requests, card validation, downloads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]
TOKEN, OWNER = "hf_loopback", "user"
_REGULAR = (".json", ".md", ".py", ".txt", ".png")  # the rest is LFS


def answer(status: int, document: Any = None, **headers: str) -> Answer:
    """A JSON answer; `X_Error_Code="…"` is a header."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return (
        status,
        {"Content-Type": "application/json", **named},
        json.dumps(document or {}).encode(),
    )


def refused(status: int, message: str = "", **headers: str) -> Answer:
    """An error as the Hub words it: in the body and in a header."""
    return answer(status, {"error": message}, X_Error_Message=message, **headers)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Branches and pull requests → commits → files; a commit is named by its number."""

    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, bytes], message: str = "") -> str:
        name = f"{len(self.commits) + 1:040x}"
        self.commits[name], self.refs[ref] = files, name
        self.messages.append(message)
        return name

    def files(self, ref: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs.get(ref, ref)]


@dataclass
class Hub:
    """What the server holds and has been asked.

    faults: method and start of the path → answers given instead, one for each request.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    faults: dict[str, list[Answer]] = field(default_factory=dict)
    multipart_over: int | None = None

    def make(
        self, name: str, files: dict[str, bytes] | None = None, *, private: bool = True
    ) -> Repository:
        made = self.repositories[name] = Repository(private)
        made.commit("main", {".gitattributes": b"", **(files or {})})
        return made

    def asked(self, start: str) -> int:
        """How many requests began so."""
        return sum(request.startswith(start) for request in self.requests)

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        parts, query = urlsplit(target), parse_qs(urlsplit(target).query)
        self.requests.append(f"{method} {unquote(parts.path)}")
        for start, answers in self.faults.items():
            if self.requests[-1].startswith(start) and answers:
                return answers.pop(0)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        writing = headers.get("Authorization") == f"Bearer {TOKEN}"
        if method == "PUT":
            return self._store(path, body)
        if path[0] == "api":
            if not writing and (method == "POST" or path[1] == "whoami-v2"):
                return refused(401, "Invalid username or password.")
            return self._api(method, path[1:], query, body)
        if path[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if path[0] == "lfs":
            return self._lfs(path, json.loads(body))
        if "resolve" in path:
            return self._resolve("/".join(path[:2]), path[3], "/".join(path[4:]))
        return answer(404)

    def _api(self, method: str, path: list[str], query: Any, body: bytes) -> Answer:
        if path == ["whoami-v2"]:
            return answer(200, {"type": "user", "name": OWNER, "auth": {}})
        if path == ["validate-yaml"]:
            return answer(200, {"errors": [], "warnings": []})
        if path == ["repos", "create"]:
            return self._create(json.loads(body))
        name, rest = "/".join(path[1:3]), path[3:]
        found = self.repositories.get(name)
        if found is None:
            return refused(404, "Repository not found", X_Error_Code="RepoNotFound")
        if method == "GET":
            return self._info(name, found, rest)
        return self._write(name, found, rest, query, body)

    def _create(self, wanted: dict[str, Any]) -> Answer:
        owner = wanted.get("organization") or OWNER
        name = f"{owner}/{wanted['name']}"
        if owner != OWNER:
            return refused(403, f"You don't have the rights to create a model under {owner}")
        if name in self.repositories:
            return refused(409, "You already created this model repo")
        self.make(
            name, private=wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        return answer(200, {"url": f"{self.url}/{name}", "name": name})

    def _info(self, name: str, found: Repository, rest: list[str]) -> Answer:
        if rest[:1] == ["refs"]:
            branches = [
                {"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha}
                for key, sha in found.refs.items()
            ]
            return answer(200, {"branches": branches, "tags": [], "converts": []})
        ref = rest[1] if len(rest) > 1 else "main"
        sha = found.refs.get(ref, ref)
        if sha not in found.commits:
            return refused(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        files = found.commits[sha]
        if rest[:1] == ["tree"]:
            listed = [
                {"type": "file", "path": p, "size": len(d), "oid": git_hash(d)}
                for p, d in files.items()
            ]
            return answer(200, listed)
        siblings = [{"rfilename": path} for path in files]
        return answer(200, {"id": name, "sha": sha, "private": found.private, "siblings": siblings})

    def _write(
        self, name: str, found: Repository, rest: list[str], query: Any, body: bytes
    ) -> Answer:
        if rest[0] == "branch":
            if rest[1] in found.refs:
                return refused(409, "Reference already exists")
            found.refs[rest[1]] = found.refs["main"]
            return answer(200)
        ref = rest[1]
        if ref not in found.refs:
            return refused(404, "Invalid rev id", X_Error_Code="RevisionNotFound")
        if rest[0] == "preupload":
            return self._preupload(found.files(ref), json.loads(body))
        return self._commit(name, found, ref, body, "create_pr" in query)

    def _preupload(self, held: dict[str, bytes], wanted: dict[str, Any]) -> Answer:
        ignored = held.get(".gitignore", b"").decode().split()
        files = []
        for one in wanted["files"]:
            name, data = one["path"], held.get(one["path"])
            regular = name.endswith(_REGULAR)
            oid = None
            if data is not None:
                oid = git_hash(data) if regular else hashlib.sha256(data).hexdigest()
            files.append({
                "path": name, "uploadMode": "regular" if regular else "lfs", "oid": oid,
                "shouldIgnore": name in ignored,
            })  # fmt: skip
        return answer(200, {"files": files})

    def _commit(self, name: str, found: Repository, ref: str, body: bytes, pull: bool) -> Answer:
        files, title = dict(found.files(ref)), ""
        for line in body.splitlines():
            kind, value = (one := json.loads(line))["key"], one["value"]
            if kind == "header":
                title = value["summary"]
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                if value["oid"] not in self.objects:
                    return refused(400, f"LFS pointer to {value['path']} has no object")
                files[value["path"]] = self.objects[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        pulls = sum(key.startswith("refs/pr/") for key in found.refs) + 1
        sha = found.commit(f"refs/pr/{pulls}" if pull else ref, files, title)
        return answer(200, {
            "success": True, "commitOid": sha, "commitUrl": f"{self.url}/{name}/commit/{sha}",
            "pullRequestUrl": f"{self.url}/{name}/discussions/{pulls}" if pull else None,
        })  # fmt: skip

    def _batch(self, wanted: dict[str, Any]) -> Answer:
        objects = []
        for one in wanted["objects"]:
            oid, size = one["oid"], one["size"]
            described: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.objects:
                described["actions"] = {
                    "upload": self._upload(oid, size),
                    "verify": {"href": f"{self.url}/lfs/verify"},
                }
            objects.append(described)
        return answer(200, {"transfer": "basic", "objects": objects})

    def _upload(self, oid: str, size: int) -> dict[str, Any]:
        if self.multipart_over is None or size <= self.multipart_over:
            return {"href": f"{self.url}/store/{oid}", "header": {}}
        count = -(-size // self.multipart_over)
        parts = {f"{i:05d}": f"{self.url}/store/{oid}/{i}" for i in range(1, count + 1)}
        header = {"chunk_size": str(self.multipart_over), **parts}
        return {"href": f"{self.url}/lfs/complete/{oid}", "header": header}

    def _store(self, path: list[str], body: bytes) -> Answer:
        self.uploads.append("/".join(path[1:]))
        self.objects["/".join(path[1:])] = body
        return 200, {"ETag": hashlib.md5(body).hexdigest()}, b""

    def _lfs(self, path: list[str], wanted: dict[str, Any]) -> Answer:
        if path[1] == "complete":
            parts = [f"{path[2]}/{part['partNumber']}" for part in wanted["parts"]]
            self.objects[path[2]] = b"".join(self.objects.pop(part) for part in parts)
            return answer(200)
        data = self.objects.get(wanted["oid"], b"")
        if hashlib.sha256(data).hexdigest() != wanted["oid"] or len(data) != wanted["size"]:
            return refused(422, "the object is not what it says")
        return answer(200)

    def _resolve(self, name: str, ref: str, path: str) -> Answer:
        found = self.repositories.get(name)
        sha = found.refs.get(ref, ref) if found else ""
        if found is None or path not in found.commits.get(sha, {}):
            return refused(404, "Entry not found", X_Error_Code="EntryNotFound")
        data = found.commits[sha][path]
        return 200, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": sha}, data


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that listens until the context closes."""
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            method = "GET" if self.command == "HEAD" else self.command
            status, headers, data = known.answer(method, self.path, self.headers, body)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = reply

        def _chunks(self) -> bytes:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        known.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()
