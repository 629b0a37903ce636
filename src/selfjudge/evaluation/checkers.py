"""Answers that can be checked without a judge: each checker says of one answer to a prompt whether it passes.

A checker raises DataError for a prompt that lacks what is to be checked, whatever the answer: so an empty answer asks
whether a prompt can be checked at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from selfjudge.data.eval_prompts import EvalPrompt, Instruction, prompt_text
from selfjudge.errors import DataError, MissingExtraError

Check = Callable[[EvalPrompt, str], bool]

_ALNUM = r"[^\W_]"
_CURRENCY = "[$€£¥₹]"
# Between groups of three digits: a comma, also as LaTeX has it, or a space at which no line breaks.
_COMMA = r"(?:,|\{,\}|\\,|[\u00a0\u2009\u202f])"
_NUMBER = re.compile(
    rf"""
    (?P<minus>
        # After these it is a hyphen or the dash of a range, as in 10-15, x-2, (a)-2, 5%-7% and 5$-7$.
        (?<! {_ALNUM} ) (?<! [)\]}}%°\-−－–—] ) (?<! {_ALNUM}{_CURRENCY} )
        [\-−－–]
    )?
    (?: \\? {_CURRENCY} )?
    (?P<number>
        (?: \d{{1,3}} (?: {_COMMA} \d{{3}} )+ (?!\d) | \d+ ) (?: \.\d+ )? (?: [eE][+\-]?\d{{1,3}} (?!{_ALNUM}) )?
        | (?<! {_ALNUM} ) (?<! \. ) \.\d+
    )
    (?P<divisors> (?: / \d+ (?: \.\d+ )? )* )
    """,
    re.VERBOSE,
)

# These cut an answer into sentences by data that nltk keeps out of its package.
_BY_SENTENCES = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
_SENTENCE_DATA = "tokenizers/punkt_tab/english/"


def last_number(prompt: EvalPrompt, response: str) -> bool:
    """Whether the last number of the response is the right one, a common reading of free answers to GSM8K.

    A minus (ASCII, U+2212, full-width, or an en dash) is a sign where it touches the number, or its currency, and comes
    after no letter, digit, percent sign, closing bracket or dash. 3/4 is 0.75; a date is no number. Expressions are not
    worked out.

    Raises:
        DataError: if the prompt has no answer, or its answer is no number.
    """
    answer = final_answer(prompt, "gsm8k")
    right = _NUMBER.fullmatch(answer)
    if right is None or not math.isfinite(_value(right)):
        raise DataError(
            f"Prompt {prompt.id!r}: the answer {answer!r} is not a number, which the evaluator gsm8k compares with: "
            "try the evaluator math."
        )
    numbers = list(_NUMBER.finditer(response))
    return bool(numbers) and _value(numbers[-1]) == _value(right)


def equal_answer(prompt: EvalPrompt, response: str) -> bool:
    r"""Whether the answer found in the response equals the right one, by ``math-verify``: 1/2, 0.5 and \frac{1}{2} do.

    Raises:
        DataError: if the prompt has no answer, or none that can be read as mathematics.
        MissingExtraError: if math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as e:
        raise MissingExtraError("The evaluator math", "eval") from e
    answer = final_answer(prompt, "math")
    # Of a bare x^2+1 nothing would be found.
    right = parse(rf"\boxed{{{answer}}}", fallback_mode="no_fallback")
    if not right:
        raise DataError(f"Prompt {prompt.id!r}: the answer {answer!r} cannot be read as mathematics: correct it.")
    return bool(verify(right, parse(response)))


def follows_instructions(prompt: EvalPrompt, response: str) -> bool:
    """Whether the response follows all of the prompt's verifiable instructions: IFEval's strict accuracy of a prompt.

    Zhou et al. 2023, arXiv 2311.07911; ``if-verifiable`` has the authors' checks. An empty response follows none.

    Raises:
        DataError: if the prompt has no instructions, or one that is unknown, lacks an argument or needs absent data.
        MissingExtraError: if if-verifiable is not installed.
    """
    try:
        import langdetect
        from if_verifiable import IFEvalSample, evaluate_output_for_sample
    except ImportError as e:
        raise MissingExtraError("The evaluator ifeval", "eval") from e
    if not prompt.instructions:
        raise DataError(
            f"Prompt {prompt.id!r} has no `instruction_id_list`: the evaluator ifeval checks such instructions."
        )
    for instruction in prompt.instructions:
        _can_be_checked(prompt.id, instruction)
    # Its guesses at a language are drawn, from the clock where there is no seed.
    langdetect.DetectorFactory.seed = 0
    ids, kwargs = zip(*((i.id, dict(i.kwargs)) for i in prompt.instructions), strict=True)
    sample = IFEvalSample(key=0, prompt=prompt_text(prompt.prompt), instruction_id_list=list(ids), kwargs=list(kwargs))
    _, scores = evaluate_output_for_sample("ifeval", sample, response)
    return bool(scores.binary_strict)


CHECKERS: dict[str, Check] = {"gsm8k": last_number, "math": equal_answer, "ifeval": follows_instructions}


def final_answer(prompt: EvalPrompt, evaluator: str) -> str:
    """Returns the right answer: all of the prompt's ``answer``, or what follows its last ``####`` as in GSM8K.

    Raises:
        DataError: if the prompt has none.
    """
    answer = (prompt.answer or "").rpartition("####")[2].strip()
    if not answer:
        raise DataError(f"Prompt {prompt.id!r} has no `answer`: the evaluator {evaluator} compares with it.")
    return answer


def _can_be_checked(id_: str, instruction: Instruction) -> None:
    """Raises DataError if an instruction cannot: the library would leave it out, or draw the missing arguments."""
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    where = f"Prompt {id_!r}: the instruction {instruction.id!r}"
    if instruction.id not in INSTRUCTION_DICT:
        raise DataError(f"{where} is not one of IFEval's: correct instruction_id_list.")
    checker: Any = INSTRUCTION_DICT[instruction.id](instruction.id)
    needed, given = (", ".join(sorted(names)) for names in (checker.get_instruction_args_keys(), instruction.kwargs))
    if needed != given:
        raise DataError(f"{where} takes {needed or 'no arguments'}, not {given or 'none'}: correct kwargs.")
    try:
        checker.build_description(**instruction.kwargs)
    except (AttributeError, TypeError, ValueError) as e:
        raise DataError(f"{where} cannot have the arguments {dict(instruction.kwargs)}: {e}; correct kwargs.") from None
    if instruction.id in _BY_SENTENCES and not _has_sentence_data():
        raise DataError(
            f"{where} needs nltk's data punkt_tab: run `python -m nltk.downloader punkt_tab`, or remove such prompts."
        )


def _has_sentence_data() -> bool:
    import nltk

    try:
        nltk.data.find(_SENTENCE_DATA)
    except LookupError:
        return False
    return True


def _value(found: re.Match[str]) -> float:
    """Returns the value of a match of ``_NUMBER``, NaN for a date or a division by zero."""
    value = float(re.sub(_COMMA, "", found["number"]))
    divisors = [float(divisor) for divisor in found["divisors"].split("/")[1:]]
    if divisors:
        value = value / divisors[0] if len(divisors) == 1 and divisors[0] else math.nan
    return -value if found["minus"] else value
