"""The judge's own style, with every figure worked out by hand."""

from __future__ import annotations

import pytest
import torch
from test_judging import pair, verdict

from selfjudge.engines.hf import TransformersEngine
from selfjudge.evaluation.audit import audit, rows, sections
from selfjudge.evaluation.own_style import mean_logprobs, own_style, own_style_rows
from selfjudge.records import Message

A, B, TIE = (verdict((s, 1 - s), (1 - s, s)) for s in (0.9, 0.1, 0.5))
MORE_A, MORE_B = (-1.0, -2.0), (-2.0, -1.0)


def case(label, found, means, texts=("a", "b")):
    return pair(*texts, label), found, means


def figures(*cases):
    pairs, verdicts, means = zip(*cases, strict=True)
    return own_style(pairs, verdicts, means)


def test_every_figure_by_hand():
    found = figures(
        case("A", A, MORE_A, ("right", "b")),  # judge and label: the more familiar
        case("B", A, MORE_A, ("first", "b")),  # the judge alone
        case("A", B, MORE_B),  # the judge alone
        case("B", B, MORE_A),  # neither
        case("B", TIE, MORE_B),  # the label, the judge by half
        case(None, B, MORE_B),  # no label: the judge
        case("tie", A, MORE_B),  # the judge does not; a label of a tie is left out
        case("A", A, None),  # too long for the model
        case("A", A, (-1.0, -1.0)),  # as familiar
        case("A", A, MORE_A, ("same", "same")),
    )
    assert (found.judge.rate, found.judge.n) == (pytest.approx((1 + 1 + 1 + 0 + 0.5 + 1 + 0) / 7), 7)
    assert (found.labels.rate, found.labels.n) == (pytest.approx(2 / 5), 5)
    assert found.paired.difference.value == pytest.approx((1 + 1 + 1 + 0 + 0.5) / 5 - 2 / 5)
    assert (found.paired.first_better, found.paired.second_better) == (2, 1)
    # The label prefers the more familiar in the first and the fifth, the other in the second to the fourth.
    assert (found.right_on_familiar.rate, found.right_on_familiar.n) == (pytest.approx(1.5 / 2), 2)
    assert (found.right_on_other.rate, found.right_on_other.n) == (pytest.approx(1 / 3), 3)
    assert found.bias.value == pytest.approx(1.5 / 2 - 1 / 3)
    assert found.example.response_a == "first"  # against the label
    assert [name for name, _ in own_style_rows(found)][1:3] == ["… as the labels do", "… judge less labels, paired"]


def test_without_labels():
    found = figures(case(None, B, MORE_A), case(None, A, MORE_A, ("first", "b")), case("tie", A, MORE_A))
    assert found.judge.rate == pytest.approx(2 / 3)
    assert found.labels is found.paired is found.right_on_familiar is found.right_on_other is found.bias is None
    assert found.example.response_a == "first"
    assert [name for name, _ in own_style_rows(found)] == ["Prefers the more familiar"]


def test_no_example_where_the_judge_never_does():
    assert figures(case("A", B, MORE_A), case("B", TIE, MORE_A)).example is None


def test_labels_of_one_kind_leave_a_rate_without_pairs():
    shown = dict(own_style_rows(figures(case("A", A, MORE_A))))
    assert (shown["… the worse"], shown["… the difference"]) == ("no pair", "–")


def test_nothing_to_measure():
    assert own_style([pair("a", "a", None)], [TIE], [(-1.0, -1.5)]) is None
    assert own_style_rows(None) == [("Prefers the more familiar", "not measured")]


def test_an_accurate_judge_and_one_that_guesses_have_no_own_style():
    """Guessing lowers the rate towards one half, where the labels' is not; the two accuracies stay equal."""
    cases = [(label, MORE_A) for label in "AAAB"]
    sees = figures(*(case(label, A if label == "A" else B, means) for label, means in cases))
    guesses = figures(*(case(label, TIE, means) for label, means in cases))
    assert sees.paired.difference.value == 0
    assert guesses.paired.difference.value == pytest.approx(-0.25)
    for found in (sees, guesses):
        assert found.bias.value == 0


def test_means_by_the_model_itself(world_chat, tiny_llama):
    model = tiny_llama(world_chat.tokenizer, context=64)
    engine = TransformersEngine(model, world_chat)
    prompt = (Message(role="user", content="Name a fox."),)
    pairs = [pair(a, b, None).model_copy(update={"prompt": prompt}) for a, b in (
        ("fox and owl", "bear"), ("owl " * 80, "fox"), ("bear", "")
    )]  # fmt: skip
    found = mean_logprobs(world_chat, engine.response_logprobs, 64, pairs)
    assert found[1] is None
    before = world_chat.prompt_ids(prompt)
    for i, text in ((0, "fox and owl"), (1, "bear")):
        response = world_chat.dialogues([*prompt, Message(role="assistant", content=text)])[0].ids[len(before) :]
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([[*before, *response]])).logits[0].log_softmax(-1)
        each = [float(logprobs[len(before) + k - 1, token]) for k, token in enumerate(response)]
        assert found[0][i] == pytest.approx(sum(each) / len(each), abs=1e-4)
    assert found[2][0] == pytest.approx(found[0][1], abs=1e-4)


def test_on_the_page_of_the_audit():
    class Fake:
        def fits(self, comparison):
            return "long" not in comparison.response_a

        def judge(self, comparisons):
            return [A] * len(comparisons)

    judge, seen = Fake(), []
    pairs = [pair("too long", "x", "A"), pair("fox", "owl", "B")]

    def familiarity(some):
        seen.extend(some)
        return [MORE_A]

    found = audit(judge, pairs, judge.judge, familiarity)
    assert seen == pairs[1:]
    assert dict(rows(found))["Prefers the more familiar"].rate == 1
    section = sections(found)[-1]
    assert ("Right where it is the better", "no pair") in section.table
    ((title, *texts),) = section.examples
    assert title[0] == "own style:"
    assert texts[1:] == [("A", "fox"), ("B", "owl"), ("label", "B")]
    without = audit(judge, pairs, judge.judge)
    assert without.own_style is None
    assert sections(without)[-1].table == [("", ""), ("Prefers the more familiar", "not measured")]
