"""Writes docs/reference/commands.md, every command with its options, from the commands themselves: `make reference`."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from selfjudge.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
HEAD = """# Commands and their options

<!-- Written by `make reference`; do not edit. -->

What `selfjudge COMMAND --help` says. Files, fields and exit codes are described in [Command line](../cli.md).

"""


def commands_page() -> str:
    """The page as it should be."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="selfjudge", obj={"TYPER_RICH_MARKUP_MODE": "markdown"})
    text = get_docs_for_click(obj=command, ctx=context, name="selfjudge")
    text = text.partition("\n")[2].replace("```console\n$ ", "```text\n")  # the forms of a command are nothing to run
    return HEAD + text.strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(commands_page())
