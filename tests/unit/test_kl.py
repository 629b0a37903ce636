"""The KL to the reference: exact per token, and what its mean along sampled responses estimates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from selfjudge.core import logprobs as core
from selfjudge.core.logprobs import token_kl
from selfjudge.engines import hf
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.hf import TransformersEngine
from selfjudge.templates.chat import Reading

VOCAB, STOP, LONGEST = 6, 5, 4
PROMPT = (1, 2, 3)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
CHAT: Any = SimpleNamespace(
    tokenizer=SimpleNamespace(pad_token_id=0), stop_ids=(STOP,), read=lambda ids, prompt: Reading(str(ids))
)


def llama(seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def capped(seed: int = 0) -> Gemma2ForCausalLM:
    """Caps its logits behind the head, so strongly that it shows."""
    config = Gemma2Config(**SIZES, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Gemma2ForCausalLM(config).eval()


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with other weights."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in other.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return other


def with_lora(model: PreTrainedModel, *, fresh: bool = False) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=fresh)
        return get_peft_model(copy.deepcopy(model), config).eval()


def test_token_kl_by_hand() -> None:
    # p = (1/4, 3/4), q = (1/2, 1/2): 1/4 log(1/2) + 3/4 log(3/2). A constant on all logits changes nothing.
    policy, reference = torch.tensor([[7.0, 7.0 + math.log(3)], [2.0, 2.0]]), torch.zeros(2, 2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert token_kl(policy, reference).tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    # The other way round it is another number: 1/2 log 2 + 1/2 log(2/3).
    assert token_kl(reference, policy).tolist()[0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_token_kl_of_equal_logits_is_exactly_zero_and_never_less() -> None:
    logits = 5 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    assert not token_kl(logits, logits.clone()).any()
    nearly = logits + 1e-6 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(1))
    assert float(token_kl(logits, nearly).min()) >= 0
    assert float((logits.softmax(-1) * (logits.log_softmax(-1) - nearly.log_softmax(-1))).sum(-1).min()) < 0  # rounding


def test_token_kl_is_in_float32_and_knows_masked_tokens() -> None:
    wide = torch.zeros(1, 1000, dtype=torch.bfloat16)
    narrow = wide.clone()
    narrow[0, 500:] = -torch.inf  # p is 1/500 on half of the tokens, q is 1/1000: log 2
    found = token_kl(narrow, wide)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([math.log(2)], abs=1e-6)
    assert token_kl(narrow, narrow).tolist() == [0.0]
    assert token_kl(wide, narrow).tolist() == [math.inf]
    assert token_kl(narrow * math.nan, wide).isnan().all()  # a broken model is not hidden


ROWS = [((1, 2, 3), (4, 0, 1, 5)), ((4,), (2,)), ((3, 3, 1, 2, 4, 1), (1, 5)), ((2, 1), (3, 3, 3))]


def plainly(policy: Callable[..., Any], reference: Callable[..., Any], dtype: torch.dtype) -> list[float]:
    """Row by row, token by token, in float64."""
    found = []
    for prompt, response in ROWS:
        ids, total = torch.tensor([[*prompt, *response]]), 0.0
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].to(dtype).double().softmax(-1) for model in (policy, reference))
        for i in range(len(prompt) - 1, len(prompt) + len(response) - 1):
            total += sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p[i], q[i], strict=True))
        found.append(total)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [llama, capped])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"token_budget": 12}])
def test_response_kl_is_that_of_a_plain_loop(
    make: Callable[[], PreTrainedModel], dtype: torch.dtype, options: dict[str, int]
) -> None:
    reference = make().to(dtype)
    policy = moved(reference)
    found = TransformersEngine(policy, CHAT, **options).response_kl(TransformersEngine(reference, CHAT), ROWS)
    expected = plainly(policy, reference, dtype)
    assert found == pytest.approx(expected, rel=1e-3 if dtype == torch.float32 else 0.1)
    assert max(expected) > 0.1
    assert TransformersEngine(policy, CHAT).response_kl(TransformersEngine(reference, CHAT), []) == []


def test_with_lora_the_reference_is_the_same_model_without_its_adapter() -> None:
    model = with_lora(llama())
    policy, reference = TransformersEngine(model, CHAT), TransformersEngine(model, CHAT, adapter=False)
    found = policy.response_kl(reference, ROWS)
    assert found == pytest.approx(plainly(model, llama(), torch.float32), rel=1e-3)
    assert min(found) > 1e-3
    assert policy.response_kl(policy, ROWS) == [0.0] * 4
    assert model.training is False
    assert all(not module.disable_adapters for module in model.modules() if hasattr(module, "lora_A"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [llama, capped])
def test_it_is_exactly_zero_where_the_policy_is_the_reference(
    make: Callable[[], PreTrainedModel], dtype: torch.dtype
) -> None:
    start = make().to(dtype)
    model = with_lora(start, fresh=True)
    for policy, reference in [
        (TransformersEngine(model, CHAT), TransformersEngine(model, CHAT, adapter=False)),
        (TransformersEngine(start, CHAT), TransformersEngine(copy.deepcopy(start), CHAT)),
    ]:
        assert policy.response_kl(reference, ROWS) == [0.0] * 4


def test_logits_in_memory_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = llama()
    policy = moved(reference)
    both = TransformersEngine(policy, CHAT), TransformersEngine(reference, CHAT)
    expected = both[0].response_kl(both[1], ROWS)
    positions: list[int] = []

    def seen(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
        positions.append(len(policy_logits))
        return token_kl(policy_logits, reference_logits)

    heads: list[int] = []
    policy.lm_head.register_forward_hook(lambda module, args, out: heads.append(out.shape[1]))
    monkeypatch.setattr(hf, "token_kl", seen)
    monkeypatch.setattr(core, "CHUNK_BYTES", 8 * 4 * VOCAB)  # eight positions
    assert both[0].response_kl(both[1], ROWS) == pytest.approx(expected, rel=1e-4)
    assert max(heads) <= 8
    assert max(positions) == 2
    assert sum(heads) == sum(positions) == sum(len(response) for _, response in ROWS)


def test_where_memory_runs_out_the_batches_become_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = llama()
    policy, rows = moved(reference), []
    both = TransformersEngine(policy, CHAT), TransformersEngine(reference, CHAT)
    expected = both[0].response_kl(both[1], ROWS)
    forward = reference.forward

    def small(input_ids: Tensor, **kwargs: Any) -> Any:
        rows.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(reference, "forward", small)
    assert both[0].response_kl(both[1], ROWS) == pytest.approx(expected, rel=1e-4)
    assert rows[0] > 1
    assert rows.count(1) == 4


class Enumerated:
    """All responses to a prompt that a policy of six tokens can give in four: 781, with what two models say of them."""

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel) -> None:
        self.responses = _responses()
        rows = [(PROMPT, response) for response in self.responses]
        self.policy, start = TransformersEngine(policy, CHAT), TransformersEngine(reference, CHAT)
        self.kl = torch.tensor(self.policy.response_kl(start, rows)).double()
        own, other = (torch.tensor(engine.response_logprobs(rows)).double() for engine in (self.policy, start))
        self.log_ratio = own - other
        self.tokens, self.logits = _padded(self.responses), _logits(policy, self.responses).detach()
        p = self.probabilities(1.0, 1.0)
        assert float(p.sum()) == pytest.approx(1, abs=1e-6)
        self.exact = float((p * self.log_ratio).sum())

    def probabilities(self, temperature: float, top_p: float) -> Tensor:
        """How often each response is sampled: the smallest set of likely tokens that holds top_p, and no others."""
        p, order = (self.logits / temperature).softmax(-1).sort(-1, descending=True)
        kept = p.where(p.cumsum(-1) - p < top_p, 0)
        p = torch.zeros_like(p).scatter(-1, order, kept / kept.sum(-1, keepdim=True))
        return _of_tokens(p, self.tokens).prod(-1)

    def means(self, temperature: float, top_p: float) -> tuple[float, float]:
        """Means over what is sampled of the log-ratio and of the KL along the response, less 1 as shares of the KL."""
        p = self.probabilities(temperature, top_p)
        return float((p * self.log_ratio).sum()) / self.exact - 1, float((p * self.kl).sum()) / self.exact - 1


def _responses() -> list[tuple[int, ...]]:
    ended, going = [], [()]
    for _ in range(LONGEST):
        going = [(*response, token) for response in going for token in range(VOCAB)]
        ended += [response for response in going if response[-1] == STOP]
        going = [response for response in going if response[-1] != STOP]
    return ended + going


def _padded(responses: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor([[*response, *[-1] * (LONGEST - len(response))] for response in responses])


def _logits(model: PreTrainedModel, responses: list[tuple[int, ...]]) -> Tensor:
    """[responses, longest, vocab] in float64; of tokens that fill up they mean nothing."""
    ids = torch.cat([torch.tensor(PROMPT).expand(len(responses), -1), _padded(responses).clamp(min=0)], -1)
    return model(input_ids=ids).logits[:, len(PROMPT) - 1 : -1].double()


def _of_tokens(p: Tensor, tokens: Tensor) -> Tensor:
    """Picks each token's value, 1 for tokens that fill up."""
    return p.gather(-1, tokens.clamp(min=0)[..., None])[..., 0].masked_fill(tokens < 0, 1.0)


def drifted(reference: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """A policy that was trained on a random reward of neighbouring tokens, by exact gradients, up to a KL of 0.86."""
    policy, responses = copy.deepcopy(reference), _responses()
    tokens = _padded(responses)
    reward = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)).double()
    of_response = torch.stack([sum(reward[a, b] for a, b in zip((3, *y), y, strict=False)) for y in responses])
    start = _of_tokens(_logits(reference, responses).softmax(-1), tokens).prod(-1).detach()
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-4)
    for _ in range(100):
        p = _of_tokens(_logits(policy, responses).softmax(-1), tokens).prod(-1)
        if float((p * (p / start).log()).sum().detach()) > 0.86:
            return policy
        (-p * of_response).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("the policy does not move")


@pytest.fixture(scope="module")
def enumerated() -> list[Enumerated]:
    return [Enumerated(drifted(llama(seed), seed), llama(seed)) for seed in range(6)]


def test_what_it_estimates_is_found_by_complete_enumeration(enumerated: list[Enumerated]) -> None:
    """docs/self-training.md has these figures; ``pytest -s`` prints them."""
    found: dict[tuple[float, float], tuple[list[float], list[float]]] = {}
    for how in [(1.0, 1.0), (1.0, 0.9), (0.7, 1.0), (0.7, 0.9)]:
        found[how] = ratio, kl = tuple([e.means(*how)[i] for e in enumerated] for i in (0, 1))
        print(how, *(f"{sum(x) / 6:+.3f} [{min(x):+.3f}, {max(x):+.3f}]" for x in (ratio, kl)))
    assert found[1.0, 1.0][1] == pytest.approx([0.0] * 6, abs=1e-4)
    for how in ((1.0, 0.9), (0.7, 1.0), (0.7, 0.9)):
        ratio, kl = found[how]
        assert sum(map(abs, kl)) < 0.25 * sum(map(abs, ratio)), how


def test_samples_of_the_engine_have_the_mean_and_less_noise_than_their_log_ratios(enumerated: list[Enumerated]) -> None:
    one, n = enumerated[0], 3000
    reference = TransformersEngine(llama(0), CHAT)
    for temperature, top_p in [(1.0, 1.0), (0.7, 0.9)]:
        params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_new_tokens=LONGEST, seed=1)
        rows = [(PROMPT, sample.ids) for sample in one.policy.sample([PROMPT], params)[0]]
        kl = torch.tensor(one.policy.response_kl(reference, rows)).double()
        expected = (1 + one.means(temperature, top_p)[1]) * one.exact
        assert float(kl.mean()) == pytest.approx(expected, abs=4 * float(kl.std()) / n**0.5)
        ratio = [a - b for a, b in zip(*(e.response_logprobs(rows) for e in (one.policy, reference)), strict=True)]
        assert float(kl.var()) < 0.25 * float(torch.tensor(ratio).var())
