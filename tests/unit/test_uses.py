"""Sources that serve one use each, and one source that serves both."""

import json
from pathlib import Path

from selfjudge.data.load import prepare_data
from selfjudge.recipes.schema import DataSection


def test_policy_and_judgment_rows_are_of_one_set_of_records_only_where_all_sources_serve_both(tmp_path: Path) -> None:
    for name in ("a", "b"):
        row = {"prompt": f"Say {name}.", "chosen": name, "rejected": "no"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")

    def chosen(**use: list[str]) -> tuple[list[str], list[str], bool]:
        sources = [{"path": str(tmp_path / f"{name}.jsonl"), "use": uses} for name, uses in use.items()]
        data = prepare_data(DataSection.model_validate({"sources": sources, "held_out": 0.0}), seed=0)
        names = ([r.chosen for r in data.policy], [r.chosen for r in data.judgment])
        return (*names, data.policy is data.judgment)

    assert chosen(a=["policy"], b=["judgment"]) == (["a"], ["b"], False)
    assert chosen(a=["policy", "judgment"], b=["judgment"]) == (["a"], ["a", "b"], False)
    assert chosen(a=["policy", "judgment"], b=["policy", "judgment"]) == (["a", "b"], ["a", "b"], True)
