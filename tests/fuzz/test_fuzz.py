"""Every place where foreign input comes in: forty inputs with every change, ten minutes of them by `make fuzz`."""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from targets import TARGETS, Target

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = os.environ.get("FUZZ_SEED")  # makes the inputs the same each time; a faster machine only gets further
QUICK = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def try_out(chosen: settings, target: Target, start: int | None = None) -> int:
    """Tries as many inputs as the settings say, from a seed where one is given; returns how many there were."""
    count = 0

    def one(value: object) -> None:
        nonlocal count
        count += 1
        target.check(value)

    test = chosen(given(target.inputs)(one))
    (test if start is None else seed(start)(test))()
    return count


@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_is_answered_by_the_projects_own_errors(name: str) -> None:
    try_out(QUICK, TARGETS[name])


@pytest.mark.long
@pytest.mark.timeout(2 * SECONDS + 120)
@pytest.mark.parametrize("name", TARGETS)
def test_for_long(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    until, count = time.monotonic() + SECONDS, 0
    seeds = random.Random(f"{SEED}:{name}") if SEED else random.SystemRandom()
    long = settings(QUICK, derandomize=False, max_examples=500, phases=[Phase.generate, Phase.shrink])
    while time.monotonic() < until:
        count += try_out(long, TARGETS[name], seeds.getrandbits(32))
    with capsys.disabled():
        print(f" {name}: {count} inputs in {SECONDS:.0f} s")
