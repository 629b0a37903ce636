"""`make test-min` tests with the very minimums that pyproject.toml states."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = ("gguf", "openai", "baselines", "eval", "serve")
STATED = [Requirement(line) for line in PROJECT["dependencies"]]
STATED += [Requirement(line) for extra in TESTED for line in PROJECT["optional-dependencies"][extra]]


def pins() -> dict[str, Version]:
    lines = (line for line in (ROOT / "constraints-min.txt").read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("requirement", STATED, ids=str)
def test_a_minimum_is_what_is_tested(requirement: Requirement) -> None:
    (minimum,) = [s.version for s in requirement.specifier if s.operator == ">="]
    pin = pins()[canonicalize_name(requirement.name)]
    assert pin in requirement.specifier
    # A minimum of fewer digits stands for the first release of them that there is: 0.23 for 0.23.1.
    assert pin.release[: minimum.count(".") + 1] == Version(minimum).release
