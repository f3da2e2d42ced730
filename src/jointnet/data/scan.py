"""Samples of a data folder by the names of its files, and files that are no part of one. No file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jointnet.errors import DataFolderError
from jointnet.modalities.modality import registered_modalities

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAP_SUFFIXES = (".npy", ".png")
"""The first one that is there is read: of both, the array has more digits."""

_UNREAD_SUFFIXES = (
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
)
_NUM_SHOWN = 3
_NO_DATA = "__MACOSX"


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """The files of one sample, as paths in the data folder.

    Attributes:
        maps: by modality, without "rgb".
    """

    picture: str
    caption: str | None
    maps: dict[str, str]

    @property
    def stem(self) -> str:
        """The picture's path without its suffix, and without ".rgb"."""
        stem = os.path.splitext(self.picture)[0]
        return stem[: -len(".rgb")] if stem.lower().endswith(".rgb") else stem

    def file(self, kind: str) -> str | None:
        """Return the file of a modality, or of the "captions"; None if there is none."""
        return self.picture if kind == "rgb" else self.caption if kind == "captions" else self.maps.get(kind)


@dataclass
class LeftOut:
    """Files that are no part of a sample: how many, and the first names."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < _NUM_SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        return f"{self.count} ({', '.join(self.first)}{', ...' if self.count > len(self.first) else ''})"


@dataclass(frozen=True)
class Scan:
    """Samples in the order of their pictures' paths; files that are left out by the reason."""

    samples: list[SampleFiles]
    left_out: dict[str, LeftOut]


def scan(folder: Path) -> Scan:
    """Find the samples in a folder and its sub-folders, links to folders included; names that begin with a dot are not looked at.

    Raises: DataFolderError if a folder cannot be listed, or names clash.
    """
    modalities = frozenset(registered_modalities())
    found, left_out, clashes = [], dict[str, LeftOut](), list[list[str]]()
    for place, names in _folders(folder):
        contents = _Contents(place, modalities)
        for name in names:
            contents.add(name)
        found += contents.samples()
        clashes += contents.clashes()
        for reason, name in contents.left_out:
            left_out.setdefault(reason, LeftOut()).add(name)
    if clashes:
        more = f", and {len(clashes) - _NUM_SHOWN} more of this kind" if len(clashes) > _NUM_SHOWN else ""
        shown = "; ".join(" and ".join(names) for names in clashes[:_NUM_SHOWN])
        raise DataFolderError(f"got files of one name in {str(folder)!r}: {shown}{more}; expected one of each: remove or rename the other")
    found.sort(key=lambda sample: sample.picture.split("/"))
    return Scan(found, left_out)


def _folders(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder as its path below ``top`` ("" or "a/b/") with its files' names. Raises: DataFolderError."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        names: list[str] = []
        try:
            facts = os.stat(top / place)
            if (facts.st_dev, facts.st_ino) in seen:  # links in a circle
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(top / place) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == _NO_DATA:
                        continue
                    if entry.is_dir():
                        waiting.append(f"{place}{entry.name}/")
                    elif entry.is_file() or entry.is_symlink():  # a link to nothing is found when it is read
                        names.append(entry.name)
        except OSError as error:
            raise DataFolderError(
                f"cannot list data folder {str(top / place)!r}: {error.strerror}; check it and its permissions"
            ) from error
        yield place, names


class _Contents:
    """The files of one folder, sorted out by their names; stems keep their case, suffixes and modalities have any."""

    def __init__(self, place: str, modalities: frozenset[str]) -> None:
        self.place, self.modalities = place, modalities
        self.pictures: dict[str, list[str]] = {}
        self.captions: dict[str, list[str]] = {}
        self.maps: dict[tuple[str, str], dict[str, list[str]]] = {}  # (stem, modality) -> suffix -> names
        self.left_out: list[tuple[str, str]] = []

    def add(self, name: str) -> None:
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        inner, middle = os.path.splitext(stem)
        modality = middle[1:].lower()
        is_read = suffix in PICTURE_SUFFIXES or suffix in MAP_SUFFIXES
        if suffix == ".txt":
            self.captions.setdefault(stem, []).append(name)
        elif modality == "rgb" and suffix in PICTURE_SUFFIXES:
            self.pictures.setdefault(inner, []).append(name)
        elif modality in self.modalities and is_read:
            self.maps.setdefault((inner, modality), {}).setdefault(suffix, []).append(name)
        elif suffix in PICTURE_SUFFIXES:
            self.pictures.setdefault(stem, []).append(name)
        elif suffix in _UNREAD_SUFFIXES or suffix in MAP_SUFFIXES:
            self._leave_out("files of a kind that is not read", name)

    def samples(self) -> list[SampleFiles]:
        """Return the samples; what belongs to none is left out."""
        self._find_pictures_among_maps()
        maps: dict[str, dict[str, str]] = {}
        for (stem, modality), by_suffix in self.maps.items():
            if stem not in self.pictures:
                self._leave_out("maps without a picture", *(name for names in by_suffix.values() for name in names))
                continue
            names = [by_suffix[suffix][0] for suffix in MAP_SUFFIXES if suffix in by_suffix]
            self._leave_out("maps of a kind that is not read", *(n for s, each in by_suffix.items() if s not in MAP_SUFFIXES for n in each))
            if names:
                maps.setdefault(stem, {})[modality] = self.place + names[0]
        for stem, names in self.captions.items():
            if stem not in self.pictures:
                self._leave_out("captions without a picture", *names)
        return [
            SampleFiles(self.place + names[0], self.place + self.captions[stem][0] if stem in self.captions else None, maps.get(stem, {}))
            for stem, names in self.pictures.items()
        ]

    def clashes(self) -> list[list[str]]:
        """Return the names of which only one may be there."""
        groups = [*self.pictures.values(), *(each for by_suffix in self.maps.values() for each in by_suffix.values())]
        groups += [names for stem, names in self.captions.items() if stem in self.pictures]
        return [sorted(self.place + name for name in names) for names in groups if len(names) > 1]

    def _find_pictures_among_maps(self) -> None:
        """Take NAME.MODALITY.png for a picture of its own if there is no picture NAME, but a caption for it; a JPEG also without one."""
        for stem, modality in list(self.maps):
            by_suffix = self.maps[stem, modality]
            for suffix, names in list(by_suffix.items()):
                full = os.path.splitext(names[0])[0]
                is_picture = suffix in PICTURE_SUFFIXES and stem not in self.pictures
                if is_picture and (full in self.captions or suffix not in MAP_SUFFIXES):
                    self.pictures.setdefault(full, []).extend(by_suffix.pop(suffix))
            if not by_suffix:
                del self.maps[stem, modality]

    def _leave_out(self, reason: str, *names: str) -> None:
        self.left_out += [(reason, self.place + name) for name in names]
