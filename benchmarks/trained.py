"""What short trainings on the demo world give: python benchmarks/trained.py [NAME ...] writes docs/performance.json and .md.

"few-steps" and "one-step" distil the bundled models; "full", "lora:16" and "thin:0.5" extend the bundled base by branches of that kind, the
last two taught by the bundled model. All have the same number of samples. Each result is measured by the judges that benchmarks/speed.py
has, on the same prompts and seeds. A training that was stopped resumes, one that is measured is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from jointnet.demo.bundled import GUIDANCE, bundled_folder
from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.demo.measure.pictures import precision_name
from jointnet.demo.training.source import SceneSource
from jointnet.evaluation.models.adapters import generators_of
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import get_recipe
from jointnet.reproduction.measure import Judges, joint_figures, made_by, truth_figures
from jointnet.reproduction.parts import Reproduction
from jointnet.reproduction.setting import Budget
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.predict import Predict
from jointnet.training.stage import train_stage

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.light import operations as operations_at_sd21
from benchmarks.performance import FIGURES, PICTURES, write
from benchmarks.speed import counted

BATCH, WARMUP, SCENES, SIZE = 32, 50, 16_000, 128
BASE_STEPS = 50
"""Of the base's picture, which costs are compared with."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training and how its result is measured.

    Attributes:
        recipe, start: as ``jointnet train`` takes them; branch: of a base that is extended.
        teacher: a bundled model whose predictions are learned.
        drawn_in: numbers of steps that pictures are drawn in; guidance: of them, None: the model's own.
        predicted_in: (steps, ensemble) of image -> depth.
    """

    start: str
    recipe: str
    branch: str | None = None
    teacher: str | None = None
    drawn_in: tuple[int, ...] = ()
    guidance: float | None = None
    predicted_in: tuple[tuple[int, int], ...] = ()


def _branch(kind: str, teacher: str | None = None) -> Training:
    return Training(start="demo-base", recipe="demo-stage1", branch=kind, teacher=teacher, drawn_in=(20,), guidance=GUIDANCE)


TRAININGS: Mapping[str, Training] = {
    "few-steps": Training(start="demo", recipe="demo-few-steps", drawn_in=(1, 2, 4, 8)),
    "one-step": Training(start="demo-tasks", recipe="demo-one-step", predicted_in=((1, 1),)),
    "full": _branch("full"),
    "lora:16": _branch("lora:16", "demo"),
    "thin:0.5": _branch("thin:0.5", "demo"),
}
BEFORE: Mapping[str, Training] = {
    "demo": Training(start="demo", recipe="", drawn_in=(50, 20, 4), guidance=GUIDANCE),
    "demo-tasks": Training(start="demo-tasks", recipe="", predicted_in=((50, 1), (10, 1), (10, 4))),
}
"""The bundled models themselves, which the others are compared with."""


def trained(training: Training, folder: Path, steps: int, scenes: SceneSource) -> tuple[Any, dict[str, Any]]:
    """The trained model, and what it took."""
    config = get_recipe(training.recipe)
    config = replace(config, optim=replace(config.optim, steps=steps, batch_size=BATCH, warmup_steps=min(WARMUP, steps)), size=SIZE)
    if training.branch is None:
        pipeline = load(training.start)
    else:
        pipeline = JointNetPipeline.from_base(bundled_folder(training.start), ("rgb", "depth"), branch=training.branch)
    pipeline.set_progress_bar_config(disable=True)
    started = time.monotonic()
    model = train_stage(
        pipeline,
        scenes,
        config,
        folder,
        recipe=training.recipe,
        start=bundled_folder(training.start),
        start_name=training.start,
        teacher=None if training.teacher is None else bundled_folder(training.teacher),
    )
    return load(str(model)), {"samples": steps * BATCH, "minutes": round((time.monotonic() - started) / 60, 1)}


def cost_of(pipeline: Any, rows: int) -> float:
    """Operations of one call for one picture, as a share of the base's guided one."""
    with torch.device("meta"):
        base = UNet2DConditionModel(**_config())
        network: Any = JointUNet.from_config(pipeline.joint_unet.config)
        x, text = torch.empty(rows, 2, base.config.in_channels, 16, 16), torch.empty(rows, 77, base.config.cross_attention_dim)
        pair = torch.cat([text[:1], text[:1]])
    of_base = counted(lambda: base(x[:1, 0].expand(2, -1, -1, -1), torch.zeros(2, device="meta"), pair))
    return counted(lambda: network(x, torch.zeros(rows, 2, device="meta"), text)) / of_base


def weight_of(pipeline: Any) -> float:
    """Weights besides the base's, in millions."""
    return round(sum(p.numel() for name, p in pipeline.joint_unet.named_parameters() if not name.startswith("branches.rgb.")) / 1e6, 2)


def cost_at_sd21(branch: str) -> float:
    """Operations of a call at Stable Diffusion 2.1's size, as a share of the base's."""
    from benchmarks.full_size import UNET

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        both, alone = (JointUNet.from_unet(unet, names, branch=branch) for names in (("rgb", "depth"), ("rgb",)))
        return operations_at_sd21(both) / operations_at_sd21(alone)


def quality(pipeline: Any, training: Training, judges: Judges) -> dict[str, Any]:
    """Figures by "drawn in N" and "predicted in N x ENSEMBLE", each with its cost as a share of the base's picture."""
    pipeline.set_progress_bar_config(disable=True)
    prompts, found = [caption.text for caption in judges.scenes.captions], {}
    for steps in training.drawn_in:

        def generate(some: slice, seeds: list[int], steps: int = steps) -> Mapping[str, Tensor]:
            options = SamplingOptions(num_inference_steps=steps, guidance_scale=training.guidance, generator=generators_of(seeds))
            return pipeline.run(Generate(prompt=prompts[some], options=options)).maps

        cost = steps * cost_of(pipeline, 1 if training.guidance is None else 2) / BASE_STEPS
        found[f"drawn in {steps}"] = {"cost": cost, **joint_figures(judges, made_by(pipeline.joint_unet, generate, PICTURES))}
    for steps, ensemble in training.predicted_in:

        def predict(some: slice, seeds: list[int], steps: int = steps, ensemble: int = ensemble) -> Mapping[str, Tensor]:
            options = SamplingOptions(num_inference_steps=steps, generator=generators_of(seeds))
            return pipeline.run(Predict(image=judges.scenes.rgb[some], ensemble=ensemble, options=options)).maps

        cost = steps * ensemble * cost_of(pipeline, 1) / BASE_STEPS
        depth = made_by(pipeline.joint_unet, predict, PICTURES)["depth"]
        found[f"predicted in {steps} x {ensemble}"] = {"cost": cost, **truth_figures(depth, judges.scenes.disparity01)}
    return found


def _config() -> dict[str, Any]:
    stated = json.loads((bundled_folder("demo-base") / "unet" / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in stated.items() if not key.startswith("_")}


def measure(names: Sequence[str], work: Path, steps: int) -> None:
    """Train and measure, and write the figures after each."""
    place = Reproduction(work, Budget(prompts=PICTURES, scenes=SCENES), torch.device("cpu"))
    judges = place.judges
    for number, name in enumerate(names, 1):
        print(f"== {name} ({number} of {len(names)})", file=sys.stderr, flush=True)
        known_by = {"commit": code_commit(), "machine": machine(), "precision": precision_name()}
        if name in BEFORE:
            training, took = BEFORE[name], {}
            pipeline = load(training.start)
        else:
            training = TRAININGS[name]
            pipeline, took = trained(training, work / "runs" / name.replace(":", "-"), steps, SceneSource(place.chain.scenes()))
        found = {**took, "new_weights_m": weight_of(pipeline), "figures": quality(pipeline, training, judges), **known_by}
        if training.branch is not None:
            found["cost_sd21"] = cost_at_sd21(training.branch)
        figures = load_figures(FIGURES)
        figures.setdefault("trained", {})[name] = found
        save_figures(figures, FIGURES)
        write(figures)


def main() -> None:
    """Run what is asked for and not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="without any, all that are not done")
    parser.add_argument("--steps", type=int, default=500, help="of each training")
    parser.add_argument("--work", type=Path, default=Path("runs/trained"))
    chosen = parser.parse_args()
    known = [*BEFORE, *TRAININGS]
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"got {unknown[0]!r}; expected some of {', '.join(known)}")
    done = load_figures(FIGURES).get("trained", {})
    measure(chosen.names or [name for name in known if name not in done], chosen.work, chosen.steps)


if __name__ == "__main__":
    main()
