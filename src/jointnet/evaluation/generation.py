"""Pictures made from prompts against real ones: distances, scores, and what they depend on.

Features are read in chunks of a fixed size and kept on disk: a stopped evaluation goes on, several processes share the work, and the
figures are the same for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jointnet.errors import DataFolderError, JointNetError, RangeError
from jointnet.evaluation.data.sample import rgb_of
from jointnet.evaluation.features import Extractor
from jointnet.evaluation.metrics.distribution import Moments, cmmd, frechet_distance, inception_score, kernel_distance, precision_recall
from jointnet.files.atomic import replacing_file
from jointnet.files.fingerprints import of_texts, of_weights
from jointnet.files.write_errors import naming_write_errors
from jointnet.machine.processes import num_processes, rank

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_CHUNK = 256


@dataclass(frozen=True)
class GenerationProtocol:
    """How sets are compared.

    Attributes:
        seed: of the subsets and splits.
        subsets, subset_size: of the kernel distance; splits: of the Inception score; neighbours: of precision and recall.
        allows_few: compute a Frechet distance on fewer pictures than the features have dimensions.
    """

    seed: int = 0
    subsets: int = 100
    subset_size: int = 1000
    splits: int = 10
    neighbours: int = 3
    allows_few: bool = False


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder and those below it, in the order of their names; maps beside pictures are none.

    Raises: DataFolderError if there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and "." not in path.stem and path.is_file())
    if not found:
        raise DataFolderError(f"got {str(folder)!r} without a picture; expected some of {', '.join(PICTURES)}")
    return found


class StoredFeatures:
    """Features (N, D) of a list of pictures, in chunks on disk.

    Args:
        folder: of the chunks; one for each list and extractor, by their fingerprint.
        kind: "features" or "probabilities".
    """

    def __init__(self, pictures: Sequence[Path], extractor: Extractor, folder: Path, kind: str = "features") -> None:
        self.pictures, self.extractor, self.kind = list(pictures), extractor, kind
        facts = (
            kind,
            extractor.words,
            of_weights(extractor.network),
            *(f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in self.pictures),
        )
        self.folder = folder / f"{extractor.name}-{kind}-{of_texts(facts)}"

    def compute(self, progress: Callable[[int], None] | None = None) -> None:
        """Read what is not there yet: every process every n-th chunk. Raises: DataFolderError, OutputError."""
        read = self.extractor.read if self.kind == "features" else self.extractor.probabilities
        assert read is not None, self.kind
        with naming_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for start in list(range(0, len(self.pictures), _CHUNK))[rank() :: num_processes()]:
            path = self._chunk(start)
            if path.exists():
                continue
            values = self._read(self.pictures[start : start + _CHUNK], read)
            with naming_write_errors(path), replacing_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, values)
            if progress is not None:
                progress(min(start + _CHUNK, len(self.pictures)))

    @torch.no_grad()
    def _read(self, pictures: list[Path], read: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Neighbours of one size go together, 32 at most."""
        device = next(self.extractor.network.parameters()).device
        values: list[np.ndarray] = []
        waiting: list[Tensor] = []

        def flush() -> None:
            if waiting:
                values.append(read(torch.stack(waiting).to(device)).float().cpu().numpy())
                waiting.clear()

        for path in pictures:
            try:
                picture = rgb_of(path)
            except (OSError, ValueError) as error:
                raise DataFolderError(f"cannot read picture {str(path)!r}: {error}; remove it, or make it anew") from error
            if waiting and (len(waiting) == 32 or waiting[0].shape != picture.shape):
                flush()
            waiting.append(picture)
        flush()
        return np.concatenate(values)

    def _chunk(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npy"

    def __len__(self) -> int:
        return len(self.pictures)

    def moments(self) -> Moments:
        """Mean and covariance, read chunk by chunk."""
        moments = Moments()
        for start in range(0, len(self), _CHUNK):
            moments.add(np.load(self._chunk(start)))
        return moments

    def all(self) -> np.ndarray:
        """(N, D) float32: 30,000 of 2,048 are 246 MB."""
        return np.concatenate([np.load(self._chunk(start)) for start in range(0, len(self), _CHUNK)])


def check_enough(extractor: Extractor, counts: dict[str, int], protocol: GenerationProtocol) -> None:
    """Raises: RangeError if a covariance cannot be of full rank, and that was not asked for; or if there is none."""
    for name, count in counts.items():
        if count < 2:
            raise RangeError(f"got {count} picture {name}; a distance of distributions needs two at least")
        if count <= extractor.dimension and not protocol.allows_few:
            raise RangeError(
                f"got {count} pictures {name}; a Frechet distance on {extractor.name} needs more than its {extractor.dimension} "
                "dimensions: make more, or pass --few to have it all the same"
            )


def set_distances(reference: StoredFeatures, made: StoredFeatures, protocol: GenerationProtocol) -> dict[str, Any]:
    """Return the distances of two sets whose features are computed."""
    extractor = made.extractor
    figures: dict[str, Any] = {extractor.distance: frechet_distance(reference.moments().gaussian(), made.moments().gaussian())}
    a, b = reference.all(), made.all()
    if extractor.name == "clip":
        figures["CMMD"] = cmmd(a.astype(np.float64), b.astype(np.float64))
        return figures
    mean, deviation = kernel_distance(a, b, num_subsets=protocol.subsets, subset=protocol.subset_size, seed=protocol.seed)
    figures["KID"] = {"mean": mean, "std": deviation, "subset": min(protocol.subset_size, len(a), len(b))}
    if min(len(a), len(b)) > protocol.neighbours:
        manifold = precision_recall(a, b, neighbours=protocol.neighbours)
        figures |= {"precision": manifold.precision, "recall": manifold.recall}
    return figures


def class_score(probabilities: StoredFeatures, protocol: GenerationProtocol) -> dict[str, float]:
    """Return the Inception score, of whatever classes the network has, on rows in an order of the seed's."""
    splits = min(protocol.splits, len(probabilities))
    mean, deviation = inception_score(probabilities.all().astype(np.float64), splits=splits, seed=protocol.seed)
    return {"mean": mean, "std": deviation, "splits": splits}


def clip_score(made: StoredFeatures, prompts: Sequence[str]) -> float:
    """100 x the mean cosine of each picture with its prompt. Source: Hessel et al. (2021), without their factor 2.5, as FID tables have it.

    Raises: JointNetError if there are not as many prompts as pictures.
    """
    if made.extractor.texts is None or len(prompts) != len(made):
        raise JointNetError(f"got {len(prompts)} prompts for {len(made)} pictures; expected one each, and CLIP's features")
    images, total = made.all(), 0.0
    for start in range(0, len(prompts), _CHUNK):
        texts = made.extractor.texts(list(prompts[start : start + _CHUNK])).numpy()
        total += float((images[start : start + _CHUNK].astype(np.float64) * texts).sum())
    return 100 * total / len(prompts)


@dataclass(frozen=True, eq=False)
class PictureSets:
    """Pictures of prompts, real ones to compare them with, and the extractors of their features.

    Attributes:
        made: in the order of their prompts; real: None without distances.
        folder: of the stored features.
    """

    made: Sequence[Path]
    real: Sequence[Path] | None
    extractors: Sequence[Extractor]
    folder: Path

    def compute(self) -> None:
        """Read all features that are not stored; every process a share. Raises: DataFolderError, OutputError."""
        for extractor in self.extractors:
            for stored in (self._of(extractor, "made"), self._of(extractor, "real"), self._of(extractor, "made", "probabilities")):
                if stored is not None:
                    stored.compute()

    def figures(self, prompts: Sequence[str], protocol: GenerationProtocol) -> dict[str, dict[str, Any]]:
        """Return distances and scores by extractor, once all is computed."""
        found = {}
        for extractor in self.extractors:
            made, real, classes = self._of(extractor, "made"), self._of(extractor, "real"), self._of(extractor, "made", "probabilities")
            assert made is not None, "there always are some"
            found[extractor.name] = {
                **({} if real is None else set_distances(real, made, protocol)),
                **({} if classes is None else {"IS": class_score(classes, protocol)}),
                **({} if extractor.texts is None else {"CLIP score": clip_score(made, prompts)}),
            }
        return found

    def _of(self, extractor: Extractor, which: str, kind: str = "features") -> StoredFeatures | None:
        pictures = self.made if which == "made" else self.real
        if pictures is None or (kind == "probabilities" and extractor.probabilities is None):
            return None
        return StoredFeatures(pictures, extractor, self.folder, kind)


def stated_protocol(protocol: GenerationProtocol, extractors: Sequence[Extractor], made: int, reference: int | None) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "pictures": made,
        "reference_pictures": reference,
        "features": {extractor.name: extractor.words for extractor in extractors},
        "kernel_distance": {"subsets": protocol.subsets, "subset_size": protocol.subset_size, "seed": protocol.seed},
        "precision_recall_neighbours": protocol.neighbours,
        "splits": protocol.splits,
        "below_dimension": protocol.allows_few,
    }
