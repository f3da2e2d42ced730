"""The layout: what imports what, what is public, what importing costs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import diffusers.pipelines
import pytest
from diffusers import ModelMixin, SchedulerMixin

import jointnet
from jointnet.models.joint_unet import JointUNet

SOURCE = Path(jointnet.__file__).parent
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "windows": {"errors"},
    "geometry": {"types", "errors", "files"},
    "modalities": {"types", "errors", "windows", "files"},
    "models": {"types", "errors"},
    "sampling": {"types", "errors", "windows"},
    "checkpoints": {"models", "types", "errors", "files"},
    "data": {"modalities", "types", "errors", "files"},
    "pipelines": {"geometry", "modalities", "models", "sampling", "checkpoints", "types", "errors"},
    "training": {"models", "modalities", "checkpoints", "data", "types", "errors", "files"},
    "evaluation": {"pipelines", "data", "modalities", "types", "errors"},
}
BELOW_DEMO = set(ALLOWED)
ALLOWED["recipes"] = BELOW_DEMO
ALLOWED["demo"] = BELOW_DEMO | {"recipes", "loading"}
ALLOWED["loading"] = BELOW_DEMO | {"demo"}
ALLOWED["cli"] = BELOW_DEMO | {"demo", "recipes", "loading", "__init__"}


def imported_parts(path: Path) -> set[str]:
    """First-level parts of the package that a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    ours = [n.split(".") for n in names if n.split(".")[0] == "jointnet"]
    return {n[1] if len(n) > 1 else "__init__" for n in ours}


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_down(part: str) -> None:
    files = [SOURCE / f"{part}.py"] if (SOURCE / f"{part}.py").exists() else list((SOURCE / part).rglob("*.py"))
    assert files
    for file in files:
        assert imported_parts(file) - {part} <= ALLOWED[part], file


def test_every_part_has_a_rule() -> None:
    parts = {p.stem if p.is_file() else p.name for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - {"__init__"} == set(ALLOWED)


def test_no_folder_of_a_component_has_a_name_diffusers_takes() -> None:
    """diffusers writes a component's library as the folder its class lies in, if ``diffusers.pipelines`` has something of that name."""
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(jointnet.__path__, "jointnet.")]
    components = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ModelMixin | SchedulerMixin) and value.__module__.startswith("jointnet.")
    }
    assert JointUNet in components
    for component in components:
        assert not hasattr(diffusers.pipelines, component.__module__.split(".")[-2]), component


@pytest.mark.parametrize("name", jointnet.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(jointnet, name).__doc__


def test_public_list() -> None:
    assert sorted(jointnet.__all__) == [
        "JointNetError",
        "JointNetPipeline",
        "JointNetPipelineOutput",
        "JointUNet",
        "Modality",
        "get_modality",
        "load",
        "register_modality",
        "registered_modalities",
    ]
    assert set(dir(jointnet)) == {*jointnet.__all__, "__version__"}
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        jointnet.nothing_of_that_name  # noqa: B018 - the access is the test


def test_importing_the_package_and_its_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, jointnet, jointnet.cli.main; print([m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_no_public_name_is_also_a_module() -> None:
    modules = {p.stem for p in SOURCE.iterdir()}
    assert set(jointnet.__all__).isdisjoint(modules), "importing the module would replace the name"
    for _ in range(2):
        assert callable(jointnet.load)
