"""Students on the hub: uploaded to a small hub that the test starts, and refused where nothing can be uploaded."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from fractionate.errors import ConfigError, ResourceError
from fractionate.models import export_student, push_to_hub

constants = pytest.importorskip("huggingface_hub.constants")
SECRET = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """The few requests of the hub that an upload makes; every file travels inside its commit."""

    made: dict[str, bytes]
    asked: list[tuple[str, str]]

    def answer(self, body: object, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.asked.append(("GET", self.path))
        there = any(path == "/api/repos/create" for _, path in self.asked)
        self.answer({"sha": "0" * 40, "siblings": [], "id": "me/small"} if there else {}, 200 if there else 404)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {SECRET}":
            self.answer({"error": "Invalid user token."}, 401)
        elif self.path == "/api/repos/create":
            wanted = json.loads(raw)
            assert wanted.get("visibility", wanted.get("private")) in ("private", True)
            address = (
                f"http://127.0.0.1:{self.server.server_address[1]}/{wanted.get('organization', 'me')}/{wanted['name']}"
            )
            self.answer({"url": address, "private": True})
        elif self.path == "/api/validate-yaml":  # of the model card
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(raw)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, raw.splitlines()):
                if line["key"] == "file":
                    self.made[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitOid": "1" * 40,
                    "commitUrl": f"http://127.0.0.1:{self.server.server_address[1]}/me/small/commit/1",
                    "success": True,
                }
            )
        else:
            self.answer({"error": self.path}, 404)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Hub]]]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    handler = type("Started", (Hub,), {"made": {}, "asked": []})
    started = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=started.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{started.server_port}", handler
    started.shutdown()
    started.server_close()
    thread.join()


@pytest.fixture
def student(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    out = export_student(nn.Linear(3, 2), tmp_path / "student", class_names=("a", "b"))
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "weights.safetensors").write_bytes(b"of the training")
    (out / "metrics.jsonl").write_text("{}\n")
    return out


def test_the_student_is_uploaded_and_nothing_else(server, student: Path) -> None:
    endpoint, started = server
    address = push_to_hub(student, "me/small", token=SECRET, endpoint=endpoint)
    assert address.endswith("me/small")
    assert set(started.made) == {"model.safetensors", "config.json", "README.md"}
    push_to_hub(student, "me/small", token=SECRET, endpoint=endpoint)
    assert [path for _, path in started.asked].count("/api/repos/create") == 1, (
        "the second goes into the first's repository"
    )
    assert all(content == (student / name).read_bytes() for name, content in started.made.items())


def test_another_account_and_no_network_are_named(server, student: Path) -> None:
    endpoint, started = server
    with pytest.raises(ConfigError, match=r"(?s)refuses me/small.*hf auth login"):
        push_to_hub(student, "me/small", token="other", endpoint=endpoint)
    assert not started.made


def test_a_hub_that_cannot_be_reached_is_named(server, student: Path) -> None:
    with pytest.raises(ResourceError, match="the hub cannot be reached"):
        push_to_hub(student, "me/small", token=SECRET, endpoint="http://127.0.0.1:9")


def test_offline_bad_names_and_folders_without_a_student_are_refused(student: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(student, "me/small")
    for name in ("small", "me/small/more", "../me", "me/"):
        with pytest.raises(ConfigError, match="invalid name of a repository"):
            push_to_hub(student, name)
    with pytest.raises(ConfigError, match="holds no exported student"):
        push_to_hub(tmp_path, "me/small")
