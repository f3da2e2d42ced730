"""The files of one sample, and which names make one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAP_SUFFIXES = (".npy", ".png")
"""The first one that is there is read: of both, the array has more digits."""

UNREAD_SUFFIXES = (
    ".avif",
    ".gif",
    ".heic",
    ".heif",
    ".jp2",
    ".jxl",
    ".psd",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".exr",
    ".hdr",
    ".npz",
    ".parquet",
)
KNOWN_SUFFIXES = frozenset((*PICTURE_SUFFIXES, *MAP_SUFFIXES, *UNREAD_SUFFIXES, ".txt"))
"""Files with other suffixes are not looked at."""

_SEPARATOR = "\0"


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """The files of one sample: a stem, which is a path in the data folder, and what follows it in each file's name.

    Attributes:
        maps: by modality, without "rgb".
        texts: captions from a metadata file; None if it has none, or there is a caption file.
    """

    stem: str
    picture_suffix: str
    caption_suffix: str | None = None
    maps: dict[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None

    @property
    def picture(self) -> str:
        """The picture's path in the data folder."""
        return self.stem + self.picture_suffix

    def file(self, kind: str) -> str | None:
        """Return the file of a modality, or of the "captions"; None if there is none."""
        suffix = self.picture_suffix if kind == "rgb" else self.caption_suffix if kind == "captions" else self.maps.get(kind)
        return None if suffix is None else self.stem + suffix

    def pack(self) -> bytes:
        """Return the sample as a short byte string."""
        texts = "" if self.texts is None else json.dumps(self.texts)
        fields = (self.stem, self.picture_suffix, self.caption_suffix or "", texts, *(part for pair in self.maps.items() for part in pair))
        return os.fsencode(_SEPARATOR.join(fields))

    @classmethod
    def unpack(cls, packed: bytes) -> SampleFiles:
        """Return the sample that ``pack`` wrote."""
        stem, picture, caption, texts, *maps = os.fsdecode(packed).split(_SEPARATOR)
        by_modality = dict(zip(maps[::2], maps[1::2], strict=True))
        return cls(stem, picture, caption or None, by_modality, tuple(json.loads(texts)) if texts else None)


def group_of(name: str, modalities: frozenset[str]) -> str:
    """Return what names that may belong together begin with: the name without its suffix and all modalities before that."""
    stem = name.rpartition(".")[0] or name
    while True:
        inner, _, last = stem.rpartition(".")
        if not inner or last.lower() not in modalities:
            return stem
        stem = inner


@dataclass(frozen=True)
class Sorted:
    """What a group of files is, without what their names begin with.

    Attributes:
        samples: packed, see ``SampleFiles.pack``.
        left_out: reasons, and the files that belong to no sample.
        clashes: files of which only one may be there.
    """

    samples: list[bytes]
    left_out: list[tuple[str, str]]
    clashes: list[list[str]]


@lru_cache(maxsize=1024)
def sort_out_files(tails: tuple[str, ...], modalities: frozenset[str]) -> Sorted:
    """Sort out files of one group by what follows ``group_of`` in their names: the same few tuples (".depth.npy", ".jpg", ".txt") come
    again and again."""
    return sort_out(tails, {}, modalities)


def sort_out(tails: Iterable[str], texts: dict[str, list[str]], modalities: frozenset[str]) -> Sorted:
    """Sort out files of one group as above, some of which have captions in metadata (``texts``, by the same tails)."""
    group = _Group(modalities, texts)
    for tail in tails:
        group.add(tail)
    samples = [sample.pack() for sample in group.samples()]
    return Sorted(samples, group.left_out, group.clashes())


class _Group:
    """Files of one group by their tails; stems keep their case, suffixes and modalities have any.

    A stem is a tail too: "" or, for a picture NAME.depth.jpg of its own, ".depth".
    """

    def __init__(self, modalities: frozenset[str], texts: dict[str, list[str]]) -> None:
        self.modalities, self.texts = modalities, texts
        self.pictures: dict[str, list[str]] = {}
        self.captions: dict[str, list[str]] = {}
        self.maps: dict[tuple[str, str], dict[str, list[str]]] = {}  # (stem, modality) -> suffix -> tails
        self.left_out: list[tuple[str, str]] = []

    def add(self, tail: str) -> None:
        stem, suffix = _split(tail)
        suffix = suffix.lower()
        inner, middle = _split(stem)
        modality = middle[1:].lower()
        is_read = suffix in PICTURE_SUFFIXES or suffix in MAP_SUFFIXES
        if suffix == ".txt":
            self.captions.setdefault(stem, []).append(tail)
        elif modality == "rgb" and suffix in PICTURE_SUFFIXES:
            self.pictures.setdefault(inner, []).append(tail)
        elif modality in self.modalities and is_read:
            self.maps.setdefault((inner, modality), {}).setdefault(suffix, []).append(tail)
        elif suffix in PICTURE_SUFFIXES:
            self.pictures.setdefault(stem, []).append(tail)
        elif suffix in UNREAD_SUFFIXES or suffix in MAP_SUFFIXES:
            self._leave_out("files of a kind that is not read", [tail])

    def samples(self) -> list[SampleFiles]:
        """Return the samples; what belongs to none is left out."""
        self._find_pictures_among_maps()
        maps: dict[str, dict[str, str]] = {}
        for (stem, modality), by_suffix in self.maps.items():
            if stem not in self.pictures:
                self._leave_out("maps without a picture", (tail for tails in by_suffix.values() for tail in tails))
                continue
            tails = [by_suffix[suffix][0] for suffix in MAP_SUFFIXES if suffix in by_suffix]
            self._leave_out("maps of a kind that is not read", (t for s, each in by_suffix.items() if s not in MAP_SUFFIXES for t in each))
            if tails:
                maps.setdefault(stem, {})[modality] = tails[0][len(stem) :]
        for stem, tails in self.captions.items():
            if stem not in self.pictures:
                self._leave_out("captions without a picture", tails)
        found = [self._sample(stem, tails[0], maps.get(stem, {})) for stem, tails in self.pictures.items()]
        pictures = {tail for tails in self.pictures.values() for tail in tails}
        self._leave_out("rows of metadata without a picture", (tail for tail in self.texts if tail not in pictures))
        return found

    def clashes(self) -> list[list[str]]:
        """Return the tails of which only one may be there."""
        groups = [*self.pictures.values(), *(each for by_suffix in self.maps.values() for each in by_suffix.values())]
        groups += [tails for stem, tails in self.captions.items() if stem in self.pictures]
        return [sorted(tails) for tails in groups if len(tails) > 1]

    def _sample(self, stem: str, picture: str, maps: dict[str, str]) -> SampleFiles:
        """A caption file wins over the rows of metadata, of which all count."""
        if stem in self.captions:
            return SampleFiles(stem, picture[len(stem) :], self.captions[stem][0][len(stem) :], maps)
        texts = tuple(dict.fromkeys(self.texts.get(picture, ())))
        lines = tuple(text for text in texts if text) or ("",)
        return SampleFiles(stem, picture[len(stem) :], None, maps, lines if texts else None)

    def _find_pictures_among_maps(self) -> None:
        """Take NAME.MODALITY.png for a picture of its own if there is no picture NAME, but a caption for it; a JPEG also without one."""
        for stem, modality in list(self.maps):
            by_suffix = self.maps[stem, modality]
            for suffix, tails in list(by_suffix.items()):
                full = _split(tails[0])[0]
                is_picture = suffix in PICTURE_SUFFIXES and stem not in self.pictures
                has_caption = full in self.captions or tails[0] in self.texts
                if is_picture and (has_caption or suffix not in MAP_SUFFIXES):
                    self.pictures.setdefault(full, []).extend(by_suffix.pop(suffix))
            if not by_suffix:
                del self.maps[stem, modality]

    def _leave_out(self, reason: str, tails: Iterable[str]) -> None:
        self.left_out += [(reason, tail) for tail in tails]


def _split(tail: str) -> tuple[str, str]:
    """Return the stem and the suffix with its dot."""
    stem, dot, suffix = tail.rpartition(".")
    return stem, dot + suffix
