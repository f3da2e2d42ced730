"""Bulk generation: many prompts into numbered files, by one process or several, stopped and gone on with at any point.

Prompts are cut into units of ``batch``; a unit is made whole, always in one batch, so that its files do not depend on who makes it. The
unit's files appear under their names one by one; a unit is done when its mark is there, and is made again if it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jointnet.errors import NonFiniteError
from jointnet.evaluation.models.protocol import Generator
from jointnet.evaluation.work import claim
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors
from jointnet.machine.processes import num_processes, rank
from jointnet.modalities.modality import get_modality

_UNITS = "done"
_PER_FOLDER = 1000


@dataclass(frozen=True)
class BulkFolder:
    """Where pictures lie: NNN/NNNNNN.png with NNNNNN.MODALITY.png or .npy, by the prompt's number.

    Attributes:
        extra: modalities that are kept besides the picture, of a model that makes them.
    """

    folder: Path
    extra: tuple[str, ...] = ()

    def picture(self, number: int) -> Path:
        """The picture of a prompt."""
        return self.folder / f"{number // _PER_FOLDER:03d}" / f"{number:06d}.png"

    def map_file(self, number: int, modality: str) -> Path:
        """The map of a prompt: 16-bit PNG of one channel, float16 .npy of three."""
        suffix = "png" if get_modality(modality).channels == 1 else "npy"
        return self.picture(number).with_name(f"{number:06d}.{modality}.{suffix}")

    def mark(self, unit: int) -> Path:
        """Of a unit that is done."""
        return self.folder / _UNITS / f"{unit:06d}"


def generate_all(
    model: Generator,
    prompts: list[str],
    folder: BulkFolder,
    *,
    seed: int,
    batch: int,
    known_by: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Make the pictures of all prompts that are not there yet; prompt i from seed + i. Every process takes every n-th unit.

    Args:
        known_by: what the pictures depend on besides prompts, seed and batch: another model's folder is refused.
    Raises: OutputError; NonFiniteError.
    """
    claim(folder.folder, {**known_by, "prompts": prompts, "seed": seed, "batch": batch, "maps": list(folder.extra)})
    units = range(-(-len(prompts) // batch))
    for unit in units[rank() :: num_processes()]:
        if folder.mark(unit).exists():
            continue
        numbers = range(unit * batch, min((unit + 1) * batch, len(prompts)))
        made = model.generate([prompts[number] for number in numbers], [seed + number for number in numbers])
        if not bool(made["rgb"].isfinite().all()):
            raise NonFiniteError(
                f"got pictures of prompts {numbers[0]} to {numbers[-1]} that are not finite; check the model, or use float32"
            )
        for place, number in enumerate(numbers):
            _write(folder, number, {name: value[place].float().cpu() for name, value in made.items()})
        with naming_write_errors(folder.mark(unit)):
            folder.mark(unit).parent.mkdir(exist_ok=True)
            folder.mark(unit).touch()
        if progress is not None:
            progress(numbers[-1] + 1)


def _write(folder: BulkFolder, number: int, maps: Mapping[str, Tensor]) -> None:
    import numpy as np
    from PIL import Image

    picture = folder.picture(number)
    with naming_write_errors(picture):
        picture.parent.mkdir(exist_ok=True)
        with replacing_file(picture) as temporary:
            rgb = maps["rgb"].clamp(0, 1).permute(1, 2, 0).mul(255).round().byte().numpy()
            Image.fromarray(rgb).save(temporary, "PNG")
        for name in (name for name in folder.extra if name in maps):
            kind, path = get_modality(name), folder.map_file(number, name)
            low, high = kind.limits
            value = maps[name].clamp(low, high)
            with replacing_file(path) as temporary:
                if kind.channels == 1:
                    stored = ((value[0] - low) / (high - low)).double().mul(65535).round().numpy().astype(np.uint16)
                    Image.fromarray(stored).save(temporary, "PNG", compress_level=3)
                else:
                    with temporary.open("wb") as file:
                        np.save(file, value.permute(1, 2, 0).numpy().astype(np.float16))
