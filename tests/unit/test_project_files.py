"""The files that GitHub reads are what it takes them for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GITHUB = Path(__file__).parents[2] / ".github"
SCHEMAS = {
    "workflows": "vendor.github-workflows",
    "bug.yml": "vendor.github-issue-forms",
    "feature.yml": "vendor.github-issue-forms",
    "config.yml": "vendor.github-issue-config",
}
FILES = sorted(GITHUB.rglob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_it_keeps_to_its_schema(file: Path) -> None:
    schema = SCHEMAS.get(file.name) or SCHEMAS[file.parent.name]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
