"""Entry point: registers the commands and turns a user's errors into one sentence and exit code 2."""

from __future__ import annotations

import os
import signal
import sys

import typer

from selfjudge.cli import (
    baseline,
    bench,
    card,
    compare,
    data,
    demo,
    evaluate,
    judge,
    model,
    plan,
    report,
    sample,
    serve,
    train,
)
from selfjudge.cli.common import UNWRITABLE
from selfjudge.errors import ElsewhereError, Interruption, SelfJudgeError

app = typer.Typer(
    name="selfjudge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="SELF-JUDGE: train one model as policy and judge, align it on its own judged samples, "
    "and answer by a tournament among its own candidates.\n\n"
    "The road: `data inspect` → `jsft` → `train` → `sample` or `serve`. See it all in minutes: `selfjudge demo`.",
)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.command("plan")(plan.plan)
app.command("jsft")(train.jsft)
app.command("train")(train.train)
app.command("baseline")(baseline.baseline)
app.command("compare")(compare.compare)
app.command("judge")(judge.judge)
app.command("sample")(sample.sample)
app.add_typer(evaluate.app, name="eval")
app.command("serve")(serve.serve)
app.command("report")(report.report)
app.command("card")(card.card)
app.command("bench")(bench.bench)


def main() -> None:
    """Runs the command line."""
    # No call home unless the user asks for it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Loading takes a second; bars for it would drown the ones that matter.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # As Ctrl-C does, so that what is open is closed. Training and `serve` have handlers of their own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        code = _outcome()
    finally:
        if "torch" in sys.modules:
            from selfjudge.training.processes import leave

            leave()
    sys.exit(code)


def _outcome() -> int:
    """Runs the command, which may exit by itself; returns the exit code, a user's error told in one sentence."""
    try:
        app()
    except ElsewhereError:
        return 2  # the process that stopped says why
    except Interruption as e:
        from selfjudge.training.processes import is_main

        if is_main():  # all processes have stopped, for the same reason
            print(f"Stopped: {e}", file=sys.stderr)
        return 128 + e.signal
    except SelfJudgeError as e:
        print(f"Error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        if e.errno not in UNWRITABLE:
            raise
        where = e.filename or "The output"
        print(f"Error: {where} cannot be written ({e.strerror}): make room or choose another output.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    main()
