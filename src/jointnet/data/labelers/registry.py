"""Labelers by name: what ``--label MODALITY=NAME[:WEIGHTS]`` means. Nothing heavy is imported until one is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jointnet.data.labelers.weights import Published
from jointnet.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.data.labelers.labeler import Labeler

ENTRY_POINTS = "jointnet.labelers"
"""Entry points of installed packages in this group are labelers: an object, a class or a function, as ``LabelerChoice`` takes them."""

GRAMMAR = "MODALITY=NAME[:WEIGHTS], such as depth=midas, normal=omnidata:PATH or depth=package.module:function"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A labeler of this package.

    Attributes:
        makes: its modalities; empty: any.
        where: module:function that makes it from the modality and its weights: a path, if they are published, else the text after the name.
        published: by modality.
    """

    makes: tuple[str, ...]
    where: str
    about: str
    published: Mapping[str, Published] = field(default_factory=dict)


_OMNIDATA = Published(
    repository="sashasax/omnidata_normal_dpt_hybrid_384",
    file="omnidata_normal_dpt_hybrid.pth",
    elsewhere=" (or omnidata_dpt_normal_v2.ckpt from zenodo.org/records/10447888)",
)
_KNOWN = {
    "midas": _Known(
        makes=("depth",),
        where="jointnet.data.labelers.midas:midas",
        about="MiDaS DPT-hybrid, the paper's",
        published={"depth": Published(repository="Intel/dpt-hybrid-midas")},
    ),
    "depth-anything": _Known(
        makes=("depth",),
        where="jointnet.data.labelers.depth_anything:depth_anything",
        about="Depth Anything V2",
        published={"depth": Published(repository="depth-anything/Depth-Anything-V2-Small-hf")},
    ),
    "omnidata": _Known(
        makes=("normal",),
        where="jointnet.data.labelers.omnidata:omnidata",
        about="Omnidata DPT-hybrid, the paper's",
        published={"normal": _OMNIDATA},
    ),
    "marigold": _Known(
        makes=("depth", "normal"),
        where="jointnet.data.labelers.marigold:marigold",
        about="Marigold",
        published={
            "depth": Published(repository="prs-eth/marigold-depth-v1-1"),
            "normal": Published(repository="prs-eth/marigold-normals-v1-1"),
        },
    ),
    "from-depth": _Known(
        makes=("normal",),
        where="jointnet.data.labelers.registry:normals_from_depth",
        about="from another labeler's depth: from-depth:NAME[:WEIGHTS]",
    ),
    "jointnet": _Known(makes=(), where="jointnet.loading:load_labeler", about="a joint model's prediction: jointnet:MODEL"),
}
"""By name. A labeler may stand above this part, as a user's own does, so each is named by its place."""


@dataclass(frozen=True)
class LabelerChoice:
    """A labeler that was chosen and not yet made. Calling it makes the labeler.

    It can be sent to other processes; a labeler itself cannot, since the libraries' networks hold functions that are not pickled.

    Attributes:
        name: a labeler of this package, an entry point of ENTRY_POINTS, or module:attribute. What stands there is a labeler; or a class
            that is called with the modality and the weights; or a function of pictures.
        weights: a path, a hub id, or what else the labeler takes.
    """

    modality: str
    name: str
    weights: str | None = None

    def check(self) -> None:
        """Check that published weights are there, without opening them. Raises: ModelFolderError, UnknownNameError."""
        known = _KNOWN.get(self.name)
        if known is not None and known.published:
            known.published[self.modality].find(self.weights, self.name, self.modality)
        elif self.name == "from-depth":
            _depth_of(self.weights).check()

    def __call__(self) -> Labeler:
        """Make the labeler, on the CPU. Raises: ModelFolderError, UnknownNameError, LabelerError."""
        known = _KNOWN.get(self.name)
        if known is None:
            from jointnet.data.labelers.labeler import naming_labeler

            with naming_labeler(self.modality):
                return self._foreign()
        weights: Any = self.weights
        if known.published:
            weights = known.published[self.modality].find(self.weights, self.name, self.modality)
        return _attribute(known.where)(self.modality, weights)

    def _foreign(self) -> Labeler:
        """Raises: UnknownNameError."""
        from jointnet.data.labelers.function import FunctionLabeler
        from jointnet.data.labelers.labeler import Labeler
        from jointnet.modalities import get_modality

        get_modality(self.modality)
        installed = {found.name: found for found in entry_points(group=ENTRY_POINTS)}
        found: Any = installed[self.name].load() if self.name in installed else _attribute(self.name)
        if isinstance(found, type):
            found = found(self.modality, self.weights)
        if not callable(found):
            raise UnknownNameError(f"got {self.name}, a {type(found).__name__}; expected a function of pictures, a labeler, or its class")
        function = cast("Callable[[Tensor], Tensor]", found)
        labeler = found if isinstance(found, Labeler) else FunctionLabeler(modality=self.modality, function=function, name=self.name)
        if labeler.modality != self.modality:
            raise UnknownNameError(f"got {self.name} for {self.modality}; it makes {labeler.modality}")
        return labeler


def parse_label(text: str) -> tuple[str, LabelerChoice]:
    """Parse MODALITY=NAME[:WEIGHTS], or MODALITY=module:attribute[:WEIGHTS]. Raises: UnknownNameError."""
    modality, equals, rest = text.partition("=")
    name, colon, weights = rest.partition(":")
    if not (equals and modality.isidentifier() and name) or (colon and not weights):
        raise UnknownNameError(f"got label {text!r}; expected {GRAMMAR}")
    known = _KNOWN.get(name)
    if known is None and name not in {found.name for found in entry_points(group=ENTRY_POINTS)}:
        attribute, _, weights = weights.partition(":")
        if not attribute.isidentifier():
            raise UnknownNameError(f"got labeler {name!r}; expected one of {', '.join(labeler_names())}, or module:function")
        name = f"{name}:{attribute}"
    if known is not None and known.makes and modality not in known.makes:
        raise UnknownNameError(f"got {modality}={name}; {name} makes {' and '.join(known.makes)}")
    choice = LabelerChoice(modality, name, weights or None)
    if name == "from-depth":
        _depth_of(choice.weights)
    return modality, choice


def get_labeler(text: str) -> Labeler:
    """Make the labeler that ``parse_label`` reads from a text. Raises: UnknownNameError, ModelFolderError."""
    return parse_label(text)[1]()


def labeler_names() -> tuple[str, ...]:
    """Return the names of all labelers, those of installed packages included."""
    return tuple(sorted({*_KNOWN, *(found.name for found in entry_points(group=ENTRY_POINTS))}))


def about_labelers() -> dict[str, str]:
    """Return a few words on each labeler of this package, by name, with its modalities; for help pages."""
    return {name: f"{known.about} ({', '.join(known.makes) or 'any modality'})" for name, known in _KNOWN.items()}


def normals_from_depth(modality: str, depth: str | None) -> Labeler:
    """Make the labeler that computes normals from another's depth; near / z if that one says that it is. Raises: UnknownNameError."""
    from jointnet.data.labelers.normals_from_depth import FAR_OVER_NEAR, NormalsFromDepth

    labeler = _depth_of(depth)()
    is_scaled = getattr(labeler, "depth_near_m", None) is not None
    return NormalsFromDepth(depth=labeler, far_over_near=None if is_scaled else FAR_OVER_NEAR, modality=modality)


def _depth_of(text: str | None) -> LabelerChoice:
    """Return the choice of the depth labeler that from-depth starts from. Raises: UnknownNameError."""
    if text is None:
        raise UnknownNameError(
            "got from-depth without a labeler of depth; expected normal=from-depth:NAME[:WEIGHTS], such as from-depth:midas"
        )
    return parse_label(f"depth={text}")[1]


def _attribute(place: str) -> Any:
    """Return what module:attribute names; modules in the working folder are found too. Raises: UnknownNameError."""
    module, _, attribute = place.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the workers of a loader too
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownNameError(
            f"got labeler {place!r}, which cannot be imported: {error}; expected one of {', '.join(labeler_names())}, or module:function"
        ) from error
