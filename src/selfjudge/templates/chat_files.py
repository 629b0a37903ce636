"""Chat templates as files: those shipped here, and your own."""

from __future__ import annotations

from pathlib import Path

from selfjudge.errors import ModelError

CHAT_TEMPLATES = Path(__file__).parent / "chat"


def chat_template_text(name_or_path: str) -> str:
    """Returns a chat template: one shipped here by name, or a Jinja file.

    Raises:
        ModelError: if it is neither, or the file has no text.
    """
    shipped = {path.stem: path for path in sorted(CHAT_TEMPLATES.glob("*.jinja"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ModelError(f"The chat template {name_or_path!r} is not UTF-8 text: name a Jinja file.") from e
    except IsADirectoryError as e:
        raise ModelError(f"The chat template {name_or_path!r} is a folder: name a Jinja file.") from e
    except (OSError, ValueError) as e:  # ValueError: a path with a null byte
        raise ModelError(
            f"There is no chat template {name_or_path!r}: use one of {', '.join(shipped)}, or the path of a Jinja file."
        ) from e
    if not text.strip():
        raise ModelError(f"The chat template {name_or_path!r} is empty: name a Jinja file of one that writes messages.")
    return text
