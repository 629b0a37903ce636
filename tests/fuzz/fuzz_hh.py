"""The parser of HH transcripts under atheris, which follows what its inputs reach: `python tests/fuzz/fuzz_hh.py`.

Arguments are libFuzzer's, such as ``-max_total_time=600``. atheris has builds for Linux and macOS; it is no requirement
of the tests.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["selfjudge.data.formats"]):
    from selfjudge.data.formats.base import Pairing, Row
    from selfjudge.data.formats.hh import HH
    from selfjudge.data.formats.messages import Reject
    from selfjudge.data.formats.rendered import is_transcript, read_transcript

PIECES = ("\n\nHuman:", "\n\nAssistant:", "Human:", "Assistant:", "\n\n", "\n", " ", "\ud800")


def transcript(given: atheris.FuzzedDataProvider) -> str:
    """A text of turn marks, pieces of them, and anything else."""
    parts = []
    for _ in range(given.ConsumeIntInRange(0, 12)):
        choice = given.ConsumeIntInRange(0, len(PIECES))
        parts.append(PIECES[choice] if choice < len(PIECES) else given.ConsumeUnicode(8))
    return "".join(parts)


def one_input(content: bytes) -> None:
    """Whatever a row holds, it is read or refused."""
    given = atheris.FuzzedDataProvider(content)
    chosen, rejected = transcript(given), transcript(given)
    fits = HH.fits({"chosen": chosen, "rejected": rejected})
    assert fits == (is_transcript(chosen) and is_transcript(rejected))
    try:
        records = list(HH.parse(Row({"chosen": chosen, "rejected": rejected}, 1, 0, "fuzz"), Pairing()))
    except Reject:
        return
    (record,) = records
    assert record.prompt == read_transcript(chosen)[:-1] == read_transcript(rejected)[:-1]
    assert record.chosen.strip() != record.rejected.strip()
    assert [turn.role for turn in record.prompt] == [("user", "assistant")[i % 2] for i in range(len(record.prompt))]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
