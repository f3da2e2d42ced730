"""Files of one sample in a shard -> the sample, or the reason why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor

from jointnet.data.sample import Sample
from jointnet.errors import BadSampleError, InputFileError, JointNetError, RangeError, ShapeError
from jointnet.modalities.depth_units import DepthUnit
from jointnet.modalities.file_content import FileContent
from jointnet.modalities.modality import within_limits
from jointnet.modalities.read import read_map, read_picture

MAX_PIXELS = 100_000_000
"""Pictures and maps with more pixels are refused before they are decoded: shards may come from strangers."""

PICTURE_KINDS = tuple(f"{prefix}{suffix}" for prefix in ("", "rgb.") for suffix in ("jpg", "jpeg", "png", "webp"))
MAP_KINDS = ("npy", "png")
"""The first one that is there is read: of both, the array has more digits."""

TEXT, FACTS = "txt", "json"
CAPTION_KEYS = ("caption", "captions", "text")
"""Of a JSON file; the first one that is there counts."""

_MAGIC: Mapping[str, Callable[[bytes], bool]] = {
    "jpg": lambda start: start.startswith(b"\xff\xd8\xff"),
    "png": lambda start: start.startswith(b"\x89PNG\r\n\x1a\n"),
    "webp": lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP",
}

_DECODERS_RAISE = (ArithmeticError, AttributeError, EOFError, LookupError, TypeError)
"""Besides what they should, at files that were made to fail."""

Files = Mapping[str, Callable[[], FileContent]]
"""A sample's files by kind, each read when it is called."""


def picture_kind(content: bytes) -> str | None:
    """Return "jpg", "png" or "webp" by a picture's first bytes, whatever its name; None for other kinds."""
    return next((kind for kind, is_of_kind in _MAGIC.items() if is_of_kind(content[:12])), None)


def decode_sample(id_: str, files: Files, modalities: Sequence[str], unit: str | DepthUnit) -> Sample:
    """Decode a sample with the maps of some modalities, the picture always. Raises: BadSampleError."""
    facts = _facts(id_, files) if FACTS in files else {}
    captions = _captions(id_, files, facts)
    picture = decode_picture(_picture_file(id_, files)())
    height, width = picture.shape[-2:]
    maps = {name: picture if name == "rgb" else _map(id_, files, name, unit, (height, width)) for name in modalities}
    original = (facts.get("original_height"), facts.get("original_width"))
    return Sample(id_, maps, captions, original if _is_size(original) else (height, width))


def decode_picture(file: FileContent) -> Tensor:
    """A JPEG, PNG or WebP -> (3, H, W) in [0, 1]. Raises: BadSampleError."""
    if picture_kind(file.content) is None:
        kind = "unreadable picture" if file.content else "truncated picture"
        raise BadSampleError(f"got {str(file)!r}, which is no JPEG, PNG or WebP; expected one of them", kind)
    with naming_bad_sample("picture"):
        return read_picture(file)[0]


@contextmanager
def naming_bad_sample(what: str) -> Iterator[None]:
    """Raise what is wrong with one file as BadSampleError; ``what`` it is, such as "picture", is part of the reason."""
    try:
        yield
    except (InputFileError, RangeError, ShapeError) as error:
        cause = str(error.__cause__).lower()
        if "more pixels" in str(error) or "too many pixels" in str(error):
            kind = f"{what} of too many pixels"
        elif any(words in cause for words in ("truncated", "no data left", "its head states")):
            kind = f"truncated {what}"
        else:
            kind = f"{'unusable' if error.__cause__ is None or isinstance(error.__cause__, JointNetError) else 'unreadable'} {what}"
        raise BadSampleError(str(error), kind) from error
    except _DECODERS_RAISE as error:
        raise BadSampleError(f"got a {what} that its decoder fails at: {error!r}; left out", f"unreadable {what}") from error


def _picture_file(id_: str, files: Files) -> Callable[[], FileContent]:
    kinds = [kind for kind in PICTURE_KINDS if kind in files]
    if not kinds:
        raise BadSampleError(f"got no picture for {id_!r}; expected {id_}.jpg, .png or .webp", "no picture")
    if len(kinds) > 1:
        raise BadSampleError(f"got {len(kinds)} pictures for {id_!r} ({', '.join(kinds)}); expected one", "several pictures")
    return files[kinds[0]]


def _map(id_: str, files: Files, modality: str, unit: str | DepthUnit, size: tuple[int, int]) -> Tensor:
    """Return a map (c, H, W) of the picture's size. Raises: BadSampleError."""
    kinds = [f"{modality}.{suffix}" for suffix in MAP_KINDS]
    kind = next((kind for kind in kinds if kind in files), None)
    if kind is None:
        expected = " or ".join(f"{id_}.{kind}" for kind in kinds)
        raise BadSampleError(f"got no {modality} map for {id_!r}; expected {expected}", f"no {modality} map")
    with naming_bad_sample(f"{modality} map"):
        map_ = within_limits(modality, read_map(files[kind](), modality, unit))[0]
    if tuple(map_.shape[-2:]) != size:
        got, expected = (f"{width} x {height}" for height, width in (map_.shape[-2:], size))
        raise BadSampleError(
            f"got {id_}.{kind} of {got} for a picture of {expected}; expected maps of the picture's size",
            f"{modality} map of another size than its picture",
        )
    return map_


def _captions(id_: str, files: Files, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines of the text file, or else the captions of the JSON file; one of "" if they are blank. Raises: BadSampleError."""
    if TEXT in files:
        captions = _text(files[TEXT]()).splitlines()
    else:
        found = next((facts[key] for key in CAPTION_KEYS if facts.get(key) is not None), None)
        captions = [found] if isinstance(found, str) else found
        if not isinstance(captions, list) or not captions or not all(isinstance(each, str) for each in captions):
            expected = f"{id_}.{TEXT}, or {id_}.{FACTS} with one as {CAPTION_KEYS[0]!r}"
            raise BadSampleError(f"got no caption for {id_!r}; expected {expected}, empty if there is none", "no caption")
    try:
        "".join(captions).encode()
    except UnicodeEncodeError as error:  # JSON's escapes may leave half a character
        raise BadSampleError(f"got captions of {id_!r} that are no text ({error}); write them anew", "captions not UTF-8") from error
    return tuple(each.strip() for each in captions if each.strip()) or ("",)


def _facts(id_: str, files: Files) -> dict[str, Any]:
    """Raises: BadSampleError."""
    try:
        facts = json.loads(_text(files[FACTS]()))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(f"got {id_}.{FACTS}, which is not JSON ({error}); write it anew", "captions not JSON") from error
    return facts if isinstance(facts, dict) else {}


def _is_size(size: tuple[Any, Any]) -> TypeGuard[tuple[int, int]]:
    return all(isinstance(side, int) and side > 0 for side in size)


def _text(file: FileContent) -> str:
    """Raises: BadSampleError."""
    try:
        return file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSampleError(
            f"got captions in {str(file)!r} that are not UTF-8 ({error}); save them as UTF-8", "captions not UTF-8"
        ) from error
