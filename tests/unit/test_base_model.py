"""The text of the small world's base model: which rows, and that nobody's preference is in them."""

from __future__ import annotations

from selfjudge.evaluation.base_model import unlabelled_rows
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.world.people import Unlabelled

PROMPT = "Name two things of the sea for Ada."


def test_which_of_a_pair_is_better_cannot_be_read_from_its_rows(world_chat: ChatEncoder) -> None:
    encoder = JudgmentEncoder(load_templates("world"), world_chat)

    def rows(first: str, second: str) -> list[tuple[int, ...]]:
        found = unlabelled_rows([Unlabelled(PROMPT, "wave um", (first, second))], world_chat, encoder)
        assert all(row.kind == "policy" and all(row.is_target) for row in found)
        return [row.ids for row in found]

    answer, *both_orders = rows("coral tide", "cow")
    # The answer is one person's, and no side of the pair.
    assert world_chat.decode(answer).count("wave um") == 1
    assert "coral" not in world_chat.decode(answer)
    assert len(both_orders) == 2
    labels = {i for name in "AB" for i in world_chat.tokenizer(name, add_special_tokens=False).input_ids}
    for ids in both_orders:
        assert ids[-1] not in labels
        assert all(word in world_chat.decode(ids) for word in ("coral tide", "cow"))
    # The pair the other way round is the same text.
    exchanged, *exchanged_orders = rows("cow", "coral tide")
    assert exchanged == answer
    assert sorted(exchanged_orders) == sorted(both_orders)
