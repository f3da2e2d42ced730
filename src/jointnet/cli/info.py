"""jointnet info: what the folder of a joint model, or of a base, holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnet.cli.arguments import parse_name
from jointnet.cli.command import add_command, print_json
from jointnet.demo.bundled import BASE_MODEL, BUNDLED
from jointnet.errors import ModelFolderError

EXAMPLES = """
jointnet info demo-tasks
jointnet info runs/stage2/model --json
"""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BASES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "IFPipeline", "IFSuperResolutionPipeline")
"""As in pipelines/bases.py, which imports torch."""

_COMMIT_DIGITS = 12


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "info", info, examples=EXAMPLES, panel="Models")


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", parser=parse_name, help=f"model folder, or a bundled model: {', '.join(BUNDLED)}")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, with configurations and curves")] = False,
) -> None:
    """Print what a model is: modalities, parameters, memory, where it comes from."""
    facts = describe_model(model)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name}: {in_words(name, value)}")


def in_words(name: str, value: Any) -> str:
    """Return a fact in a line; what is long in it (configurations, curves) is left to --json."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return (", then " if name == "stages" else ", ").join(value)
    if isinstance(value, dict):
        return origin_in_words(value) if name == "provenance" else ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def origin_in_words(provenance: Mapping[str, Any]) -> str:
    """Return what a person asks of a model's training; entries of other kinds than expected are left out."""
    known = {name: value for name, value in provenance.items() if isinstance(value, str | int | float) and not isinstance(value, bool)}
    counts = {name: value for name, value in known.items() if not isinstance(value, str)}
    texts = {name: " ".join(value.split()) for name, value in known.items() if isinstance(value, str)}
    minutes = counts["seconds"] / 60 if "seconds" in counts else None
    parts = {
        "recipe {}": texts.get("recipe"),
        "{:g} steps": counts.get("steps"),
        "{:.0f} samples": counts.get("samples_seen"),
        "{:.0f} min of training": minutes,
        "data {}": texts.get("data") or texts.get("scenes"),
        "start {}": texts.get("start"),
        "base {}": texts.get("base"),
        "code {}": texts.get("commit", "")[:_COMMIT_DIGITS] or None,
    }
    return ", ".join(form.format(value) for form, value in parts.items() if value is not None) or "see --json"


def describe_model(model: str) -> dict[str, Any]:
    """Return the facts of a model folder; its weights' headers are read, nothing is loaded. Raises: ModelFolderError."""
    from jointnet.loading import model_folder

    folder = model_folder(model)
    try:
        return _describe(folder)
    except ModelFolderError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # of values that are of other kinds than a config's
        raise ModelFolderError(f"got a broken config in {str(folder)!r}: {error}; copy or save the model again") from error


def _describe(folder: Path) -> dict[str, Any]:
    """Raises: ModelFolderError; what Python raises for values of other kinds than a config's."""
    from jointnet.checkpoints.index import INDEX_FILE, not_joint, pipeline_class, provenance_of, read_side_file, stages_of
    from jointnet.checkpoints.inspect import parameter_counts, read_config
    from jointnet.checkpoints.integrity import check_whole

    kind = pipeline_class(folder)
    if kind not in ("JointNetPipeline", *BASES):
        raise ModelFolderError(not_joint(kind, folder))
    check_whole(folder)
    is_joint = kind not in BASES
    provenance, index = provenance_of(folder), read_side_file(folder / INDEX_FILE)
    network = read_config(folder, "joint_unet") if is_joint else _network_of_base(read_config(folder, "unet"))
    vae, counts = read_config(folder, "vae"), parameter_counts(folder)
    unet, modalities = network.get("unet_config", {}), network.get("modalities", [])
    if not isinstance(modalities, list) or not all(isinstance(name, str) for name in modalities):
        raise ValueError(f"it has modalities {modalities!r}")
    size, multiple = sizes_of(unet, vae, network.get("low_res_channels", 0))
    near_m = index.get("depth_near_m")
    depth = {"depth": f"near / z, near = {near_m} m" if near_m else "up to scale and shift"} if "depth" in modalities else {}
    stages = stages_of(folder)
    origin = provenance.get("base") or (BASE_MODEL if is_joint and stages and stages[0].startswith("demo-") else None)
    abilities = {"reads masks": "has_masked_input", "independent timesteps": "has_independent_timesteps"} if is_joint else {}
    return {
        "folder": str(folder),
        "kind": "a joint model" if is_joint else f"a base to extend: {kind}",
        "base": architecture(unet, network.get("low_res_channels", 0)) + (f" ({origin})" if origin else ""),
        "modalities": modalities,
        "size": f"{size} px, multiples of {multiple}",
        "prediction": read_config(folder, "scheduler", "scheduler_config.json").get("prediction_type", "epsilon"),
        **{name: bool(network.get(entry)) for name, entry in abilities.items()},
        **depth,
        "parameters": {**counts, "all": sum(counts.values())},
        "memory of the weights in MiB": {name: round(sum(counts.values()) * size / 2**20) for name, size in BYTES.items()},
        "stages": stages or "it does not say",
        "provenance": provenance or "it does not say",
    }


def _network_of_base(unet: dict[str, Any]) -> dict[str, Any]:
    """Return a base's U-Net as the config of a joint network has it."""
    channels = unet.get("in_channels", 0)
    upscales = unet.get("class_embed_type") == "timestep" and channels == unet.get("out_channels")
    return {"unet_config": unet, "modalities": ["rgb"], "low_res_channels": channels // 2 if upscales else 0}


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
