"""What each speed costs and what it changes: python benchmarks/speed.py [NAME ...] [--dry-run] writes docs/performance.json and .md.

Cost: counted operations of the networks for one guided picture, as a share of the base's in 50 steps, on the bundled model and on Stable
Diffusion 2.1-base's shapes. Quality: the bundled models on held-out scenes, with the same prompts, seeds and judges for every speed. A
speed that is done is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jointnet.demo.bundled import GUIDANCE, TASK_MODEL, bundled_folder
from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.demo.measure.pictures import precision_name
from jointnet.evaluation.models.adapters import generators_of
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet
from jointnet.reproduction.measure import Judges, joint_figures, made_by, truth_figures
from jointnet.reproduction.parts import Reproduction
from jointnet.reproduction.setting import Budget
from jointnet.sampling.speed import SPEEDS, Speed
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.predict import Predict

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.calls import Call, calls_of, prepare, run
from benchmarks.full_size import UNET
from benchmarks.performance import FIGURES, PICTURES, write

_DPM: dict[str, Any] = {"solver": "dpm++"}
_ALONE: dict[str, Any] = {"guides_dense": False}
SEARCHED: dict[str, Speed] = {
    "exact": Speed(),
    **{f"own solver {steps}": Speed(steps=steps) for steps in (25, 20, 15)},
    **{f"dpm++-sde {steps}": Speed(steps=steps, solver="dpm++-sde") for steps in (25, 20, 15, 12)},
    **{f"dpm++-sde {steps}, unguided dense": Speed(steps=steps, solver="dpm++-sde", **_ALONE) for steps in (25, 20)},
    **{
        f"dpm++-sde {steps}, unguided dense, guided to 0.7, deep every 2, 2 shallow": Speed(
            steps=steps, solver="dpm++-sde", guided=(0.0, 0.7), deep_every=2, layers=2, **_ALONE
        )
        for steps in (16, 12)
    },
    "dpm++-sde 10, unguided dense": Speed(steps=10, solver="dpm++-sde", **_ALONE),
    **{f"dpm++ {steps}": Speed(steps=steps, **_DPM) for steps in (25, 20, 15, 10, 8)},
    **{f"unipc {steps}": Speed(steps=steps, solver="unipc") for steps in (20, 10)},
    "unguided dense": Speed(**_ALONE),
    **{f"guided to {share:g}": Speed(guided=(0.0, share)) for share in (0.8, 0.6, 0.4)},
    "guided from 0.1": Speed(guided=(0.1, 1.0)),
    **{f"deep every {every}, {layers} shallow": Speed(deep_every=every, layers=layers) for every in (2, 3, 5) for layers in (1, 2)},
    **{f"dense every {every}": Speed(rests_every=every) for every in (2, 3)},
    "dpm++ 20, unguided dense": Speed(steps=20, **_DPM, **_ALONE),
    "dpm++ 20, unguided dense, deep every 2": Speed(steps=20, deep_every=2, **_DPM, **_ALONE),
    "dpm++ 20, unguided dense, deep every 2, 2 shallow": Speed(steps=20, deep_every=2, layers=2, **_DPM, **_ALONE),
    **{
        f"dpm++ {steps}, unguided dense, guided to 0.7, deep every 2, 2 shallow": Speed(
            steps=steps, guided=(0.0, 0.7), deep_every=2, layers=2, **_DPM, **_ALONE
        )
        for steps in (10, 8)
    },
    "dpm++ 12, unguided dense, guided to 0.7": Speed(steps=12, guided=(0.0, 0.7), **_DPM, **_ALONE),
    **SPEEDS,
}
"""One change at a time, then together; the presets last."""


def operations(speed: Speed, counter: Counter) -> float:
    """Operations of the joint network for one guided picture in the speed's steps, as a share of the base's in 50; nothing is computed."""
    total = sum(often * counter.call(call) for call, often in calls_of(speed).items())
    return total / (50 * counter.base(2))


class Counter:
    """Counts a call of each kind once, on tensors without data."""

    def __init__(self, config: Mapping[str, Any], side: int) -> None:
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(**config)
            self.network = JointUNet.from_unet(self.unet)
        self.side, self.known = side, dict[Call, int]()

    def base(self, rows: int) -> int:
        """Of the base's network."""
        x, text = self._inputs(rows)
        return counted(lambda: self.unet(x, torch.zeros(rows, device="meta"), text))

    def call(self, call: Call) -> int:
        """Of the joint network; what a shortcut takes over was computed before."""
        if call not in self.known:
            x, text = self._inputs(call.rows)
            inputs = torch.stack([x, x], 1), torch.zeros(call.rows, 2, device="meta"), text
            ready = prepare(self.network, call, *inputs)
            self.known[call] = counted(lambda: run(self.network, ready, *inputs))
        return self.known[call]

    def _inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        with torch.device("meta"):
            config = self.unet.config
            return torch.empty(rows, config.in_channels, self.side, self.side), torch.empty(rows, 77, config.cross_attention_dim)


def counted(run: Any) -> int:
    """Operations of what a function runs, on tensors without data."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def quality(speed: Speed, judges: Judges) -> dict[str, Any]:
    """Pictures of held-out prompts, and depth of held-out renders, at a speed."""
    generator, predictor = load("demo"), load(TASK_MODEL)
    for pipeline in (generator, predictor):
        pipeline.set_progress_bar_config(disable=True)
    prompts = [caption.text for caption in judges.scenes.captions]

    def generate(some: slice, seeds: list[int]) -> Mapping[str, Tensor]:
        options = SamplingOptions(speed=speed, guidance_scale=GUIDANCE, generator=generators_of(seeds))
        return generator.run(Generate(prompt=prompts[some], options=options)).maps

    def predict(some: slice, seeds: list[int]) -> Mapping[str, Tensor]:
        options = SamplingOptions(speed=speed, generator=generators_of(seeds))
        return predictor.run(Predict(image=judges.scenes.rgb[some], options=options)).maps

    made = made_by(generator.joint_unet, generate, PICTURES)
    found = made_by(predictor.joint_unet, predict, PICTURES)
    return {"generated": joint_figures(judges, made), "predicted": truth_figures(found["depth"], judges.scenes.disparity01)}


def measure(names: Sequence[str], work: Path) -> None:
    """Measure speeds, and write the figures after each."""
    judges = Reproduction(work, Budget(prompts=PICTURES), torch.device("cpu")).judges
    for number, name in enumerate(names, 1):
        print(f"== {name} ({number} of {len(names)})", file=sys.stderr, flush=True)
        known_by = {"commit": code_commit(), "machine": machine(), "precision": precision_name()}
        found = {"speed": asdict(SEARCHED[name]), "cost": costs(SEARCHED[name]), **quality(SEARCHED[name], judges), **known_by}
        figures = load_figures(FIGURES)
        figures.setdefault("speeds", {})[name] = found
        save_figures(figures, FIGURES)
        write(figures)


def costs(speed: Speed) -> dict[str, float]:
    """Shares of the base's operations."""
    return {name: operations(speed, counter) for name, counter in counters().items()}


@cache
def counters() -> dict[str, Counter]:
    demo = json.loads((bundled_folder("demo-base") / "unet" / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in demo.items() if not key.startswith("_")}
    return {"demo": Counter(plain, 16), "sd21": Counter(UNET, 64)}


def main() -> None:
    """Run what is asked for and not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of SEARCHED; without any, all that are not done")
    parser.add_argument("--dry-run", action="store_true", help="print what each costs; run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/performance"))
    chosen = parser.parse_args()
    done = load_figures(FIGURES).get("speeds", {})
    names = chosen.names or [name for name, speed in SEARCHED.items() if done.get(name, {}).get("speed") != asdict(speed)]
    unknown = [name for name in names if name not in SEARCHED]
    if unknown:
        parser.error(f"got {unknown[0]!r}; expected some of {', '.join(SEARCHED)}")
    if chosen.dry_run:
        for name in names:
            print(f"{name:52}", *(f"{where} {cost:.2f}" for where, cost in costs(SEARCHED[name]).items()))
        return
    measure(names, chosen.work)


if __name__ == "__main__":
    main()
