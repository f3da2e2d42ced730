"""Files of the user's own that make modalities known to the commands, without a package around them."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from jointnet.errors import InputFileError, JointNetError


def load_plugin(path: Path) -> ModuleType:
    """Run a Python file that registers modalities, once a process, and return its module.

    Raises: InputFileError for what is no such file, ends in an error, or registers nothing.
    """
    if path.suffix != ".py" or not path.is_file():
        raise InputFileError(f"got plugin {str(path)!r}; expected a Python file (.py) that calls jointnet.register_modality")
    return _run(path.resolve())


@cache
def _run(path: Path) -> ModuleType:
    """Raises: InputFileError."""
    from jointnet.modalities import registered_modalities

    name = f"jointnet_plugin_{path.stem}_{abs(hash(path))}"  # of its own: albedo.py must not hide an installed albedo
    spec = spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = sys.modules[name] = module_from_spec(spec)
    known = registered_modalities()
    try:
        spec.loader.exec_module(module)
    except JointNetError as error:
        raise InputFileError(f"plugin {str(path)!r}: {error}") from error
    except Exception as error:  # whatever the user's code raises
        raise InputFileError(f"plugin {str(path)!r} ends in {type(error).__name__}: {error}; correct it") from error
    if registered_modalities() == known:
        raise InputFileError(f"got plugin {str(path)!r}, which registers no modality; call jointnet.register_modality in it")
    return module
