"""The judge against an independent computation, and what must not change its verdicts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from selfjudge.engines.base import Progress, SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Completion, Message, Verdict
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates

WORDS = ["oak", "fern", "moss", "owl", "wolf", "deer", "tide", "coral", "crab", "reef", "sail", "kelp", "shell", "wave"]


def make_comparisons(n: int) -> list[Comparison]:
    """Pairs of very different lengths."""
    rng = random.Random(0)
    return [
        Comparison(
            id=str(i),
            prompt=(Message(role="user", content=f"Name {i} things of the sea."),),
            response_a=", ".join(rng.choices(WORDS, k=rng.randint(0, 20))),
            response_b=", ".join(rng.choices(WORDS, k=rng.randint(1, 8))) + ".",
        )
        for i in range(n)
    ]


COMPARISON = make_comparisons(1)[0]


def make_judge(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast, **kwargs: object) -> Judge:
    templates = kwargs.pop("templates", "general")
    chat = ChatEncoder(tokenizer)
    return Judge(TransformersEngine(model, chat, **kwargs), JudgmentEncoder(load_templates(templates), chat))


def numbers(verdicts: list[Verdict]) -> np.ndarray:
    return np.array([[v.strength, v.label_mass, v.p.AB.A, v.p.AB.B, v.p.BA.A, v.p.BA.B] for v in verdicts])


GENERAL = (
    "<|im_start|>system\nYou compare two responses to a prompt and pick the better one. Quality decides, not length "
    "and not the order in which they are shown.<|im_end|>\n<|im_start|>user\n### Prompt\n{0}\n\n### Response A\n{1}"
    "\n\n### Response B\n{2}\n\n### Question\nWhich response answers the prompt better? Answer with A or B.<|im_end|>\n"
    "<|im_start|>assistant\nBetter: Response"
)
WORLD = "<|im_start|>user\n{0}\nA: {1}\nB: {2}\nBetter: A or B?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize(
    ("fixture", "templates", "text", "labels"),
    [
        ("chatml_tokenizer", "general", GENERAL, (" A", " B")),
        ("world_tokenizer", "world", WORLD, ("A", "B")),
    ],
)
def test_verdicts_equal_a_plain_computation(
    request: pytest.FixtureRequest, family: str, fixture: str, templates: str, text: str, labels: tuple[str, str]
) -> None:
    tokenizer = request.getfixturevalue(fixture)
    model = request.getfixturevalue(family)(tokenizer)
    comparisons = make_comparisons(8)
    verdicts = make_judge(model, tokenizer, templates=templates).judge(comparisons)
    for c, verdict in zip(comparisons, verdicts, strict=True):
        p = []
        for first, second in ((c.response_a, c.response_b), (c.response_b, c.response_a)):
            ids = tokenizer(text.format(c.prompt[0].content, first, second), add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            p += [float(probabilities[tokenizer.encode(label, add_special_tokens=False)[0]]) for label in labels]
        ab_a, ab_b, ba_a, ba_b = p
        assert pytest.approx(tuple(p), rel=1e-4) == (verdict.p.AB.A, verdict.p.AB.B, verdict.p.BA.A, verdict.p.BA.B)
        s_a, s_b = (ab_a + ba_b) / 2, (ab_b + ba_a) / 2
        assert verdict.strength == pytest.approx(s_a / (s_a + s_b), abs=1e-5)
        assert verdict.preferred == ("A" if s_a > s_b else "B")
        assert verdict.label_mass == pytest.approx(s_a + s_b, rel=1e-4)
        assert verdict.agree == ((ab_a > ab_b) == (ba_b > ba_a))
    assert len({v.preferred for v in verdicts}) == 2  # there are both outcomes to tell apart


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_batching_changes_nothing(
    request: pytest.FixtureRequest, family: str, chatml_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = request.getfixturevalue(family)(chatml_tokenizer)
    comparisons = make_comparisons(20)
    alone = make_judge(model, chatml_tokenizer, batch_size=1).judge(comparisons)
    assert np.ptp(numbers(alone)[:, 0]) > 0.1  # verdicts that differ widely
    for options in ({"batch_size": 7}, {"batch_size": 64}, {"token_budget": 1}, {"token_budget": 500}, {}):
        found = make_judge(model, chatml_tokenizer, **options).judge(comparisons)
        np.testing.assert_allclose(numbers(found), numbers(alone), atol=1e-4, rtol=1e-3)
        assert [v.preferred for v in found] == [v.preferred for v in alone]


def test_an_adapter_switched_off_is_the_base_model(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    comparisons = make_comparisons(4)
    model = tiny_llama(chatml_tokenizer)
    base = make_judge(model, chatml_tokenizer).judge(comparisons)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    fresh = make_judge(adapted, chatml_tokenizer).judge(comparisons)
    np.testing.assert_allclose(numbers(fresh), numbers(base), atol=1e-6)  # B = 0: an adapter that does nothing
    on, off = make_judge(adapted, chatml_tokenizer), make_judge(adapted, chatml_tokenizer, adapter=False)
    untouched = off.judge(comparisons)
    # The same weights in other layers: equal but for the last bit of a float32.
    np.testing.assert_allclose(numbers(untouched), numbers(base), atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    before = on.judge(comparisons)
    assert off.judge(comparisons) == untouched
    assert np.abs(numbers(before) - numbers(base)).max() > 0.01
    assert on.judge(comparisons) == before  # switched on again after every call


def test_probabilities_are_raw_whatever_the_generation_config(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer)
    plain = make_judge(model, chatml_tokenizer).judge(make_comparisons(4))
    own = GenerationConfig(do_sample=True, temperature=0.1, top_p=0.1, top_k=1, repetition_penalty=5.0)
    model.generation_config = own
    assert make_judge(model, chatml_tokenizer).judge(make_comparisons(4)) == plain
    assert model.generation_config is own


@pytest.mark.parametrize("batch_size", [1, None])
def test_an_identical_pair_is_an_exact_tie(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM], batch_size: int | None
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer, batch_size=batch_size)
    twins = [c.model_copy(update={"response_b": c.response_a}) for c in make_comparisons(12)]
    mixed = [c for pair in zip(twins, make_comparisons(12), strict=True) for c in pair]
    for verdict in judge.judge(mixed)[::2]:
        assert (verdict.preferred, verdict.strength, verdict.agree) == ("tie", 0.5, False)


def test_swapping_the_responses_mirrors_the_verdict(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer, templates="ultrafeedback-principles")
    comparisons = make_comparisons(6)
    swapped = [c.model_copy(update={"response_a": c.response_b, "response_b": c.response_a}) for c in comparisons]
    for verdict, mirror in zip(judge.judge(comparisons), judge.judge(swapped), strict=True):
        assert mirror.preferred == {"A": "B", "B": "A"}[verdict.preferred]
        assert mirror.strength == pytest.approx(1 - verdict.strength, abs=1e-5)
        assert mirror.agree == verdict.agree
        names = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
        assert [p.principle for p in verdict.principles] == names


def test_every_principle_is_asked_by_its_own_prompt(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer, templates="ultrafeedback-principles")
    questions = judge.questions(make_comparisons(2))
    assert [(q.comparison.id, q.principle, q.order) for q in questions] == [
        (i, name, order)
        for i in "01"
        for name in ("helpfulness", "honesty", "instruction_following", "truthfulness")
        for order in ("AB", "BA")
    ]
    assert len({q.prompt for q in questions}) == 16
    verdict = judge.judge(make_comparisons(1))[0]
    alone = judge.engine.label_probabilities([q.prompt for q in questions[:8]])
    found = [[p.p.AB.A, p.p.AB.B, p.p.BA.A, p.p.BA.B] for p in verdict.principles]
    np.testing.assert_allclose(found, alone.reshape(4, 4), atol=1e-6)


def test_compare_takes_a_text_or_a_dialogue(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer)
    one = judge.compare("Name two.", "oak", "fern")
    assert one == judge.compare((Message(role="user", content="Name two."),), "oak", "fern")
    assert one != judge.compare("Name three.", "oak", "fern")
    assert judge.judge([]) == []


def test_a_pair_that_does_not_fit_is_named(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer, context=200), chatml_tokenizer)
    short, long = make_comparisons(2)
    short = short.model_copy(update={"response_a": "oak", "response_b": "fern"})
    long = long.model_copy(update={"id": "row-17", "response_b": "tide, " * 60})
    assert judge.fits(short)
    assert not judge.fits(long)
    assert judge.fitting([short, long, short]) == [judge.questions([short]), [], judge.questions([short])]
    assert judge.longest_prompts([long, short]) == [judge.longest_prompt(long), judge.longest_prompt(short)]
    with pytest.raises(DataError, match=r"'row-17': its judgment prompt has \d+ tokens, the model takes 200"):
        judge.judge([short, long])


def test_progress_counts_every_prompt(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    counts: list[int] = []
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer, batch_size=2)
    judge.judge([*make_comparisons(3), make_comparisons(1)[0]], counts.append)  # the last is asked for a second time
    assert sum(counts) == 2 * 4


def test_a_rationale_goes_on_after_the_decision_with_a_shown_first(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    model = tiny_llama(chatml_tokenizer, context=2048)
    judge = make_judge(model, chatml_tokenizer, templates="ultrafeedback-principles")
    same = Comparison(id="tie", prompt=COMPARISON.prompt, response_a="oak", response_b="oak")
    pairs = make_comparisons(2)
    mirrored = [c.model_copy(update={"response_a": c.response_b, "response_b": c.response_a}) for c in pairs]
    comparisons = [*pairs, *mirrored, same]
    questions = judge.questions(comparisons)
    verdicts = judge.verdicts(questions)
    found = judge.rationales(questions, verdicts, max_new_tokens=6)
    assert found[-1] == {}  # nothing was decided
    sides = set()
    for comparison, verdict, texts in zip(comparisons[:-1], verdicts, found, strict=False):
        assert list(texts) == list(judge.encoder.principles)
        for p in verdict.principles:
            prompt = judge.encoder.principles[p.principle].prompt(
                comparison.prompt, comparison.response_a, comparison.response_b
            )
            ids = [*prompt.token_ids, prompt.label_ids[0 if p.preferred == "A" else 1]]
            out = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
            stops = [i for i, token in enumerate(out) if token in judge.engine.chat.stop_ids]  # type: ignore[attr-defined]
            expected = judge.engine.chat.decode(out[: stops[0]] if stops else out)  # type: ignore[attr-defined]
            assert texts[p.principle] == expected.strip()
            sides.add(p.preferred)
    assert sides == {"A", "B"}


class Spoken:
    """Says a rationale for each decision, but for the last ``missing``."""

    max_length = 2048

    def __init__(self, missing: int = 0) -> None:
        self.missing = missing

    def sample(self, prompts: list[Any], params: SamplingParams, progress: Progress) -> list[list[Completion]]:
        progress(len(prompts))
        found = [[Completion(ids=(1,), text=" because \n", finish_reason="stop")] for _ in prompts]
        return found[: len(found) - self.missing]


def test_rationales_are_counted_and_none_may_be_missing(world_chat: ChatEncoder) -> None:
    world = load_templates("world")
    templates = replace(world, templates=(replace(world.templates[0], rationale="A: {rationale_a}\nB: {rationale_b}"),))
    encoder = JudgmentEncoder(templates, world_chat)
    judge = Judge(Spoken(), encoder)  # type: ignore[arg-type]
    questions = judge.questions(make_comparisons(3))
    verdicts = judge.read(np.array([[0.9, 0.1], [0.1, 0.9]] * 3))
    counts: list[int] = []
    assert judge.rationales(questions, verdicts, 5, counts.append) == [{"overall": "because"}] * 3
    assert counts == [3]
    with pytest.raises(ValueError, match="zip"):
        judge.rationales(questions[:-2], verdicts, 5, counts.append)
    with pytest.raises(ValueError, match="zip"):
        Judge(Spoken(1), encoder).rationales(questions, verdicts, 5, counts.append)  # type: ignore[arg-type]


def test_without_a_rationale_in_the_template_there_is_none(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer)
    questions = judge.questions([COMPARISON])
    assert judge.rationales(questions, judge.verdicts(questions), max_new_tokens=4) == [{}]


def test_two_responses_that_fill_the_room_just_fit(
    chatml_tokenizer: PreTrainedTokenizerFast, tiny_llama: Callable[..., LlamaForCausalLM]
) -> None:
    """Under the principle with the longest template, in either order."""
    judge = make_judge(tiny_llama(chatml_tokenizer), chatml_tokenizer, templates="ultrafeedback-principles")
    prompt = (Message(role="user", content="Name the sea."),)

    def longest(a: str, b: str) -> int:
        questions = Comparison(id="0", prompt=prompt, response_a=a, response_b=b)
        return judge.longest_prompt(questions)

    lengths = [len(e.prompt(prompt, "", "").token_ids) for e in judge.encoder.principles.values()]
    assert len(set(lengths)) > 1
    assert max(lengths) == longest("", "")
    limit = judge.engine.max_length - 1 - max(lengths)
    assert judge.room(prompt) == limit // 2
