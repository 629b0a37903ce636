"""The recipe: one YAML file for the whole road, as typed sections. Imports no torch.

Each stage's ``training`` part is handed to ``transformers.TrainingArguments`` (of a baseline, to the configuration of
its TRL trainer) as it is, so what users know keeps its name; everything else is validated here, and an unknown key is
an error that suggests the nearest one.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from selfjudge.recipes.comparison import BaselinesSection
from selfjudge.recipes.section import Name, Section, Switch, Training, Urls
from selfjudge.recipes.study import StudySection

Use = Literal["policy", "judgment", "prompts"]


class ModelSection(Section):
    """The model that JSFT starts from."""

    path: str = Field(description="Hub id, folder, run folder, .gguf file, or builtin:world")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of the weights; auto: float32 on a CPU and for full fine-tuning, else bfloat16"
    )
    chat_template: str | None = Field(
        None, description="replace the tokenizer's: the path of a Jinja file, or 'plain' for the one shipped here"
    )
    thinking: Switch = Field(
        "off",
        description="on: the policy thinks before it answers; judgments and JSFT rows are without thoughts either way",
    )
    attn_implementation: str | None = Field(None, description="passed to from_pretrained")


class SourceSection(Section):
    """One preference source."""

    path: str = Field(description="Hub id, local file, or builtin:world")
    format: str = Field("auto", description="recognised from the columns unless forced")
    columns: dict[str, str] = Field({}, description="our name for a column: the file's, as in `prompt: question`")
    subset: str | None = Field(None, description="configuration or folder within a Hub dataset")
    split: str = Field("train", description="split of a Hub dataset")
    limit: int | None = Field(None, ge=1, description="read only the first rows")
    use: list[Use] = Field(
        default=["policy", "judgment", "prompts"],
        description="what its records serve for: JSFT policy rows, JSFT judgment rows, self-training prompts",
    )


class DataSection(Section):
    """Where preferences come from and how pairs are made."""

    sources: list[SourceSection] = Field(min_length=1)
    tie_rule: Literal["drop", "longer"] = Field("drop", description="equal ratings: drop, or prefer the longer answer")
    pairs: Literal["overall", "per_principle"] = Field(
        "overall", description="rated sources: pairs by the mean rating, or also by each principle's own"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share of prompts kept out of training")
    max_length: int = Field(2048, ge=16, description="tokens of a row at most; longer rows are dropped and named")


class TemplatesSection(Section):
    """The judgment templates."""

    set: str = Field("general", description="a shipped set, or a folder of .txt files")
    rationale: bool = Field(False, description="train the rationale after the label where the data has one")


class JudgeSection(Section):
    """How judging and sampling are batched."""

    token_budget: int | None = Field(
        None, ge=1, description="padded tokens of a batch; by default 8192 on a CPU, on a GPU what memory allows"
    )
    batch_size: int | None = Field(None, ge=1, description="rows of a batch at most; by default the budget decides")


class LoraSection(Section):
    """A LoRA adapter, as in peft.LoraConfig."""

    r: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class JsftSection(Section):
    """Judge-augmented supervised fine-tuning."""

    rows: Literal["both", "policy", "judgment"] = Field("both", description="policy alone is plain SFT")
    judgment_weight: float = Field(
        1.0, gt=0, description="weight of a judgment row's target token against a policy row's target token"
    )
    counterfactual: bool = Field(
        False, description="judgment rows also of copies with names and genders exchanged, under the same label"
    )
    packing: bool = Field(
        False, description="put several rows of a micro-batch into one sequence instead of padding; none sees another"
    )
    lora: LoraSection | None = Field(None, description="train a LoRA adapter and merge it; null trains all weights")
    training: Training = Field(default_factory=dict, description="transformers.TrainingArguments")

    @model_validator(mode="after")
    def _copies_are_of_judgments(self) -> Self:
        if self.counterfactual and self.rows == "policy":
            raise ValueError(
                "jsft.counterfactual=true copies judgment rows, and jsft.rows=policy has none: set rows to both or "
                "judgment, or counterfactual to false."
            )
        return self


class RolloutSection(Section):
    """How pairs are sampled from the current policy."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_new_tokens: int = Field(768, ge=1)
    samples: int = Field(2, ge=2, description="samples for each prompt; each two of them are judged")
    pairs: Literal["best_worst", "all"] = Field(
        "best_worst", description="of more than two samples: the best against the worst, or each against each"
    )
    steps: int = Field(1, ge=1, description="optimisation steps taken on one rollout; 1 is strictly on-policy")
    ahead: int = Field(
        0,
        ge=0,
        le=1,
        alias="async",  # a word that Python keeps for itself
        description="rollouts sampled and judged while the one before is trained on; needs engine: vllm or openai",
    )


class StopSection(Section):
    """When to stop before the last step. No rule here sees a true preference."""

    max_kl: float | None = Field(None, gt=0, description="KL to the reference, nats per response")
    max_length_ratio: float | None = Field(None, gt=1, description="mean response length over that of the first steps")
    min_agreement: float | None = Field(None, gt=0, le=1, description="share of pairs on which both orders agree")
    min_judge_agreement: float | None = Field(
        None, gt=0, le=1, description="of rounds: share of held-out pairs judged as by the former round's judge"
    )
    window: int = Field(10, ge=1, description="steps the measures are averaged over")


class RolloutJudgeSection(Section):
    """Who judges the rollouts of self-training."""

    kind: Literal["static", "dynamic", "external"] = Field(
        "static", description="the frozen start; the policy as it is; or a model behind an OpenAI-compatible server"
    )
    url: Urls | None = Field(
        None, description="external: the server, such as http://localhost:8000/v1, or several that share the work"
    )
    model: str | None = Field(None, description="external: the model whose tokenizer and templates are the judge's")
    served_model: str | None = Field(None, description="external: its name there; by default the first that is listed")

    @model_validator(mode="after")
    def _server_for_external(self) -> Self:
        named = [name for name in ("url", "model", "served_model") if getattr(self, name) is not None]
        if self.kind != "external" and named:
            raise ValueError(
                f"self_training.judge.{named[0]} is of a judge on a server, and self_training.judge.kind is "
                f"{self.kind}: set the kind to external, or remove {', '.join(named)}."
            )
        if self.kind == "external" and not (self.url and self.model):
            raise ValueError(
                "self_training.judge.kind=external needs self_training.judge.url (the server) and "
                "self_training.judge.model (the model whose tokenizer and templates it has): set both."
            )
        return self


class VllmSection(Section):
    """The vLLM that rollouts run in with ``engine: vllm``."""

    gpu_memory_utilization: float = Field(
        0.4, gt=0, le=1, description="share of the device's memory for vLLM; training needs the rest"
    )
    max_model_len: int | None = Field(
        None, ge=16, description="tokens of prompt and answer at most; by default the model's context"
    )
    enforce_eager: bool = Field(False, description="skip compilation: starts sooner, samples slower")


class ServersSection(Section):
    """The vLLM servers that rollouts run in with ``engine: openai``; all processes share them."""

    url: Urls = Field(
        description="a server of the start with LoRA, such as http://localhost:8000/v1, or several that share the work"
    )
    served_model: str | None = Field(
        None, description="the name of the start there; by default the first that is listed"
    )


class SelfTrainingSection(Section):
    """Self-training by on-policy judgment."""

    start: str | None = Field(None, description="JSFT model or run folder; by default runs/NAME/jsft")
    rounds: int = Field(1, ge=1, description="how often to self-train, each time from the last result")
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    labels: Literal["hard", "soft"] = Field("hard", description="hard: the winner; soft: the verdict's strength")
    label_smoothing: bool = Field(False, description="the more the two orders disagree, the less sure is the label")
    abstain: bool = Field(False, description="leave out pairs on which the two orders disagree")
    max_length_difference: float | None = Field(
        None, ge=0, lt=1, description="leave out pairs whose lengths differ by more than this share of the longer"
    )
    beta: float = Field(0.1, gt=0)
    length_penalty: float = Field(0.0, ge=0, description="R-DPO: what a token is to cost, in units of the reward")
    nll_weight: float = Field(0.0, ge=0, description="weight of the chosen response's mean negative log-likelihood")
    replay: float = Field(0.0, ge=0, description="weight of the JSFT loss on replayed JSFT rows; 0 replays none")
    lora: LoraSection | None = Field(
        default=LoraSection(),
        description="base weights = judge = reference, adapter = policy; null trains all weights beside a frozen copy",
    )
    keep_lora_dropout: bool = Field(
        False, description="train with the dropout of lora; policy and reference then differ at equal weights"
    )
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="what samples rollouts, and judges them where it keeps the base weights: the model in training, a "
        "vLLM of its own, or vLLM servers",
    )
    vllm: VllmSection = VllmSection()
    servers: ServersSection | None = None
    rollout: RolloutSection = RolloutSection()
    judge: RolloutJudgeSection = RolloutJudgeSection()
    stop: StopSection = StopSection()
    training: Training = Field(default_factory=dict, description="transformers.TrainingArguments")

    @property
    def policy_lora(self) -> LoraSection | None:
        """The adapter that is trained: without dropout unless it is kept, as the reference has none."""
        if self.lora is None or self.keep_lora_dropout:
            return self.lora
        return self.lora.model_copy(update={"dropout": 0.0})

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.loss == "ipo" and self.length_penalty:
            raise ValueError(
                "self_training.length_penalty is added to a margin that is summed over tokens, and "
                "self_training.loss=ipo averages it over them: set length_penalty to 0, or the loss to sigmoid or "
                "hinge."
            )
        if self.rollout.ahead and self.engine == "transformers":
            raise ValueError(
                "self_training.rollout.async=1 needs self_training.engine=vllm or openai, as a model in training "
                "cannot sample meanwhile: set the engine to one of them, or async to 0."
            )
        if (self.engine == "openai") != (self.servers is not None):
            raise ValueError(
                "self_training.engine=openai and self_training.servers.url (the vLLM servers) go together: set both, "
                "or neither."
            )
        if self.engine == "openai" and self.lora is None:
            raise ValueError(
                "self_training.engine=openai hands over adapters, and self_training.lora is null: set lora, or the "
                "engine to transformers or vllm."
            )
        if self.rollout.ahead and self.judge.kind == "dynamic":
            raise ValueError(
                "self_training.judge.kind=dynamic needs self_training.rollout.async=0, as the policy judges as it is "
                "and not as it was before the last steps: set async to 0, or the kind to static or external."
            )
        if self.stop.min_judge_agreement is not None and self.rounds == 1:
            raise ValueError(
                "self_training.stop.min_judge_agreement compares the judges of rounds, and self_training.rounds is 1: "
                "set rounds above 1, or remove it."
            )
        return self


class Recipe(Section):
    """The whole road."""

    name: Name
    seed: int = 0
    model: ModelSection
    data: DataSection
    templates: TemplatesSection = TemplatesSection()
    judge: JudgeSection = JudgeSection()
    jsft: JsftSection = JsftSection()
    self_training: SelfTrainingSection = SelfTrainingSection()
    baselines: BaselinesSection = BaselinesSection()
    study: StudySection | None = None

    @model_validator(mode="after")
    def _held_out_for_rounds(self) -> Self:
        measured = self.data.held_out > 0 and self.jsft.rows != "policy"
        if self.self_training.stop.min_judge_agreement is not None and not measured:
            raise ValueError(
                "self_training.stop.min_judge_agreement is measured on held-out judgment pairs: set data.held_out "
                "above 0 and jsft.rows to both or judgment, or remove it."
            )
        return self
