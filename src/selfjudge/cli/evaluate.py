"""`selfjudge eval`: what a judge and a policy are worth, measured."""

from __future__ import annotations

import typer

from selfjudge.cli import eval_audit, eval_judge, eval_ranking, eval_scaling, eval_winrate

app = typer.Typer(no_args_is_help=True, help="Measure judges and policies, with intervals.")
app.command("judge")(eval_judge.judge)
app.command("winrate")(eval_winrate.winrate)
app.command("ranking")(eval_ranking.ranking)
app.command("scaling")(eval_scaling.scaling)
app.command("audit")(eval_audit.audit)
