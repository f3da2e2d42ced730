"""The models that ship with the package."""

from __future__ import annotations

from pathlib import Path

from jointnet.errors import ModelFolderError

WEIGHTS = Path(__file__).parent / "weights"
BUNDLED = {"demo": "rgbd", "demo-base": "base", "demo-tasks": "tasks", "demo-rgbdn": "rgbdn"}
"""Name on the command line -> folder below demo/weights."""

BASE_MODEL = "demo-base"
"""The bundled model that draws pictures only: a base to extend."""

JOINT_MODELS = tuple(name for name in BUNDLED if name != BASE_MODEL)
"""The bundled models that the commands sample from."""

TASK_MODEL = "demo-tasks"
"""The bundled model that was trained to take something as known."""

BUILD_STEPS = (
    "scenes",
    "autoencoder",
    "base",
    "stage1",
    "stage2",
    "judges",
    "masked",
    "independent",
    "tasks",
    "regressor",
    "rgbdn-stage1",
    "rgbdn",
)
"""The steps of ``jointnet demo build``, in order."""

GUIDANCE = 3.0
"""The guidance scale of the demo models, chosen on validation prompts (docs/demo-model.md): less finds fewer of a prompt's claims in the
picture, more sets depth and picture apart."""


def bundled_folder(name: str) -> Path:
    """Folder of a bundled model. Raises: ModelFolderError if the name is unknown or its weights are missing."""
    if name not in BUNDLED:
        raise ModelFolderError(f"got model {name!r}; bundled are {', '.join(BUNDLED)}")
    folder = WEIGHTS / BUNDLED[name]
    if not folder.is_dir():
        steps = "rgbdn --bundled --install" if name == "demo-rgbdn" else "--install"
        raise ModelFolderError(f"the weights of {name!r} are missing at {folder}; make them with: jointnet demo build {steps}")
    return folder
