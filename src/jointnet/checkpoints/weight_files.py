"""The weight files of a component's folder: which of them are opened, and if they are whole by their headers; nothing heavy is imported."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from jointnet.errors import ModelFolderError
from jointnet.files.json_files import read_named_values

_NAME = re.compile(r"(?P<stem>[^.]+)(\.(?P<variant>[\w-]+?))?(-\d{5}-of-\d{5})?\.(safetensors|bin)")
_STEMS = {"safetensors": ("diffusion_pytorch_model", "model"), "bin": ("diffusion_pytorch_model", "pytorch_model")}
"""Names that diffusers and transformers save weights under, by the suffix; that of the first is looked for first."""

_LONGEST_HEADER = 100_000_000
"""Bytes; what safetensors itself takes."""

_LFS_POINTER = b"version https://git-lfs"


def variant_of(folder: Path) -> str | None:
    """Return the variant, such as "fp16", that a folder holds instead of plain weights; None if it has plain ones, or several variants."""
    only: set[str] = set()
    for component in (path for path in folder.iterdir() if path.is_dir()):
        found = {match["variant"] for path in component.iterdir() if (match := _NAME.fullmatch(path.name))}
        if found and None not in found:
            only |= found
    return only.pop() if len(only) == 1 else None


def weight_files(component: Path, variant: str | None = None) -> list[Path]:
    """Return the files of a component's weights, whole or in shards, as diffusers and transformers choose them.

    Raises: ModelFolderError, naming the folder and what is missing in it.
    """
    for kind, stems in _STEMS.items():
        for name in (variant, None) if variant else (None,):
            for stem in stems:
                whole = component / f"{stem}{f'.{name}' if name else ''}.{kind}"
                if whole.is_file():
                    return [whole]
                index = _index_of_shards(component, stem, kind, name)
                if index is not None:
                    return _shards(index)
    raise ModelFolderError(f"got no weights of {component.name}")


def check_weight_file(path: Path) -> None:
    """Check that a file of weights is whole, as far as its header and size show it. Raises: ModelFolderError, naming it."""
    if path.suffix == ".safetensors":
        read_header(path)
        return
    with naming_damage(path):
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
        if not start:
            raise ValueError("it is empty")
        _refuse_pointer(start)
        if start.startswith(b"PK") and not zipfile.is_zipfile(path):  # as torch saves; older files are plain pickles
            raise ValueError("its end is missing")


def count_parameters(path: Path) -> int:
    """Return the number of values in a safetensors file. Raises: ModelFolderError if it is damaged."""
    return sum(prod(shape) for shape in read_header(path).values())


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors, by their names. Raises: ModelFolderError, naming the file if it is damaged.

    Source: the format's own description: the header's length in 8 bytes, the header as JSON, the values.
    """
    with naming_damage(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8:
                raise ValueError(f"it has {size} bytes and no header")
            _refuse_pointer(start + file.read(len(_LFS_POINTER) - 8))
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"it has {size} bytes, its header alone would have {length}")
            file.seek(8)
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if size != end:
            raise ValueError(f"it has {size} bytes, expected {end}")
        return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Raise ModelFolderError, naming the file with its folder, where reading it fails or its content is of another form."""
    name = f"{path.parent.name}/{path.name}"
    try:
        yield
    except OSError as error:
        raise ModelFolderError(f"cannot read {name}: {error.strerror or error}") from error
    except ModelFolderError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ModelFolderError(f"{name} is damaged: {error}") from error


def _refuse_pointer(start: bytes) -> None:
    if start.startswith(_LFS_POINTER):
        raise ValueError("it is a pointer of Git LFS in the place of the file; run git lfs pull")


def _index_of_shards(component: Path, stem: str, kind: str, variant: str | None) -> Path | None:
    """Return the index of weights in shards, under one of the names that a variant's has."""
    names = (
        [f"{stem}.{kind}.index.json"] if variant is None else [f"{stem}.{kind}.index.{variant}.json", f"{stem}.{variant}.{kind}.index.json"]
    )
    return next((component / name for name in names if (component / name).is_file()), None)


def _shards(index: Path) -> list[Path]:
    """Return the files that an index of shards lists. Raises: ModelFolderError if it is damaged or one is missing."""
    with naming_damage(index):
        names = sorted(set(read_named_values(index)["weight_map"].values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelFolderError(f"got no {index.parent.name}/{missing[0]}, which {index.name} lists")
    return [index.parent / name for name in names]
