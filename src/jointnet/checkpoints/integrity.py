"""A model folder before it is opened: every component that its index lists is there, states what it has to, and has whole weights.

diffusers and transformers go on with defaults where settings are missing, or name another cause. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from jointnet.checkpoints.index import COMPONENTS, INDEX_FILE, listed_components, pipeline_class, read_side_file
from jointnet.checkpoints.weight_files import check_weight_file, naming_damage, read_header, variant_of, weight_files
from jointnet.errors import ModelFolderError, UnknownNameError
from jointnet.files.json_files import read_named_values
from jointnet.models.branch_kinds import BRANCH_KINDS, BranchKind

_NETWORK, _CLASS = "joint_unet", "JointUNet"
_PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
_BETAS = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
_OTHER_NOISE = ("trained_betas", "shift", "sigma_max", "sigma_data")
"""Settings of which one takes the place of _BETAS: schedules of one's own, flow matching, EDM."""
_WITHOUT_SETTINGS = ("IPNDMScheduler",)
"""Schedulers whose noise is fixed."""

_TEXT_WIDTH = {"CLIPText": ("clip", "hidden_size"), "T5": ("t5", "d_model")}
"""Beginning of a text encoder's class -> what its ``model_type`` has in it, and the setting of its width."""

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json")


def check_whole(folder: Path, *, besides: Collection[str] = (), variant: str | None = None) -> None:
    """Check a joint model's folder, or a base's, without loading weights.

    A base may leave its prediction type unstated: those of before diffusers 0.9 do, and predict noise.
    Args:
        besides: components that are not opened.
        variant: of the weights; None: the one that the folder holds instead of plain ones.
    Raises: ModelFolderError, naming the file, what is wrong with it and what to do.
    """
    kind = pipeline_class(folder)
    index = read_side_file(folder / INDEX_FILE)
    is_joint = kind == "JointNetPipeline" or _NETWORK in index
    variant = variant or variant_of(folder)
    try:
        _check_index(index, besides, is_joint)
        if is_joint:
            _check_facts(index, INDEX_FILE)
        for name, (library, kind) in listed_components(index).items():
            if name not in besides:
                _check_component(folder / name, library, kind, variant, is_joint=is_joint)
    except ModelFolderError as error:
        opening = "load the model in" if is_joint else "open the base"
        raise ModelFolderError(f"cannot {opening} {str(folder)!r}: {error}; save or fetch it again") from error


def is_whole(folder: Path) -> bool:
    """Return True if a folder passes ``check_whole``."""
    try:
        check_whole(folder)
    except ModelFolderError:
        return False
    return True


def _check_index(index: Mapping[str, Any], besides: Collection[str], is_joint: bool) -> None:
    """Check that an index lists what a model cannot do without, each as [library, class]. Raises: ModelFolderError."""
    listed = listed_components(index)
    for name in (name for name in COMPONENTS if name in index and name not in besides):
        value = index[name]
        if not isinstance(value, list) or len(value) != 2 or not all(part is None or isinstance(part, str) for part in value):
            raise ModelFolderError(f"{INDEX_FILE} lists {name} as {value!r}, expected [library, class]")
    for name in (_NETWORK if is_joint else "unet", "scheduler"):
        if name not in listed and name not in besides:
            raise ModelFolderError(f"{INDEX_FILE} lists no {name}")
    if is_joint and _NETWORK not in besides and listed[_NETWORK][1] != _CLASS:
        raise ModelFolderError(f"{INDEX_FILE} lists {listed[_NETWORK][1]} as {_NETWORK}, expected {_CLASS}")
    for end in ("", "_2"):
        encoder, tokenizer = f"text_encoder{end}", f"tokenizer{end}"
        if encoder in listed and tokenizer not in listed and not {encoder, tokenizer} & set(besides):
            raise ModelFolderError(f"{INDEX_FILE} lists {encoder} and no {tokenizer}")


def _check_component(folder: Path, library: str, kind: str, variant: str | None, *, is_joint: bool) -> None:
    """Check one component, of the class ``kind`` of a library. Raises: ModelFolderError."""
    if not folder.is_dir():
        raise ModelFolderError(f"got no folder {folder.name}, which {INDEX_FILE} lists")
    if "Tokenizer" in kind:
        _check_tokenizer(folder, kind)
    elif kind.endswith("Scheduler"):
        _check_scheduler(folder, kind, is_joint)
    elif kind.endswith(("FeatureExtractor", "Processor")):
        _settings(folder, "preprocessor_config.json")
    else:
        settings = _network_settings(folder, library, kind)
        files = weight_files(folder, variant)
        for path in files:
            check_weight_file(path)
        if kind == _CLASS:
            _check_branches(settings["modalities"], files)


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """Return a component's configuration. Raises: ModelFolderError if it is missing or damaged, or states nothing."""
    if not (folder / name).is_file():
        raise ModelFolderError(f"got no {folder.name}/{name}")
    with naming_damage(folder / name):
        settings = read_named_values(folder / name)
    if not any(not key.startswith("_") for key in settings):
        raise ModelFolderError(f"{folder.name}/{name} states no settings")
    return settings


def _network_settings(folder: Path, library: str, kind: str) -> dict[str, Any]:
    """Return a network's configuration. Raises: ModelFolderError if it is of another class, or lacks a setting."""
    name = f"{folder.name}/config.json"
    settings = _settings(folder, "config.json")
    stated = settings.get("_class_name", settings.get("model_type", kind) if library == "diffusers" else kind)
    if stated != kind:
        raise ModelFolderError(f"{name} is of a {stated}, {INDEX_FILE} lists a {kind}")
    for start, (model_type, width) in _TEXT_WIDTH.items():
        if not kind.startswith(start):
            continue
        if model_type not in str(settings.get("model_type", model_type)):
            raise ModelFolderError(f"{name} is of a {settings['model_type']}, {INDEX_FILE} lists a {kind}")
        _check_states(settings, (width,), name)
    if kind == _CLASS:
        _check_joint(settings, name)
    return settings


def _check_joint(settings: Mapping[str, Any], name: str) -> None:
    """Check the joint network's own settings. Raises: ModelFolderError."""
    _check_states(settings, ("modalities", "unet_config"), name)
    modalities, unet = settings["modalities"], settings["unet_config"]
    is_list = isinstance(modalities, list) and all(isinstance(part, str) for part in modalities)
    if not is_list or modalities[:1] != ["rgb"] or len(set(modalities)) < len(modalities):
        raise ModelFolderError(f"{name} states modalities {modalities!r}, expected different names, 'rgb' first")
    if not isinstance(unet, dict) or not unet:
        raise ModelFolderError(f"{name} states unet_config {unet!r}, expected the settings of a U-Net")
    for flag in ("has_masked_input", "has_independent_timesteps"):
        if not isinstance(settings.get(flag, False), bool):
            raise ModelFolderError(f"{name} states {flag} {settings[flag]!r}, expected true or false")
    branch = settings.get("branch", "full")
    try:
        BranchKind.parse(str(branch))
    except UnknownNameError as error:
        raise ModelFolderError(f"{name} states branch {branch!r}, expected one of {', '.join(BRANCH_KINDS)}") from error
    _check_facts(settings, name)


def _check_branches(modalities: Sequence[str], files: Sequence[Path]) -> None:
    """Check that weights are of the modalities stated, as their names show it; pickles show none. Raises: ModelFolderError."""
    names = [name for path in files if path.suffix == ".safetensors" for name in read_header(path)]
    held = {name.split(".")[1] for name in names if name.startswith("branches.")}
    if held and held != set(modalities):
        raise ModelFolderError(f"{_NETWORK} has weights of {', '.join(sorted(held))}, its config.json states {', '.join(modalities)}")


def _check_facts(settings: Mapping[str, Any], name: str) -> None:
    """Check what an index and the joint network's configuration state of the weights; null is not stated. Raises: ModelFolderError."""
    near_m, guidance = settings.get("depth_near_m"), settings.get("default_guidance")
    if near_m is not None and not (_is_number(near_m) and near_m > 0):
        raise ModelFolderError(f"{name} states depth_near_m {near_m!r}, expected a positive number of metres, or null")
    if guidance is not None and not (_is_number(guidance) and guidance >= 0):
        raise ModelFolderError(f"{name} states default_guidance {guidance!r}, expected a number of 0 or more, or null")
    steps = settings.get("default_steps")
    if steps is not None and not (isinstance(steps, int) and not isinstance(steps, bool) and steps > 0):
        raise ModelFolderError(f"{name} states default_steps {steps!r}, expected a whole number above 0, or null")
    zeros = settings.get("force_zeros_for_empty_prompt")
    if not isinstance(zeros, bool | None):
        raise ModelFolderError(f"{name} states force_zeros_for_empty_prompt {zeros!r}, expected true, false or null")


def _check_scheduler(folder: Path, kind: str, is_joint: bool) -> None:
    """Check that the noise, and a joint model's prediction type, are stated: diffusers' defaults are of other models.

    Raises: ModelFolderError.
    """
    name = f"{folder.name}/scheduler_config.json"
    settings = _settings(folder, "scheduler_config.json")
    stated = settings.get("_class_name", kind)
    if not str(stated).endswith("Scheduler"):
        raise ModelFolderError(f"{name} is of a {stated}, expected a scheduler")
    if kind in _WITHOUT_SETTINGS:
        return
    if all(settings.get(key) is None for key in _OTHER_NOISE):
        _check_states(settings, (*_BETAS, *(["prediction_type"] if is_joint else [])), name)
    for key in (key for key in _BETAS if key in settings and key != "beta_schedule"):
        if not (_is_number(settings[key]) and settings[key] > 0):
            raise ModelFolderError(f"{name} states {key} {settings[key]!r}, expected a positive number")
    predicted = settings.get("prediction_type", "epsilon")
    if predicted not in _PREDICTIONS:
        raise ModelFolderError(f"{name} states prediction_type {predicted!r}, expected one of {', '.join(_PREDICTIONS)}")


def _check_tokenizer(folder: Path, kind: str) -> None:
    """Check a tokenizer's files. Raises: ModelFolderError."""
    settings = _settings(folder, "tokenizer_config.json")
    if kind.startswith("CLIP"):
        _check_states(settings, ("model_max_length",), f"{folder.name}/tokenizer_config.json")
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        raise ModelFolderError(
            f"got no vocabulary in {folder.name}, expected {' or '.join(' and '.join(names) for names in _VOCABULARIES)}"
        )
    for path in (folder / name for names in (*_VOCABULARIES, _TOKENIZER_FILES) for name in names if (folder / name).is_file()):
        with naming_damage(path):
            if not path.stat().st_size:
                raise ValueError("it is empty")
            if path.suffix == ".json":
                read_named_values(path)


def _check_states(settings: Mapping[str, Any], names: Collection[str], file: str) -> None:
    missing = [name for name in names if settings.get(name) is None]
    if missing:
        raise ModelFolderError(f"{file} states no {', '.join(missing)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
