"""What a model folder says of itself without its weights: nothing heavy is imported here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnet.errors import ModelFolderError
from jointnet.files.json_files import read_named_values

INDEX_FILE = "model_index.json"

PROVENANCE_FILE = "provenance.json"
"""How the weights were trained."""

VOCABULARY_FILE = "vocabulary.json"
"""Words that a small model was trained to draw: kind -> phrases."""

COMPONENTS = (
    "vae",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
    "joint_unet",
    "unet",
    "scheduler",
    "image_noising_scheduler",
    "safety_checker",
    "feature_extractor",
)
"""Names of the components that a joint model or its base has, each with a folder; whatever else an index names is a setting, or unknown."""

_SINGLE_FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")


def pipeline_class(folder: Path) -> str:
    """Return the pipeline class that a folder was saved by. Raises: ModelFolderError if it is no pipeline folder."""
    if not folder.is_dir():
        raise ModelFolderError(f"got model {str(folder)!r}, which is no folder; expected a saved pipeline (a folder with {INDEX_FILE})")
    index = folder / INDEX_FILE
    if not index.is_file():
        raise ModelFolderError(f"got model folder {str(folder)!r} without {INDEX_FILE}; expected a folder written by save_pretrained")
    try:
        content = json.loads(index.read_text())
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"got a broken {index}: {error}; save the model again") from error
    name = content.get("_class_name") if isinstance(content, dict) else None
    if isinstance(name, list) and name:
        name = name[-1]  # [the file that has the class, the class]
    if not isinstance(name, str):
        raise ModelFolderError(f"got {index} without _class_name; expected a folder written by save_pretrained")
    return name


def listed_components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return library and class of each component that an index lists, by its name; those that a model does without are left out."""
    pairs = {name: value for name, value in index.items() if not name.startswith("_") and isinstance(value, list) and len(value) == 2}
    return {name: (value[0], value[1]) for name, value in pairs.items() if all(isinstance(part, str) for part in value)}


def refuse_single_file(model: Any) -> None:
    """Refuse a file of weights where a model's folder is expected. Raises: ModelFolderError."""
    if Path(str(model)).suffix.lower() in _SINGLE_FILES and not Path(str(model)).is_dir():
        raise ModelFolderError(
            f"got the single file {str(model)!r}; expected a folder or hub id: open it with StableDiffusionPipeline.from_single_file and "
            "pass the pipeline to JointNetPipeline.from_base"
        )


def not_joint(name: str, folder: Path) -> str:
    """Return the message for a folder of another pipeline class."""
    return f"got a {name} folder {str(folder)!r}; expected a JointNetPipeline: extend it with JointNetPipeline.from_base and train it"


def provenance_of(folder: str | Path | None) -> dict[str, Any]:
    """Return the content of a model folder's PROVENANCE_FILE; empty if there is none. Raises: ModelFolderError."""
    return {} if folder is None else read_side_file(Path(folder) / PROVENANCE_FILE)


def read_side_file(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file beside the weights; empty if there is none. Raises: ModelFolderError."""
    try:
        return read_named_values(path)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"got a broken {path}: {error}; remove it, or copy the model again") from error


def stages_of(folder: str | Path | None) -> list[str]:
    """Return the recipes that a joint model was trained by, in their order. Raises: ModelFolderError."""
    provenance = provenance_of(folder)
    stages = provenance.get("stages") or [provenance[name] for name in ("recipe",) if name in provenance]
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        path = Path(str(folder)) / PROVENANCE_FILE
        raise ModelFolderError(f"got a broken {path}: expected the recipes' names as stages; remove it, or copy the model again")
    return stages
