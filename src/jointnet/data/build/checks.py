"""A picture's bytes -> the picture as a shard keeps it, or the reason why it does not."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from jointnet.data.build.filters import Filters
from jointnet.data.shard_samples import naming_bad_sample, picture_kind
from jointnet.errors import BadSampleError
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.inputs import picture_tensor
from jointnet.modalities.modality import get_modality
from jointnet.modalities.picture_files import open_picture
from jointnet.modalities.write import to_pil

_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What becomes of pictures.

    Attributes:
        max_pixels: more are refused before they are decoded.
        shorter_side: a picture whose shorter side is longer is shrunk to it; None keeps all as they are.
    """

    filters: Filters = field(default_factory=Filters)
    max_pixels: int = 50_000_000
    shorter_side: int | None = 1024


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that can be read whole.

    Attributes:
        kind: "jpg", "png" or "webp".
        size, original_size: height and width as EXIF turns it, now and before it was shrunk.
    """

    content: bytes
    kind: str
    size: tuple[int, int]
    original_size: tuple[int, int]


def check_picture(content: bytes, name: str, settings: PictureSettings) -> CheckedPicture:
    """Decode a picture and keep its bytes, without loss, unless it is shrunk: then it is a JPEG of quality 95 in sRGB.

    Raises: BadSampleError for other kinds than JPEG, PNG and WebP, and for what is truncated, broken, too small or too large.
    """
    kind = picture_kind(content)
    if kind is None:
        reason = "no JPEG, PNG or WebP" if content else "truncated picture"
        raise BadSampleError(f"got {name!r}, which is no JPEG, PNG or WebP; left out", reason)
    with naming_bad_sample("picture"):
        image = open_picture(FileContent(name, content, settings.max_pixels))
    width, height = image.size
    if settings.filters.is_too_small(width, height):
        message = f"got {name!r} of {width} x {height}; expected sides above {settings.filters.min_side}"
        raise BadSampleError(message, "picture too small")
    if settings.shorter_side is None or min(width, height) <= settings.shorter_side:
        return CheckedPicture(content, kind, (height, width), (height, width))
    size = shrunk_size((height, width), settings.shorter_side)
    return CheckedPicture(_jpeg(get_modality("rgb").resize(picture_tensor(image)[None], size)[0]), "jpg", size, (height, width))


def shrunk_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Height and width -> the same with this shorter side."""
    scale = shorter_side / min(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def png_of(picture: Tensor) -> bytes:
    """(3, H, W) in [0, 1] -> an 8-bit PNG."""
    return _saved(to_pil(picture), "PNG")


def _jpeg(picture: Tensor) -> bytes:
    return _saved(to_pil(picture), "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
