"""What a command checks before anything heavy is imported: its files, its model's folder, its output."""

from __future__ import annotations

import codecs
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jointnet.cli.sampling import Run
from jointnet.cli.suffixes import ARRAYS
from jointnet.errors import InputFileError, OutputError
from jointnet.files.json_files import read_named_values
from jointnet.files.result_set import check_folder, file_ids, replaces


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
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"got output file {str(path)!r}, which is a pipe or a device; pass another name")
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


def check_readable(paths: Iterable[Path], pictures: Iterable[Path] = ()) -> None:
    """Check files of maps or masks, and ``pictures``, which no array can be.

    Raises: InputFileError for a file that is not there, cannot be opened, or is neither a picture nor, by its name, an array.
    """
    pictures = list(pictures)
    for path in (*pictures, *paths):
        is_array = path.suffix.lower() in ARRAYS and path not in pictures
        kind = "an array" if is_array else "a picture"
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(21, "Is a directory")
            if not stat.S_ISREG(mode):  # a pipe would be waited for, and can be read only once
                raise ValueError("it is no regular file; save its content as one")
            with path.open("rb"):
                pass
        except (OSError, ValueError) as error:
            raise InputFileError(f"cannot read {str(path)!r} as {kind}: {getattr(error, 'strerror', None) or error}") from error
        if not is_array:
            _check_is_picture(path)


def _check_is_picture(path: Path) -> None:
    """Raises: InputFileError. Whatever else may be wrong is left to modalities.read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except UnidentifiedImageError as error:
        is_array = path.suffix.lower() in ARRAYS
        what = "it is an array" if is_array else "it is a text" if _is_text(path) else "it is none, or damaged"
        raise InputFileError(f"cannot read {str(path)!r} as a picture: {what}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return


def _is_text(path: Path) -> bool:
    """True for UTF-8 without control characters, by its beginning."""
    try:
        with path.open("rb") as file:
            start = codecs.getincrementaldecoder("utf-8")().decode(file.read(1024))
    except (OSError, ValueError):
        return False
    return bool(start) and all(letter.isprintable() or letter.isspace() for letter in start)
