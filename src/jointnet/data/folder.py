"""A folder of pictures with their dense maps and captions as a training data set.

NAME.png or NAME.rgb.png (or .jpg, .jpeg, .webp, .bmp, .tif, .tiff) is the picture, NAME.txt its captions, one a line, and
NAME.MODALITY.npy or NAME.MODALITY.png the map of each other modality: .npy in the range the modality states, (H, W) or (H, W, c); .png
as the package writes it (depth: value / 65535, or 255 in an 8-bit file; normal: (n + 1) / 2 over 8 bits). Depth may be in another
unit (``depth_unit``). Suffixes and modalities may have any case; sub-folders are read too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from jointnet.data.scan import MAP_SUFFIXES, SampleFiles, Scan, scan
from jointnet.errors import DataFolderError, DataFolderWarning, JointNetError, JointNetWarning
from jointnet.files.content_index import ContentIndex
from jointnet.files.fingerprints import of_texts
from jointnet.files.write_errors import reason
from jointnet.modalities.depth_units import DISPARITY, DepthUnit, get_depth_unit
from jointnet.modalities.modality import get_modality, within_limits
from jointnet.modalities.picture_files import open_picture
from jointnet.modalities.read import read_map, read_picture
from jointnet.types import size_ids

CAPTIONS = "captions"
_NUM_LISTED = 20
_ORIENTATION, _TURNED_SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values that exchange width and height."""


@dataclass(frozen=True)
class FolderSource:
    """A MapSource over a folder; every map has its picture's size, is cut to its middle square and resized to ``size`` px.

    The folder is looked at once: a source of files that change meanwhile is a new one.

    Attributes:
        depth_unit: what the numbers of the depth maps mean, or its name in DEPTH_UNITS; with its ``near_m`` all share one near distance.
        index: file that keeps which contents were read and found good, so that a resumed run does not read them all again.
    """

    folder: Path
    size: int
    index: Path | None = None
    depth_unit: str | DepthUnit = DISPARITY

    def names(self) -> list[Path]:
        """Return the pictures in the order of their paths. Raises: DataFolderError if there are none, or names clash."""
        return [self.folder / sample.picture for sample in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def captions(self) -> list[list[str]]:
        """Return as many lists as the longest caption file has lines; shorter ones repeat theirs. Raises: DataFolderError."""
        self._check_complete((CAPTIONS,))
        texts = [self._caption_lines(sample) for sample in self._samples]
        return [[lines[draw % len(lines)] for lines in texts] for draw in range(max(len(lines) for lines in texts))]

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return hashes by which the data are known: of the captions, and of each modality's files, with the unit of converted depth.

        They stay when the folder is moved. Every file that ``index`` does not know is read and checked.
        Raises: DataFolderError, which names all files that are missing or, if none is, all that cannot be used.
        """
        kinds = (CAPTIONS, *sorted(modalities, key=lambda name: name != "rgb"))  # pictures first
        self._check_complete(kinds)
        problems: dict[str, None] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", JointNetWarning)  # they come when the maps are read for training
            for kind, sample in product(kinds, self._samples):
                problem = self._look_at(kind, sample)
                problems |= {} if problem is None else {problem: None}
        self._index.save()
        if problems:
            raise DataFolderError(_listed(list(problems), self.folder))
        return {kind: self._hash_of_all(kind) + self._unit_of(kind) for kind in kinds}

    def fingerprints(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return texts that change with the files of a modality and the size. Raises: DataFolderError, see ``contents``."""
        contents = self.contents(modalities)
        return {name: f"{contents[name]} at {self.size} px" for name in modalities}

    def with_depth_near(self, near_m: float | None) -> FolderSource:
        """Return the source, or one whose depth maps, if their unit is one of length, share the near distance ``near_m``."""
        unit = get_depth_unit(self.depth_unit)
        return self if near_m is None or unit.metres is None else replace(self, depth_unit=replace(unit, near_m=near_m))

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which all depth maps read 1, where their unit says so."""
        return get_depth_unit(self.depth_unit).near_m

    def _hash_of_all(self, kind: str) -> str:
        names = [sample.file(kind) for sample in self._samples]
        return of_texts(f"{name} {self._hashes[name]}" for name in names if name is not None)

    def _unit_of(self, modality: str) -> str:
        """Words on the unit of depth maps that are converted, for what depends on it."""
        unit = get_depth_unit(self.depth_unit)
        return f" in {unit.name}, near {unit.near_m} m" if modality == "depth" and unit.metres is not None else ""

    def maps(self, modality: str) -> Iterator[Tensor]:
        """Yield all maps of a modality, (c, size, size) each; each kind of warning comes once. Raises: DataFolderError, ShapeError."""
        self._check_complete((modality,))
        warned_of: set[type[Warning]] = set()
        for sample in self._samples:
            with warnings.catch_warnings(record=True) as caught:
                map_ = self._read(sample, modality)
            for warning in (w for w in caught if w.category not in warned_of):
                warned_of.add(warning.category)
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            yield get_modality(modality).resize(_middle(within_limits(modality, map_)), (self.size, self.size))[0]

    def size_ids(self) -> Tensor:
        """Return each picture's own size, and where its middle square begins once it is resized (N, 6)."""
        return torch.cat([_square_ids(_picture_size(picture), self.size) for picture in self.names()])

    @cached_property
    def _samples(self) -> list[SampleFiles]:
        """Raises: DataFolderError."""
        if not self.folder.is_dir():
            raise DataFolderError(f"got data folder {str(self.folder)!r}, which is no folder; expected pictures with maps and captions")
        found: Scan = scan(self.folder)
        if not found.samples:
            raise DataFolderError(f"got no picture in {str(self.folder)!r}; expected NAME.png with NAME.txt and NAME.depth.npy")
        if found.left_out:
            left_out = "; ".join(f"{reason}: {names}" for reason, names in found.left_out.items())
            warnings.warn(f"{str(self.folder)!r} holds files that are left out. {left_out}", DataFolderWarning, stacklevel=2)
        return found.samples

    @cached_property
    def _index(self) -> ContentIndex:
        return ContentIndex(self.folder, self.index)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Of the files that were looked at, by their paths."""
        return {}

    def _look_at(self, kind: str, sample: SampleFiles) -> str | None:
        """Hash a file, and check it if it is new; return what is wrong with it."""
        name = sample.file(kind)
        assert name is not None, "checked before"
        if name in self._hashes:
            return None
        checked_as = kind
        if kind not in (CAPTIONS, "rgb"):  # a map must have its picture's size
            checked_as += f"{self._unit_of(kind)} of {self._hashes.get(sample.picture)}"
        try:
            self._hashes[name] = self._index.hash_of(name, checked_as, lambda: self._check(kind, sample))
        except JointNetError as error:
            return str(error)
        except OSError as error:
            return f"cannot read {str(self.folder / name)!r}: {reason(error)}"
        return None

    def _check(self, kind: str, sample: SampleFiles) -> None:
        """Raises: JointNetError if the file cannot be used."""
        if kind == CAPTIONS:
            self._caption_lines(sample)
        elif kind == "rgb" or sample.picture in self._hashes:
            self._read(sample, kind)
        else:  # the picture is broken, or was not asked for
            read_map(self.folder / sample.maps[kind], kind, self.depth_unit)

    def _check_complete(self, kinds: Sequence[str]) -> None:
        """Raises: DataFolderError, which names the pictures without a caption or a map."""
        for kind in kinds:
            missing = [sample for sample in self._samples if sample.file(kind) is None]
            if not missing:
                continue
            stem = os.path.basename(missing[0].stem)
            what, expected = "caption", f"{stem}.txt beside it, empty if there is none"
            if kind != CAPTIONS:
                what, expected = kind, " or ".join(f"{stem}.{kind}{suffix}" for suffix in MAP_SUFFIXES) + " beside it"
            shown = ", ".join(sample.picture for sample in missing[:_NUM_LISTED])
            more = f" and {len(missing) - _NUM_LISTED} more" if len(missing) > _NUM_LISTED else ""
            first = f" for {os.path.basename(missing[0].picture)}" if len(missing) > 1 else ""
            raise DataFolderError(f"got no {what} for {shown}{more}; expected{first} {expected}")

    def _caption_lines(self, sample: SampleFiles) -> list[str]:
        """Return the lines that are not blank, or one that is. Raises: DataFolderError."""
        path = self.folder / str(sample.caption)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except ValueError as error:
            raise DataFolderError(f"got captions in {sample.caption} that are not UTF-8 ({error}); save the file as UTF-8") from error
        except OSError as error:
            raise DataFolderError(f"cannot read captions {str(path)!r}: {reason(error)}") from error
        return [line.strip() for line in lines if line.strip()] or [""]

    def _read(self, sample: SampleFiles, modality: str) -> Tensor:
        picture = self.folder / sample.picture
        if modality == "rgb":
            return read_picture(picture)
        path = self.folder / sample.maps[modality]
        map_, size = read_map(path, modality, self.depth_unit), _picture_size(picture)
        if tuple(map_.shape[-2:]) != size:
            got, expected = (f"{width} x {height}" for height, width in (map_.shape[-2:], size))
            raise DataFolderError(f"got {path.name} of {got} for {picture.name} of {expected}; expected maps of the picture's size")
        return map_


def _listed(problems: Sequence[str], folder: Path) -> str:
    """One message of several; what to do stands in it once."""
    if len(problems) == 1:
        return problems[0]
    shown = "; ".join(problem.split(";")[0] for problem in problems[:_NUM_LISTED])
    more = f"; and {len(problems) - _NUM_LISTED} more" if len(problems) > _NUM_LISTED else ""
    return (
        f"got {len(problems)} files that cannot be used in {str(folder)!r}: {shown}{more}. Repair them, or remove them with their pictures"
    )


def _picture_size(path: Path) -> tuple[int, int]:
    """Return height and width of a picture as EXIF turns it, from the file's head. Raises: InputFileError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                (width, height), turn = image.size, image.getexif().get(_ORIENTATION)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what PIL refuses, the reader of pictures may take
        width, height = open_picture(path).size
        return height, width
    return (width, height) if turn in _TURNED_SIDEWAYS else (height, width)


def _square_ids(original: Sequence[int], size: int) -> Tensor:
    height, width = original
    scale = size / min(height, width)
    crop = (round((height - min(original)) / 2 * scale), round((width - min(original)) / 2 * scale))
    return size_ids((size, size), (height, width), crop)


def _middle(maps: Tensor) -> Tensor:
    """Cut maps (B, c, H, W) to their middle square."""
    height, width = maps.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return maps[..., top : top + side, left : left + side]
