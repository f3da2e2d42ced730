"""The authors' checkpoints <-> ours: the same numbers under other names, one folder a branch.

Their folder holds unet/ (the RGB branch) and jointnet/ (the dense branch). A branch keeps the convolutions that it sends with and the
one that lets the other's noisy input in; ours keeps all that goes one way in one Exchange.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.checkpoints.folder import BROKEN, RELEASE_BRANCH, RELEASE_RGB, first_line
from jointnet.checkpoints.weight_files import check_weight_file
from jointnet.errors import ModelFolderError
from jointnet.files.atomic import replacing_file, write_json
from jointnet.models.adapters import without_adapters
from jointnet.models.branch_kinds import BranchKind
from jointnet.models.joint_unet import JointUNet

Weights = dict[str, Tensor]
_RGB, _DENSE = RELEASE_RGB, RELEASE_BRANCH
_STEM = "diffusion_pytorch_model"
_FILES = ("config.json", f"{_STEM}.safetensors", f"{_STEM}.bin")
_CLASS = "JointNetModel"
_OWN_SETTINGS = ("joint_in_channels", "has_masked_latent_input")
_PREDICTION, _MODALITY = "prediction_type", "modality"
"""Settings that we add: the authors' files predict noise and, as far as they were published, depth."""
_DEEPEST = 3
"""How many folders below the one passed the branches may lie."""


@dataclass(frozen=True)
class Release:
    """A checkpoint in the authors' form: the network in float32, and its prediction type, by diffusers' name."""

    joint_unet: JointUNet
    prediction_type: str


def read_release(path: Path, modality: str | None = None) -> Release:
    """Read a release folder, or the zip of one, wherever in it the branches lie. Code that a pickle holds is not run.

    Args:
        modality: of the dense branch; by default the one that the files state, or depth if they state none.
    Raises: ModelFolderError if a branch is missing or broken, its keys do not match, or it is of another modality.
    """
    if not path.is_file():
        return _read_folder(_with_branches(path), modality)
    if not zipfile.is_zipfile(path):
        raise ModelFolderError(f"got {str(path)!r}, which is no zip file; expected a release folder or its zip")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if Path(name).name in _FILES])
        except OSError as error:
            raise ModelFolderError(
                f"cannot unpack {str(path)!r} into {tempfile.gettempdir()}: {first_line(error)}; free space there, or unpack it yourself"
            ) from error
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError) as error:
            raise ModelFolderError(f"cannot unpack {str(path)!r}: {first_line(error)}; fetch it again") from error
        try:
            return _read_folder(_with_branches(Path(folder)), modality)
        except ModelFolderError as error:
            raise ModelFolderError(str(error).replace(folder, str(path))) from error


def _with_branches(folder: Path) -> Path:
    """Return the folder that holds the branches: ``folder`` or the only one below it. Raises: ModelFolderError if there are several."""
    if (folder / _DENSE / "config.json").is_file():
        return folder
    patterns = ("*/" * depth + f"{_DENSE}/config.json" for depth in range(1, _DEEPEST + 1))
    below = sorted(config.parent.parent for pattern in patterns for config in folder.glob(pattern))
    if len(below) > 1:
        raise ModelFolderError(f"got {len(below)} checkpoints in {str(folder)!r}: {', '.join(map(str, below))}; pass the folder of one")
    return below[0] if below else folder


def _read_folder(folder: Path, modality: str | None) -> Release:
    configs = {branch: _read_config(folder / branch) for branch in (_RGB, _DENSE)}
    config = {k: v for k, v in configs[_RGB].items() if not k.startswith("_") and k not in _OWN_SETTINGS}
    prediction = config.pop(_PREDICTION, "epsilon")
    stated = config.pop(_MODALITY, None)
    if modality is not None and stated not in (None, modality):
        raise ModelFolderError(f"got a checkpoint of {stated} in {str(folder)!r}; expected {modality}")
    dense = modality or str(stated or "depth")
    differing = sorted(k for k in configs[_RGB].keys() | configs[_DENSE].keys() if _differs(k, configs[_RGB], configs[_DENSE]))
    if differing:
        raise ModelFolderError(
            f"got branches in {str(folder)!r} whose configs differ in {', '.join(differing)}; expected two of one checkpoint"
        )
    masked = bool(configs[_RGB].get("has_masked_latent_input"))
    weights = {branch: _read_weights(folder / branch) for branch in (_RGB, _DENSE)}
    try:
        with torch.device("meta"):  # no memory for weights that are replaced at once
            joint = JointUNet(unet_config=config, modalities=("rgb", dense), has_masked_input=masked)
    except BROKEN as error:
        raise ModelFolderError(
            f"cannot build the network that {str(folder / _RGB / 'config.json')!r} describes: {first_line(error)}"
        ) from error
    names = {ours: _their_key(ours, dense) for ours in joint.state_dict()}
    expected = set(names.values())
    found = {(branch, key) for branch, tensors in weights.items() for key in tensors}
    if found != expected:
        raise ModelFolderError(
            f"keys of {str(folder)!r} do not match: {_listed('missing', expected - found)}; {_listed('unknown', found - expected)}"
        )
    try:
        ours_by_key = {ours: weights[branch].pop(key).to(torch.float32, copy=True) for ours, (branch, key) in names.items()}
        joint.load_state_dict(ours_by_key, assign=True)
    except RuntimeError as error:
        raise ModelFolderError(f"weights of {str(folder)!r} do not fit its config: {str(error).splitlines()[-1].strip()}") from error
    return Release(joint.eval(), prediction)


def _differs(key: str, rgb: dict[str, Any], dense: dict[str, Any]) -> bool:
    """Return True if both configs state a setting of the U-Net, or of its output, and state it differently."""
    return not key.startswith("_") and key not in _OWN_SETTINGS and key in rgb and key in dense and rgb[key] != dense[key]


def write_release(joint: JointUNet, folder: Path, prediction_type: str = "epsilon") -> None:
    """Write a joint network of two modalities as a release folder.

    Args:
        prediction_type: by diffusers' name. The authors' code takes it from the base.
    Adapters (LoRA) are left out.
    Raises: ModelFolderError for one that this form cannot hold.
    """
    if len(joint.modalities) != 2:
        raise ModelFolderError(f"got a network of {', '.join(joint.modalities)}; the release's form holds RGB and one dense modality")
    if joint.config.low_res_channels:
        raise ModelFolderError("got a network that upscales; the release's form has no place for its low-resolution input")
    if joint.in_channels == joint.config.unet_config["in_channels"] == 3:
        raise ModelFolderError("got a network on pixels; the release's form is for bases with an autoencoder")
    if joint.config.has_independent_timesteps:
        raise ModelFolderError("got a network with independent timesteps; the release's form cannot say so: take one with masked input")
    if not BranchKind.parse(joint.config.branch).is_full:
        raise ModelFolderError(f"got a network with {joint.config.branch} branches; the release's form is for copies of the base's")
    modality = joint.modalities[1]
    weights: dict[str, Weights] = {_RGB: {}, _DENSE: {}}
    with without_adapters(joint):
        state = joint.state_dict()
    for ours, value in state.items():
        branch, key = _their_key(ours, modality)
        weights[branch][key] = value.contiguous()
    settings = {"joint_in_channels": None, "has_masked_latent_input": bool(joint.config.has_masked_input)}
    settings |= {_PREDICTION: prediction_type, _MODALITY: modality}
    for branch, tensors in weights.items():
        (folder / branch).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": _CLASS, **joint.config.unet_config, **settings}
        write_json(folder / branch / "config.json", config, indent=2, sort_keys=True)
        with replacing_file(folder / branch / f"{_STEM}.safetensors") as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})


def _their_key(ours: str, modality: str) -> tuple[str, str]:
    """Return the branch folder and the key there of a key of ours."""
    part, name, rest = ours.split(".", 2)
    of = {"rgb": _RGB, modality: _DENSE}
    if part == "branches":
        return of[name], rest.removeprefix("unet.")
    if part == "masked_inputs":
        return of[name], f"jointnet_masked_latent_conv.{rest}"
    sender, receiver = name.split("_to_")
    kind, tail = rest.split(".", 1)
    if kind == "input":
        return of[receiver], f"jointnet_rgb_in_trans.{tail}"
    return of[sender], f"jointnet_{'down_blocks' if kind == 'skips' else 'mid_block'}.{tail}"


def _read_config(branch: Path) -> dict[str, Any]:
    try:
        config = json.loads((branch / "config.json").read_text())
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"got no {branch.name}/config.json in {str(branch.parent)!r}; expected unet/ and jointnet/ of a release"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read {str(branch / 'config.json')!r}: {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != _CLASS:
        raise ModelFolderError(f"got a {kind} in {str(branch)!r}; expected a {_CLASS} of the authors' release")
    if not any(key not in _OWN_SETTINGS for key in config if not key.startswith("_")):
        raise ModelFolderError(f"got {str(branch / 'config.json')!r} without the settings of a U-Net; fetch the checkpoint again")
    return config


def _read_weights(branch: Path) -> Weights:
    safe, pickled = branch / f"{_STEM}.safetensors", branch / f"{_STEM}.bin"
    if not safe.is_file() and not pickled.is_file():
        raise ModelFolderError(f"got no weights in {str(branch)!r}; expected {safe.name} or {pickled.name}")
    try:
        check_weight_file(safe if safe.is_file() else pickled)
    except ModelFolderError as error:
        raise ModelFolderError(f"cannot read the weights in {str(branch)!r}: {error}; fetch the checkpoint again") from error
    if not safe.is_file():
        return _read_pickle(pickled)
    try:
        return load_file(safe)
    except BROKEN as error:
        raise ModelFolderError(f"cannot read the weights in {str(branch)!r}: {first_line(error)}") from error


def _read_pickle(path: Path) -> Weights:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))  # old pickles are no zip files
    except pickle.UnpicklingError as error:
        raise ModelFolderError(f"refused {str(path)!r}: it holds more than tensors ({first_line(error)})") from error
    except Exception as error:  # a damaged pickle fails wherever its reader happens to be
        raise ModelFolderError(f"cannot read {str(path)!r}: {first_line(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelFolderError(f"got {str(path)!r} without named tensors; expected the weights of a release")
    return weights


def _listed(what: str, keys: set[tuple[str, str]]) -> str:
    shown = ", ".join(f"{branch}/{key}" for branch, key in sorted(keys)[:3])
    return f"{len(keys)} {what}" + (f" ({shown}{', ...' if len(keys) > 3 else ''})" if keys else "")
