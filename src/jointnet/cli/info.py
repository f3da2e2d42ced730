"""jointnet info: what a model folder holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("info", help="what a model is: modalities, parameters, memory, where it comes from")
    parser.add_argument("model", metavar="MODEL", help="model folder, or the name of a bundled joint model")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command. Raises: JointNetError."""
    facts = describe_model(options.model)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name}: {in_words(value)}")


def in_words(value: Any) -> str:
    """A fact in a line; what is long in it (configurations, curves) is left to --json."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items() if not isinstance(part, dict | list))
    return str(value)


def describe_model(model: str) -> dict[str, Any]:
    """The facts of a model folder; weights are opened, nothing is run. Raises: ModelFolderError."""
    import torch

    from jointnet.checkpoints.folder import provenance_of, stages_of
    from jointnet.loading import load, model_folder
    from jointnet.pipelines.bases import architecture

    pipeline = load(model)
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    folder = model_folder(model)
    said = provenance_of(folder)
    config = pipeline.joint_unet.config
    near_m = pipeline.config.depth_near_m
    depth = {"depth": f"near / z, near = {near_m} m" if near_m else "up to scale and shift"} if "depth" in pipeline.modalities else {}
    return {
        "folder": str(folder),
        "base": architecture(pipeline.unet) + (f" ({said['base']})" if "base" in said else ""),
        "modalities": list(pipeline.modalities),
        "size": f"{pipeline.default_size} px, multiples of {pipeline.size_multiple}",
        "prediction": pipeline.scheduler.config.get("prediction_type", "epsilon"),
        "reads masks": bool(config.has_masked_input),
        "independent timesteps": bool(config.has_independent_timesteps),
        **depth,
        "parameters": {**counts, "all": sum(counts.values())},
        "memory of the weights in MiB": {name: round(sum(counts.values()) * size / 2**20) for name, size in BYTES.items()},
        "stages": stages_of(folder) or "it does not say",
        "provenance": said or "it does not say",
    }
