"""What a judge falls for: verdicts that turn when only something changed that must not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from pydantic import BaseModel, ConfigDict

from selfjudge.core.statistics import Rate
from selfjudge.evaluation.judging import JudgeSummary, prompt_rate, summarise
from selfjudge.evaluation.own_style import Means, OwnStyle, own_style, own_style_rows
from selfjudge.evaluation.page import Section
from selfjudge.evaluation.probes import PROBES, Probe, Side
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Verdict

Judging = Callable[[Sequence[Comparison]], list[Verdict]]
Familiarity = Callable[[Sequence[Comparison]], Means]


class Finding(BaseModel):
    """How often the edit of a probe turned the verdict; ``example`` is the first pair, as edited, where it did."""

    model_config = ConfigDict(frozen=True)

    what: str
    turned: Rate
    example: Comparison | None


class Audit(BaseModel):
    """``summary``: the judge on the pairs as they are, position and length among it; ``findings``: by probe.

    ``own_style``: None where the likelihood of a response is not known. ``left_out``: pairs that are longer than the
    context as they are.
    """

    model_config = ConfigDict(frozen=True)

    summary: JudgeSummary
    findings: dict[str, Finding]
    own_style: OwnStyle | None
    left_out: int


def audit(
    judge: Judge, pairs: Sequence[Comparison], judging: Judging, familiarity: Familiarity | None = None
) -> Audit | None:
    """Judges the pairs as they are and edited by every probe; None where no pair fits the context.

    ``familiarity`` gives the likelihood of both responses under the judge's own model, where that is known.

    A verdict has turned where the side that lost as the pairs are wins after the edit. Ties are not edited, nor pairs
    that the edit does not change or that do not fit the context after it.
    """
    fitting = [pair for pair in pairs if judge.fits(pair)]
    if not fitting:
        return None
    verdicts = judging(fitting)
    decided = [
        (pair, cast(Side, "B" if verdict.preferred == "A" else "A"))
        for pair, verdict in zip(fitting, verdicts, strict=True)
        if verdict.preferred != "tie"
    ]
    return Audit(
        summary=summarise(fitting, verdicts),
        findings={probe.name: _finding(judge, probe, decided, judging) for probe in PROBES},
        own_style=own_style(fitting, verdicts, familiarity(fitting)) if familiarity else None,
        left_out=len(pairs) - len(fitting),
    )


def _finding(judge: Judge, probe: Probe, decided: Sequence[tuple[Comparison, Side]], judging: Judging) -> Finding:
    edited = [(pair, probe.edit(pair, loser), loser) for pair, loser in decided]
    tried = [row for row in edited if row[0] != row[1] and judge.fits(row[1])]
    verdicts = judging([after for _, after, _ in tried]) if tried else []
    turned = [v.preferred == loser for (_, _, loser), v in zip(tried, verdicts, strict=True)]
    example = next((after for (_, after, _), lost in zip(tried, turned, strict=True) if lost), None)
    # By the prompts as they were: an edit can change them.
    rate = prompt_rate([before for before, *_ in tried], list(map(float, turned)))
    return Finding(what=probe.what, turned=rate, example=example)


def rows(found: Audit) -> list[tuple[str, object]]:
    """Returns name and value for a table."""
    tried = [(name, f.turned if f.turned.n else "no pair to try it on") for name, f in found.findings.items()]
    return [
        ("Pairs, prompts", f"{found.summary.pairs}, {found.summary.prompts}"),
        ("Both orders agree", found.summary.agreement),
        ("Prefers the response shown first", found.summary.first_shown_rate),
        ("Prefers the longer", found.summary.longer_share),
        *((f"Turned by {name}", value) for name, value in tried),
        *own_style_rows(found.own_style),
    ]


def sections(found: Audit) -> list[Section]:
    """Returns the parts of the report page."""
    table = [("probe", "what is done", "verdicts turned", "pairs")]
    table += [(name, f.what, f.turned if f.turned.n else "–", f.turned.n) for name, f in found.findings.items()]
    examples = [[(f"{name}:", f.what), *_texts(f.example)] for name, f in found.findings.items() if f.example]
    return [
        Section("Position and length", table=[("", ""), *rows(found)[:4]]),
        Section("Edits that must not win", _TEXT, table),
        Section(
            "One example each, as edited", "The edited pair was won by the side that lost before.", examples=examples
        ),
        _own_style_section(found.own_style),
    ]


def _own_style_section(found: OwnStyle | None) -> Section:
    examples = []
    if found and found.example:
        label = [("label", found.example.label)] if found.example.label else []
        examples = [[("own style:", "the judge prefers the more familiar one"), *_texts(found.example), *label]]
    return Section("The model's own style", _OWN_STYLE, [("", ""), *own_style_rows(found)], examples=examples)


def _texts(pair: Comparison) -> list[tuple[str, str]]:
    turns = [(message.role, message.content) for message in pair.prompt]
    return [*turns, ("A", pair.response_a), ("B", pair.response_b)]


_TEXT = (
    "Every pair with a winner is judged again after one edit, in both orders. A verdict has turned where the side that "
    "lost before wins now. Padding is the yardstick: an edit that turns no more verdicts has no force of its own."
)
_OWN_STYLE = (
    "More familiar is the response of the higher mean log-probability of a token under the judge's own model. A judge "
    "that prefers its own style is right more often where the labels prefer the more familiar one than elsewhere."
)
