"""What a model folder holds, looked at before and after diffusers opens it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.checkpoints.index import INDEX_FILE, listed_components, not_joint, pipeline_class, read_side_file
from jointnet.checkpoints.weight_files import read_header
from jointnet.errors import ModelFolderError
from jointnet.files.json_files import read_named_values


def check_is_joint(folder: Path) -> None:
    """Check that a folder holds a joint model. Raises: ModelFolderError."""
    name = pipeline_class(folder)
    if name != "JointNetPipeline" and "joint_unet" not in read_named_values(folder / INDEX_FILE):
        raise ModelFolderError(not_joint(name, folder))


def reason_of(error: Exception, folder: Path) -> str:
    """Return in a line why diffusers could not open a folder: the first weight that does not fit its config, or the error's first line."""
    misfit = next(filter(None, (_misfit(folder / name, *value) for name, value in _networks(folder))), None)
    return misfit or first_line(error).split(". If you want", 1)[0]


def _networks(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Return the components of a folder that may be networks, by name, with library and class."""
    for name, (library, kind) in listed_components(read_side_file(folder / INDEX_FILE)).items():
        if (folder / name / "config.json").is_file() and library.split(".")[0] in ("diffusers", "transformers", "jointnet"):
            yield name, (library, kind)


def _misfit(folder: Path, library: str, kind: str) -> str | None:
    """Return which weight of a component has another shape than its config asks for; None if all fit, or nothing is known of them."""
    try:
        network: Any = getattr(import_module(library), kind)
        shapes = {_plain(name): shape for file in folder.glob("*.safetensors") for name, shape in read_header(file).items()}
        with torch.device("meta"):
            is_ours = library != "transformers"
            module = network.from_config(network.load_config(folder)) if is_ours else network(network.config_class.from_pretrained(folder))
    except BROKEN:
        return None
    for name, value in module.named_parameters():
        found = shapes.get(_plain(name))
        if found is not None and found != value.shape:
            return f"{folder.name} has a weight {name} of shape {list(found)}, its config.json asks for {list(value.shape)}"
    return None


def check_weights(folder: Path, modules: Mapping[str, nn.Module], named: Iterable[str]) -> None:
    """Check that a model has every weight, after it was opened: diffusers and transformers go on with random or empty ones.

    Args:
        modules: component -> network.
        named: of these components, those whose files name their weights as the networks do.
    Raises: ModelFolderError, naming the weight.
    """
    for component, module in modules.items():
        if hasattr(module, "_hf_hook"):  # offloaded while it was loaded: it holds no weight itself
            continue
        missing = [name for name, value in module.named_parameters() if value.is_meta]
        if component in named and not missing:
            missing = _not_in_files(module, folder / component)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelFolderError(f"got no weight {missing[0]}{more} in {str(folder / component)!r}; save or fetch the model again")


def _not_in_files(module: nn.Module, folder: Path) -> list[str]:
    """Return the weights of a network that none of a folder's safetensors files has; none if the folder has no such file."""
    held: set[str] = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as opened:
                held.update(_plain(name) for name in opened.keys())  # noqa: SIM118 - no dict
        except (OSError, SafetensorError):
            return []
    by_tensor: dict[int, list[str]] = {}  # weights that are tied have several names, and one of them in a file
    for name, value in module.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(value), []).append(name)
    return [names[0] for names in by_tensor.values() if held and held.isdisjoint(_plain(name) for name in names)]


def _plain(name: str) -> str:
    """Return a weight's name without a part that only some versions of transformers write."""
    return name.replace("text_model.", "")
