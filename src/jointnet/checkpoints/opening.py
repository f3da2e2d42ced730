"""What a model folder holds, looked at before and after diffusers opens it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from jointnet.checkpoints.index import INDEX_FILE, not_joint, pipeline_class
from jointnet.errors import ModelFolderError
from jointnet.files.json_files import read_named_values

_WEIGHTS = re.compile(r"(?P<stem>[^.]+)(\.(?P<variant>[\w-]+?))?(-\d{5}-of-\d{5})?\.(safetensors|bin)")


def check_is_joint(folder: Path) -> None:
    """Check that a folder holds a joint model. Raises: ModelFolderError."""
    name = pipeline_class(folder)
    if name != "JointNetPipeline" and "joint_unet" not in read_named_values(folder / INDEX_FILE):
        raise ModelFolderError(not_joint(name, folder))


def variant_of(folder: Path) -> str | None:
    """Return the variant, such as "fp16", that a folder holds instead of plain weights; None if it has plain ones, or several variants."""
    only: set[str] = set()
    for component in (path for path in folder.iterdir() if path.is_dir()):
        found = {match["variant"] for path in component.iterdir() if (match := _WEIGHTS.fullmatch(path.name))}
        if found and None not in found:
            only |= found
    return only.pop() if len(only) == 1 else None


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


def is_whole(folder: Path) -> bool:
    """Return True if a folder has its index and, in every component's folder, weights where there is a network's config."""
    if not (folder / INDEX_FILE).is_file():
        return False
    listed = {name: value for name, value in read_named_values(folder / INDEX_FILE).items() if not name.startswith("_")}
    for name in (name for name, value in listed.items() if isinstance(value, list) and value[-1] is not None):
        component = folder / name
        has_weights = component.is_dir() and any(_WEIGHTS.fullmatch(path.name) for path in component.iterdir())
        if not component.is_dir() or ((component / "config.json").is_file() and not has_weights):
            return False
    return True
