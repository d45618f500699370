"""An agent, all inside Bastide: a model writes code, a sandbox runs it, and the answer comes back over HTTP.

    bastide deploy examples/chat.yaml && bastide deploy examples/agent
    curl -H "X-Bastide-Key: $BASTIDE_API_KEY" 'http://127.0.0.1:8787/apps/default/agent/ask?q=What+is+6+times+7'

Standard library only. BASTIDE_URL, OPENAI_BASE_URL and BASTIDE_API_KEY are given to every app: a key of its own,
scoped to its project. The model's words never run here: they run in a sandbox that reaches nothing.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODEL = os.environ.get("AGENT_MODEL", "chat")
TIER = os.environ.get("AGENT_TIER")  # none: the strongest, gvisor; a weaker one must be asked for
# A small model keeps to the form because the engine lets it say nothing else.
FORM = {
    "type": "object",
    "properties": {"code": {"type": "string", "pattern": "^print\\([1-9][0-9]? [-+*] [1-9][0-9]?\\)$"}},
    "required": ["code"],
}


def call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """One JSON question to Bastide."""
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body is not None else None)
    request.add_header("authorization", f"Bearer {os.environ['BASTIDE_API_KEY']}")
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def write_code(question: str) -> str:
    """What the model makes of the question."""
    answer = call("POST", f"{os.environ['OPENAI_BASE_URL']}/chat/completions", {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "code", "schema": FORM}},
    })  # fmt: skip
    return str(json.loads(answer["choices"][0]["message"]["content"])["code"])


def run_code(code: str) -> dict[str, Any]:
    """In a sandbox made for it, which ends with it."""
    sandboxes = f"{os.environ['BASTIDE_URL']}/api/v1/sandboxes"
    made = call("POST", sandboxes, {"timeout": 60, **({"tier": TIER} if TIER else {})})
    try:
        result = call("POST", f"{sandboxes}/{made['id']}/exec", {"argv": ["python3", "-c", code], "timeout": 20})
    finally:
        call("DELETE", f"{sandboxes}/{made['id']}")
    return {"tier": made["tier"], "printed": result["stdout"].strip(), "exit_code": result["exit_code"]}


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/ask":
            self.answer(200, {"agent": "ready", "ask": "/ask?q=QUESTION"})
            return
        question = parse_qs(parts.query).get("q", ["What is 6 times 7?"])[0]
        try:
            code = write_code(question)
            self.answer(200, {"question": question, "code": code, **run_code(code)})
        except urllib.error.HTTPError as error:
            self.answer(502, {"question": question, "error": error.read().decode(errors="replace")})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        """Bastide counts requests; what was asked is nobody's business."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Agent).serve_forever()
