"""jointnet demo: rebuild and measure the bundled models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnet.cli.arguments import OUTPUT, AsJson, Device, chosen_device, number, whole_number
from jointnet.cli.checks import check_output_file
from jointnet.cli.command import Group, add_command, print_written, takes
from jointnet.demo.bundled import BUILD_STEPS, GUIDANCE
from jointnet.demo.world.splits import SPLITS
from jointnet.errors import InputFileError, OutputError, RangeError, UnknownNameError
from jointnet.files.result_facts import DATA_COMMAND, SCENE_COMMAND
from jointnet.files.result_set import check_result_set, map_names, write_result_set

EVALUATE, EVALUATE_TASKS = "jointnet demo evaluate", "jointnet demo evaluate-tasks"
Beside = dict[Path, Callable[[Path], bool]]
"""Files that are written beside a page -> True for one that is the command's own."""

MEASURING = "Measuring"
SCENE_EXAMPLES = """
jointnet demo scene --seed 6 -o scene
jointnet demo scene --num 100 -o my-data
"""


def _work() -> Any:
    return typer.Option("--work", metavar="DIR", help="working folder", rich_help_panel=OUTPUT)


def _minutes(help_: str) -> Any:
    return typer.Option("--budget", parser=number(0.01, 100_000), metavar="MINUTES", help=help_)


def _count(name: str, low: int, high: int, help_: str) -> Any:
    return typer.Option(name, parser=whole_number(low, high), metavar="N", help=help_, rich_help_panel=MEASURING)


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What both measurements take."""

    work: Annotated[Path, _work()] = Path("runs/demo")
    steps: Annotated[int, _count("--steps", 1, 1000, "denoising steps")] = 25
    guidance: Annotated[
        float,
        typer.Option(
            "--guidance", parser=number(0, 100), metavar="N", help="guidance scale where there is a prompt", rich_help_panel=MEASURING
        ),
    ] = GUIDANCE
    notes: Annotated[
        Path | None, typer.Option("--notes", metavar="FILE", help="text to add at the end: the causes of misses", rich_help_panel=OUTPUT)
    ] = None


def add_to(app: typer.Typer) -> None:
    """Add the command and its actions."""
    actions = typer.Typer(help="Render scenes of the demo world; rebuild or measure the bundled models.")
    add_command(actions, "demo build", build, examples="jointnet demo build rgbdn --bundled --budget 70 --install")
    add_command(actions, "demo scene", scene, examples=SCENE_EXAMPLES)
    add_command(actions, "demo evaluate", evaluate, examples="jointnet demo evaluate --notes docs/demo-model-notes.md")
    add_command(actions, "demo evaluate-tasks", evaluate_tasks, examples="jointnet demo evaluate-tasks --bundled --scenes 100")
    app.add_typer(actions, name="demo", rich_help_panel="Models")


def build(
    steps: Annotated[
        list[str] | None, typer.Argument(metavar="STEP", help=f"some of {', '.join(BUILD_STEPS)}", show_default="all of them")
    ] = None,
    work: Annotated[Path, _work()] = Path("runs/demo"),
    budget: Annotated[float | None, _minutes("training time of each step")] = None,
    bundled: Annotated[
        bool, typer.Option("--bundled", help="start from the models in the package instead of training those again")
    ] = False,
    install: Annotated[bool, typer.Option("--install", help="then copy the trained models into the package")] = False,
    device: Device = None,
) -> None:
    """Train the demo models from nothing; a run that was stopped resumes."""
    from jointnet.demo.training import chain
    from jointnet.files.result_set import prepare_folder

    names = tuple(steps or ())
    chain.check_steps(names)
    prepare_folder(work)
    if bundled:
        chain.unpack(work, besides=names)
    chain.build(work, names or BUILD_STEPS, budget, chosen_device(device or "cpu"))
    if install:
        chain.install(work, names or BUILD_STEPS)


def scene(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="folder for the maps", rich_help_panel=OUTPUT)],
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            parser=whole_number(0, len(SPLITS["test"]) - 1),
            metavar="N",
            help="number of the held-out scene; with --num of the first training scene",
        ),
    ] = 0,
    num: Annotated[
        int | None,
        typer.Option(
            "--num",
            parser=whole_number(1, 100_000),
            metavar="N",
            help="write N training scenes as a data folder for jointnet train",
            show_default="one held-out scene",
        ),
    ] = None,
    size: Annotated[int, typer.Option("--size", parser=whole_number(16, 4096), metavar="PX", help="side in pixels")] = 128,
    as_json: AsJson = False,
) -> None:
    """Render a scene of the demo world with its exact depth and normals, to try the tasks on; or many, to train on."""
    paths = write_scene(output, seed, size) if num is None else write_data_folder(output, range(seed, seed + num), size)
    print_written(paths, output, as_json=as_json)


def write_scene(output: Path, seed: int, size: int) -> list[Path]:
    """Write a held-out scene and return its files. Raises: OutputError."""
    check_result_set(output, map_names(("rgb", "depth", "normal")))

    from jointnet.demo.measure.pictures import held_out
    from jointnet.demo.world.scene import NEAR_M
    from jointnet.modalities.modality import files_of_maps
    from jointnet.tasks.output import meanings

    held = held_out(1, seed, size)
    maps = {"rgb": held.rgb[0], "depth": held.disparity01[0], "normal": held.normal[0]}
    facts = {
        "command": SCENE_COMMAND,
        "prompt": held.captions[0].text,
        "scene": seed,
        "projection": "pinhole",
        "fov_deg": held.scenes[0].camera.fov_deg,
        "depth_near_m": NEAR_M,
        "meaning": meanings(tuple(maps)),
    }
    return write_result_set(output, files_of_maps(maps), facts)


def write_data_folder(output: Path, scenes: range, size: int) -> list[Path]:
    """Write training scenes, by their numbers, as a data folder and return its files. Raises: OutputError, RangeError."""
    from jointnet.demo.world.data_folder import data_files
    from jointnet.demo.world.scene import NEAR_M

    if scenes.stop > len(SPLITS["train"]):
        raise RangeError(f"got scenes up to {scenes.stop - 1}; expected numbers below {len(SPLITS['train'])}")
    files = data_files(SPLITS["train"][scenes.start : scenes.stop], size)
    facts = {"command": DATA_COMMAND, "scenes": [scenes.start, scenes.stop - 1], "projection": "pinhole", "depth_near_m": NEAR_M}
    return write_result_set(output, files, facts)


@takes(measuring=Group.of(Measuring))
def evaluate(
    measuring: Measuring,
    prompts: Annotated[int, _count("--prompts", 20, 100_000, "prompts for attributes and depth")] = 500,
    images: Annotated[int, _count("--images", 100, 100_000, "images for distances")] = 3000,
    budget: Annotated[float | None, _minutes("training time of each judge")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the page", rich_help_panel=OUTPUT)] = Path(
        "docs/demo-model.md"
    ),
    as_json: AsJson = False,
) -> None:
    """Measure the bundled models and write docs/demo-model.md."""
    from jointnet.demo.measure.page import GRID_FILE, are_figures, is_grid, save_figures

    if images < prompts:
        raise RangeError(f"got {images} images for {prompts} prompts; pass at least as many images as prompts")
    path, grid = figures_beside(output), output.with_name(GRID_FILE)
    beside: Beside = {path: partial(are_figures, by_task=False), grid: partial(is_grid, page=output, command=EVALUATE)}
    check_page(output, measuring.notes, EVALUATE, beside)
    notes = read_notes(measuring.notes)

    from jointnet.demo.measure.report import write_report
    from jointnet.demo.measure.run import MeasureConfig, measure
    from jointnet.demo.training.chain import Chain

    judges = Chain(measuring.work, budget).judges()
    config = MeasureConfig(num_prompts=prompts, num_images=images, steps=measuring.steps, guidance=measuring.guidance)
    figures = measure(measuring.work / "pictures", judges, config, grid)
    check_page(output, measuring.notes, EVALUATE, beside)  # hours later
    save_figures(figures, path)
    write_report(figures, output, notes)
    print_written([output, path, grid], output, as_json=as_json)


@takes(measuring=Group.of(Measuring))
def evaluate_tasks(
    measuring: Measuring,
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="measure these and keep the page's other figures", show_default="all")
    ] = None,
    budget: Annotated[float | None, _minutes("training time of each model that is not there yet")] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="measure the models in the package; those it has not are trained")] = False,
    scenes: Annotated[int, _count("--scenes", 20, 100_000, "held-out scenes")] = 500,
    ensemble: Annotated[int, _count("--ensemble", 2, 1000, "samples merged")] = 8,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the page", rich_help_panel=OUTPUT)] = Path(
        "docs/tasks.md"
    ),
    as_json: AsJson = False,
) -> None:
    """Measure the tasks and write docs/tasks.md."""
    from jointnet.demo.measure.page import are_figures, load_figures, save_figures

    path = figures_beside(output)
    beside: Beside = {path: partial(are_figures, by_task=True)}
    check_page(output, measuring.notes, EVALUATE_TASKS, beside)
    notes = read_notes(measuring.notes)

    from jointnet.demo.measure.tasks import TASKS, TaskConfig, measure_task
    from jointnet.demo.measure.tasks_report import write_tasks_report
    from jointnet.demo.training.chain import Chain, unpack

    for name in tasks or ():
        if name not in TASKS:
            raise UnknownNameError(f"got {name!r} to measure; expected some of {', '.join(TASKS)}")
    config = TaskConfig(num_scenes=scenes, steps=measuring.steps, guidance=measuring.guidance, ensemble=ensemble)
    if bundled:
        unpack(measuring.work)
    figures = load_figures(path)
    for name in tasks or TASKS:
        figures[name] = measure_task(name, measuring.work / "pictures", Chain(measuring.work, budget), config)
        check_page(output, measuring.notes, EVALUATE_TASKS, beside)  # hours later
        save_figures(figures, path)
        write_tasks_report(figures, output, notes)
    print_written([output, path], output, as_json=as_json)


def figures_beside(page: Path) -> Path:
    """Return the file of a page's figures. Raises: OutputError for a page whose name is not told from those of the files beside it."""
    if page.suffix.lower() != ".md":
        raise OutputError(f"got output file {str(page)!r}; expected a name that ends in .md: figures are written beside it as .json")
    return page.with_suffix(".json")


def check_page(output: Path, notes: Path | None, command: str, beside: Beside) -> None:
    """Check that a page and the files beside it can be written, and replace only what the command wrote. Raises: OutputError."""
    from jointnet.demo.measure.page import is_page

    inputs = [] if notes is None else [notes]
    check_output_file(output, inputs, partial(is_page, command=command))
    for path, is_ours in beside.items():
        check_output_file(path, inputs, is_ours)


def read_notes(path: Path | None) -> str:
    """Return the text to add to a page. Raises: InputFileError."""
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read notes {str(path)!r}: {error}; expected a UTF-8 text file") from error
