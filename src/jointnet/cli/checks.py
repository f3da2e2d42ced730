"""What a command checks before anything heavy is imported: its files, its model's folder, its output."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jointnet.cli.sampling import Run
from jointnet.errors import InputFileError, OutputError
from jointnet.files.json_files import read_named_values
from jointnet.files.result_set import check_folder, file_ids, replaces

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""Suffixes of what counts as a picture in a folder; a file that is named itself may have any."""


def check_run(run: Run) -> tuple[str, ...]:
    """Check what a command's inputs have in common, its model and smaller maps; return the model's modalities.

    Raises: InputFileError, ModelFolderError.
    """
    if run.base is not None:
        modalities = ("rgb", "depth")
    else:
        from jointnet.loading import joint_model_folder

        modalities = modalities_of(joint_model_folder(run.model))
    check_readable(low_res_files(run, modalities))
    return modalities


def check_output_file(path: Path, inputs: Iterable[Path], is_ours: Callable[[Path], bool]) -> None:
    """Check that a file can be written, and replaces neither an input, under whatever path, nor a file that is not ours.

    Args:
        is_ours: True for a file that the command wrote earlier and may replace.
    Raises: OutputError.
    """
    check_folder(path.parent)
    if os.path.isdir(path):
        raise OutputError(f"got output file {str(path)!r}, which is a folder; pass a file's name")
    if replaces(path, file_ids(inputs)):
        raise OutputError(f"got {str(path)!r} as an input, which the result would replace; choose another place with -o")
    try:
        replaced = os.path.lexists(path) and not is_ours(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot read {str(path)!r}, which would be replaced: {error}; choose another place with -o") from error
    if replaced:
        raise OutputError(
            f"got {str(path)!r}, which this command did not write or which was changed since, and would be replaced; choose another with -o"
        )


def check_output_folder(folder: Path, inputs: Iterable[Path]) -> None:
    """Check that a folder that is written as a whole can be, and is none of the inputs, under whatever path. Raises: OutputError."""
    check_folder(folder)
    if replaces(folder, file_ids(inputs)):
        raise OutputError(f"got {str(folder)!r} as an input, which the result would replace; choose another folder with -o")


def modalities_of(folder: Path) -> tuple[str, ...]:
    """Return the modalities of a joint model's folder; RGB and depth if it does not say, which is noticed when it is opened."""
    try:
        named = read_named_values(folder / "joint_unet" / "config.json").get("modalities")
    except (OSError, ValueError):
        named = None
    return tuple(map(str, named)) if isinstance(named, list) else ("rgb", "depth")


def low_res_files(run: Run, modalities: Sequence[str]) -> list[Path]:
    """Return the files that --low-res stands for."""
    return [] if run.low_res is None else [run.low_res / ("image.png" if name == "rgb" else f"{name}.npy") for name in modalities]


def check_readable(paths: Iterable[Path]) -> None:
    """Raises: InputFileError for a file that is not there, cannot be opened or is no picture though its name says so."""
    for path in paths:
        kind = "a numpy array" if path.suffix.lower() == ".npy" else "a picture"
        try:
            if os.path.isdir(path):
                raise IsADirectoryError(21, "Is a directory")
            with path.open("rb"):
                pass
        except (OSError, ValueError) as error:
            raise InputFileError(f"cannot read {str(path)!r} as {kind}: {getattr(error, 'strerror', None) or error}") from error
        if path.suffix.lower() in PICTURES:
            _check_is_picture(path)


def _check_is_picture(path: Path) -> None:
    """Raises: InputFileError. Whatever else may be wrong is left to modalities.read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except UnidentifiedImageError as error:
        raise InputFileError(f"cannot read {str(path)!r} as a picture: it is none, or damaged") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return
