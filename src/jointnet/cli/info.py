"""jointnet info: what a model folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from jointnet.cli.command import add_command, print_json
from jointnet.demo.bundled import BASE_MODEL, JOINT_MODELS

EXAMPLES = """
jointnet info demo-tasks
jointnet info runs/stage2/model --json
"""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "info", info, examples=EXAMPLES, panel="Models")


def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"model folder, or a bundled model: {', '.join(JOINT_MODELS)}")],
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
    """Return the facts of a model folder; its weights' headers are read, nothing is loaded. Raises: ModelFolderError."""
    from jointnet.checkpoints.index import INDEX_FILE, provenance_of, read_side_file, stages_of
    from jointnet.checkpoints.inspect import parameter_counts, read_config
    from jointnet.loading import joint_model_folder

    folder = joint_model_folder(model)
    provenance, index = provenance_of(folder), read_side_file(folder / INDEX_FILE)
    network, vae = read_config(folder, "joint_unet"), read_config(folder, "vae")
    counts = parameter_counts(folder)
    unet, modalities = network.get("unet_config", {}), network.get("modalities", [])
    size, multiple = sizes_of(unet, vae, network.get("low_res_channels", 0))
    near_m = index.get("depth_near_m")
    depth = {"depth": f"near / z, near = {near_m} m" if near_m else "up to scale and shift"} if "depth" in modalities else {}
    stages = stages_of(folder)
    origin = provenance.get("base") or (BASE_MODEL if stages and stages[0].startswith("demo-") else None)
    return {
        "folder": str(folder),
        "base": architecture(unet, network.get("low_res_channels", 0)) + (f" ({origin})" if origin else ""),
        "modalities": modalities,
        "size": f"{size} px, multiples of {multiple}",
        "prediction": read_config(folder, "scheduler", "scheduler_config.json").get("prediction_type", "epsilon"),
        "reads masks": bool(network.get("has_masked_input")),
        "independent timesteps": bool(network.get("has_independent_timesteps")),
        **depth,
        "parameters": {**counts, "all": sum(counts.values())},
        "memory of the weights in MiB": {name: round(sum(counts.values()) * size / 2**20) for name, size in BYTES.items()},
        "stages": stages or "it does not say",
        "provenance": provenance or "it does not say",
    }


def sizes_of(unet: Mapping[str, Any], vae: Mapping[str, Any], low_res_channels: int) -> tuple[int, int]:
    """Return a model's own size and what sizes must be multiples of, in pixels, as its pipeline has them."""
    side = unet.get("sample_size") or 0
    window = side if isinstance(side, int) else min(side)
    if vae:
        factor = 2 ** (len(vae.get("block_out_channels", ())) - 1)
        return window * factor, factor
    if unet.get("in_channels", 0) - low_res_channels == 3:  # it works on pixels
        return window, 2 ** (len(unet.get("block_out_channels", ())) - 1)
    return window * 8, 8


def architecture(unet: Mapping[str, Any], low_res_channels: int) -> str:
    """Return the common name of the base that a U-Net belongs to; small ones are described."""
    if low_res_channels:
        return "DeepFloyd-IF stage II"
    by_kind = {"text": "DeepFloyd-IF stage I", "text_time": "Stable Diffusion XL"}
    if unet.get("addition_embed_type") in by_kind:
        return by_kind[unet["addition_embed_type"]]
    width = unet.get("cross_attention_dim")
    by_text_width: dict[Any, str] = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
    channels = "-".join(map(str, unet.get("block_out_channels", ())))
    return by_text_width.get(width or 0, f"a small U-Net of Stable Diffusion's kind, {channels} channels, text {width} wide")
