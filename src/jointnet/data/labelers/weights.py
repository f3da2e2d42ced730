"""Where the weights of a labeler lie. Nothing here reaches for the network, and nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jointnet.errors import ModelFolderError


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights as their authors publish them.

    Attributes:
        repository: hub id (OWNER/NAME), which is the default.
        file: name of the file that holds the weights, where it is no folder of transformers or diffusers.
        elsewhere: another address, as a sentence's end (", or from ...").
    """

    repository: str
    file: str | None = None
    elsewhere: str = ""

    def find(self, weights: str | None, name: str, modality: str) -> Path:
        """Return the folder (or file) of the weights: a path, or a hub id that is in the hub's cache; None is the default's.

        Args:
            name, modality: of the labeler, for the error.
        Raises: ModelFolderError if they are not there, with how to fetch them.
        """
        if weights is not None and Path(weights).exists():
            path = Path(weights)
            return path / self.file if self.file is not None and path.is_dir() else path
        repository = weights or self.repository
        folder = _cached(repository)
        if folder is not None:
            return folder if self.file is None else folder / self.file
        if weights is not None and not _is_hub_id(weights):
            raise ModelFolderError(f"got weights {weights!r} of {name}, where there is nothing; expected {self._expected}")
        raise ModelFolderError(
            f"got no weights of {name}: {repository} is not in the cache of the Hugging Face hub; fetch them with: hf download {repository}"
            f"{self.elsewhere}; or pass {self._expected}: {modality}={name}:PATH"
        )

    @property
    def _expected(self) -> str:
        return "a folder" if self.file is None else f"{self.file}, or a folder with it"


def _cached(repository: str) -> Path | None:
    """Return the folder of a hub id in the hub's cache; None if it is not there, or is no hub id."""
    if not _is_hub_id(repository):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _is_hub_id(text: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1
