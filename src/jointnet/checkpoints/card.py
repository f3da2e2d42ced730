"""Files that describe a saved model: a card for people, and the file by which diffusers itself finds the pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from jointnet.checkpoints.index import INDEX_FILE, PROVENANCE_FILE, VOCABULARY_FILE, provenance_of
from jointnet.files.atomic import write_json, write_text

SIDE_FILES = (PROVENANCE_FILE, VOCABULARY_FILE)
"""Files beside the weights that a model keeps when it is saved somewhere else."""

PIPELINE_FILE = "pipeline.py"
_CLASS = "JointNetPipeline"
_PIPELINE = '''"""For DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)."""

from jointnet.pipelines.joint_net import JointNetPipeline

__all__ = ["JointNetPipeline"]
'''


def keep_side_files(source: str | Path | None, folder: Path) -> None:
    """Copy a model's side files to where it is saved, if it was loaded from a folder that has them; those of another model go."""
    if source is not None and Path(source).resolve() == folder.resolve():
        return
    for name in SIDE_FILES:
        (folder / name).unlink(missing_ok=True)
        if source is not None and (Path(source) / name).is_file():
            shutil.copy(Path(source) / name, folder)


def write_card(folder: Path) -> None:
    """Write README.md and pipeline.py into a saved model folder; the card holds the facts of its index and provenance files.

    The index then names pipeline.py, so that diffusers asks for trust_remote_code instead of looking for the class among its own.
    Raises: ModelFolderError for a broken provenance file; OSError.
    """
    index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    network: dict[str, Any] = json.loads((folder / "joint_unet" / "config.json").read_text(encoding="utf-8"))
    provenance = provenance_of(folder)
    modalities = [str(name) for name in network["modalities"]]
    head = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["jointnet", *modalities],
        base_model=_hub_id(provenance.get("base")),
        license=provenance.get("license"),
    )
    body = [*_usage(modalities), *_abilities(modalities, network, index), "", "## Training", "", *_training(provenance)]
    card = ModelCard("\n".join(["---", head.to_yaml(), "---", "", *body, ""]), ignore_metadata_errors=True)
    write_text(folder / "README.md", str(card))
    write_text(folder / PIPELINE_FILE, _PIPELINE)
    if index.get("_class_name") == _CLASS:
        write_json(folder / INDEX_FILE, {**index, "_class_name": [PIPELINE_FILE.removesuffix(".py"), _CLASS]}, indent=2)


def _usage(modalities: Sequence[str]) -> list[str]:
    return [
        f"# JointNet: {', '.join(modalities)}",
        "",
        "```python",
        "from jointnet import JointNetPipeline",
        "",
        'pipeline = JointNetPipeline.from_pretrained("THIS_FOLDER")',
        'output = pipeline("a prompt")',
        "```",
        "",
        "Through diffusers itself, with `jointnet` installed: `DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)`.",
        "",
    ]


def _abilities(modalities: Sequence[str], network: Mapping[str, Any], index: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- reads masks: {'yes' if network.get('has_masked_input') else 'no'}",
        f"- independent timesteps: {'yes' if network.get('has_independent_timesteps') else 'no'}",
    ]
    if "depth" in modalities:
        near = index.get("depth_near_m")
        lines.append(f"- depth: near / z with near = {near:g} m" if near else "- depth: disparity up to scale and shift")
    return lines


def _training(provenance: Mapping[str, Any]) -> list[str]:
    if not provenance:
        return ["The model does not say how it was trained."]
    facts = {
        "recipe": ", then ".join(provenance.get("stages") or [provenance.get("recipe", "unknown")]),
        "steps": provenance.get("steps"),
        "samples seen": provenance.get("samples_seen"),
        "seconds": provenance.get("seconds"),
        "data": provenance.get("data") or provenance.get("scenes"),
        "start": provenance.get("start"),
        "base": provenance.get("base"),
        "machine": ", ".join(f"{name} {value}" for name, value in provenance.get("machine", {}).items()) or None,
        "commit": provenance.get("commit"),
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value is not None]


def _hub_id(base: Any) -> str | None:
    """Return the base's name if it has the form of a model's on the hub, OWNER/NAME, and is no local folder."""
    if not isinstance(base, str) or base.count("/") != 1 or Path(base).exists():
        return None
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return base
