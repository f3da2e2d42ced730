"""jointnet info: what a model folder holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jointnet.cli.command import add_command, print_json

EXAMPLES = """
jointnet info demo-tasks
jointnet info runs/stage2/model --json
"""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "info", info, examples=EXAMPLES, panel="Models")


def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="model folder, or the name of a bundled joint model")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, with configurations and curves")] = False,
) -> None:
    """Print what a model is: modalities, parameters, memory, where it comes from."""
    facts = describe_model(model)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name}: {in_words(value)}")


def in_words(value: Any) -> str:
    """Return a fact in a line; what is long in it (configurations, curves) is left to --json."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items() if not isinstance(part, dict | list))
    return str(value)


def describe_model(model: str) -> dict[str, Any]:
    """Return the facts of a model folder; weights are opened, nothing is run. Raises: ModelFolderError."""
    import torch

    from jointnet.checkpoints.index import provenance_of, stages_of
    from jointnet.loading import load, model_folder
    from jointnet.pipelines.bases import architecture

    pipeline = load(model)
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    folder = model_folder(model)
    provenance = provenance_of(folder)
    config = pipeline.joint_unet.config
    near_m = pipeline.config.depth_near_m
    depth = {"depth": f"near / z, near = {near_m} m" if near_m else "up to scale and shift"} if "depth" in pipeline.modalities else {}
    return {
        "folder": str(folder),
        "base": architecture(pipeline.unet) + (f" ({provenance['base']})" if "base" in provenance else ""),
        "modalities": list(pipeline.modalities),
        "size": f"{pipeline.default_size} px, multiples of {pipeline.size_multiple}",
        "prediction": pipeline.scheduler.config.get("prediction_type", "epsilon"),
        "reads masks": bool(config.has_masked_input),
        "independent timesteps": bool(config.has_independent_timesteps),
        **depth,
        "parameters": {**counts, "all": sum(counts.values())},
        "memory of the weights in MiB": {name: round(sum(counts.values()) * size / 2**20) for name, size in BYTES.items()},
        "stages": stages_of(folder) or "it does not say",
        "provenance": provenance or "it does not say",
    }
