"""The date that a chat template writes: one for all of a run, and kept for its resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from selfjudge.engines.load import load_tokenizer
from selfjudge.recipes.schema import Recipe
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.training.run_folder import RunFolder, template_date
from selfjudge.training.start import load_start

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATED = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + CHATML
QUESTION = [Message(role="user", content="q")]


def shown(chat: ChatEncoder) -> str:
    return chat.tokenizer.decode(chat.prompt_ids(QUESTION), skip_special_tokens=False)


def test_the_date_is_the_one_given(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    chatml_tokenizer.chat_template = DATED
    chat = ChatEncoder(chatml_tokenizer, today=date(2031, 5, 7))
    assert "Today is 07 May 2031<|im_end|>" in shown(chat)
    assert chat.template.moves
    # The tokenizer keeps the template as it was, for the model's folder.
    assert chatml_tokenizer.chat_template == DATED
    assert date.today().strftime("%d %B %Y") in shown(ChatEncoder(chatml_tokenizer))


def test_a_template_without_a_date_does_not_move(chatml_tokenizer: PreTrainedTokenizerFast) -> None:
    assert not ChatEncoder(chatml_tokenizer).template.moves


def test_a_run_keeps_the_date_it_began_on(
    tiny_recipe: Callable[..., Recipe], tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "dated.jinja").write_text(DATED)
    recipe = tiny_recipe()
    recipe.model.chat_template = str(tmp_path / "dated.jinja")
    folder = tmp_path / "run"
    assert template_date(folder) == date.today()
    run = RunFolder.open(folder, "jsft", recipe)
    assert run.info["template_date"] == date.today().isoformat()
    # As if it had begun long ago.
    info = json.loads((folder / "run.json").read_text()) | {"template_date": "2020-02-29"}
    (folder / "run.json").write_text(json.dumps(info))
    assert template_date(folder) == template_date(folder / "round-2") == date(2020, 2, 29)
    loaded = load_start(recipe, str(tiny_model_folder), None, folder)
    assert loaded.chat.template.date == date(2020, 2, 29)
    assert load_tokenizer(tiny_model_folder, recipe.model.chat_template).template.date == date.today()
    assert RunFolder.open(folder / "round-2", "train", recipe).info["template_date"] == "2020-02-29"
