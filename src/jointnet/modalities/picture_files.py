"""Picture files -> PIL pictures: large ones, and PNGs with much text, but no bombs."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from jointnet.errors import InputFileError
from jointnet.modalities.file_content import FileContent

MAX_PIXELS = 300_000_000
"""Pictures with more pixels are refused: the photos of 108 and 200 megapixels that telephones take are read."""

MAX_PROFILE_BYTES = 16 * 2**20
"""A colour profile that unpacks to more is not read."""

_MAX_TEXT_BYTES = 2**16
"""Texts in a PNG that unpack to more are left out, unread: a workflow of a node editor may have megabytes, a zip bomb gigabytes."""

_ORIENTATION, _TURNED_SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values that exchange width and height."""

_READERS_RAISE = (OSError, ValueError, SyntaxError, struct.error, zlib.error)
_PIL_RAISES = (*_READERS_RAISE, ArithmeticError, AttributeError, EOFError, LookupError, TypeError, Image.DecompressionBombError)
"""At heads that are broken, too."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def open_picture(path: Path | FileContent) -> Image.Image:
    """Return the picture, decoded and turned as its EXIF says. Raises: InputFileError."""
    try:
        with path.open("rb") as file:
            try:
                image = _decoded(file, path)
            except ValueError as error:  # PIL's limits on text and profiles among others
                file.seek(0)
                image = _decoded_without_texts(file.read(), path, error)
        return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:  # a picture within the file
        raise InputFileError(f"got {str(path)!r} with too many pixels ({error}); make it smaller first") from error
    except InputFileError:
        raise
    except _READERS_RAISE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputFileError(f"cannot read {str(path)!r} as a picture: {reason}") from error


def picture_size(path: Path | FileContent) -> tuple[int, int]:
    """Return height and width of a picture as EXIF turns it, from its head. Raises: InputFileError."""
    try:
        with path.open("rb") as file:
            size = size_in_head(file)
    except OSError:
        size = None
    if size is None:
        width, height = open_picture(path).size
        return height, width
    return size


def size_in_head(file: BinaryIO) -> tuple[int, int] | None:
    """Return height and width of a picture as EXIF turns it; None for what PIL refuses, which ``open_picture`` may take."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                (width, height), turn = image.size, image.getexif().get(_ORIENTATION)
    except _PIL_RAISES:
        return None
    return (width, height) if turn in _TURNED_SIDEWAYS else (height, width)


def _decoded(file: BinaryIO, path: Path | FileContent) -> Image.Image:
    """Raises: InputFileError for too many pixels, before any is decoded; what PIL raises."""
    image = _identified(file)
    width, height = image.size
    max_pixels = path.max_pixels if isinstance(path, FileContent) and path.max_pixels is not None else MAX_PIXELS
    if width * height > max_pixels:
        raise InputFileError(
            f"got {str(path)!r} of {width} x {height}, more pixels than the limit of {max_pixels / 10**6:g} million; make it smaller first"
        )
    image.load()
    return image


def _identified(file: BinaryIO) -> Image.Image:
    """Return what Image.open would, without its limit of 179 million pixels, which holds for the whole process."""
    start = file.read(16)
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for kind in Image.ID:
            plugin, accepts = Image.OPEN[kind]
            answer = accepts is None or accepts(start)  # a text says why the file cannot be read here
            if not answer or isinstance(answer, str):
                continue
            try:
                file.seek(0)
                return plugin(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise UnidentifiedImageError("it is of no known kind, or damaged")


def _decoded_without_texts(content: bytes, path: Path | FileContent, error: ValueError) -> Image.Image:
    """Decode a PNG without its large texts; a large profile is kept. Raises: the error, if there is none; as _decoded."""
    slim, profile = _without_large_texts(content)
    if len(slim) == len(content):
        raise error
    image = _decoded(BytesIO(slim), path)
    if profile is not None:
        image.info["icc_profile"] = profile
    return image


def _without_large_texts(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG -> the same without texts and profiles that unpack to much, and such a profile (cut at MAX_PROFILE_BYTES)."""
    if not content.startswith(_PNG_SIGNATURE):
        return content, None
    kept, profile, position = [_PNG_SIGNATURE], None, len(_PNG_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        body, end = content[position + 8 : position + 8 + length], position + 12 + length
        if kind == b"iCCP":
            unpacked = _unpacked(body[body.find(b"\0") + 2 :], MAX_PROFILE_BYTES)
            is_large = len(unpacked) > _MAX_TEXT_BYTES
            profile = unpacked if is_large else profile
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            is_large = length > _MAX_TEXT_BYTES or (kind != b"tEXt" and len(_unpacked_text(kind, body)) > _MAX_TEXT_BYTES)
        else:
            is_large = False
        if not is_large:
            kept.append(content[position:end])
        position = end
    return b"".join(kept), profile


def _unpacked_text(kind: bytes, body: bytes) -> bytes:
    """Return a text chunk's text, cut just above _MAX_TEXT_BYTES."""
    after_key = body[body.find(b"\0") + 1 :]
    if kind == b"zTXt":
        return _unpacked(after_key[1:], _MAX_TEXT_BYTES + 1)
    is_packed, parts = after_key[:1] == b"\1", after_key[2:].split(b"\0", 2)  # language, translated key, text
    return _unpacked(parts[-1], _MAX_TEXT_BYTES + 1) if is_packed else parts[-1]


def _unpacked(packed: bytes, limit: int) -> bytes:
    """Return at most ``limit`` bytes; nothing of what is damaged."""
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error:
        return b""
