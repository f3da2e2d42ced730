"""Models by a text: what ``jointnet evaluate ... MODEL`` takes. Nothing heavy is imported until one is opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jointnet.errors import InputFileError, JointNetError, ModelFolderError, RangeError, ShapeError, UnknownNameError
from jointnet.evaluation.models.settings import ModelSettings
from jointnet.files.fingerprints import of_content, of_networks

if TYPE_CHECKING:
    from torch import device

Ability = Literal["generate", "predict"]
PEERS = ("midas", "depth-anything", "omnidata", "marigold", "marigold-normals", "ldm3d", "diffusers")
"""Before a colon: models of the libraries, from a folder."""

_TAKEN: Mapping[str, Mapping[Ability, tuple[str, ...]]] = {
    "joint": {"predict": ("steps", "ensemble"), "generate": ("steps", "size", "guidance")},
    "marigold": {"predict": ("steps",)},
    "marigold-normals": {"predict": ("steps",)},
    "ldm3d": {"generate": ("steps", "size", "guidance")},
    "diffusers": {"generate": ("steps", "size", "guidance")},
}
"""Settings that a kind of model takes; the others have none."""

_ROUNDING = 0.01
"""By which a picture's numbers may lie beyond their range, which are cut off."""

GRAMMAR = (
    f"a joint model's name, folder or hub id, NAME:FOLDER with NAME one of {', '.join(PEERS)}, or FILE.py:CLASS or package.module:CLASS"
)

_EXPECTED: Mapping[Ability, str] = {
    "generate": "generate(prompts, seeds) -> {'rgb': (B, 3, H, W), ...}",
    "predict": "predict(rgb, seeds) -> {'depth_metric': (B, H, W), ...}",
}


def open_evaluated(text: str, ability: Ability, settings: ModelSettings, device: device, joint: Callable[[str], Any]) -> Any:
    """Open a model for evaluation, on a device.

    Args:
        text: as GRAMMAR says.
        joint: opens a joint model by its name (``jointnet.load``, which stands above this part).
    Raises: UnknownNameError, ModelFolderError, InputFileError; also if the model has no method of the name ``ability``.
    """
    kind, (name, _, rest) = _kind_of(text), text.partition(":")
    taken = _TAKEN.get(kind, {}).get(ability, ())
    ignored = [setting for setting, value in vars(settings).items() if value is not None and setting not in taken]
    if ignored:
        raise UnknownNameError(f"got --{ignored[0]} for {text!r}, which takes {_options(taken)} to {ability}; leave it out")
    if kind in PEERS:
        model = _peer(name, rest, settings, device)
    elif kind == "own":
        model = _own_class(name, rest)
        _check_method(text, model, ability)
        return OwnModel(model, text)
    else:
        from jointnet.evaluation.models.adapters import JointNet

        pipeline = joint(text).to(device)
        pipeline.set_progress_bar_config(disable=True)
        model = JointNet.opened(pipeline, settings)
    _check_method(text, model, ability)
    return model


def _kind_of(text: str) -> str:
    """One of PEERS, "own" or "joint". Raises: UnknownNameError."""
    name, colon, _ = text.partition(":")
    if colon and name in PEERS:
        return name
    if not colon and text.endswith(".py"):
        raise UnknownNameError(f"got model {text!r} without a class; expected {text}:CLASS")
    return "own" if colon and not Path(text).exists() else "joint"


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names) or "no setting"


def stated_settings(text: str, ability: Ability, model: Any) -> dict[str, Any]:
    """The settings that an opened model samples with, by name; None: as its files have it."""
    taken = _TAKEN.get(_kind_of(text), {}).get(ability, ())
    return {name: getattr(getattr(model, "labeler", model), name) for name in taken}


def contents_of(text: str, model: Any) -> str | None:
    """Changes with the weights of an opened model, or with the file of a user's class; None for classes of packages."""
    if isinstance(model, OwnModel):
        place = Path(text.partition(":")[0])
        return of_content(place) if place.is_file() else None
    return model.labeler.fingerprint() if hasattr(model, "labeler") else of_networks(model.pipeline.components)


def _check_method(text: str, model: Any, ability: Ability) -> None:
    """Raises: UnknownNameError."""
    if not callable(getattr(model, ability, None)):
        raise UnknownNameError(f"got {text!r}, a {type(model).__name__} without {ability}; expected a method {_EXPECTED[ability]}")


@dataclass(frozen=True, eq=False)
class OwnModel:
    """An object of a user's class: whatever its methods raise, or return that is none of what is expected, is said in a line.

    Attributes:
        text: as the user named it.
    """

    model: Any
    text: str

    def predict(self, rgb: Any, seeds: Sequence[int]) -> Mapping[str, Any]:
        """See ``Predictor``. Raises: InputFileError."""
        return self._checked("predict", rgb, seeds)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Mapping[str, Any]:
        """See ``Generator``. Raises: InputFileError, ShapeError."""
        made = self._checked("generate", prompts, seeds)
        shapes = {"rgb": 3, "depth": 1, "normal": 3}
        for name, value in made.items():
            shape = tuple(getattr(value, "shape", ()))
            if name in shapes and (len(shape) != 4 or shape[:2] != (len(prompts), shapes[name])):
                got = shape or type(value).__name__
                raise ShapeError(f"got {name} of {got} from {self.text}; expected ({len(prompts)}, {shapes[name]}, H, W), a tensor")
            low, high = -1 if name == "normal" else 0, 1
            if float(value.min()) < low - _ROUNDING or float(value.max()) > high + _ROUNDING:
                found = f"{float(value.min()):.3g} to {float(value.max()):.3g}"
                raise RangeError(f"got {name} from {found} of {self.text}; expected numbers in [{low}, {high}]")
        if "rgb" not in made:
            raise InputFileError(f"got {', '.join(map(str, made)) or 'nothing'} from {self.text}; expected {_EXPECTED['generate']}")
        return made

    def _checked(self, ability: Ability, *inputs: Any) -> Mapping[str, Any]:
        try:
            found = getattr(self.model, ability)(*inputs)
        except JointNetError:
            raise
        except Exception as error:  # whatever the user's code raises
            said = (str(error).splitlines() or [""])[0]
            raise InputFileError(f"{self.text}: {ability} ends in {type(error).__name__}: {said}; correct it") from error
        if not isinstance(found, Mapping):
            raise InputFileError(f"got a {type(found).__name__} from {ability} of {self.text}; expected {_EXPECTED[ability]}")
        return found


def _peer(name: str, place: str, settings: ModelSettings, device: device) -> Any:
    """Raises: ModelFolderError."""
    folder = Path(place)
    if not place or not folder.exists():
        raise ModelFolderError(f"got {name}:{place}, which is no folder; expected the weights of {name} there")
    from jointnet.data.labelers.depth_anything import depth_anything
    from jointnet.data.labelers.marigold import marigold
    from jointnet.data.labelers.midas import midas
    from jointnet.data.labelers.omnidata import omnidata
    from jointnet.evaluation.models import adapters

    networks = {"midas": (midas, "depth"), "depth-anything": (depth_anything, "depth"), "omnidata": (omnidata, "normal")}
    if name in networks:
        open_, modality = networks[name]
        return adapters.Network(labeler=open_(modality, folder).to(device))
    if name.startswith("marigold"):
        labeler = marigold("normal" if name.endswith("normals") else "depth", folder).to(device)
        return adapters.MarigoldModel(labeler=labeler if settings.steps is None else replace(labeler, steps=settings.steps))
    from diffusers import DiffusionPipeline, StableDiffusionLDM3DPipeline

    from jointnet.tasks.options import DEFAULT_STEPS

    pipeline = adapters.open_text_to_image(folder, StableDiffusionLDM3DPipeline if name == "ldm3d" else DiffusionPipeline)
    steps = settings.steps or DEFAULT_STEPS
    return adapters.TextToImage(pipeline=pipeline.to(device), steps=steps, size=settings.size, guidance=settings.guidance)


def _own_class(place: str, name: str) -> Any:
    """An object of a user's class. Raises: UnknownNameError, InputFileError."""
    if not name.isidentifier():
        raise UnknownNameError(f"got model {place}:{name!r}; expected {GRAMMAR}")
    try:
        module = _of_file(Path(place)) if place.endswith(".py") else _of_package(place)
        found = getattr(module, name, None)
        if found is None:
            raise UnknownNameError(f"got {place}:{name}, but there is no {name} in {place}; check the name")
        return found() if isinstance(found, type) else found
    except (UnknownNameError, InputFileError):
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputFileError(f"{place}:{name} ends in {type(error).__name__}: {error}; correct it") from error


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise InputFileError(f"got {str(path)!r}, which is no file; expected a Python file with a class in it")
    spec = spec_from_file_location(f"jointnet_evaluated_{path.stem}", path.resolve())
    assert spec is not None, path
    assert spec.loader is not None, path
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _of_package(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UnknownNameError(f"got {name!r}, which is no model and no module ({error}); expected {GRAMMAR}") from error
