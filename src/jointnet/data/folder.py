"""A folder of pictures with their dense maps and captions as a training data set.

NAME.png or NAME.rgb.png (or .jpg, .jpeg, .webp, .bmp, .tif, .tiff) is the picture, NAME.txt its captions, one a line, and
NAME.MODALITY.npy or NAME.MODALITY.png the map of each other modality: .npy in the range the modality states, (H, W) or (H, W, c); .png
as the package writes it (depth: value / 65535, or 255 in an 8-bit file; normal: (n + 1) / 2 over 8 bits). Depth may be in another
unit (``depth_unit``). Captions may also stand in metadata.jsonl or metadata.csv; a .txt file wins. Suffixes and modalities may have any
case; sub-folders are read too.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from jointnet.data.sample import Sample
from jointnet.data.sample_files import MAP_SUFFIXES, SampleFiles
from jointnet.data.scan import SampleList, scan
from jointnet.errors import BadSampleError, DataFolderError, DataFolderWarning, InputFileError, RangeError, ShapeError
from jointnet.files.content_index import ContentIndex
from jointnet.files.fingerprints import of_texts
from jointnet.files.write_errors import reason
from jointnet.modalities.depth_units import DISPARITY, DepthUnit, get_depth_unit
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.picture_files import picture_size
from jointnet.modalities.read import read_map

CAPTIONS = "captions"
_ABOUT_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)
"""Errors of the system that say something of one file; others, such as EIO, of the disk or of this process."""


@dataclass(frozen=True)
class FolderSource:
    """A Source over a folder; maps have their picture's own size, and nothing is resized or cut. A sample's id is its picture's path.

    The folder is looked at once: a source of files that change meanwhile is a new one. Each kind of warning about maps comes once in a
    process; read in worker processes, not in threads, which share the machinery of warnings.

    Attributes:
        index: file that keeps hashes of contents, so that a resumed run does not read all files again; the list of the samples is
            written beside it.
        depth_unit: what the numbers of the depth maps mean, or its name in DEPTH_UNITS; with its ``near_m`` all share one near distance.
    """

    folder: Path
    index: Path | None = None
    depth_unit: str | DepthUnit = DISPARITY

    def __len__(self) -> int:
        """Raises: DataFolderError if there is no picture, names clash or metadata are broken."""
        return len(self._samples)

    @property
    def blocks(self) -> Sequence[int]:
        """One block."""
        return (len(self),)

    def id_of(self, row: int) -> str:
        """Return the picture's path in the folder, with "/"; bytes that are no UTF-8 are as os.fsdecode leaves them."""
        return self._samples[row].picture

    def size_of(self, row: int) -> tuple[int, int] | None:
        """Return height and width of a picture from its head; None if it cannot be read."""
        try:
            return picture_size(self.folder / self._samples[row].picture)
        except InputFileError:
            return None

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        """Read captions and the maps of these modalities; without "rgb" only the picture's head is read, for its size.

        Shapes: (c, H, W) in the range of the modality, H and W as EXIF turns the picture.
        Raises: BadSampleError; DataFolderError if the folder is gone; UnknownNameError, MissingPackageError.
        """
        files = self._samples[row]
        captions = self._captions(files)
        maps: dict[str, Tensor] = {}
        with self._each_warning_once():
            if "rgb" in modalities:
                maps["rgb"] = self._map(files, "rgb")
                height, width = maps["rgb"].shape[-2:]
            else:
                with self._naming_bad_sample("picture", files.picture):
                    height, width = picture_size(self.folder / files.picture)
            for name in modalities:
                if name != "rgb":
                    maps[name] = self._map(files, name)
                    _check_size(maps[name], (height, width), str(files.file(name)), files.picture, name)
        return Sample(files.picture, {name: maps[name] for name in modalities}, captions, (height, width))

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return hashes by which the data are known: of the captions, and of each modality's files, with the unit of converted depth.

        They stay when the folder is moved. Every file that ``index`` does not know is read, and none is decoded: what is missing or
        cannot be opened changes the hash, too.
        Raises: DataFolderError, OutputError.
        """
        with ContentIndex(self.folder, self.index) as index:
            return {kind: of_texts(self._hashes(kind, index)) + self._unit_of(kind) for kind in dict.fromkeys((CAPTIONS, *modalities))}

    def with_depth_near(self, near_m: float | None) -> FolderSource:
        """Return the source, or one whose depth maps, if their unit is one of length, share the near distance ``near_m``."""
        unit = get_depth_unit(self.depth_unit)
        return self if near_m is None or unit.metres is None else replace(self, depth_unit=replace(unit, near_m=near_m))

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which all depth maps read 1, where their unit says so."""
        return get_depth_unit(self.depth_unit).near_m

    @cached_property
    def _samples(self) -> SampleList:
        """Raises: DataFolderError, OutputError."""
        if not self.folder.is_dir():
            raise DataFolderError(f"got data folder {str(self.folder)!r}, which is no folder; expected pictures with maps and captions")
        found = scan(self.folder, None if self.index is None else self.index.with_suffix(".samples"))
        if not found.samples:
            raise DataFolderError(f"got no picture in {str(self.folder)!r}; expected NAME.png with NAME.txt and NAME.depth.npy")
        if found.left_out:
            left_out = "; ".join(f"{reason}: {names}" for reason, names in found.left_out.items())
            warnings.warn(f"{str(self.folder)!r} holds files that are left out. {left_out}", DataFolderWarning, stacklevel=2)
        return found.samples

    @cached_property
    def _warned_of(self) -> set[type[Warning]]:
        return set()

    def _captions(self, files: SampleFiles) -> tuple[str, ...]:
        """Return the lines that are not blank, or one that is. Raises: BadSampleError, DataFolderError."""
        if files.texts is not None:
            return files.texts
        name = files.file(CAPTIONS)
        if name is None:
            expected = f"{os.path.basename(files.stem)}.txt beside it, empty if there is none, or its row in metadata.jsonl"
            raise BadSampleError(f"got no caption for {files.picture}; expected {expected}", "no caption")
        try:
            lines = (self.folder / name).read_text(encoding="utf-8-sig").splitlines()
        except ValueError as error:
            message = f"got captions in {name} that are not UTF-8 ({error}); save the file as UTF-8"
            raise BadSampleError(message, "captions not UTF-8") from error
        except OSError as error:
            self._check_disk(error)
            raise BadSampleError(f"cannot read captions {name}: {reason(error)}", "captions that cannot be opened") from error
        return tuple(line.strip() for line in lines if line.strip()) or ("",)

    def _map(self, files: SampleFiles, modality: str) -> Tensor:
        """Return a map (c, H, W). Raises: BadSampleError, DataFolderError, UnknownNameError."""
        get_modality(modality)  # before anything is said of this sample
        what, name = "picture" if modality == "rgb" else f"{modality} map", files.file(modality)
        if name is None:
            stem = os.path.basename(files.stem)
            expected = " or ".join(f"{stem}.{modality}{suffix}" for suffix in MAP_SUFFIXES)
            raise BadSampleError(f"got no {modality} for {files.picture}; expected {expected} beside it", f"no {what}")
        with self._naming_bad_sample(what, name):
            return within_limits(modality, read_map(self.folder / name, modality, self.depth_unit))[0]

    @contextmanager
    def _naming_bad_sample(self, what: str, name: str) -> Iterator[None]:
        """Raise what is wrong with one file as BadSampleError. Raises: DataFolderError, too, see ``_check_disk``."""
        try:
            yield
        except (InputFileError, RangeError, ShapeError) as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno is not None:
                self._check_disk(cause)
                kind = f"{what} that cannot be opened"
            elif "truncated" in str(cause) or _is_empty(self.folder / name):
                kind = f"truncated {what}"
            else:
                kind = f"unreadable {what}" if isinstance(error, InputFileError) and cause is not None else f"unusable {what}"
            raise BadSampleError(str(error), kind) from error

    def _check_disk(self, error: OSError) -> None:
        """Raises: DataFolderError if the folder is gone, or the error is about more than one file."""
        if not self.folder.is_dir():
            raise DataFolderError(f"data folder {str(self.folder)!r} is gone; mount it again and go on with the same command")
        if error.errno not in _ABOUT_ONE_FILE:
            raise DataFolderError(f"cannot read data folder {str(self.folder)!r}: {reason(error)}; check its disk") from error

    @contextmanager
    def _each_warning_once(self) -> Iterator[None]:
        """Let through the first warning of each kind."""
        with warnings.catch_warnings(record=True) as caught:
            yield
        for warning in caught:
            if warning.category not in self._warned_of:
                self._warned_of.add(warning.category)
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def _hashes(self, kind: str, index: ContentIndex) -> Iterator[str]:
        """Yield a text on each file of a modality, or on the captions. Raises: DataFolderError, OutputError."""
        for files in self._samples:
            name = files.file(kind)
            if name is not None:
                yield f"{name} {self._hash(name, index)}"
            elif kind == CAPTIONS and files.texts is not None:
                yield f"{files.picture} {of_texts(files.texts)}"

    def _hash(self, name: str, index: ContentIndex) -> str:
        try:
            return index.hash_of(name)
        except OSError as error:
            self._check_disk(error)
            return "cannot be opened"

    def _unit_of(self, kind: str) -> str:
        """Words on the unit of depth maps that are converted, for what depends on it."""
        unit = get_depth_unit(self.depth_unit)
        return f" in {unit.name}, near {unit.near_m} m" if kind == "depth" and unit.metres is not None else ""


def _check_size(map_: Tensor, size: tuple[int, int], name: str, picture: str, modality: str) -> None:
    """Raises: BadSampleError if a map has not its picture's height and width."""
    if tuple(map_.shape[-2:]) != size:
        got, expected = (f"{width} x {height}" for height, width in (map_.shape[-2:], size))
        message = f"got {name} of {got} for {picture} of {expected}; expected maps of the picture's size"
        raise BadSampleError(message, f"{modality} map of another size than its picture")


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False
