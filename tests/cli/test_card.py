"""Every run writes a model card, and `selfjudge card` puts an audit into it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard
from test_bad_input import refused

from selfjudge.world.people import preference_records


def test_runs_write_their_card(runs):
    info = json.loads((runs / "jsft" / "run.json").read_text())
    card = ModelCard.load(runs / "jsft" / "final" / "README.md")
    accuracy = info["held_out"]["accuracy"]["rate"]
    assert card.data.eval_results[0].metric_value == round(accuracy, 4)
    assert f"| accuracy | {100 * accuracy:.1f} % [" in card.text
    assert "| builtin:world | 60 | policy, judgment, prompts | `" + info["data"]["builtin:world"] in card.text
    assert f"Trained on {info['rows']['policy']} policy rows, {info['rows']['judgment']} judgment rows." in card.text
    card = ModelCard.load(runs / "train" / "final" / "README.md")
    assert f"Trained on {info_of(runs / 'train')['prompts']} prompts." in card.text
    assert "| started from | jsft |" in card.text
    assert str(runs) not in (runs / "train" / "final" / "README.md").read_text()


def info_of(run):
    return json.loads((run / "run.json").read_text())


def test_an_audit_is_put_into_the_card(run, runs, write, tmp_path):
    folder = tmp_path / "jsft"
    shutil.copytree(runs / "jsft", folder)
    rows = [{"prompt": r.prompt[0].content, "chosen": r.chosen, "rejected": r.rejected}
            for r in preference_records(8, seed=8)]  # fmt: skip
    audit = tmp_path / "audit.json"
    args = ("eval", "audit", "--model", folder, "--input", write("b.jsonl", rows), "--json", audit)
    assert run(*args).code == 0
    result = run("card", folder, "--audit", audit)
    assert result.code == 0, result.err
    text = (folder / "final" / "README.md").read_text()
    assert "on 8 pairs of b.jsonl" in text
    assert "| padding | " in text
    assert "| genders |" not in text  # there was nothing to try it on
    assert rows[0]["chosen"] not in text
    assert run("card", folder).code == 0
    assert (folder / "final" / "README.md").read_text() == text


def test_bad_input(run, tmp_path):
    refused(run("card", tmp_path), "holds no finished run with a model")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as takes one commit of small files; ``server.seen`` has what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}"
        answers = {
            "/api/repos/create": {"url": f"{here}/ada/judge", "name": "ada/judge"},
            "/api/models/ada/judge/preupload/main": None,
            "/api/models/ada/judge/commit/main": {"commitUrl": f"{here}/ada/judge/commit/1", "commitOid": "1"},
            "/api/validate-yaml": {"errors": [], "warnings": []},
        }
        self.server.seen.setdefault(self.path, []).append((self.headers["Authorization"], body))
        answer = answers.get(self.path)
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            answer = {"files": files}
        self.answer(200 if answer else 404, answer or {"error": "not here"})

    def do_GET(self):
        self.answer(200, {"id": "ada/judge", "sha": "0", "siblings": [], "private": True})

    def answer(self, status, body):
        if self.headers["Authorization"] != "Bearer hf_right":
            status, body = 401, {"error": "Invalid username or password."}
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_a_model_is_uploaded_with_its_card(runs, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.seen = {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"

        def push(name, token, **environment):
            command = [sys.executable, "-m", "selfjudge.cli.main", "card", str(runs / "jsft"), "--push-to-hub", name]
            env = {
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HUB_OFFLINE": "0",
                "HF_TOKEN": token,
                "HF_HOME": str(tmp_path),
            }
            return subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=120)

        try:
            done = push("ada/judge", "hf_right")
            wrong = push("ada/judge", "hf_wrong")
            offline = push("ada/judge", "hf_right", HF_HUB_OFFLINE="1")
            no_name = push("a b/c/d", "hf_right")
        finally:
            server.shutdown()
            thread.join()
    gone = push("ada/judge", "hf_right")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{address}/ada/judge/commit/1"
    created = json.loads(server.seen["/api/repos/create"][0][1])
    assert created["name"] == "judge"
    assert created["organization"] == "ada"
    assert created.get("visibility", "private" if created.get("private") else None) == "private"  # older clients
    ((_, commit),) = server.seen["/api/models/ada/judge/commit/main"]
    parts = [json.loads(line) for line in commit.splitlines()]
    sent = {part["value"]["path"]: b64decode(part["value"]["content"]) for part in parts if part["key"] == "file"}
    folder = runs / "jsft" / "final"
    assert sent == {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert {"README.md", "model.safetensors"} <= sent.keys()
    for failed, said in [
        (wrong, "was not uploaded to ada/judge"),
        (offline, "HF_HUB_OFFLINE is set"),
        (no_name, "no name of a repository"),
        (gone, "was not uploaded to ada/judge"),
    ]:
        assert failed.returncode == 2, failed.stdout
        assert said in failed.stderr
        assert failed.stderr.startswith("Error: ")
        assert "hf_" not in failed.stderr.replace("hf_token", "")
