"""`selfjudge card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def card(
    run: Annotated[Path, typer.Argument(help="Finished run folder of jsft, train or baseline.")],
    audit: Annotated[
        Path | None, typer.Option(help="Figures of `selfjudge eval audit --json` of this run's model, to be shown.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Then upload RUN/final to this repository of the Hugging Face Hub (ORGANISATION/NAME), which is made "
            "private where it is not there yet. The token is HF_TOKEN, or that of `hf auth login`."
        ),
    ] = None,
) -> None:
    """Write the model card of a finished run again, with the results of an audit, and upload the model with it.

    Every run writes its card, RUN/final/README.md, by itself. What is added here is kept in the run's run.json.
    """
    from selfjudge.errors import RunError
    from selfjudge.evaluation.audit_figures import read_audit
    from selfjudge.training.model_card import write_model_card
    from selfjudge.training.run_folder import RunFolder

    found = RunFolder.finished(run)
    if found is None or not found.model.is_dir():
        raise RunError(f"{run} holds no finished run with a model: name the folder of one.")
    if audit is not None:
        found.update(audit=read_audit(audit, of=run))
    write_model_card(found.path, found.info)
    print(found.model / "README.md")
    if push_to_hub is not None:
        from selfjudge.training.hub import push_to_hub as push

        print(push(found.model, push_to_hub))
