"""Whether a judge prefers what its own model would have written (arXiv 2404.13076, 2410.21819).

The model's own style is measured by its likelihood: of two responses, the more familiar one has the higher mean
log-probability of a token, that is the lower perplexity, under the judge's own model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from selfjudge.baselines.pairs import response_ids
from selfjudge.core.paired import PairedComparison, compare_paired
from selfjudge.core.statistics import Estimate, Rate, clustered_rate, rate_difference
from selfjudge.core.verdict import agreement_score
from selfjudge.evaluation.judging import prompt_rate, prompts_of
from selfjudge.records import Comparison, Preferred, Verdict
from selfjudge.templates.chat import ChatEncoder

ResponseLogprobs = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], list[float]]
"""(prompt ids, response ids) → log p(response | prompt): ``TransformersEngine.response_logprobs``."""
Means = Sequence[tuple[float, float] | None]
"""The mean log-probability of a token of A and of B, nats; None where a response is too long for the model."""


class OwnStyle(BaseModel):
    """How often the more familiar response is preferred; a tie verdict counts one half.

    ``judge``: by the judge, over all pairs. ``labels``: by the labels, over the pairs labelled A or B, and ``paired``:
    the judge against them on the same. ``right_on_familiar``, ``right_on_other``: the judge's accuracy where the label
    prefers the more familiar one, and where it prefers the other: equal for a judge that errs on either side alike;
    ``bias``: the first less the second. All but ``judge`` are None without labels. ``example``: the first pair where
    the judge prefers the more familiar one, against the label if there is such a pair.
    """

    model_config = ConfigDict(frozen=True)

    judge: Rate
    labels: Rate | None
    paired: PairedComparison | None
    right_on_familiar: Rate | None
    right_on_other: Rate | None
    bias: Estimate | None
    example: Comparison | None


def mean_logprobs(
    chat: ChatEncoder, logprobs: ResponseLogprobs, max_length: int, pairs: Sequence[Comparison]
) -> list[tuple[float, float] | None]:
    """Returns the mean log-probability of a token of A and of B; the token that ends the turn is one of them."""
    encoded = [[response_ids(c.prompt, text, chat) for text in (c.response_a, c.response_b)] for c in pairs]
    fit = [all(len(before) + len(response) <= max_length for before, response in rows) for rows in encoded]
    asked = [row for rows, ok in zip(encoded, fit, strict=True) if ok for row in rows]
    means = iter(total / len(response) for total, (_, response) in zip(logprobs(asked), asked, strict=True))
    return [(next(means), next(means)) if ok else None for ok in fit]


def own_style(pairs: Sequence[Comparison], verdicts: Sequence[Verdict], means: Means) -> OwnStyle | None:
    """Returns the figures over the pairs of which one response is more familiar, or None if there is none."""
    known = [
        (pair, verdict, _familiar(*both))
        for pair, verdict, both in zip(pairs, verdicts, means, strict=True)
        # Equal texts can differ in the last bits, by their batch.
        if both and both[0] != both[1] and pair.response_a != pair.response_b
    ]
    if not known:
        return None
    labelled = [(pair, verdict, side) for pair, verdict, side in known if pair.label in ("A", "B")]
    prompts = prompts_of([pair for pair, *_ in labelled])
    by_judge = [agreement_score(verdict.preferred, side) for _, verdict, side in labelled]
    by_labels = [agreement_score(str(pair.label), side) for pair, _, side in labelled]
    right = {
        on: [(pair, verdict) for pair, verdict, side in labelled if (pair.label == side) == on] for on in (True, False)
    }
    on_familiar, on_other = (
        prompt_rate([pair for pair, _ in rows], [agreement_score(v.preferred, pair.label) for pair, v in rows])
        for rows in (right[True], right[False])
    )
    fallen = [pair for pair, verdict, side in known if verdict.preferred == side]
    against = [pair for pair, verdict, side in labelled if verdict.preferred == side != pair.label]
    return OwnStyle(
        judge=prompt_rate(
            [pair for pair, *_ in known], [agreement_score(verdict.preferred, side) for _, verdict, side in known]
        ),
        labels=clustered_rate(by_labels, prompts) if labelled else None,
        paired=compare_paired(by_judge, by_labels, prompts) if labelled else None,
        right_on_familiar=on_familiar if labelled else None,
        right_on_other=on_other if labelled else None,
        bias=rate_difference(on_familiar, on_other) if labelled else None,
        example=next(iter([*against, *fallen]), None),
    )


def _familiar(a: float, b: float) -> Preferred:
    return "A" if a > b else "B"


def own_style_rows(found: OwnStyle | None) -> list[tuple[str, object]]:
    """Returns name and value for a table."""
    if found is None:
        return [("Prefers the more familiar", "not measured")]
    rows: list[tuple[str, object]] = [("Prefers the more familiar", found.judge)]
    if found.labels and found.paired and found.right_on_familiar and found.right_on_other:
        right = (("Right where it is the better", found.right_on_familiar), ("… the worse", found.right_on_other))
        rows += [
            ("… as the labels do", found.labels),
            ("… judge less labels, paired", found.paired.difference),
            *((name, rate if rate.n else "no pair") for name, rate in right),
            ("… the difference", found.bias if all(rate.n for _, rate in right) else "–"),
        ]
    return rows
