"""What a saved model tells about itself: a card for people, and the file by which diffusers alone finds the pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jointnet.checkpoints.folder import INDEX_FILE, PROVENANCE_FILE, VOCABULARY_FILE, provenance_of

SIDE_FILES = (PROVENANCE_FILE, VOCABULARY_FILE)
"""Beside the weights: what a model keeps when it is saved somewhere else."""

PIPELINE_FILE = "pipeline.py"
_PIPELINE = '''"""For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER + "/pipeline.py", trust_remote_code=True)."""

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
    """Write README.md and pipeline.py into a saved model folder; the card says what its index and provenance file say."""
    index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text())
    network: dict[str, Any] = json.loads((folder / "joint_unet" / "config.json").read_text())
    said = provenance_of(folder)
    modalities = [str(name) for name in network["modalities"]]
    near = index.get("depth_near_m")
    lines = [
        "---",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags:",
        *(f"- {tag}" for tag in ("jointnet", *modalities)),
        "---",
        "",
        f"# JointNet: {', '.join(modalities)}",
        "",
        "```python",
        "from jointnet import JointNetPipeline",
        "",
        'pipeline = JointNetPipeline.from_pretrained("THIS_FOLDER")',
        'output = pipeline("a prompt")',
        "```",
        "",
        f"- reads masks: {'yes' if network.get('has_masked_input') else 'no'}",
        f"- independent timesteps: {'yes' if network.get('has_independent_timesteps') else 'no'}",
    ]
    if "depth" in modalities:
        lines.append(f"- depth: near / z with near = {near:g} m" if near else "- depth: disparity up to scale and shift")
    lines += ["", "## Training", "", *_training(said)]
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    (folder / PIPELINE_FILE).write_text(_PIPELINE)


def _training(said: dict[str, Any]) -> list[str]:
    if not said:
        return ["The model does not say how it was trained."]
    shown = {
        "recipe": ", then ".join(said.get("stages") or [said.get("recipe", "not said")]),
        "steps": said.get("steps"),
        "samples seen": said.get("samples_seen"),
        "seconds": said.get("seconds"),
        "data": said.get("data") or said.get("scenes"),
        "start": said.get("start"),
        "base": said.get("base"),
        "machine": ", ".join(f"{name} {value}" for name, value in said.get("machine", {}).items()) or None,
        "commit": said.get("commit"),
    }
    return [f"- {name}: {value}" for name, value in shown.items() if value is not None]
