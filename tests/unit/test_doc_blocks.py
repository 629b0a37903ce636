"""The runner of the documentation's code blocks: what is wrong on a page fails."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from doc_blocks import DOCUMENTATION
from doc_shell import Shell, commands


def run(tmp_path: Path, text: str) -> dict[str, object]:
    """Runs all blocks of a page and returns its namespace."""
    page = tmp_path / "page.md"
    page.write_text(text)
    document = DOCUMENTATION.parse(page)
    with ExitStack() as servers:
        document.namespace["shell"] = Shell(tmp_path, servers)
        for example in document.examples():
            example.evaluate()
    return document.namespace


GOOD = """
```text
no code
```
```csv title="a.csv"
x
```
<!-- invisible-code: python
hidden = 1
-->
```python
shown = hidden + len(open("a.csv").read())
```
```bash
cat a.csv > b.csv  # the folder of the page
selfjudge data prepare builtin:world \\
    --limit 3 --output c.jsonl
```
```json
{"a": 1}
{"a": 2}
```
```yaml title="part.yaml"
jsft: {judgment_weight: 2}
```
"""


def test_blocks_run_in_one_folder_and_one_namespace(tmp_path: Path) -> None:
    assert run(tmp_path, GOOD)["shown"] == 3
    assert (tmp_path / "b.csv").read_text() == "x\n"
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "part.yaml").read_text() == "jsft: {judgment_weight: 2}\n"


@pytest.mark.parametrize(
    "block",
    [
        "```python\n1 / 0\n```",
        "```bash\nfalse\ntrue\n```",
        "```bash\nfalse | true\n```",
        "```bash\nselfjudge judge --model M\n```",
        '```json\n{"a": 1}\n{"a": \n```',
        "```yaml\njsft: {judgement_weight: 2}\n```",
        "```csv\na,b\n```",
        "```toml\na = 1\n```",
        "```\nplain\n```",
    ],
)
def test_a_block_that_is_wrong_fails(tmp_path: Path, block: str) -> None:
    with pytest.raises(Exception, match=r"."):
        run(tmp_path, block)


def test_commands_go_on_over_lines_and_quotes() -> None:
    script = "# a comment\na \\\n  b\n\nc 'd\ne' # f\ng"
    assert list(commands(script)) == ["a   b", "c 'd\ne' # f", "g"]
    with pytest.raises(AssertionError, match="without an end"):
        list(commands("a 'b\nc"))
