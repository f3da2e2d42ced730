"""Array files -> arrays: .npy, .npz of one array, and EXR."""

from __future__ import annotations

import math
import os
import zipfile
from importlib import import_module
from pathlib import Path
from tokenize import TokenError  # numpy parses the head of an array as Python
from typing import BinaryIO

import numpy as np

from jointnet.errors import InputFileError, MissingPackageError
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.picture_files import MAX_PIXELS

SUFFIXES = (".npy", ".npz", ".exr")

_MAX_BYTES = 3 * 8 * MAX_PIXELS
"""Of one array in an archive, unpacked."""

_VECTORS = (("R", "G", "B"), ("X", "Y", "Z"))
"""Channels of EXR files that belong together."""


def is_array_file(path: Path | FileContent) -> bool:
    """True by the suffix."""
    return path.suffix.lower() in SUFFIXES


def read_array(path: Path | FileContent) -> np.ndarray:
    """One array, in this machine's byte order, floats as float32. Raises: InputFileError, MissingPackageError."""
    suffix = path.suffix.lower()
    array = native(_read_exr(path) if suffix == ".exr" and isinstance(path, Path) else _read_numpy(path, is_archive=suffix == ".npz"))
    if array.dtype.kind not in "fiub":
        raise InputFileError(f"got an array of {array.dtype} in {str(path)!r}; expected numbers")
    return array


def native(array: np.ndarray) -> np.ndarray:
    """Byte order and precision that torch takes."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(array.dtype.newbyteorder("="))


def _read_numpy(path: Path | FileContent, *, is_archive: bool) -> np.ndarray:
    """Raises: InputFileError."""
    try:
        with path.open("rb") as file:
            if is_archive:
                return _only_array(file, path)
            _check_length(file)
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError, zipfile.BadZipFile) as error:
        if isinstance(error, InputFileError):
            raise
        raise InputFileError(f"cannot read {str(path)!r} as a numpy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputFileError(f"got an archive of arrays in {str(path)!r}; expected one array, as numpy.save writes it")
    return array


def _check_length(file: BinaryIO) -> None:
    """Refuse a head that states more numbers than follow, before memory is taken for them. Raises: ValueError."""
    if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_head(file)
        num_stated, num_there = math.prod(shape) * dtype.itemsize, -file.tell() + file.seek(0, os.SEEK_END)
        if num_stated > num_there and not dtype.hasobject:
            raise ValueError(f"it has {num_there} of the {num_stated} bytes that its head states")
    file.seek(0)


def _only_array(file: BinaryIO, path: Path | FileContent) -> np.ndarray:
    """Raises: InputFileError unless the archive has one array; what numpy raises."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members) or "none"
            raise InputFileError(f"got an archive of {len(members)} arrays ({names}) in {str(path)!r}; expected a single one")
        if members[0].file_size > _MAX_BYTES:
            raise InputFileError(f"got an array of {members[0].file_size} bytes in {str(path)!r}; expected at most {_MAX_BYTES}")
        with archive.open(members[0]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)


def _read_exr(path: Path) -> np.ndarray:
    """One channel (H, W), or three that belong together (H, W, 3), alpha left out. Raises: InputFileError, MissingPackageError."""
    try:
        openexr = import_module("OpenEXR")
    except ImportError as error:
        raise MissingPackageError(f"{str(path)!r} needs OpenEXR to be read; install the extra: pip install jointnet[exr]") from error
    if not path.is_file():
        raise InputFileError(f"cannot read {str(path)!r} as EXR: no such file")
    try:
        with openexr.File(str(path), separate_channels=True) as file:
            channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise InputFileError(f"cannot read {str(path)!r} as EXR: {error}") from error
    opaque = {name: pixels for name, pixels in channels.items() if name.split(".")[-1] != "A"}
    if len(opaque) == 1:
        return next(iter(opaque.values()))
    by_last_name = {name.split(".")[-1]: pixels for name, pixels in opaque.items()}
    for names in _VECTORS:
        if set(names) == set(by_last_name) and len(opaque) == len(names):
            return np.stack([by_last_name[name] for name in names], -1)
    raise InputFileError(f"got EXR channels {', '.join(channels)} in {str(path)!r}; expected one, or R, G, B, or X, Y, Z")
