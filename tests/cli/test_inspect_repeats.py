"""What `data inspect` says of repeats."""

from __future__ import annotations

ROWS = [
    {"prompt": "Which [b] tree?", "chosen": "Oak.", "rejected": "Fern."},
    {"prompt": "Which  [b] tree?", "chosen": "Fern.", "rejected": "Oak.\n"},
    {"prompt": [{"role": "system", "content": "Be [red] brief."}, {"role": "user", "content": "Hi?"}],
     "chosen": "Hi.", "rejected": "Go."},
    {"prompt": [{"role": "system", "content": "Be [red] brief."}, {"role": "user", "content": "Hi?"}],
     "chosen": "Hi.", "rejected": "Go."},
]  # fmt: skip


def test_repeats_are_counted_and_explained(run, write):
    result = run("data", "inspect", write("in.jsonl", ROWS), "--max-length", "400")
    assert result.code == 0, result.err
    words = " ".join(result.out.split())
    assert "Repeated pairs 1 as they are written" in words
    assert "… in another spelling 0" in words
    assert "Contradictory pairs 2" in words
    assert "Distinct prompts 2" in words
    assert "… with several pairs 2 2 pairs at most" in words
    assert "Pairs with a system prompt 2 distinct ones: 1" in words
    assert "… with the same one 2 50.0 % of all pairs: Be [red] brief." in words
    assert "Policy rows 3 fit, 0 would be dropped" in words
    assert "Judgment rows 8 fit, 0 would be dropped" in words
