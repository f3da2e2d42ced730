"""Encoded maps on disk: a modality's latents of a whole data set as one float16 tensor, written once, read by every stage."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.errors import DamagedFileWarning, OutputError
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors, reason

_LATENTS, _SOURCE = "latents", "source"


@torch.no_grad()
def encode_to_file(codec: Codec, modality: str, batches: Iterable[Tensor], path: Path, maps_fingerprint: str) -> Path:
    """Encode batches of maps (B, c, H, W) with the posterior's mean into one file (N, C, h, w); it appears whole or not at all.

    A file that is there already is kept if it holds the same maps, encoded by the same codec, and replaced if not.
    Raises: OutputError if it cannot be written, or holds something else than latents of ours.
    """
    source = f"{maps_fingerprint} by {codec.fingerprint()}"
    if os.path.lexists(path):
        try:
            if _source_of(path) == source:
                return path
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{str(path)!r} is damaged ({reason(error)}); its maps are encoded again", DamagedFileWarning, stacklevel=2)
    with all_or_none([path]):
        with naming_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        latents = torch.cat([codec.encode(modality, maps).half().cpu() for maps in batches]).contiguous()
        with naming_write_errors(path), replacing_file(path) as temporary:
            save_file({_LATENTS: latents}, temporary, metadata={_SOURCE: source})
    return path


@contextmanager
def all_or_none(paths: Sequence[Path]) -> Iterator[None]:
    """After an error, remove those of some files in a folder that were not there before, and the folder likewise.

    After an interruption the files stay, whole as they are: the same command reads them again.
    """
    folders = {path.parent for path in paths if not path.parent.exists()}
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a folder that holds something else
            for path in new if isinstance(error, Exception) else ():
                path.unlink(missing_ok=True)
            for folder in folders:
                folder.rmdir()
        raise


def check_latents(folder: Path, *, may_be_damaged: bool = True) -> None:
    """Check, before anything is written, that the latents in a folder are ours; one that cannot be read counts as damaged.

    Raises: OutputError.
    """
    with naming_write_errors(folder):
        if os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder")
    for path in sorted(folder.glob("[!.]*.safetensors")):  # one that begins with a dot was being written in a process that was killed
        try:
            _source_of(path)
        except (OSError, SafetensorError) as error:
            if not may_be_damaged or (path.exists() and not path.is_file()):
                raise OutputError(f"cannot read latents {str(path)!r}: {reason(error)}; choose another folder, or delete them") from error


def _source_of(path: Path) -> str:
    """Return what a file was encoded from. Raises: OutputError if it is not ours; OSError, SafetensorError if it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file")
    with safe_open(path, "pt") as file:
        source = (file.metadata() or {}).get(_SOURCE)
        if source is None or _LATENTS not in file.keys():  # noqa: SIM118 - not a dict
            raise OutputError(f"got {str(path)!r}, latents which no run of ours wrote; choose another folder, or move them away")
        return source


def load_latents(paths: Sequence[Path]) -> Tensor:
    """Return the latents of files, one a modality, as one float32 tensor (N, M, C, h, w)."""
    first, *others = paths
    stored = load_file(first)[_LATENTS]  # (N, C, h, w)
    latents = stored.new_empty(len(stored), len(paths), *stored.shape[1:], dtype=torch.float32)
    latents[:, 0] = stored
    for place, path in enumerate(others, 1):  # one modality at a time: all of them twice may not fit
        latents[:, place] = load_file(path)[_LATENTS]
    return latents
