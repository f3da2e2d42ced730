"""The layout: what imports what, what is public, what importing costs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FrameType

import diffusers.pipelines
import pytest
from diffusers import ModelMixin, SchedulerMixin
from PIL import Image

import jointnet
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.joint_net import JointNetPipeline

SOURCE = Path(jointnet.__file__).parent
BOTTOM = {"errors", "types"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "windows": BOTTOM,
    "machine": BOTTOM,
    "files": BOTTOM,
    "geometry": BOTTOM | {"files"},
    "modalities": BOTTOM | {"files"},
    "diffusion": BOTTOM,
    "models": BOTTOM,
    "sampling": BOTTOM | {"diffusion", "windows"},
    "text": BOTTOM,
    "codecs": BOTTOM | {"files", "modalities", "windows"},
    "checkpoints": BOTTOM | {"files", "models"},
    "data": BOTTOM | {"checkpoints", "codecs", "files", "geometry", "modalities"},
    "tasks": BOTTOM | {"codecs", "diffusion", "files", "geometry", "modalities", "models", "sampling", "text"},
    "training": BOTTOM | {"checkpoints", "codecs", "data", "diffusion", "files", "machine", "modalities", "models", "text"},
    "pipelines": BOTTOM | {"checkpoints", "codecs", "files", "geometry", "modalities", "models", "sampling", "tasks", "text"},
    "evaluation": BOTTOM
    | {"checkpoints", "codecs", "data", "files", "geometry", "machine", "modalities", "pipelines", "sampling", "tasks", "windows"},
    "recipes": BOTTOM | {"training"},
}
"""Part -> the parts it may import: docs/design.md says why."""

BELOW_DEMO = set(ALLOWED)
ALLOWED["demo"] = BELOW_DEMO | {"loading"}
ALLOWED["loading"] = BELOW_DEMO | {"demo"}
ALLOWED["reproduction"] = BELOW_DEMO | {"demo", "loading"}
ALLOWED["cli"] = BELOW_DEMO | {"demo", "loading", "reproduction", "__init__"}
ALLOWED["__main__"] = {"cli"}


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
    needs_an_extra = set() if importlib.util.find_spec("ray") else {"jointnet.data.build.ray_pipeline"}
    names = {found.name for found in pkgutil.walk_packages(jointnet.__path__, "jointnet.")} - needs_an_extra
    modules = [importlib.import_module(name) for name in sorted(names)]
    components = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ModelMixin | SchedulerMixin) and value.__module__.startswith("jointnet.")
    }
    assert JointUNet in components
    for component in components:
        assert not hasattr(diffusers.pipelines, component.__module__.split(".")[-2]), component


def test_no_circle_between_files() -> None:
    """TYPE_CHECKING and imports inside functions included."""
    graph = {module_of(file): imported_files(file) for file in SOURCE.rglob("*.py") if "weights" not in file.parts}
    order: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in order:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            order[module] = len(order)

    for module in graph:
        visit(module, ())
    assert len(order) == len(graph)


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_files(file: Path) -> set[str]:
    """Modules of the package that a file imports; ``from package import name`` means the module of that name if there is one."""
    modules = {module_of(other) for other in SOURCE.rglob("*.py") if "weights" not in other.parts}
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names} & modules
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
    return found - {module_of(file)}


def test_predicting_a_picture_runs_through_15_files(pipeline: JointNetPipeline) -> None:
    """What a reader of ``pipe.predict(image)`` has to open."""
    pipeline.joint_unet.add_masked_input().register_to_config(has_independent_timesteps=True)
    seen: set[str] = set()

    def look(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            seen.add(frame.f_code.co_filename)

    sys.setprofile(look)
    try:
        pipeline.predict(Image.new("RGB", (40, 33)), num_inference_steps=2)
    finally:
        sys.setprofile(None)
    assert 5 < len(seen) <= 15, sorted(seen)


@pytest.mark.parametrize("name", jointnet.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(jointnet, name).__doc__


def test_public_list() -> None:
    assert sorted(jointnet.__all__) == [
        "ColourProfileWarning",
        "Condition",
        "Conventions",
        "DataFolderError",
        "DepthHolesWarning",
        "DepthMap",
        "DepthUnit",
        "DepthUnitWarning",
        "DivergenceError",
        "Edit",
        "EightBitWarning",
        "Generate",
        "InputFileError",
        "JointNetError",
        "JointNetPipeline",
        "JointNetPipelineOutput",
        "JointNetWarning",
        "JointObjective",
        "JointUNet",
        "Labeler",
        "Mesh",
        "MissingPackageError",
        "Modality",
        "ModelFolderError",
        "NonFiniteError",
        "OutputError",
        "PAPER",
        "Panorama",
        "Predict",
        "Projection",
        "PromptTruncatedWarning",
        "RELEASE",
        "RangeError",
        "Refine",
        "Result",
        "RunFolderError",
        "SamplingOptions",
        "ShapeError",
        "Speed",
        "Tiling",
        "UnknownNameError",
        "UnknownWordsWarning",
        "UnsupportedBaseError",
        "build_mesh",
        "depth_from_disparity",
        "get_labeler",
        "get_modality",
        "get_projection",
        "leave_openvino",
        "load",
        "read_depth",
        "register_modality",
        "registered_modalities",
        "use_openvino",
        "write_mesh",
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
