"""Several training processes as one run: who writes, who goes first, and how one's error becomes everyone's.

Everything here is plain in a single process, and until the first ``TrainingArguments`` have joined the processes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from selfjudge.errors import ElsewhereError

T = TypeVar("T")
Item = TypeVar("Item")


def process_count() -> int:
    """Returns the number of processes that train together."""
    return dist.get_world_size() if _joined() else 1


def process_index() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if _joined() else 0


def is_main() -> bool:
    """Returns whether this is the process that writes files and speaks to the user."""
    return process_index() == 0


def on_main(work: Callable[[], T]) -> T:
    """Does ``work`` on the main process and returns its result, which is pickled, on all of them.

    Raises:
        Exception: on the main process, what ``work`` raised.
        ElsewhereError: on the others, if it did.
    """
    if process_count() == 1:
        return work()
    result, error = _attempt(work) if is_main() else (None, None)
    _raise_any(error)
    shared = [result]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]  # type: ignore[return-value]


def main_first(work: Callable[[], T]) -> T:
    """Does ``work`` on every process, on the others after the main one: they find what it left in a cache.

    Raises:
        Exception: on the processes where ``work`` raised, that.
        ElsewhereError: on the others.
    """
    if process_count() == 1:
        return work()
    result, error = _attempt(work) if is_main() else (None, None)
    _raise_any(error)
    if not is_main():
        result, error = _attempt(work)
    _raise_any(error)
    return result  # type: ignore[return-value]


def spread(items: Sequence[Item], work: Callable[[list[Item], list[int]], Sequence[T]]) -> list[T]:
    """Shares items out among the processes and returns all results, in the items' order, on each of them.

    Args:
        items: the same on all processes.
        work: gets a process's items, maybe none, and their places among all; its results, one for each, are pickled.

    Raises:
        Exception: on the processes where ``work`` raised, that.
        ElsewhereError: on the others.
    """
    count = process_count()
    places = list(range(process_index(), len(items), count))
    if count == 1:
        return list(work([*items], places))
    result, error = _attempt(lambda: list(work([items[i] for i in places], places)))
    _raise_any(error)
    shares = gather_objects(result)
    return [shares[i % count][i // count] for i in range(len(items))]


def gather_objects(item: Item) -> list[Item]:
    """Returns every process's object, in their order; they are pickled."""
    if process_count() == 1:
        return [item]
    found: list[Any] = [None] * process_count()
    dist.all_gather_object(found, item)
    return found


def leave() -> None:
    """Leaves the other processes, once there is nothing more to do and no trainer is held any more.

    Else gloo's threads, which may still let go of tensors, abort an interpreter that ends.
    """
    if _joined():
        gc.collect()  # a trainer is a cycle, and its DDP module keeps the threads
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as e:
        return None, e


def _raise_any(error: Exception | None) -> None:
    """Raises on every process if one of them has an error: its own, or that of another.

    Only text travels: an exception need not survive pickling.
    """
    said = gather_objects(f"{type(error).__name__}: {error}" if error else None)
    if error is not None and not any(said[: process_index()]):
        raise error
    first = next((number for number, text in enumerate(said) if text), None)
    if first is not None:
        raise ElsewhereError(f"Process {first} stopped ({said[first]}).")
