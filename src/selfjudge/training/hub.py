"""A finished model on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from selfjudge.errors import RunError

_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # that of httpx or httpx2, whichever the client uses


def push_to_hub(folder: Path, repository: str) -> str:
    """Uploads a model's folder, its card included, in one commit; returns the commit's address.

    Args:
        folder: such as a run's ``final/``.
        repository: ``NAME`` or ``ORGANISATION/NAME``; made private where it is not there yet.

    Raises:
        RunError: if the Hub refuses or does not answer, or there is no token.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload the model")
    except LocalTokenNotFoundError as e:
        raise RunError("The Hub wants a token: set HF_TOKEN, or run `hf auth login`.") from e
    except HFValidationError as e:
        raise RunError(f"{repository!r} is no name of a repository on the Hub: use NAME or ORGANISATION/NAME.") from e
    except OfflineModeIsEnabled as e:
        raise RunError("HF_HUB_OFFLINE is set, so nothing is uploaded: unset it.") from e
    except (_TRANSPORT_ERROR, OSError) as e:
        said = " ".join(str(e).split())[:300].rstrip(".") or type(e).__name__
        raise RunError(f"{folder} was not uploaded to {repository} ({said}): check HF_TOKEN and the name.") from e
    return str(commit)
