"""Opening a model by the name of a bundled one, by its folder or by its hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from jointnet.checkpoints.index import VOCABULARY_FILE, not_joint, pipeline_class, read_side_file, refuse_single_file
from jointnet.checkpoints.integrity import check_whole, is_whole
from jointnet.demo.bundled import BUNDLED, bundled_folder
from jointnet.errors import ModelFolderError

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.pipelines.labeler import JointNetLabeler

_LOADING = RLock()


def model_folder(model: str | Path) -> Path:
    """Return the folder of a bundled model's name, of a hub id (OWNER/NAME), or the path itself.

    Only a hub id reaches for the network, and only if the model is not in the hub's cache. OWNER/NAME is a path where there is a folder
    OWNER. Raises: ModelFolderError, also if there is no such folder.
    """
    if str(model) in BUNDLED:
        return bundled_folder(str(model))
    if isinstance(model, str) and _is_hub_id(model):
        return _from_hub(model)
    if not Path(model).is_dir():
        refuse_single_file(model)
        names = ", ".join(BUNDLED)
        raise ModelFolderError(f"got model {str(model)!r}, which is no folder; expected a saved pipeline, or a bundled model: {names}")
    return Path(model)


def local_folder(model: str | Path) -> Path | None:
    """Return the folder of a model as ``model_folder`` does, or None where there is none here yet; it never reaches for the network."""
    if str(model) in BUNDLED:
        return bundled_folder(str(model))
    if isinstance(model, str) and _is_hub_id(model):
        return _cached(model)
    return Path(model) if Path(model).is_dir() else None


def joint_model_folder(model: str | Path) -> Path:
    """Return the folder of a joint model, by its name or path; nothing heavy is imported.

    Raises: ModelFolderError if it is of another kind or damaged, see ``checkpoints.integrity``.
    """
    folder = model_folder(model)
    kind = pipeline_class(folder)
    if kind != "JointNetPipeline":
        raise ModelFolderError(not_joint(kind, folder))
    check_whole(folder)
    return folder


def load(model: str | Path = "demo") -> JointNetPipeline:
    """Open a joint model for use: "demo", a folder saved by JointNetPipeline.save_pretrained, or a hub id (OWNER/NAME).

    The name of a bundled model and a folder never reach for the network. A hub id is fetched if it is not in the cache.
    Raises: ModelFolderError if the folder is missing, of another kind or broken.
    """
    folder = joint_model_folder(model)

    from jointnet.checkpoints.folder import BROKEN
    from jointnet.checkpoints.opening import reason_of
    from jointnet.pipelines.joint_net import JointNetPipeline

    try:
        with without_progress_bars():
            return JointNetPipeline.from_pretrained(folder, local_files_only=True)
    except ModelFolderError:
        raise
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the model in {str(folder)!r}: {reason_of(error, folder)}") from error


def load_labeler(modality: str, model: str | None) -> JointNetLabeler:
    """Open a joint model as a labeler of training data: a bundled one's name, a folder or a hub id; "demo" by default.

    Raises: ModelFolderError; UnknownNameError if the model does not make the modality.
    """
    pipeline = load(model or "demo")

    from jointnet.pipelines.labeler import JointNetLabeler

    pipeline.set_progress_bar_config(disable=True)
    return JointNetLabeler(modality=modality, pipeline=pipeline)


def vocabulary(model: str | Path) -> dict[str, list[str]] | None:
    """Return what a small model was trained to draw: kind -> phrases; None if its folder has no list. Raises: ModelFolderError."""
    path = model_folder(model) / VOCABULARY_FILE
    phrases = read_side_file(path)
    if not all(isinstance(listed, list) and all(isinstance(phrase, str) for phrase in listed) for listed in phrases.values()):
        raise ModelFolderError(f"got a broken {path}: expected lists of phrases by kind; remove it, or copy the model again")
    return phrases or None


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the libraries' bars of loading and saving until the context ends; then they are as they were."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as of_transformers

    with _LOADING:  # or one that ends would show the other's
        libraries = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
        is_hub_quiet = are_progress_bars_disabled()
        for library in libraries:
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library in libraries:
                library.enable_progress_bar()
            if is_hub_quiet:
                disable_progress_bars()


def _is_hub_id(model: str) -> bool:
    owner, _, name = model.partition("/")
    if not owner or not name or "/" in name or owner.startswith((".", "~")) or Path(owner).exists():
        return False
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _cached(model: str) -> Path | None:
    """The folder of a hub id in the hub's cache, whole or not; None if it has none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except OSError:
        return None


def _from_hub(model: str) -> Path:
    """The folder of a hub id, from the cache if it is whole there. Raises: ModelFolderError."""
    from huggingface_hub import snapshot_download

    folder = _cached(model)
    if folder is not None and is_whole(folder):
        return folder
    try:
        return Path(snapshot_download(model))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ModelFolderError(
            f"got model {model!r}, which is no folder, no bundled model ({', '.join(BUNDLED)}) and cannot be fetched from the hub: {reason}"
        ) from error
