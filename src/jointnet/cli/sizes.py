"""Sizes of pictures, maps and masks that belong together, by their files' headers: nothing heavy is imported, no pixel is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

from jointnet.errors import ShapeError

_ORIENTATION, _FIRST_ON_ITS_SIDE = 0x0112, 5
"""EXIF's tag, and its first value by which width and height are exchanged."""

_DAMAGED_ARRAY = (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError)  # numpy parses the head as Python


def check_one_size(files: Mapping[str, Path]) -> None:
    """Check that files have one size, by what each is; those whose header does not tell are left out. Raises: ShapeError."""
    sizes = {name: size for name, path in files.items() if (size := size_of(path)) is not None}
    refuse_several_sizes(sizes)


def refuse_several_sizes(sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raises: ShapeError unless all heights and widths, by what they are of, are the same."""
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{'image' if name == 'rgb' else name} of {height}x{width} px" for name, (height, width) in sizes.items())
        raise ShapeError(f"got {listed}; expected one size for all: resize them first")


def size_of(path: Path) -> tuple[int, int] | None:
    """Return (height, width) as the file is shown, or None if that is for modalities.read to say."""
    return _size_of_array(path) if path.suffix.lower() == ".npy" else _size_of_picture(path)


def is_black(path: Path) -> bool:
    """Return True if a mask asks for nothing, as far as that is plain: all 0 and nowhere transparent."""
    import numpy as np
    from PIL import Image

    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
            return isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.size > 0 and not array.any()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return not image.has_transparency_data and image.mode in ("1", "L", "I;16", "RGB") and image.getbbox() is None
    except (*_DAMAGED_ARRAY, Image.DecompressionBombError):
        return False


def _size_of_picture(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                is_on_its_side = image.getexif().get(_ORIENTATION, 1) >= _FIRST_ON_ITS_SIDE
                if image.format == "TIFF" and is_on_its_side:  # Pillow may have turned the size already
                    return None
                width, height = image.size
                return (width, height) if is_on_its_side else (height, width)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None


def _size_of_array(path: Path) -> tuple[int, int] | None:
    """Of an array (H, W), (H, W, c) or (c, H, W), c = 1 or 3, where only one of them can be meant."""
    import numpy as np

    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (*_DAMAGED_ARRAY, AttributeError):
        return None
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and (shape[0] in (1, 3)) != (shape[-1] in (1, 3)):
        return (shape[0], shape[1]) if shape[-1] in (1, 3) else (shape[1], shape[2])
    return None
