"""Model folders: checked before loading, written in 16 bit and whole or not at all."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from jointnet.checkpoints.index import COMPONENTS, INDEX_FILE, PROVENANCE_FILE, VOCABULARY_FILE
from jointnet.errors import ModelFolderError, OutputError
from jointnet.files.atomic import bring_to_disk, replacing_file, write_json
from jointnet.files.fingerprints import of_content, of_texts
from jointnet.files.json_files import read_named_values
from jointnet.files.result_set import filling
from jointnet.files.write_errors import is_link_to_nothing, naming_write_errors

BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""Errors that diffusers, transformers and torch raise for a folder whose files are missing, damaged or do not fit each other."""

RELEASE_RGB, RELEASE_BRANCH = "unet", "jointnet"
"""The folders of the RGB and the dense branch in the authors' release."""

_SIDE_FILES = (PROVENANCE_FILE, VOCABULARY_FILE, "README.md", "pipeline.py")
"""Files beside a model's components."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def contents_of_model(folder: Path) -> str:
    """Return a text that changes with the index, configs and weights of a model folder, wherever it lies. Raises: ModelFolderError."""
    try:
        names = sorted(name for name in read_named_values(folder / INDEX_FILE) if (folder / name).is_dir())
        files = [path for name in names for path in sorted((folder / name).rglob("*")) if path.is_file() and not path.name.startswith(".")]
        return of_texts(f"{path.relative_to(folder)} {of_content(path)}" for path in (folder / INDEX_FILE, *files))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read model {str(folder)!r}: {first_line(error)}; copy or save it again") from error


def save_half(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline with float16 weights; the pipeline itself is rounded to float16 values.

    The configs of transformers' components ask for float32, so that a plain from_pretrained gives every component the same type. CLIP's
    weights get the names they have in every published model.
    """
    modules = [m for m in pipeline.components.values() if isinstance(m, torch.nn.Module)]
    for module in modules:
        module.half()
    pipeline.save_pretrained(folder)
    (folder / PROVENANCE_FILE).unlink(missing_ok=True)  # these are other weights than those it was loaded with
    for module in modules:
        module.float()
    for name in (n for n, m in pipeline.components.items() if isinstance(m, PreTrainedModel)):
        config = folder / name / "config.json"
        content: dict[str, Any] = {**json.loads(config.read_text()), "dtype": "float32"}
        write_json(config, content, indent=2)
    for name in (n for n, m in pipeline.components.items() if isinstance(m, CLIPTextModel | CLIPTextModelWithProjection)):
        name_text_weights(folder / name / "model.safetensors")
    for config in (folder / INDEX_FILE, *folder.glob("*/config.json")):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)  # a path on the machine it was trained on
        write_json(config, content, indent=2)


def check_replaceable(folder: Path) -> None:
    """Check that a model can take the place of ``folder``, see ``replacing``; nothing is written. Raises: OutputError."""
    _checked_place(folder)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to write a model into, which takes the place of ``folder`` once it is whole.

    Files that are no part of the old model (notes, pictures, a .git) are copied over.
    Raises: OutputError if ``folder`` holds something else than a model, or cannot be written.
    """
    with naming_write_errors(folder):
        if not is_link_to_nothing(folder):
            _settle(folder.resolve(), *_beside(folder.resolve()))
    place, held, parts = _checked_place(folder)
    unfinished, old = _beside(place)
    try:
        with filling(place.parent), _settled(place, unfinished, old):
            unfinished.mkdir()
            yield unfinished
            bring_to_disk(unfinished)
            for name in set(held) - parts:
                _copy(place / name, unfinished / name)
            if place.exists():
                place.rename(old)
            unfinished.rename(place)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write model {str(folder)!r}: {first_line(error)}; free space or choose another folder") from error


def _checked_place(folder: Path) -> tuple[Path, list[str], set[str]]:
    """Return where a model folder lies, the names in it, and those of them that are the model's. Raises: OutputError."""
    with naming_write_errors(folder):
        if is_link_to_nothing(folder) or (folder.exists() and not folder.is_dir()):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder")
        place = folder.resolve()
        held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    parts = _parts_of(folder)
    if held and not parts:
        raise OutputError(f"got {str(folder)!r}, which holds {held[0]} and no model; choose a new folder with -o")
    return place, held, parts


def _beside(place: Path) -> tuple[Path, Path]:
    """Return the names of the new folder while it is written, and of the old one while they change places."""
    unfinished, old = (place.with_name(f".{place.name}.jointnet-{state}") for state in ("unfinished", "old"))
    return unfinished, old


def _parts_of(folder: Path) -> set[str]:
    """Return the names of a model's parts in a folder, of our form or the release's; none if it holds no model."""
    branches = {RELEASE_RGB, RELEASE_BRANCH}
    if all((folder / branch / "config.json").is_file() for branch in branches) and not (folder / INDEX_FILE).exists():
        return branches
    try:
        index = read_named_values(folder / INDEX_FILE)
    except (OSError, ValueError):
        return set()
    kind = index.get("_class_name")
    is_ours = kind == "JointNetPipeline" or (isinstance(kind, list) and kind[-1:] == ["JointNetPipeline"])
    if not is_ours and not (kind and (folder / PROVENANCE_FILE).is_file()):  # a base that was trained here has one
        return set()
    return {INDEX_FILE, *_SIDE_FILES, *(name for name in index if name in COMPONENTS)}


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def _settled(place: Path, unfinished: Path, old: Path) -> Iterator[None]:
    """Leave one folder, before and after."""
    try:
        _settle(place, unfinished, old)
        yield
    finally:
        _settle(place, unfinished, old)


def _settle(place: Path, unfinished: Path, old: Path) -> None:
    """Leave one folder: the new one if it got its name, else the old one, also after a kill between the two moves."""
    if old.exists() and not place.exists():
        old.rename(place)
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)


def name_text_weights(path: Path) -> None:
    """Give the weights of a CLIP text encoder the names of published models, in place.

    Recent versions of transformers leave out "text_model."; they read both forms, but older ones read such a file as one without weights,
    and go on with random ones.
    """
    weights = load_file(path)
    parts = ("embeddings.", "encoder.", "final_layer_norm.")
    named = {f"text_model.{name}" if name.startswith(parts) else name: value for name, value in weights.items()}
    with replacing_file(path) as temporary:
        save_file(named, temporary, metadata={"format": "pt"})
