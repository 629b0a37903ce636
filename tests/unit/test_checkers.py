"""Checkers of answers, on hand-made rows in the formats of GSM8K and IFEval."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from selfjudge.data.eval_prompts import load_eval_prompts
from selfjudge.errors import DataError, MissingExtraError
from selfjudge.evaluation import checkers
from selfjudge.evaluation.checkers import CHECKERS, equal_answer, follows_instructions, last_number
from selfjudge.evaluation.evaluators import Scored, by_check
from selfjudge.evaluation.winrate import pairs_of, win_rate

DEV = Path(__file__).parents[3] / "shared" / "data" / "eval_ifeval_dev.jsonl"
GSM8K = DEV.with_name("eval_gsm8k_dev.jsonl")
SOLUTION = "Each of 2 boxes has 617.\nThat is 2 * 617 = <<2*617=1234>>1234.\n#### 1,234"


@pytest.fixture
def prompt(tmp_path):
    """Reads one row as a prompt of a file."""

    def _prompt(**columns):
        path = tmp_path / "p.jsonl"
        path.write_text(json.dumps({"id": "p", "prompt": "Do it.", **columns}) + "\n")
        return load_eval_prompts(path)[0]

    return _prompt


@pytest.mark.parametrize("name", ["gsm8k", "math"])
@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("3 and 4 make 7.", "7", True),
        ("3 and 4 make 8.", "7", False),
        ("It is $1,234.00", "1234", True),
        ("It is $1,234.00", SOLUTION, True),
        ("They have 1234 of them.", SOLUTION, True),
        ("They have 617 of them.", SOLUTION, False),
        ("7 is the sum of 3 and 4", "7", False),  # the last number counts
        ("minus 5: -5", "-5", True),
        ("no idea", "7", False),
        ("", "7", False),
        ("2.50 dollars", "2.5", True),
        ("It is 7.", 7, True),
    ],
)
def test_numbers(prompt, name, response, answer, right):
    if name == "math":
        pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'selfjudge[eval]'")
    assert CHECKERS[name](prompt(answer=answer), response) is right


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("-5", -5), ("(-5)", -5), ("x=-5", -5), ("**-5**", -5), ("_-5_", -5), ("$-5", -5), ("2 * -5", -5),
        ("\u22125", -5), ("\uff0d5", -5), ("It is \u20135.", -5),  # U+2212, full-width, an en dash where a sign can be
        ("-$5", -5), ("\u2212$5.20", -5.2), (r"-\$5", -5),
        # A hyphen or a dash, and no sign: in a range, in a word, in a difference, or apart from the number.
        ("10-15", 15), ("10\u201315", 15), ("10\u221215", 15), ("$10-$15", 15), ("10$-15$", 15), ("$10$-$15$", 15),
        ("10%-15%", 15), ("(a)-5", 5), ("x-5", 5), ("COVID-19", 19), ("it is--5", 5), ("it is\u20145", 5), ("- 5", 5),
        (".5", 0.5), ("-.5", -0.5), ("$.50", 0.5), ("0.5", 0.5), ("No.5", 5), ("so...5", 5), ("2.5.7", 7),
        ("1,234.50", 1234.5), ("1,234,567", 1234567), (r"1{,}234", 1234), (r"\$1\,234", 1234),
        ("1\u00a0234", 1234), ("1\u202f234", 1234),
        # Not thousands: lists, and an ordinary space, which may stand between two numbers.
        ("1,2,3", 3), ("1,23", 23), ("1,2345", 2345), ("1 234", 234), ("2020, 100", 100),
        ("$5", 5), ("\u20ac5", 5), ("5%", 5), ("5.", 5), ("5th", 5), ("5-year", 5), ("007", 7), ("\uff11\uff12", 12),
        ("1e3", 1000), ("2.5E-2", 0.025), ("1e3x", 3), ("12:30", 30), ("3:2", 2), ("10^5", 5),
        ("3/4", 0.75), ("-3/4", -0.75), ("6/2.5", 2.4), ("24/7", 24 / 7),
    ],
)  # fmt: skip
def test_how_numbers_are_read(prompt, response, value):
    for text in (response, f"First 77.\n{response}", f"So {response} of them."):
        assert last_number(prompt(answer=repr(value)), text), text
        assert not last_number(prompt(answer=repr(-value)), text), text


@pytest.mark.parametrize("response", ["5/12/2020", "5/0", "no idea", "\u00bd", "5 on 1/2/3"])
def test_dates_and_the_like_are_no_number(prompt, response):
    for answer in ("5", "0.5", "3", "2020", "0", "12"):
        assert not last_number(prompt(answer=answer), response)


def test_every_answer_of_gsm8k_is_a_number():
    if not GSM8K.is_file():
        pytest.skip("the public data is not here")
    rows = load_eval_prompts(GSM8K)
    assert len(rows) == 659
    solutions = [json.loads(line)["solution"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    assert all(last_number(row, solution) for row, solution in zip(rows, solutions, strict=True))
    assert not any(last_number(row, f"{row.answer}1") for row in rows)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", "0.5", True),
        ("So it is 0.5.", r"\frac{1}{2}", True),
        ("So it is $1 + x^2$.", "x^2+1", True),
        ("So it is 1.", "x^2+1", False),
        (r"First 3, then \boxed{18}. That is less than 20.", "18", True),
    ],
)
def test_equal_answers_in_another_form(prompt, response, answer, right):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'selfjudge[eval]'")
    assert equal_answer(prompt(answer=answer), response) is right


@pytest.mark.parametrize("name", ["gsm8k", "math"])
@pytest.mark.parametrize("columns", [{}, {"answer": ""}, {"answer": "It is seven. ####"}, {"answer": None}])
def test_a_prompt_without_an_answer_is_refused(prompt, name, columns):
    if name == "math":
        pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'selfjudge[eval]'")
    with pytest.raises(DataError, match=f"'p' has no `answer`: the evaluator {name}"):
        CHECKERS[name](prompt(**columns), "7")


def test_an_answer_that_is_no_number_is_refused(prompt):
    with pytest.raises(DataError, match="not a number"):
        last_number(prompt(answer="seven"), "7")


def test_an_answer_that_is_no_mathematics_is_refused(prompt):
    pytest.importorskip("math_verify", reason="math-verify is not installed: pip install 'selfjudge[eval]'")
    with pytest.raises(DataError, match="cannot be read as mathematics"):
        equal_answer(prompt(answer="{"), "7")


@pytest.fixture
def asks(prompt):
    """A prompt with one or more verifiable instructions."""
    pytest.importorskip("if_verifiable", reason="if-verifiable is not installed: pip install 'selfjudge[eval]'")

    def _asks(*instructions):
        ids, kwargs = zip(*instructions, strict=True)
        return prompt(instruction_id_list=list(ids), kwargs=list(kwargs))

    return _asks


NO_COMMA = ("punctuation:no_comma", {})
WORDS = ("length_constraints:number_words", {"relation": "at least", "num_words": 4})
TITLE = ("detectable_format:title", {})


@pytest.mark.parametrize(
    ("instruction", "good", "bad"),
    [
        (NO_COMMA, "red and blue", "red, blue"),
        (WORDS, "one two three four", "one two three"),
        (TITLE, "<<Ode>>\nO!", "Ode\nO!"),
        (("keywords:existence", {"keywords": ["Ada", "Bob"]}), "bob met ada", "bob met eve"),
        (("keywords:letter_frequency", {"letter": "z", "let_relation": "less than", "let_frequency": 2}), "za", "zz"),
        (("detectable_format:json_format", {}), '```json\n{"a": 1}\n```', "{a: 1}"),
        (("startend:end_checker", {"end_phrase": "The end."}), "So be it. the end.", "The end. Or not?"),
        (("change_case:english_lowercase", {}), "the cat is on the mat today", "The cat is on the mat today"),
        (("language:response_language", {"language": "de"}), "Das ist ein schöner Tag im Garten", "It is a nice day"),
        (("combination:repeat_prompt", {"prompt_to_repeat": "Do it."}), "Do it. Done.", "Done."),
    ],
)
def test_verifiable_instructions(asks, instruction, good, bad):
    assert follows_instructions(asks(instruction), good) is True
    assert follows_instructions(asks(instruction), bad) is False


def test_all_instructions_must_be_followed(asks):
    both = asks(NO_COMMA, WORDS)
    assert follows_instructions(both, "one two three four")
    assert not follows_instructions(both, "one two three")
    assert not follows_instructions(both, "one, two three four")
    assert not follows_instructions(both, " ")
    assert not follows_instructions(
        both, "Sure, here:\none two three four"
    )  # the loose reading leaves out a first line


def test_guesses_at_a_language_are_the_same_every_time(asks, monkeypatch):
    import langdetect

    monkeypatch.setattr(langdetect.DetectorFactory, "seed", None)
    follows_instructions(asks(NO_COMMA), "red")
    assert langdetect.DetectorFactory.seed == 0


def test_nulls_of_the_published_rows_are_no_arguments(asks):
    published = {"num_words": None, "relation": None, "keywords": None}
    assert follows_instructions(asks(("punctuation:no_comma", published)), "red")


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        (("punctuation:no_semicolon", {}), "'punctuation:no_semicolon' is not one of IFEval's"),
        (("length_constraints:number_words", {"num_words": 3}), "takes num_words, relation, not num_words:"),
        (("punctuation:no_comma", {"num_words": 3}), "takes no arguments, not num_words:"),
        (("length_constraints:number_words", {"num_words": 3, "relation": "about"}), "cannot have the arguments"),
        (("keywords:letter_frequency", {"letter": 5, "let_relation": "at least", "let_frequency": 2}), "cannot have"),
    ],
)
def test_an_instruction_that_cannot_be_checked_is_refused(asks, instruction, words):
    with pytest.raises(DataError, match=words):
        follows_instructions(asks(NO_COMMA, instruction), "red")


def test_a_prompt_without_instructions_is_refused(prompt):
    pytest.importorskip("if_verifiable", reason="if-verifiable is not installed: pip install 'selfjudge[eval]'")
    with pytest.raises(DataError, match="'p' has no `instruction_id_list`"):
        follows_instructions(prompt(), "red")


@pytest.mark.parametrize(
    "columns",
    [
        {"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]},
        {"instruction_id_list": [3], "kwargs": [{}]},
        {"instruction_id_list": ["punctuation:no_comma"]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]},
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]},
    ],
)
def test_malformed_columns_are_refused(prompt, columns):
    with pytest.raises(DataError, match=r"p\.jsonl, line 1: (instruction_id_list|kwargs) is not a list"):
        prompt(**columns)


SENTENCES = ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3})


def test_sentences_need_data_of_nltk(asks, monkeypatch, tmp_path):
    import nltk
    from if_verifiable.ifeval import instructions_util

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    instructions_util._get_sentence_tokenizer.cache_clear()
    with pytest.raises(DataError, match=r"run `python -m nltk\.downloader punkt_tab`"):
        follows_instructions(asks(SENTENCES), "")
    # The layout of the data, with nothing learnt in it.
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).write_text("")
    assert follows_instructions(asks(SENTENCES), "I came. I saw.")
    assert not follows_instructions(asks(SENTENCES), "I came. I saw. I left.")
    shout = asks(("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}))
    assert follows_instructions(shout, "GO NOW please")
    assert not follows_instructions(shout, "GO now please")
    instructions_util._get_sentence_tokenizer.cache_clear()


@pytest.mark.parametrize(("name", "module"), [("math", "math_verify"), ("ifeval", "if_verifiable")])
def test_without_the_extra(prompt, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"selfjudge\[eval\]"):
        CHECKERS[name](prompt(answer="7"), "7")


def test_every_prompt_of_ifeval_can_be_checked(monkeypatch):
    if not DEV.exists():
        pytest.skip(f"{DEV} is not here")
    pytest.importorskip("if_verifiable", reason="if-verifiable is not installed: pip install 'selfjudge[eval]'")
    monkeypatch.setattr(checkers, "_has_sentence_data", lambda: True)
    assert [p.id for p in load_eval_prompts(DEV) if follows_instructions(p, "")] == []


def test_the_winner_is_who_passes_alone(prompt):
    prompts = [prompt(id=str(i), prompt=f"{i}?", answer=str(i)) for i in range(5)]
    seen = []

    def check(asked, text):
        seen.append((asked.id, text))
        return last_number(asked, text)

    pairs = pairs_of(prompts, ["0", "1", "9", "9", "4"], ["9", "1", "2", "8", "8"])
    scored = by_check(prompts, check)([*pairs, *pairs])
    expected = [(1, (True, False)), (0.5, (True, True)), (0, (False, True)), (0.5, (False, False))]
    expected.append((1, (True, False)))
    assert scored == 2 * [Scored(score, passed=passed) for score, passed in expected]
    assert len(seen) == len(set(seen)) == 9  # each answer is checked once
    found = win_rate(pairs, scored[:5])
    assert (found.pass_a.rate, found.pass_b.rate, found.value_a) == (0.6, 0.4, None)
    assert found.pass_a.low < 0.6 < found.pass_a.high
    assert dict(found.rows())["Pass rate of b"] == found.pass_b
