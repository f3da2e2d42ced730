"""Where the loss curve goes besides the run folder."""

from __future__ import annotations

from importlib.util import find_spec

from jointnet.errors import MissingPackageError, UnknownNameError

NONE = "none"
_PACKAGES = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet_ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Trackers of Accelerate -> the package that each needs."""


def parse_trackers(text: str | None) -> tuple[str, ...]:
    """Return the trackers named in a text with commas; by default TensorBoard, if it is installed.

    Raises: UnknownNameError, MissingPackageError.
    """
    if text is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    names = tuple(name.strip() for name in text.split(",") if name.strip() != NONE)
    for name in names:
        if name not in _PACKAGES:
            raise UnknownNameError(f"got tracker {name!r}; expected some of {', '.join(_PACKAGES)}, with commas between them, or {NONE}")
        if find_spec(_PACKAGES[name]) is None:
            raise MissingPackageError(f"got tracker {name} without its package; pip install {_PACKAGES[name]}")
    return names
