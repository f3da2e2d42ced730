"""jointnet evaluate: a model against ground truth, by a stated protocol."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import OUTPUT, SAMPLING, AsJson, Device, Seed, choice, chosen_device, number, parse_size, whole_number
from jointnet.cli.command import Group, add_command, facts_of_written, print_json, print_written, takes
from jointnet.errors import RangeError
from jointnet.files.result_set import check_folder

if TYPE_CHECKING:
    from jointnet.evaluation.models.choose import Ability
    from jointnet.evaluation.models.settings import ModelSettings

DEPTH_EXAMPLES = """
jointnet evaluate depth demo-tasks --data nyu:NYU --steps 10 -o eval/nyu
jointnet evaluate depth midas:dpt-hybrid-midas --data megadepth:MegaDepth_v1 --alignment paper -o eval/midas
jointnet evaluate depth peer.py:Peer --data folder:my-scenes --cap 20 -o eval/peer
"""
GENERATION_EXAMPLES = """
jointnet evaluate generation my-model --prompts coco:coco --num 30000 --reference coco/val2014 --features inception -o eval/coco
jointnet evaluate generation diffusers:sd21-base --prompts prompts.txt --reference photos --few -o eval/base
"""
PANORAMA_EXAMPLES = """
jointnet evaluate panorama demo --prompts prompts.txt --size 128x512 --steps 20 -o eval/panoramas
jointnet evaluate panorama peer.py:Peer --prompts prompts.txt --span 360 --projection equirectangular --reference spheres -o eval/peer
"""
_ALIGNMENTS = ("auto", "none", "scale", "median", "depth", "disparity", "paper")
DATA_SETS = ("megadepth", "nyu", "kitti", "diode", "scannet", "eth3d", "ibims", "folder")
"""``evaluation.data.readers.READERS``, which is not imported for a help text."""

PROTOCOL = "Protocol"
_UNIT = 16


def _option(name: str, parser: Any, metavar: str, help_: str, panel: str, default: str | None = None) -> Any:
    return typer.Option(name, parser=parser, metavar=metavar, help=help_, show_default=default or True, rich_help_panel=panel)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="joint model, NAME:FOLDER of a peer, or FILE.py:CLASS (docs/evaluation.md)")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="folder of the results", rich_help_panel=OUTPUT)]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model of ours or of the libraries samples; what a model does not take is refused."""

    steps: Annotated[int | None, _option("--steps", whole_number(1, 1000), "N", "denoising steps", SAMPLING, "the model's own, or 50")] = (
        None
    )
    ensemble: Annotated[
        int | None, _option("--ensemble", whole_number(1, 1000), "N", "samples a joint model's prediction is merged from", SAMPLING, "1")
    ] = None
    size: Annotated[tuple | None, _option("--size", parse_size, "HxW", "of what is made", SAMPLING, "the model's own")] = None
    guidance: Annotated[float | None, _option("--guidance", number(0, 100), "S", "guidance scale", SAMPLING, "the model's own")] = None
    batch: Annotated[int, _option("--batch", whole_number(1, 1024), "N", "pictures at once", SAMPLING)] = 4
    device: Device = None

    def settings(self) -> ModelSettings:
        """As a model takes them."""
        from jointnet.evaluation.models.settings import ModelSettings

        return ModelSettings(steps=self.steps, ensemble=self.ensemble, size=self.size, guidance=self.guidance)

    def open(self, text: str, ability: Ability) -> Any:
        """Open a model on this process's device."""
        from jointnet.evaluation.models.choose import open_evaluated
        from jointnet.loading import load
        from jointnet.machine.processes import process_device

        return open_evaluated(text, ability, self.settings(), process_device(chosen_device(self.device)), load)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn, and from how many pictures a distance is computed."""

    prompts: Annotated[
        str, typer.Option("--prompts", metavar="FILE", help="a text file with one a line, or coco:DIR", rich_help_panel=PROTOCOL)
    ]
    num: Annotated[int | None, _option("--num", whole_number(1, 10**7), "N", "prompts", PROTOCOL, "all")] = None
    few: Annotated[
        bool, typer.Option("--few", help="a Frechet distance on fewer pictures than the features have dimensions", rich_help_panel=PROTOCOL)
    ] = False
    seed: Seed = 0


def add_to(app: typer.Typer) -> None:
    """Add the command and its actions."""
    actions = typer.Typer(help="Measure models by stated protocols.")
    actions.callback()(_evaluate)
    add_command(actions, "evaluate depth", depth, examples=DEPTH_EXAMPLES)
    add_command(actions, "evaluate generation", generation, examples=GENERATION_EXAMPLES)
    add_command(actions, "evaluate panorama", panorama, examples=PANORAMA_EXAMPLES)
    app.add_typer(actions, name="evaluate", rich_help_panel="Models")


def _evaluate() -> None:
    """Measure models by stated protocols."""


@takes(sampling=Group.of(Sampling))
def depth(
    sampling: Sampling,
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="NAME:DIR", help=f"ground truth as its owner ships it; NAME: {', '.join(DATA_SETS)}", rich_help_panel=PROTOCOL
        ),
    ],
    output: Output,
    alignment: Annotated[
        str, choice("--alignment", names=_ALIGNMENTS, panel=PROTOCOL, help_="of predictions; auto: what the model leaves open")
    ] = "auto",
    samples: Annotated[
        int, _option("--samples", whole_number(2, 10**7), "N", "pixels of each fit of the paper's alignment", PROTOCOL)
    ] = 1000,
    repeats: Annotated[int, _option("--repeats", whole_number(1, 10**5), "N", "fits of it", PROTOCOL)] = 100,
    pooling: Annotated[str, choice("--pooling", names=("image", "pixel"), panel=PROTOCOL, help_="of normals over the data")] = "image",
    cap: Annotated[
        float | None, _option("--cap", number(0.001, 1e6), "M", "far limit of a plain folder, in metres", PROTOCOL, "none")
    ] = None,
    fov: Annotated[
        float | None, _option("--fov", number(1, 179), "DEG", "across the width, of data without a camera", PROTOCOL, "no relative normals")
    ] = None,
    num: Annotated[int | None, _option("--num", whole_number(1, 10**9), "N", "the first samples only", PROTOCOL, "all")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Depth and normals of images against ground truth."""
    from jointnet.evaluation.data.readers import open_truth
    from jointnet.evaluation.depth import DepthProtocol, evaluate_unit, stated_protocol, summarise
    from jointnet.evaluation.work import Units, claim
    from jointnet.machine.processes import after_all

    check_folder(output)
    truth = open_truth(data, cap)
    protocol = DepthProtocol(
        alignment=alignment,  # pyright: ignore[reportArgumentType] - one of the names
        num_samples=samples,
        repeats=repeats,
        seed=seed,
        batch=sampling.batch,
        limit=num,
        pooling=pooling,  # pyright: ignore[reportArgumentType] - one of the names
        fov_deg=fov,
    )
    if num is not None and num > len(truth):
        raise RangeError(f"got {len(truth)} samples in {data}; expected {num}: ask for fewer with --num")
    count = num or len(truth)
    opened = sampling.open(model, "predict")
    stated = stated_protocol(protocol, truth)
    about = {"evaluated": "depth", **_known_by(model, "predict", opened)}
    claim(output, {**about, "data": data, "data_contents": truth.fingerprint(), "count": count, "protocol": stated})
    units = Units(output / "units", count, _UNIT)
    _join()
    for unit in units.mine():
        units.write(unit, evaluate_unit(opened, truth, protocol, units.rows(unit)))
        print(f"{min((unit + 1) * _UNIT, count)} of {count}", file=sys.stderr, flush=True)
    figures = after_all(lambda: summarise(units.read(), protocol))
    _report(output, {**about, "data": truth.name}, figures, stated, as_json)


@takes(sampling=Group.of(Sampling), drawing=Group.of(Drawing))
def generation(
    sampling: Sampling,
    drawing: Drawing,
    model: Model,
    output: Output,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="real pictures", show_default="no distances", rich_help_panel=PROTOCOL)
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="NAME[:WEIGHTS]",
            help="eff-lite0, inception, clip:DIR, dinov2:DIR; several times",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pictures of prompts against real ones: Frechet and kernel distances, precision and recall, class and CLIP scores."""
    from jointnet.evaluation import generation as protocol_of
    from jointnet.evaluation.bulk import BulkFolder, generate_all
    from jointnet.evaluation.features import open_extractor
    from jointnet.evaluation.prompts import open_prompts
    from jointnet.evaluation.work import claim
    from jointnet.machine.processes import after_all

    # 1. What is asked, before anything is made
    check_folder(output)
    chosen = open_prompts(drawing.prompts, drawing.num, drawing.seed)
    extractors = [open_extractor(name).to(chosen_device(sampling.device)) for name in dict.fromkeys(features or ["eff-lite0"])]
    real = None if reference is None else protocol_of.list_pictures(reference)
    protocol = protocol_of.GenerationProtocol(seed=drawing.seed, allows_few=drawing.few)
    for extractor in extractors if real is not None else ():
        protocol_of.check_enough(extractor, {"of the model": len(chosen), f"in {reference}": len(real or ())}, protocol)
    opened = sampling.open(model, "generate")
    about = {"evaluated": "generation", **_known_by(model, "generate", opened), "prompts": chosen.name}
    claim(output, {**about, "seed": drawing.seed, "batch": sampling.batch, "num": len(chosen)})
    _join()

    # 2. Pictures, features, figures
    pictures = BulkFolder(output / "pictures")
    generate_all(
        opened,
        chosen.texts,
        pictures,
        seed=drawing.seed,
        batch=sampling.batch,
        known_by=about,
        progress=lambda done: print(f"{done} of {len(chosen)} pictures", file=sys.stderr, flush=True),
    )
    after_all(lambda: None)
    made = [pictures.picture(number) for number in range(len(chosen))]
    sets = protocol_of.PictureSets(made, real, extractors, output / "features")
    sets.compute()
    figures = after_all(lambda: sets.figures(chosen.texts, protocol))
    stated = protocol_of.stated_protocol(protocol, extractors, len(made), None if real is None else len(real))
    _report(output, {**about, "reference": None if reference is None else str(reference)}, figures, stated, as_json)


@takes(sampling=Group.of(Sampling), drawing=Group.of(Drawing))
def panorama(
    sampling: Sampling,
    drawing: Drawing,
    model: Model,
    output: Output,
    seeds: Annotated[int, _option("--seeds", whole_number(1, 1000), "N", "panoramas of each prompt", PROTOCOL)] = 1,
    span: Annotated[float, _option("--span", number(1, 360), "DEG", "angle across the width", PROTOCOL)] = 180.0,
    projection: Annotated[
        str, choice("--projection", names=("cylindrical", "equirectangular"), panel=PROTOCOL, help_="of the panorama")
    ] = "cylindrical",
    distance: Annotated[
        str,
        typer.Option(
            "--distance", metavar="NAME[:WEIGHTS]", help="of squares side by side: eff-lite0, lpips:FILE", rich_help_panel=PROTOCOL
        ),
    ] = "eff-lite0",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="DIR",
            help="real equirectangular panoramas",
            show_default="no distance of views",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    features: Annotated[
        str, typer.Option("--features", metavar="NAME[:WEIGHTS]", help="of the views", rich_help_panel=PROTOCOL)
    ] = "eff-lite0",
    as_json: AsJson = False,
) -> None:
    """Panoramas: seams of RGB and depth, how much of one piece they are, and their views against real ones."""
    from jointnet.evaluation import panorama as of
    from jointnet.evaluation.bulk import BulkFolder, generate_all
    from jointnet.evaluation.features import open_extractor
    from jointnet.evaluation.generation import GenerationProtocol, check_enough, list_pictures
    from jointnet.evaluation.perceptual import open_distance
    from jointnet.evaluation.prompts import open_prompts
    from jointnet.evaluation.work import Units, claim
    from jointnet.machine.processes import after_all

    # 1. What is asked, before anything is made
    check_folder(output)
    chosen = open_prompts(drawing.prompts, drawing.num, drawing.seed)
    texts = [text for text in chosen.texts for _ in range(seeds)]
    measure, real = open_distance(distance), None
    if reference is not None:
        if span != 360 or projection != "equirectangular":
            raise RangeError(
                f"got --reference for a {projection} panorama of {span:g} degrees; views need --span 360 --projection equirectangular"
            )
        real = of.RealViews(list_pictures(reference), open_extractor(features).to(chosen_device(sampling.device)))
        counts = {"of the model": len(texts), f"in {reference}": len(real.pictures)}
        check_enough(real.extractor, counts, GenerationProtocol(allows_few=drawing.few))
    model_of_pictures = sampling.open(model, "generate")
    opened, tile = of.panoramas_by(model_of_pictures, span_deg=span, projection=projection)
    protocol = of.PanoramaProtocol(span_deg=span, projection=projection, tile=tile)
    stated = of.stated_protocol(protocol, measure, None if real is None else real.extractor)
    about = {"evaluated": "panorama", **_known_by(model, "generate", model_of_pictures), "prompts": chosen.name, "seeds": seeds}
    claim(output, {**about, "seed": drawing.seed, "batch": sampling.batch, "num": len(texts), "protocol": stated})
    _join()

    # 2. Panoramas, the errors of each, figures
    pictures = BulkFolder(output / "pictures", ("depth",))
    generate_all(
        opened,
        texts,
        pictures,
        seed=drawing.seed,
        batch=sampling.batch,
        known_by=about,
        progress=lambda done: print(f"{done} of {len(texts)} panoramas", file=sys.stderr, flush=True),
    )
    after_all(lambda: None)
    units, has_depth = Units(output / "units", len(texts), _UNIT), pictures.map_file(0, "depth").exists()
    figures = of.measure_panoramas(pictures, units, measure, protocol, real, has_depth=has_depth)
    _report(output, {**about, "reference": None if reference is None else str(reference)}, figures, stated, as_json)


def _known_by(model: str, ability: Ability, opened: Any) -> dict[str, Any]:
    """A model's name, its weights or its class's file, and its settings: after a change of one nothing of before is taken."""
    from jointnet.evaluation.models.choose import contents_of, stated_settings

    return {"model": model, "model_contents": contents_of(model, opened), "sampling": stated_settings(model, ability, opened)}


def _join() -> None:
    """Let processes that were launched together know each other."""
    from jointnet.machine.processes import num_processes

    if num_processes() > 1:
        from accelerate import PartialState

        PartialState()


def _report(output: Path, about: dict[str, Any], figures: Any, protocol: dict[str, Any], as_json: bool) -> None:
    """Write the result and print it. Raises: OutputError."""
    from jointnet.evaluation.work import RESULT_FILE
    from jointnet.files.atomic import write_json
    from jointnet.files.write_errors import naming_write_errors
    from jointnet.machine.origin import code_commit, machine
    from jointnet.machine.processes import is_main_process

    if not is_main_process():
        return
    path = output / RESULT_FILE
    with naming_write_errors(path):
        write_json(path, {**about, "figures": figures, "protocol": protocol, "commit": code_commit(), "machine": machine()})
    if as_json:
        print_json({**facts_of_written([path], output), "figures": figures})
        return
    for line in _lines(figures):
        print(line)
    print_written([path], output, as_json=False)


def _lines(figures: Any, name: str = "") -> list[str]:
    """Figures one a line."""
    if isinstance(figures, dict):
        return [line for key, value in figures.items() for line in _lines(value, f"{name} {key}".strip())]
    return [f"{name}: {figures:.4f}" if isinstance(figures, float) else f"{name}: {figures}"]
