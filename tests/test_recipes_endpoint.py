"""The program in recipes/ that asks an endpoint: against a small server on loopback, killed and started again."""

from __future__ import annotations

import json
import math
import runpy
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("openai")

PROGRAM = Path(__file__).parent.parent / "recipes" / "ask_endpoint.py"
TEXTS = 60


class Endpoint(BaseHTTPRequestHandler):
    """Answers a chat completion by the word in its prompt; stops the program in the middle of its work."""

    asked: ClassVar[list[str]] = []
    child: ClassVar[subprocess.Popen | None] = None

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = request["messages"][0]["content"].rpartition("\n")[2]
        Endpoint.asked.append(text)
        if Endpoint.child is not None and len(Endpoint.asked) == 8:
            Endpoint.child.send_signal(signal.SIGKILL)
            Endpoint.child.wait()
            return
        shares = {"good": 0.8, " bad": 0.1, "I": 0.05} if "fine" in text else {" bad": 0.7, "good": 0.2, "I": 0.05}
        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in shares.items()][
            : request["top_logprobs"]
        ]
        body = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": request["model"],
            "choices": [{
                "index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": top[0]["token"]},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
            }],
        }  # fmt: skip
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.mark.slow
def test_a_killed_program_asks_only_for_what_is_missing(tmp_path, monkeypatch, capsys) -> None:
    lines = [
        {"text": f"{'fine' if n % 2 else 'poor'} thing {n}", "label": "good" if n % 2 else "bad"} for n in range(TEXTS)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = ["texts.jsonl", "--model", "small", "--out", "run", "--top", "3", "--transfer", "20", "--steps", "5"]
    try:
        Endpoint.child = subprocess.Popen([sys.executable, str(PROGRAM), *command], stderr=subprocess.PIPE)
        _, outputs = Endpoint.child.communicate()
        assert Endpoint.child.returncode == -signal.SIGKILL, outputs.decode()
        answers = tmp_path / "run" / "answers.jsonl"
        assert len(answers.read_text().splitlines()) == 7
        with answers.open("a") as file:
            file.write('{"custom_id": "5", "respon')  # what a machine that lost its power would leave
        Endpoint.child = None
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *command])
        runpy.run_path(str(PROGRAM), run_name="__main__")
    finally:
        server.shutdown()
        server.server_close()
    assert len(Endpoint.asked) == 8 + 13 and len(set(Endpoint.asked)) == 20
    assert len({json.loads(line)["custom_id"] for line in answers.read_text().splitlines()}) == 20
    assert "nats an example" in capsys.readouterr().out
