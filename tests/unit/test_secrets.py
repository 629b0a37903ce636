"""Keys and passwords come into no message, log, metric, run folder or report."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import prometheus_client
import pytest
from served_model import ServedModel
from transformers import LlamaForCausalLM

from selfjudge.client import AsyncClient
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.openai_server import OpenAIEngine
from selfjudge.errors import EngineError, ModelError, RecipeError, SelfJudgeError, without_credentials, without_secret
from selfjudge.evaluation.report import write_report
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.recipes.schema import Recipe
from selfjudge.serving.upstream import UpstreamBackend
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.self_training import run_self_training

SECRET = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at http://me:{SECRET}@host:1/v1?x=a@b is", "at http://***@host:1/v1?x=a@b is"),
        (f"postgresql+psycopg://me:{SECRET}@host/db", "postgresql+psycopg://***@host/db"),
        (f"http://{SECRET}@host, https://me:p@ss@host/", "http://***@host, https://***@host/"),
        ("http://host/v1 of me@example.org, a@b", "http://host/v1 of me@example.org, a@b"),
        ("hf://datasets/org/name@main/x.parquet", "hf://datasets/org/name@main/x.parquet"),
    ],
)
def test_the_password_of_a_url(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    for kind in (SelfJudgeError, ModelError, EngineError):
        assert str(kind(text)) == shown


def test_only_what_can_be_a_key_is_taken_out() -> None:
    assert without_secret(f"refused {SECRET}, {SECRET}!", SECRET) == "refused ***, ***!"
    assert without_secret("the list is EMPTY", "EMPTY") == "the list is EMPTY"


@pytest.mark.parametrize("given", [SECRET, f"{SECRET}\n", f" {SECRET}\r\n"])
def test_a_server_that_repeats_the_key(
    world_chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [(401, {"error": {"message": f"Incorrect API key: {SECRET}"}})] * 2
    model = tiny_llama(world_chat.tokenizer)
    with ServedModel(model, world_chat, failures=failures, key=SECRET).running() as served:
        monkeypatch.setenv("OPENAI_API_KEY", given)
        for engine in (
            OpenAIEngine(served.url, world_chat, api_key=given, max_retries=0),
            OpenAIEngine(served.url, world_chat, max_retries=0),
        ):
            with pytest.raises(EngineError, match=r"Incorrect API key: \*\*\*"):
                engine.sample([[5]], SamplingParams(max_new_tokens=1))


def test_a_key_that_is_no_header(world_chat: ChatEncoder) -> None:
    """HTTP libraries repeat the header that they refuse."""
    with pytest.raises(EngineError, match="cannot be reached") as caught:
        OpenAIEngine("http://127.0.0.1:9/v1", world_chat, api_key=f"{SECRET}\n{SECRET}", max_retries=0)
    assert SECRET not in str(caught.value)

    async def ask() -> None:
        async with AsyncClient("http://127.0.0.1:9/v1", api_key=f"{SECRET}\n{SECRET}", max_retries=0) as client:
            await client.complete("q")

    with pytest.raises(EngineError, match="cannot be reached") as caught:
        asyncio.run(ask())
    assert SECRET not in str(caught.value)


def test_the_client_of_a_server_that_repeats_the_key(
    world_chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    failures = [(401, {"error": {"message": f"Incorrect API key: {SECRET}"}})]
    with ServedModel(tiny_llama(world_chat.tokenizer), world_chat, failures=failures).running() as served:

        async def ask() -> None:
            async with AsyncClient(served.url, api_key=f"{SECRET}\n", max_retries=0) as client:
                await client.complete("q")

        with pytest.raises(EngineError, match=r"answered 401: Incorrect API key: \*\*\*"):
            asyncio.run(ask())


def test_the_password_of_an_upstream(
    world_chat: ChatEncoder, tiny_llama: Callable[..., LlamaForCausalLM], caplog: pytest.LogCaptureFixture
) -> None:
    with ServedModel(tiny_llama(world_chat.tokenizer), world_chat).running() as served:
        urls = [served.url.replace("//", f"//user{i}:{SECRET}@") for i in range(2)]
        engines = [OpenAIEngine(url, world_chat, max_retries=0) for url in urls]
    backend = UpstreamBackend(engines, JudgmentEncoder(load_templates("world"), world_chat))
    with caplog.at_level(logging.DEBUG, "selfjudge"), pytest.raises(EngineError) as caught:
        asyncio.run(backend.check())
    metrics = prometheus_client.generate_latest().decode()
    assert "Trying another" in caplog.text
    assert "***@127.0.0.1" in metrics
    assert SECRET not in f"{caught.value} {caplog.text} {metrics}"


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        (f"self_training.judge={{kind: external, model: m, url: 'http://me:{SECRET}@h/v1'}}", "OPENAI_API_KEY"),
        (
            f"self_training.judge={{kind: external, model: m, url: ['http://g/v1', 'http://me:{SECRET}@h/v1']}}",
            "OPENAI_API_KEY",
        ),
        (f"self_training.training.hub_token={SECRET}", "HF_TOKEN"),
        (f"jsft.training.push_to_hub_token={SECRET}", "HF_TOKEN"),
        (f"baselines.rlhf.training.api_key={SECRET}", "HF_TOKEN"),
    ],
)
def test_a_secret_in_a_recipe(setting: str, advice: str) -> None:
    with pytest.raises(RecipeError, match=advice) as caught:
        changed(load_recipe("demo"), [setting])
    assert SECRET not in str(caught.value)


def test_a_whole_run_with_secrets_around(
    tiny_recipe: Callable[..., Recipe],
    tiny_model_folder: Path,
    world_chat: ChatEncoder,
    tiny_llama: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The judge's server wants a key; it, a token of the Hub and one of a tracker are in the environment."""
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    model = tiny_llama(world_chat.tokenizer)
    with ServedModel(model, world_chat, key=SECRET, max_model_len=512).running() as served:
        judge = {"kind": "external", "model": str(tiny_model_folder), "url": served.url}
        training = {"max_steps": 2, "save_steps": 1, "logging_steps": 1}
        with caplog.at_level(logging.DEBUG):
            run = run_self_training(
                tiny_recipe(self_training={"judge": judge, "training": training, "lora": None}), tmp_path / "run"
            )
        assert served.requests  # so that the key was used
    write_report(run.path, run.path / "report.html")
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("selfjudge"))
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err + ours
    files = [file for file in run.path.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"recipe.yaml", "run.json", "report.html", "trainer_state.json", "manifest.json"} <= names
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    assert json.loads((run.path / "run.json").read_text())["status"] == "finished"


def test_a_library_that_repeats_the_header_it_refuses() -> None:
    async def refused() -> None:
        request = httpx.Request("POST", "http://127.0.0.1:9/v1")
        raise openai.APIConnectionError(message=f"Illegal header value b'Bearer {SECRET}'", request=request)

    async def ask() -> None:
        async with AsyncClient("http://127.0.0.1:9/v1", api_key=SECRET) as client:
            await client._ask(refused())

    with pytest.raises(EngineError, match=r"cannot be reached \(Illegal header value b'Bearer \*\*\*'\)"):
        asyncio.run(ask())
