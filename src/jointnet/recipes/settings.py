"""A recipe from its name or a file of the user's, and changes to any of its fields by name."""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jointnet.errors import InputFileError, UnknownNameError
from jointnet.recipes import RECIPES, get_recipe
from jointnet.training.config import OptimConfig, TrainConfig

FUNCTION = "recipe"
"""What a .py file defines: a function without arguments that returns a TrainConfig."""


def setting_types() -> dict[str, Any]:
    """Return the type of every field that a recipe has, by its name; those of ``optim`` are named as they are there."""
    types = get_type_hints(TrainConfig) | get_type_hints(OptimConfig)
    return {name: types[name] for name in [f.name for f in (*fields(OptimConfig), *fields(TrainConfig))] if name != "optim"}


def read_recipe(name_or_path: str) -> tuple[str, TrainConfig]:
    """Return a recipe and its name: one of RECIPES; or a .toml file, which names one as ``recipe`` and changes some of its fields; or a .py
    file with a function ``recipe``.

    Raises: UnknownNameError for an unknown name or field; InputFileError for a file that cannot be read or makes no recipe.
    """
    path = Path(name_or_path)
    if path.suffix not in (".toml", ".py"):
        return name_or_path, get_recipe(name_or_path)
    if not path.is_file():
        raise InputFileError(f"got recipe {name_or_path!r}, which is no file; expected a .toml or .py file, or one of {', '.join(RECIPES)}")
    if path.suffix == ".py":
        config = runpy.run_path(str(path)).get(FUNCTION, lambda: None)()
        if not isinstance(config, TrainConfig):
            raise InputFileError(f"got {name_or_path!r} without a function {FUNCTION}() that returns a TrainConfig; define one")
        return path.stem, config
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read recipe {name_or_path!r}: {error}; expected TOML") from error
    flat = {**settings, **settings.pop("optim", {})}
    flat.pop("optim", None)
    start = flat.pop("recipe", None)
    if not isinstance(start, str):
        raise InputFileError(f'got {name_or_path!r} without a recipe to change; begin it with: recipe = "stage1"')
    return path.stem, with_settings(get_recipe(start), flat)


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Return a recipe with other values of some fields; texts are read as the field's type.

    Raises: UnknownNameError for a field that no recipe has; InputFileError for a value that it cannot have.
    """
    types = setting_types()
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in types:
            raise UnknownNameError(f"got setting {name!r}; expected one of {', '.join(types)}")
        values[name] = _as_type(name, types[name], value)
    of_optim = {f.name for f in fields(OptimConfig)}
    try:
        optim = replace(config.optim, **{name: value for name, value in values.items() if name in of_optim})
        return replace(config, optim=optim, **{name: value for name, value in values.items() if name not in of_optim})
    except ValueError as error:
        raise InputFileError(f"{error}") from error


def parse_setting(text: str) -> tuple[str, str]:
    """Parse NAME=VALUE. Raises: UnknownNameError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UnknownNameError(f"got setting {text!r}; expected NAME=VALUE, such as text_drop=0.5")
    return name.strip(), value.strip()


def _as_type(name: str, kind: Any, value: Any) -> Any:
    """Raises: InputFileError."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    options = get_args(kind) if get_origin(kind) is Union or type(kind).__name__ == "UnionType" else (kind,)
    read = value
    if isinstance(value, str) and not choices and str not in options:
        try:
            read = (
                {"none": None, "true": True, "false": False}[value.lower()]
                if value.lower() in ("none", "true", "false")
                else (tuple(part.strip() for part in value.split(",")) if get_origin(kind) is tuple else json.loads(value))
            )
        except ValueError:
            read = value
    if isinstance(read, list) and get_origin(kind) is tuple:
        read = tuple(read)
    if choices:
        is_right, expected = read in choices, " or ".join(map(str, choices))
    elif get_origin(kind) is tuple:
        is_right, expected = isinstance(read, tuple) and all(isinstance(part, str) for part in read), "names with commas between them"
    else:
        plain = [float if option is float else option for option in options]
        if float in plain and isinstance(read, int) and not isinstance(read, bool):
            read = float(read)
        is_right = any(read is None if option is type(None) else type(read) is option for option in plain)
        expected = " or ".join("none" if option is type(None) else option.__name__ for option in plain)
    if not is_right:
        raise InputFileError(f"got {name} = {value!r}; expected {expected}")
    return read
