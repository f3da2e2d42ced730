"""Opening a model by the name of a bundled one or by its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jointnet.demo.bundled import BUNDLED, bundled_folder
from jointnet.errors import ModelFolderError

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline


def model_folder(model: str | Path) -> Path:
    """Return the folder of a bundled model's name, or the path itself. Raises: ModelFolderError if there is none."""
    if str(model) in BUNDLED:
        return bundled_folder(str(model))
    if not Path(model).is_dir():
        names = ", ".join(BUNDLED)
        raise ModelFolderError(f"got model {str(model)!r}, which is no folder; expected a saved pipeline, or a bundled model: {names}")
    return Path(model)


def joint_model_folder(model: str | Path) -> Path:
    """Return the folder of a joint model, by its name or path; nothing heavy is imported. Raises: ModelFolderError."""
    from jointnet.checkpoints.index import pipeline_class

    folder = model_folder(model)
    kind = pipeline_class(folder)
    if kind != "JointNetPipeline":
        raise ModelFolderError(
            f"got a {kind} folder {str(folder)!r}; expected a JointNetPipeline: extend it with JointNetPipeline.from_base and train it"
        )
    return folder


def load(model: str | Path = "demo") -> JointNetPipeline:
    """Open a joint model for use: "demo", or a folder saved by JointNetPipeline.save_pretrained. Never reaches for the network.

    Raises: ModelFolderError if the folder is missing, of another kind or broken.
    """
    folder = joint_model_folder(model)

    from diffusers.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as disable_transformers_progress_bar

    from jointnet.checkpoints.folder import BROKEN, first_line
    from jointnet.pipelines.joint_net import JointNetPipeline

    disable_progress_bar()
    disable_transformers_progress_bar()
    try:
        return JointNetPipeline.from_pretrained(folder, local_files_only=True)
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the model in {str(folder)!r}: {first_line(error)}") from error


def vocabulary(model: str | Path) -> dict[str, list[str]] | None:
    """Return what a small model was trained to draw: kind -> phrases; None if its folder has no list. Raises: ModelFolderError."""
    from jointnet.checkpoints.index import VOCABULARY_FILE, read_side_file

    return read_side_file(model_folder(model) / VOCABULARY_FILE) or None
