"""Putting a trained model on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError  # pyright: ignore[reportPrivateImportUsage] - the error of its client

from jointnet.errors import HubError

_FAILURES = (HTTPError, HFValidationError, OSError, ValueError)


def open_repo(repo_id: str) -> None:
    """Create a model's repository if it is not there, with the token of ``hf auth login`` or HF_TOKEN; an existing one stays as it is.

    Raises: HubError, so that a run knows before it trains.
    """
    try:
        HfApi().create_repo(repo_id, exist_ok=True)
    except _FAILURES as error:
        raise HubError(f"cannot write to {repo_id!r} on the hub: {_first_line(error)}; check the name, or log in: hf auth login") from error


def push_model(folder: Path, repo_id: str) -> str:
    """Upload a model's folder in one commit; return the address of the commit. Raises: HubError; the folder stays."""
    try:
        return str(HfApi().upload_folder(repo_id=repo_id, folder_path=folder, commit_message="A model of jointnet train"))
    except _FAILURES as error:
        raise HubError(
            f"cannot upload {str(folder)!r} to {repo_id!r}: {_first_line(error)}; the model is saved: run the command again"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
