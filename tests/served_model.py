"""A real HTTP server in this process that speaks ``/v1/completions`` as vLLM does, or as lesser servers do."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.records import Completion
from selfjudge.templates.chat import ChatEncoder

NAME = "tiny"
Answer = tuple[int, Any]


class ServedModel:
    """The served model, how the server behaves, and the requests it has seen.

    ``mode``: ``vllm`` (gives ids, and labels by id), ``old vllm`` (ids, top candidates only), ``llama.cpp`` (ids of
    candidates only), ``text`` (texts only), or a fault: ``no logprobs``, ``no B``, ``one completion``, ``aborts``,
    ``hangs``, ``hangs after one``, ``web page``.
    ``stream``: what a streamed answer does once its first choice has ended: ``goes on``, ``waits``, ``breaks`` (the
    connection), ``fails`` (an event says so), ``ends``.
    """

    def __init__(self, model: PreTrainedModel, chat: ChatEncoder, mode: str = "vllm", **options: Any) -> None:
        self.engine = TransformersEngine(model, chat)
        self.chat = chat
        self.mode = mode
        self.stream: str = options.get("stream", "goes on")
        self.failures: list[Answer] = options.get("failures", [])
        self.max_model_len: int | None = options.get("max_model_len", 256)
        self.key: str | None = options.get("key")
        # What vLLM does with VLLM_ALLOW_RUNTIME_LORA_UPDATING: the engines of loaded adapters, all that ever were.
        self.takes_adapters: bool = options.get("takes_adapters", False)
        self.adapters: dict[str, TransformersEngine] = {}
        self.loaded: list[str] = []
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.stopped = threading.Event()
        # One model, many threads.
        self._model_lock, self._count_lock, self._adapter_lock = (threading.Lock() for _ in range(3))

    @contextmanager
    def running(self, port: int = 0) -> Iterator[ServedModel]:
        """Answers on a port, by default a free one, until the body ends."""
        server = ThreadingHTTPServer(("127.0.0.1", port), handler(self))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.stopped.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def models(self) -> Answer:
        adapter = {"id": "second", "object": "model", "created": 0, "owned_by": "test", "max_model_len": None}
        model = {**adapter, "id": NAME, "max_model_len": self.max_model_len}
        return 200, {"object": "list", "data": [model, adapter]}

    def change_adapters(self, path: str, body: dict[str, Any]) -> Answer:
        name, folder = body["lora_name"], body.get("lora_path")
        if not self.takes_adapters:
            return 404, {"detail": "Not Found"}
        with self._adapter_lock:
            if path == "/v1/unload_lora_adapter":
                return (200, "gone") if self.adapters.pop(name, None) else _refused(404, f"{name} is not loaded")
            if name in self.adapters:
                return _refused(400, f"The lora adapter '{name}' has already been loaded.")
            if not Path(folder).is_dir():
                return _refused(404, f"No adapter found for {folder}")
            adapted = PeftModel.from_pretrained(copy.deepcopy(self.engine.model), folder)
            self.adapters[name] = TransformersEngine(adapted, self.chat)
            self.loaded.append(name)
        return 200, f"Success: {name}"

    def complete(self, body: dict[str, Any]) -> Answer:
        with self._count_lock:
            self.requests.append(body)
            first = len(self.requests) == 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            failure = self.failures.pop(0) if self.failures else None
        try:
            if self.mode == "hangs" or (self.mode == "hangs after one" and not first):
                self.stopped.wait(30)
            if failure:
                return failure
            if self.takes_adapters and body["model"] not in (NAME, *self.adapters):
                return _refused(404, f"The model `{body['model']}` does not exist.")
            if self.mode == "web page":
                return 200, "<html>hello</html>"
            if self.most_at_once < 2:
                time.sleep(0.02)  # lets the others arrive, so that requests at once can be counted
            with self._model_lock:
                return 200, {"id": "1", "object": "text_completion", "created": 0, "model": NAME,
                             "choices": self._choices(body)}  # fmt: skip
        finally:
            with self._count_lock:
                self.at_once -= 1

    def pieces(self, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer: a token of each choice in turn, so that short ones end first."""
        pieces = [_pieces(choice) for choice in answer["choices"]]
        for step in range(max(map(len, pieces))):
            for own in pieces:
                if step >= len(own):
                    continue
                yield {**answer, "choices": [own[step]]}
                if own[step]["finish_reason"] is None or self.stream == "goes on":
                    continue
                if self.stream == "waits":
                    self.stopped.wait(30)
                if self.stream == "breaks":
                    raise ConnectionResetError
                if self.stream == "fails":
                    yield {"error": {"message": "out of memory", "code": 500}}
                return

    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        n = 1 if self.mode == "one completion" else body.get("n", 1)
        params = SamplingParams(n, body["temperature"], body.get("top_p", 1.0), body["max_tokens"], body.get("seed", 0))
        (completions,) = self._engine(body).sample([body["prompt"]], params)
        return [self._choice(i, body, c) for i, c in enumerate(completions)]

    def _engine(self, body: dict[str, Any]) -> TransformersEngine:
        return self.adapters.get(body["model"], self.engine)

    def _choice(self, index: int, body: dict[str, Any], completion: Completion) -> dict[str, Any]:
        vllm = self.mode in ("vllm", "old vllm")
        reason = "abort" if self.mode == "aborts" else completion.finish_reason
        choice = {"index": index, "text": completion.text, "finish_reason": reason, "logprobs": None}
        if vllm and self.mode != "old vllm" and body.get("return_token_ids"):
            choice["token_ids"] = list(completion.ids)
        if self.mode != "no logprobs" and body.get("logprobs") is not None:
            choice["logprobs"] = self._logprobs(body, completion)
        return choice

    def _logprobs(self, body: dict[str, Any], completion: Completion) -> dict[str, Any]:
        ids = list(completion.ids)
        with torch.no_grad():
            logits = self._engine(body).model(torch.tensor([[*body["prompt"], *ids]]), use_cache=False).logits
        rows = logits[0, len(body["prompt"]) - 1 : -1].log_softmax(-1)
        tops = [self._top(body, row, token) for row, token in zip(rows, ids, strict=True)]
        if self.mode == "llama.cpp":
            return {"content": [
                {"id": token, "token": self._name(body, token), "logprob": float(row[token]), "top_logprobs":
                 [{"id": t, "token": self._name(body, t), "logprob": value} for t, value in top.items()]}
                for token, row, top in zip(ids, rows, tops, strict=True)
            ]}  # fmt: skip
        return {
            "tokens": [self._name(body, token) for token in ids],
            "token_logprobs": [float(row[token]) for row, token in zip(rows, ids, strict=True)],
            "top_logprobs": [{self._name(body, t): value for t, value in top.items()} for top in tops],
            "text_offset": [0] * len(ids),
        }

    def _top(self, body: dict[str, Any], row: torch.Tensor, token: int) -> dict[int, float]:
        asked = body.get("logprob_token_ids") if self.mode == "vllm" else None
        candidates = asked or row.topk(min(body["logprobs"], len(row))).indices.tolist()
        if self.mode == "no B":
            candidates = [t for t in candidates if self.chat.decode([t]).strip() != "B"]
        return {t: float(row[t]) for t in dict.fromkeys([token, *candidates])}

    def _name(self, body: dict[str, Any], token: int) -> str:
        if self.mode in ("vllm", "old vllm", "no B") and body.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return self.chat.tokenizer.decode([token])


def _pieces(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """A choice token by token; its text is cut anywhere, as servers may hold some of it back."""
    logprobs = choice["logprobs"] or {}
    tokens = logprobs.get("tokens") or choice.get("token_ids") or [None]
    n, text = len(tokens), choice["text"]
    pieces = []
    for i in range(n):
        piece = {"index": choice["index"], "text": text[i * len(text) // n : (i + 1) * len(text) // n]}
        piece["finish_reason"] = choice["finish_reason"] if i == n - 1 else None
        piece["logprobs"] = {name: values[i : i + 1] for name, values in logprobs.items()} or None
        if "token_ids" in choice:
            piece["token_ids"] = choice["token_ids"][i : i + 1]
        pieces.append(piece)
    return pieces


def _refused(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "code": status}}


def handler(served: ServedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(*(served.models() if self.path == "/v1/models" else (404, {"detail": "Not Found"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            commands = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
            if self.path in commands:
                status, answer = served.change_adapters(self.path, body)
            else:
                status, answer = served.complete(body)
            if body.get("stream") and status == 200 and isinstance(answer, dict):
                self._stream(answer)
            else:
                self._send(status, answer)

        def _stream(self, answer: dict[str, Any]) -> None:
            try:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for event in chain(map(json.dumps, served.pieces(answer)), ["[DONE]"]):
                    self._chunk(f"data: {event}\n\n".encode())
                self._chunk(b"")
            except ConnectionError:  # as in _send, or meant
                self.close_connection = True

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def _send(self, status: int, answer: Any) -> None:
            if served.key and self.headers["Authorization"] != f"Bearer {served.key}":
                status, answer = 401, {"error": {"message": "Unauthorized", "code": 401}}
            text = isinstance(answer, str)
            payload = (answer if text else json.dumps(answer)).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if text else "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except ConnectionError:
                pass  # the client went away, as it should in some tests

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def served_models(model: PreTrainedModel, chat: ChatEncoder) -> Iterator[Callable[..., ServedModel]]:
    """Gives what starts servers of a model, as :class:`ServedModel` takes them; they end together."""
    with ExitStack() as stack:
        yield lambda mode="vllm", **options: stack.enter_context(ServedModel(model, chat, mode, **options).running())
