"""Colour profiles (ICC) of pictures -> sRGB."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image

from jointnet.errors import ColourProfileWarning

_SAME_LEVELS = 2
"""A profile that moves no colour by more than this many of 255 levels is sRGB itself, as one of many programs writes it."""

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""A profile's colour space -> the mode of pictures it is for."""


def to_srgb(image: Image.Image) -> Image.Image:
    """Return the picture in sRGB, as its profile says; unchanged without one, or if it says sRGB. Its transparency stays.

    A profile that is broken or made for other colours than the picture's is left aside, with ColourProfileWarning.
    """
    profile = image.info.get("icc_profile")
    if profile is None or image.mode == "F" or image.mode.startswith("I"):
        return image
    has_alpha = image.has_transparency_data
    alpha = image.convert("RGBA").getchannel("A") if has_alpha else None
    colours = image.convert("L") if image.mode in ("1", "LA") else image if image.mode in ("L", "CMYK") else image.convert("RGB")
    converted = _converted(colours, profile)
    if converted is None:
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _converted(colours: Image.Image, profile: bytes) -> Image.Image | None:
    """Return the colours (RGB, L or CMYK) in sRGB; None if they are, or if the profile cannot be used."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode == "RGB" and colours.mode == "L":
            colours = colours.convert("RGB")
        if mode is None or mode != colours.mode:
            raise ValueError(f"it is for {source.profile.xcolor_space.strip()}, the picture is {colours.mode}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            colours.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _is_srgb(transform, mode):
            return None
        return ImageCms.applyTransform(colours, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        warnings.warn(f"a picture's colour profile is left aside, its colours count as sRGB: {error}", ColourProfileWarning, stacklevel=2)
        return None


def _is_srgb(transform: object, mode: str) -> bool:
    """True if colours all over the range stay where they are."""
    from PIL import ImageCms

    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3) if mode == "RGB" else np.arange(256, dtype=np.uint8)[None]
    probe = Image.fromarray(grid)
    moved = np.asarray(ImageCms.applyTransform(probe, transform), int)  # pyright: ignore[reportArgumentType] - its type is private
    return bool(np.abs(moved - np.asarray(probe.convert("RGB"), int)).max() <= _SAME_LEVELS)
