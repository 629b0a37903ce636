"""Chat templates as short as they can be, one for each way in which those of real models are made."""

from __future__ import annotations

# The usual loop: BODY writes one message `m`, PROMPT what an answer follows.
_LOOP = "{%- for m in messages %}BODY{%- endfor %}{%- if add_generation_prompt %}PROMPT{%- endif %}"


def _loop(body: str, prompt: str, before: str = "") -> str:
    return before + _LOOP.replace("BODY", body).replace("PROMPT", prompt)


_CHATML_TURN = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_CHATML_PROMPT = "{{- '<|im_start|>assistant\n' }}"
_ROLES = (
    "{%- if m.role == 'user' %}{{- '<|user|>' + m.content }}"
    "{%- elif m.role == 'system' %}{{- '<|system|>' + m.content }}"
    "{%- else %}{{- ASSISTANT }}{%- endif %}"
)


def _roles(assistant: str, prompt: str = "{{- '<|assistant|>' }}", before: str = "") -> str:
    """Turns that begin with ``<|user|>`` and ``<|assistant|>``."""
    return _loop(_ROLES.replace("ASSISTANT", assistant), prompt, before)


# A thought is what stands in `reasoning_content`; it is shown in the last answer only, as an empty block if need be.
_LAST_THOUGHT = (
    "{%- if m.role == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\n<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}"
    "{{- m.content + '<|im_end|>\n' }}"
    "{%- else %}" + _CHATML_TURN + "{%- endif %}"
)


def switched(condition: str) -> str:
    """A template whose prompt opens a thought, or closes it at once where the condition on a switch holds."""
    prompt = (
        "{{- '<|im_start|>assistant\n<think>\n' }}{%- if CONDITION %}{{- '\n</think>\n\n' }}{%- endif %}"
    ).replace("CONDITION", condition)
    return _loop(_LAST_THOUGHT, prompt)


TEMPLATES = {
    "chatml": _loop(_CHATML_TURN, _CHATML_PROMPT),
    # What begins the next turn is all that ends one.
    "next role ends": _roles("'<|assistant|>\n' + m.content", "{{- '<|assistant|>\n' }}", "{{- '[head]' }}"),
    # A token of its own ends turns, but the last one is left open.
    "end in the middle only": _roles(
        "'<|assistant|>' + m.content + ('' if loop.last else '<|assistant_end|>')", before="{{- bos_token }}"
    ),
    # The tokenizer's end token follows the whole dialogue, after what ends each turn.
    "eos after all": _loop(
        "{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}",
        "{{- '<|assistant|>\n' }}",
    )
    + "{%- if not add_generation_prompt %}{{- eos_token }}{%- endif %}",
    "two tokens end": _loop(
        "{%- if m.role == 'assistant' %}{{- '<|turn|><|bot|><|response|>' + m.content + '<|/response|><|/turn|>' }}"
        "{%- else %}{{- '<|turn|><|' + m.role + '|>' + m.content + '<|/turn|>' }}{%- endif %}",
        "{{- '<|turn|><|bot|><|response|>' }}",
        "{{- bos_token }}",
    ),
    # Tokens and the words between them end a turn.
    "close tags": _loop(
        "{{- '<|open|>message role=\"' + m.role + '\"<|sep|>' }}"
        "{%- if m.role == 'assistant' %}{{- '<|open|>response<|sep|>' + m.content + '<|close|>response<|sep|>' }}"
        "{%- else %}{{- m.content }}{%- endif %}{{- '<|close|>message<|sep|><|end_of_msg|>' }}",
        "{{- '<|open|>message role=\"assistant\"<|sep|><|open|>response<|sep|>' }}",
    ),
    # An answer is on a channel, which the model names itself; the last one ends otherwise than those before it.
    "channels": _loop(
        "{%- if m.role == 'assistant' %}"
        "{%- if m.thinking and loop.last %}"
        "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{- '<|return|>' if loop.last else '<|end|>' }}"
        "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}",
        "{{- '<|start|>assistant' }}",
        "{{- '<|start|>system<|message|>Date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}",
    ),
    # The same, with words in place of a channel's token.
    "recipients": _loop(
        "{%- if m.role == 'assistant' %}"
        "{%- if m.reasoning %}{{- '<|start|>assistant to=self<|message|>' + m.reasoning + '<|eom|>' }}{%- endif %}"
        "{{- '<|start|>assistant to=user<|message|>' + m.content + '<|eot|>' }}"
        "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|eot|>' }}{%- endif %}",
        "{{- '<|start|>assistant' }}",
    ),
    "thought in the last turn": _loop(
        _LAST_THOUGHT,
        _CHATML_PROMPT
        + "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
    ),
    "enable_thinking": switched("enable_thinking is defined and not enable_thinking"),
    "thinking": switched("thinking is defined and not thinking"),
    "thinking_mode": switched("thinking_mode == 'disabled'"),
    "thinking_budget": switched("thinking_budget is defined and thinking_budget == 0"),
    "reasoning_effort none": switched("reasoning_effort == 'none'"),
    "reasoning_effort no_think": switched("(reasoning_effort or 'no_think') == 'no_think'"),
    # Nothing but the end of the prompt tells of thoughts, and nothing switches them.
    "opened": _loop(
        "{%- if m.role == 'user' %}{{- '<|user|>' + m.content }}"
        "{%- else %}{{- '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{%- endif %}",
        "{{- '<|assistant|><think>\n' }}",
        "{{- bos_token }}",
    ),
    # Answers without a thought have an empty one, which the prompt does not open.
    "empty thought everywhere": _roles(
        "'<|assistant|><think>' + (m.reasoning_content or '') + '</think>' + m.content + '<|end|>'"
    ),
    "empty thought by a switch": _roles(
        "'<|assistant|><think>' + (m.reasoning_content or '') + '</think>' + m.content + '<|end|>'",
        "{{- '<|assistant|><think>' }}{%- if enable_thinking is false %}{{- '</think>' }}{%- endif %}",
    ),
    # Only the closing mark stands before an answer without a thought.
    "closing mark alone": _roles(
        "'<|assistant|>' + ('<think>' + m.reasoning_content if m.reasoning_content else '')"
        " + '</think>' + m.content + '<|end|>'",
        "{{- '<|assistant|>' + ('</think>' if enable_thinking is false else '<think>') }}",
    ),
    # Words are the marks of a thought.
    "marks of words": _roles(
        "'<|assistant|>\n' + (m.reasoning + '\n[FINAL RESPONSE]\n' if m.reasoning else '') + m.content"
        " + ('' if loop.last else '\n<|end|>\n')",
        "{{- '<|assistant|>\nHere are my steps:\n' }}",
    ),
    # The prompt of an answer comes whether it is asked for or not.
    "prompt always": (
        "{{- bos_token }}{%- for m in messages %}"
        "{{- '<|turn|><|' + m.role + '|>' + m.content + '<|/turn|>' }}{%- endfor %}"
        "{{- '<|turn|><|assistant|>' }}"
    ),
    "strips": _loop("{{- '<|im_start|>' + m.role + '\n' + m.content.strip() + '<|im_end|>\n' }}", _CHATML_PROMPT),
    "no system": _loop(
        "{%- if m.role == 'system' %}{{- raise_exception('no system role') }}{%- endif %}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
        _CHATML_PROMPT,
    ),
    "alternating": _loop(
        "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}"
        "{{- '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<turn_end>\n' }}",
        "{{- '<turn>model\n' }}",
        "{{- bos_token }}",
    ),
    "plain": _loop(
        "{{- '### ' + m.role | capitalize + ':\n' + m.content }}"
        "{{- (eos_token if m.role == 'assistant' else '') + '\n\n' }}",
        "{{- '### Assistant:\n' }}",
        "{{- bos_token }}",
    ),
    "llama-2": (
        "{%- if messages[0].role == 'system' %}{%- set rest = messages[1:] %}"
        "{%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{%- else %}{%- set rest = messages %}{%- set system = '' %}{%- endif %}"
        "{%- for m in rest %}{%- if m.role == 'user' %}"
        "{{- bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{%- else %}{{- ' ' + m.content.strip() + ' ' + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "mistral": (
        "{{- bos_token }}{%- for m in messages %}"
        "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}"
        "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "vicuna": _loop(
        "{%- if m.role == 'user' %}{{- 'USER: ' + m.content + ' ' }}"
        "{%- else %}{{- 'ASSISTANT: ' + m.content + eos_token }}{%- endif %}",
        "{{- 'ASSISTANT:' }}",
        "{{- bos_token }}",
    ),
    "zephyr": _loop("{{- '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}", "{{- '<|assistant|>\n' }}"),
    "gemma": _loop(
        "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim"
        " + '<end_of_turn>\n' }}",
        "{{- '<start_of_turn>model\n' }}",
        "{{- bos_token }}",
    ),
    # Tags that are no tokens, and an end that is none either.
    "text tags": _loop("{{- '<' + m.role + '>\n' + m.content + '\n</' + m.role + '>\n' }}", "{{- '<assistant>\n' }}"),
    "no end": _loop("{{- m.role | capitalize + ': ' + m.content + '\n\n' }}", "{{- 'Assistant:' }}"),
}
