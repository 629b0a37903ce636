"""Judge a pair, then answer a prompt by a tournament among the model's own candidates.

    python examples/quickstart.py MODEL

MODEL is a JSFT run folder (runs/NAME/jsft), a model folder, a Hub id or a .gguf file.
"""

from __future__ import annotations

import sys

from selfjudge import (
    Judge,
    JudgmentEncoder,
    SamplingParams,
    TransformersEngine,
    load_model,
    load_templates,
    self_reject,
)


def main(model: str) -> None:
    """Prints one verdict and one answer."""
    loaded = load_model(model)
    engine = TransformersEngine(loaded.model, loaded.chat)
    judge = Judge(engine, JudgmentEncoder(load_templates(loaded.templates), loaded.chat))

    verdict = judge.compare("Name two primes.", "2 and 7.", "4 and 9.")
    print(verdict.preferred, f"strength {verdict.strength:.2f}", f"orders agree: {verdict.agree}")

    params = SamplingParams(n=4, top_p=0.9, max_new_tokens=128, seed=0)
    answers = self_reject(engine, loaded.chat, judge, ["Why is the sky blue?"], params)
    print(answers[0].winner)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
