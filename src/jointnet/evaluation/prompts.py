"""Prompts that models are compared on: COCO captions, as its owners ship them, or a text file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jointnet.errors import DataFolderError
from jointnet.files.write_errors import reason

_COCO_FILES = ("annotations/captions_val2014.json", "captions_val2014.json", "annotations/captions_val2017.json", "captions_val2017.json")


@dataclass(frozen=True)
class Prompts:
    """Prompts in the order they are drawn in.

    Attributes:
        name: what they are, with the seed of their choice.
    """

    name: str
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def open_prompts(text: str, num: int | None, seed: int = 0) -> Prompts:
    """Open ``coco:FOLDER``, or a text file with one prompt a line.

    Of COCO, ``num`` captions (of 202,654 of 2014's validation set, where 30,000 are usual) are chosen with a seed, at most one a picture;
    of a text file the first ``num``.
    Raises: DataFolderError.
    """
    name, colon, folder = text.partition(":")
    if colon and name == "coco":
        return _coco(Path(folder or "coco:"), num, seed)
    return _lines(Path(text), num)


def _lines(path: Path, num: int | None) -> Prompts:
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataFolderError(f"got prompts {str(path)!r} that are not UTF-8 ({error}); save the file as UTF-8") from error
    except OSError as error:
        raise DataFolderError(
            f"cannot read prompts {str(path)!r}: {reason(error)}; expected a file with one a line, or coco:FOLDER"
        ) from error
    return _enough(Prompts(path.name, texts if num is None else texts[:num]), num, str(path))


def _coco(folder: Path, num: int | None, seed: int) -> Prompts:
    path = next((folder / name for name in _COCO_FILES if (folder / name).is_file()), None)
    if path is None:
        raise DataFolderError(f"got {str(folder)!r} without {_COCO_FILES[0]}; expected COCO's captions there")
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        listed = sorted(annotations, key=lambda one: one["id"])
        first_of_picture = {int(one["image_id"]): " ".join(str(one["caption"]).split()) for one in reversed(listed)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFolderError(f"cannot read {str(path)!r}: {type(error).__name__} {error}; fetch COCO's captions anew") from error
    texts = [first_of_picture[image] for image in sorted(first_of_picture)]
    order = np.random.default_rng(seed).permutation(len(texts))
    chosen = [texts[place] for place in (order if num is None else order[:num])]
    return _enough(Prompts(f"COCO {path.stem}, one caption a picture, seed {seed}", chosen), num, str(path))


def _enough(prompts: Prompts, num: int | None, place: str) -> Prompts:
    if not len(prompts) or (num is not None and len(prompts) < num):
        raise DataFolderError(f"got {len(prompts)} prompts in {place!r}; expected {num or 'at least 1'}: ask for fewer, or add some")
    return prompts
