"""The bodies that clients send."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_PAIRS = 1000
"""Pairs of one request to judge."""


def _whole(text: str) -> str:
    """JSON can hold halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not valid Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]


class Body(BaseModel):
    """Strict about types and unknown fields: what is not understood is refused, as it could change the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """A turn of a dialogue; ``developer`` is another word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    reasoning_content: Text | None = Field(
        None, description="The thought of an earlier answer, as replies have it. It is left out of the prompt."
    )

    def text(self) -> str:
        """Returns the content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Body):
    """``include_usage``: a last chunk tells the tokens."""

    include_usage: bool | None = None


class CompletionFields(Body):
    """What both kinds of completion take. ``null`` stands for the default."""

    # What OpenAI's API knows and this server does not, with the values that do not change an answer.
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
    }
    # Has no effect on the answer, whatever it is.
    ignored: ClassVar[frozenset[str]] = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier"})

    model: Text
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="Answers returned, the best first; default 1.")
    n_candidates: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Candidates drawn, of which a tournament finds the best; default: the server's."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Default 1; 0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    selfjudge: bool | None = Field(None, description="Add the tournament to the reply.")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: Any) -> Any:
        """Takes out known fields without effect, and refuses those that would have one."""
        if not isinstance(data, dict):
            return data
        for name in data.keys() & cls.neutral.keys():
            if data[name] is not None and not any(_same(data[name], value) for value in cls.neutral[name]):
                raise PydanticCustomError(
                    "unsupported_parameter", "This server does not support `{name}`: leave it out.", {"name": name}
                )
        return {name: value for name, value in data.items() if name not in cls.ignored | cls.neutral.keys()}

    def stops(self) -> tuple[str, ...]:
        """Returns the texts that end an answer."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, texts))


class ChatRequest(CompletionFields):
    """``POST /v1/chat/completions``."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = CompletionFields.neutral | {
        "logprobs": (False,),
        "top_logprobs": (),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
    }
    ignored: ClassVar[frozenset[str]] = CompletionFields.ignored | {"prompt_cache_key"}

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class CompletionRequest(CompletionFields):
    """``POST /v1/completions``. A prompt is a text or token ids, or a list of either."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = CompletionFields.neutral | {
        "logprobs": (),
        "echo": (False,),
        "best_of": (1,),
        "suffix": ("",),
    }

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Default 16, as OpenAI has it.")

    def prompts(self) -> list[str | list[int]]:
        """Returns the prompts, one or many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class Pair(Body):
    """Two responses to a prompt, which is a text or messages."""

    prompt: Text | Annotated[list[ChatMessage], Field(min_length=1)]
    response_a: Text
    response_b: Text
    id: Text | None = Field(None, description="Default: the pair's index.")


class JudgeRequest(Body):
    """``POST /v1/judge``."""

    pairs: Annotated[list[Pair], Field(min_length=1, max_length=MAX_PAIRS)]
    principles: bool | None = Field(None, description="Add the verdict of each principle.")


def _same(a: Any, b: Any) -> bool:
    """Equal, and of the same kind: False is not 0, but 0.0 is."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
