"""`selfjudge model check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from selfjudge.cli.common import (
    AdapterOption,
    ChatTemplateOption,
    JsonOption,
    OverwriteOption,
    TemplatesOption,
    ThinkingOption,
    check_outputs,
    files_of,
    print_table,
    quiet,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from selfjudge.engines.model_check import ModelReport
    from selfjudge.templates.chat import ChatEncoder

app = typer.Typer(no_args_is_help=True, help="Look at a model before anything is trained.")


@app.callback()
def group() -> None:
    """Makes `check` a command of a group, though it is the only one."""


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Hub id, model folder, run folder or .gguf file.")],
    adapter: AdapterOption = None,
    template: TemplatesOption = None,
    chat_template: ChatTemplateOption = None,
    thinking: ThinkingOption = "off",
    json_: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Show what would be trained and sampled of a model, and whether it can be: a yes, or a no with its reasons.

    A folder with tokenizer and config alone will do; with its weights sampling is tried as well. Exit code 0 if the
    model can be trained and sampled, 2 if not. The commands that train, sample or judge make the same checks first.
    """
    check_outputs(json_, overwrite=overwrite, inputs=files_of(model, chat_template))

    from selfjudge.engines.model_check import check_model

    quiet()
    report, chat = check_model(
        model, adapter=adapter, chat_template=chat_template, thinking=thinking, templates=template
    )
    if chat is not None:
        _print_rows(chat, report, template)
    print_table(_facts(report), title=f"\n{model}")
    _print_checks(report)
    if json_:
        write_json(json_, {}, report)
    if not report.ok:
        for problem in report.problems:
            typer.echo(f"Error: {problem}", err=True)
        raise typer.Exit(2)


def _print_rows(chat: ChatEncoder, report: ModelReport, template: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from selfjudge.cli.marked import marked, policy_rows_shown
    from selfjudge.data.rows import judgment_rows
    from selfjudge.engines.load import model_templates
    from selfjudge.errors import SelfJudgeError
    from selfjudge.records import PreferenceRecord
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.self_check import DIALOGUE
    from selfjudge.templates.template import load_templates

    question, answer = DIALOGUE[:2]
    console = Console()
    console.print("What is trained stands between » and «.", style="dim")
    try:
        templates = load_templates(template or model_templates(report.model))
        principle = templates.templates[0].principle
        record = PreferenceRecord(
            id="check", prompt=(question,), chosen=answer.content, rejected="A stone.", principle=principle
        )
        rows = policy_rows_shown(record, chat)
        rows += [("Judgment row, chosen first", judgment_rows(record, JudgmentEncoder(templates, chat))[0])]
    except SelfJudgeError:  # it is among the problems
        return
    for title, row in rows:
        console.print(f"\n{title} ({len(row.ids)} tokens)", style="bold")
        console.print(Text(marked(row, chat)), soft_wrap=True)


def _facts(report: ModelReport) -> Iterable[tuple[str, object]]:
    if report.generation_prompt is not None:
        yield "Prompt of an answer", repr(report.generation_prompt)
        for i, target in enumerate(report.two_turn_targets, 1):
            yield f"Trained of turn {i}", repr(target)
        for token, source in report.stop_tokens.items():
            yield "Ends a sample", f"{token!r}: {source}"
        if report.label_tokens:
            yield "Labels", ", ".join(f"{label}: {token!r}" for label, token in report.label_tokens.items())
        switch = ", ".join(f"{name}={value!r}" for name, value in report.thinking_switch.items())
        how = switch or "the chat template has no switch" if report.can_think else "the chat template knows no thoughts"
        yield "Thinking", f"{report.thinking} ({how})"
        if report.template_date:
            yield "Date in the template", f"{report.template_date}, the same for all of a run"
    if report.cache:
        length = report.context_length
        yield "Keeps of a text", report.cache
        yield "Context", f"{'no limit' if length is None else f'{length} tokens'} ({report.context_source})"
    if report.sampling:
        yield "Sampling", report.sampling


def _print_checks(report: ModelReport) -> None:
    from rich.console import Console
    from rich.table import Table

    marks = {True: "✓", False: "✗", None: "–"}
    table = Table(title="\nChecks", show_header=False, box=None, title_justify="left", pad_edge=False)
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for each in report.checks:
        table.add_row(marks[each.passed], each.name, each.found)
    Console().print(table)
    Console().print("\nIt can be trained and sampled." if report.ok else "\nIt cannot be used as it is:", style="bold")
