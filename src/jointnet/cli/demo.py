"""jointnet demo: rebuild and measure the bundled models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jointnet.cli.arguments import number, whole_number
from jointnet.demo.bundled import BUILD_STEPS, GUIDANCE
from jointnet.demo.world.splits import SPLITS
from jointnet.errors import InputFileError, RangeError, UnknownNameError


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser("demo", help="rebuild or measure the bundled models")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))

    build = actions.add_parser("build", help="train the demo models from nothing; resumes where it was stopped")
    build.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(BUILD_STEPS)} (default: all)")
    build.add_argument("--work", type=Path, default=Path("runs/demo"), metavar="DIR", help="working folder (default: runs/demo)")
    build.add_argument("--budget", type=number(0.01, 100_000), metavar="MINUTES", help="training time of each step")
    build.add_argument("--bundled", action="store_true", help="start from the models in the package instead of training those again")
    build.add_argument("--install", action="store_true", help="then copy the finished models into the package")
    build.set_defaults(run=run_build)

    scene = actions.add_parser("scene", help="render a scene of the demo world with its exact depth and normals, to try the tasks on")
    scene.add_argument("--seed", type=whole_number(0, len(SPLITS["test"]) - 1), default=0, help="number of the held-out scene (default: 0)")
    scene.add_argument("--size", type=whole_number(16, 4096), default=128, metavar="PX", help="side in pixels (default: 128)")
    scene.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the maps")
    scene.set_defaults(run=run_scene)

    evaluate = actions.add_parser("evaluate", help="measure the bundled models and write docs/demo-model.md")
    _add_measuring(evaluate, "docs/demo-model.md")
    evaluate.add_argument("--budget", type=number(0.01, 100_000), metavar="MINUTES", help="training time of each judge")
    evaluate.add_argument("--prompts", type=whole_number(20, 100_000), default=500, help="prompts for attributes and depth (default: 500)")
    evaluate.add_argument("--images", type=whole_number(100, 100_000), default=3000, help="images for distances (default: 3000)")
    evaluate.set_defaults(run=run_evaluate)

    tasks = actions.add_parser("evaluate-tasks", help="measure the tasks and write docs/tasks.md")
    _add_measuring(tasks, "docs/tasks.md")
    tasks.add_argument("--budget", type=number(0.01, 100_000), metavar="MINUTES", help="training time of each model that is not there yet")
    tasks.add_argument("--bundled", action="store_true", help="measure the models in the package; those it has not are trained")
    tasks.add_argument("tasks", nargs="*", metavar="TASK", help="measure these and keep the page's other figures (default: all)")
    tasks.add_argument("--scenes", type=whole_number(20, 100_000), default=500, help="held-out scenes (default: 500)")
    tasks.add_argument("--ensemble", type=whole_number(2, 1000), default=8, help="samples merged (default: 8)")
    tasks.set_defaults(run=run_evaluate_tasks)


def _add_measuring(parser: argparse.ArgumentParser, page: str) -> None:
    """What both measurements take."""
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), metavar="DIR", help="working folder (default: runs/demo)")
    parser.add_argument("--steps", type=whole_number(1, 1000), default=25, help="denoising steps (default: 25)")
    parser.add_argument(
        "--guidance", type=number(0, 100), default=GUIDANCE, help=f"guidance scale where there is a prompt (default: {GUIDANCE:g})"
    )
    parser.add_argument("--notes", type=Path, metavar="FILE", help="text to add at the end: the causes of misses")
    parser.add_argument("-o", "--output", type=Path, default=Path(page), metavar="FILE", help=f"the page (default: {page})")


def run_build(options: argparse.Namespace) -> None:
    """Run steps of the chain. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder
    from jointnet.demo.training.chain import build, check_steps, install, unpack

    check_steps(tuple(options.steps))
    prepare_folder(options.work)
    if options.bundled:
        unpack(options.work, besides=tuple(options.steps))
    build(options.work, tuple(options.steps) or BUILD_STEPS, options.budget)
    if options.install:
        install(options.work, tuple(options.steps) or BUILD_STEPS)


def run_scene(options: argparse.Namespace) -> None:
    """Render one held-out scene. Raises: JointNetError."""
    from jointnet.cli.output import write_set
    from jointnet.demo.measure.pictures import held_out
    from jointnet.demo.world.scene import NEAR_M
    from jointnet.pipelines.output import meanings

    held = held_out(1, options.seed, options.size)
    maps = {"rgb": held.rgb[0], "depth": held.disparity01[0], "normal": held.normal[0]}
    result = {
        "prompt": held.captions[0].text,
        "scene": options.seed,
        "projection": "pinhole",
        "fov_deg": held.scenes[0].camera.fov_deg,
        "depth_near_m": NEAR_M,
        "meaning": meanings(tuple(maps)),
    }
    for path in write_set(options.output, maps, result):
        print(path)


def read_notes(path: Path | None) -> str:
    """The text to add to a page. Raises: InputFileError."""
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read notes {str(path)!r}: {error}; expected a UTF-8 text file") from error


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure and write the page. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder
    from jointnet.demo.measure.page import save_figures
    from jointnet.demo.measure.report import GRID_FILE, write_report
    from jointnet.demo.measure.run import MeasureConfig, measure
    from jointnet.demo.training.chain import Chain

    if options.images < options.prompts:
        raise RangeError(f"got {options.images} images for {options.prompts} prompts; pass at least as many images as prompts")
    prepare_folder(options.output.parent)
    notes = read_notes(options.notes)
    judges = Chain(options.work, options.budget).judges()
    config = MeasureConfig(num_prompts=options.prompts, num_images=options.images, steps=options.steps, guidance=options.guidance)
    figures = measure(options.work / "pictures", judges, config, options.output.with_name(GRID_FILE))
    save_figures(figures, options.output.with_suffix(".json"))
    write_report(figures, options.output, notes)
    print(options.output)


def run_evaluate_tasks(options: argparse.Namespace) -> None:
    """Measure the tasks and write the page. Raises: JointNetError."""
    from jointnet.cli.output import prepare_folder
    from jointnet.demo.measure.page import load_figures, save_figures
    from jointnet.demo.measure.tasks import TASKS, TaskConfig, measure_task
    from jointnet.demo.measure.tasks_report import write_tasks_report
    from jointnet.demo.training.chain import Chain, unpack

    for name in options.tasks:
        if name not in TASKS:
            raise UnknownNameError(f"got {name!r} to measure; expected some of {', '.join(TASKS)}")
    prepare_folder(options.output.parent)
    notes = read_notes(options.notes)
    config = TaskConfig(num_scenes=options.scenes, steps=options.steps, guidance=options.guidance, ensemble=options.ensemble)
    if options.bundled:
        unpack(options.work)
    path = options.output.with_suffix(".json")
    figures = load_figures(path)
    for name in options.tasks or TASKS:
        figures[name] = measure_task(name, options.work / "pictures", Chain(options.work, options.budget), config)
        save_figures(figures, path)
        write_tasks_report(figures, options.output, notes)
    print(options.output)
