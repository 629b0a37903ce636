"""Which metrics of a run's log belong into one chart, and what it is called."""

from __future__ import annotations

CURVES = (
    (("loss",), "loss"),
    (("replay/loss",), "loss on replayed JSFT rows"),
    (("rewards/margins",), "reward margin (β × log-ratio)"),
    (("rewards/accuracies",), "reward accuracy"),
    (("kl",), "KL to the reference, nats per response"),
    (("logps/chosen", "logps/rejected"), "log-probability of responses, nats"),
    (("rewards/chosen", "rewards/rejected"), "reward of responses (β × log-ratio)"),
    (("rollout/length", "own/length", "length/chosen", "length/rejected"), "response length, tokens"),
    (
        ("rollout/tie_rate", "rollout/identical_rate", "rollout/disagreement_rate", "own/disagreement_rate"),
        "share of pairs",
    ),
    (("rollout/first_shown_rate",), "judge: share of judgments won by the first shown"),
    (("rollout/label_mass", "rollout/strength"), "judge: mass on labels, mean strength"),
    (("rollout/samples_per_second",), "samples per second"),
    (("grad_norm",), "gradient norm"),
    (("learning_rate",), "learning rate"),
)
