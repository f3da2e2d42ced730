"""What pictures cost: python benchmarks/inference.py [SECTION ...] writes docs/performance.json and docs/performance.md.

Sections: "calls" times each kind of call of the networks at Stable Diffusion 2.1-base's full size on random weights (the base alone, a
ControlNet and the base, the joint network with what each speed leaves out) and adds them up to pictures; "backends" times one call of the
joint network by ways to run it; "pictures" times whole pictures and panoramas of the bundled model; "memory" is each kind's peak. All
that is compared is run in turn, and ratios are taken within a round. Of the quality of the same speeds see benchmarks/speed.py.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from jointnet.demo.bundled import GUIDANCE, bundled_folder
from jointnet.demo.measure.page import load_figures, save_figures
from jointnet.demo.measure.pictures import in_fastest_precision, precision_name
from jointnet.evaluation.models.adapters import generators_of
from jointnet.loading import load
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet
from jointnet.models.openvino import use_openvino
from jointnet.sampling.speed import SPEEDS, Speed
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.panorama import Panorama

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.calls import Call, calls_of, prepare, run
from benchmarks.full_size import UNET, VAE
from benchmarks.performance import FIGURES, REFINED, write

BASE_STEPS = 50
"""Of the base's picture, that all others are compared with."""

CASES: Mapping[str, tuple[int, int, int]] = {"512 x 512": (1, 64, 64), "4 of 512 x 512": (4, 64, 64), "512 x 2048": (1, 64, 256)}
"""Name -> pictures at once, height and width of their latents."""

COMPARED: Mapping[str, Speed] = {"exact": Speed(), **SPEEDS}
Runs = dict[str, Callable[[], object]]


def in_turn(runs: Runs, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each run in each round; every second one backwards, so that slow changes fall on all. The first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs) if number % 2 else reversed(list(runs)):
            seconds = timed(runs[name], device)
            if number:
                taken[name].append(seconds)
    return taken


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run; by events of the device where it has them."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class FullSize:
    """The networks of a picture at full size, with random weights in bfloat16, and guided inputs of a case."""

    def __init__(self, case: str, device: torch.device, *, kinds: Sequence[str] = ("base", "controlnet", "joint", "decode")) -> None:
        count, height, width = CASES[case]
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                self.unet: Any = UNet2DConditionModel(**UNET).eval()
                self.controlnet: Any = ControlNetModel.from_unet(self.unet).eval() if "controlnet" in kinds else None
                self.joint = JointUNet.from_unet(copy.deepcopy(self.unet)) if "joint" in kinds else None
                self.vae: Any = AutoencoderKL(**VAE).eval() if "decode" in kinds else None
                self.x = torch.randn(2 * count, 2, 4, height, width)
                self.text = torch.randn(2 * count, 77, UNET["cross_attention_dim"])
                self.hint = torch.rand(2 * count, 3, 8 * height, 8 * width)
                self.t = torch.full((2 * count, 2), 500)
        finally:
            torch.set_default_dtype(torch.float32)

    @torch.no_grad()
    def base(self) -> Tensor:
        """A guided step of the base."""
        return self.unet(self.x[:, 0], 500, self.text).sample

    @torch.no_grad()
    def with_controlnet(self) -> Tensor:
        """A guided step of a ControlNet and the base, as diffusers' pipeline runs them."""
        down, mid = self.controlnet(self.x[:, 0], 500, self.text, self.hint, return_dict=False)
        return self.unet(self.x[:, 0], 500, self.text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    @torch.no_grad()
    def decode(self) -> Tensor:
        """One map of all pictures, one after the other."""
        latents = self.x[: len(self.x) // 2, 0]
        return torch.cat([self.vae.decode(one[None]).sample for one in latents])

    def joint_call(self, call: Call) -> Callable[[], object]:
        """A call of the joint network, ready to be repeated."""
        assert self.joint is not None, "built with it"
        network, rows = self.joint, len(self.x) * call.rows // 2
        inputs = self.x[:rows], self.t[:rows], self.text[:rows]
        ready = prepare(network, call, *inputs)
        return lambda: run(network, ready, *inputs)


def time_calls(case: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Calls of a case in turn; and pictures as sums of them, with a map decoded for each modality."""
    networks = FullSize(case, device)
    plans = {name: calls_of(speed) for name, speed in COMPARED.items()}
    kinds = {call: words(call) for plan in plans.values() for call in plan}
    runs: Runs = {"base": networks.base, "ControlNet and base": networks.with_controlnet, "decode": networks.decode}
    taken = in_turn({**runs, **{name: networks.joint_call(call) for call, name in kinds.items()}}, rounds, device)

    def pictures(of_round: int) -> dict[str, float]:
        at = {name: seconds[of_round] for name, seconds in taken.items()}
        sums = {
            "base": BASE_STEPS * at["base"] + at["decode"],
            "ControlNet and base": BASE_STEPS * at["ControlNet and base"] + at["decode"],
        }
        for name, plan in plans.items():
            sums[name] = sum(often * at[kinds[call]] for call, often in plan.items()) + 2 * at["decode"]
        return sums

    by_round = [pictures(number) for number in range(rounds)]
    return {
        "rounds": rounds,
        "calls": {name: of(seconds, taken["base"]) for name, seconds in taken.items()},
        "pictures": {name: of([r[name] for r in by_round], [r["base"] for r in by_round]) for name in by_round[0]},
    }


def of(seconds: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Medians of seconds, and of their ratio to the base's of the same round."""
    ratios = [own / whole for own, whole in zip(seconds, base, strict=True)]
    return {"seconds": round(median(seconds), 3), "ratio": round(median(ratios), 3)}


def words(call: Call) -> str:
    """A call, for people."""
    parts = ["guided" if call.rows == 2 else "not guided"]
    if (shortcut := call.shortcut) is not None:
        parts += ["dense branch unguided"] * shortcut.unguided
        parts += [f"{shortcut.layers} shallow layers only"] * shortcut.is_shallow
        parts += [f"deep layers kept for {shortcut.layers} shallow ones"] * (shortcut.layers > 0 and not shortcut.is_shallow)
        parts += ["dense branch at rest"] * bool(shortcut.resting)
    return "joint, " + ", ".join(parts)


def time_backends(rounds: int, device: torch.device) -> dict[str, Any]:
    """One guided call of 512 x 512 by ways to run the joint network, against the eager base."""
    networks = FullSize("512 x 512", device, kinds=("base", "joint"))
    whole = Call(2)
    found: dict[str, dict[str, float]] = {}

    def add(name: str, started: float | None = None) -> None:
        call = networks.joint_call(whole)
        call()  # a compiler works in the first call
        preparing = None if started is None else round(time.perf_counter() - started, 1)
        taken = in_turn({"base": networks.base, name: call}, rounds, device)
        found[name] = {**of(taken[name], taken["base"]), **({} if preparing is None else {"preparing": preparing})}

    assert networks.joint is not None, "built with it"
    add("eager")
    networks.joint.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's own overload has it
    add("channels last")
    networks.joint.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue] - as above
    networks.joint.fuse_qkv_projections()
    add("fused projections")
    networks.joint.unfuse_qkv_projections()
    started = time.perf_counter()
    networks.joint.compile_repeated_blocks(fullgraph=True)
    add("compile_repeated_blocks", started)
    torch.compiler.reset()
    networks = FullSize("512 x 512", device, kinds=("base", "joint"))
    started = time.perf_counter()
    assert networks.joint is not None, "built with it"
    networks.joint.compile(fullgraph=True, mode="reduce-overhead" if device.type == "cuda" else None)
    add("torch.compile", started)
    if device.type == "cpu" and importlib.util.find_spec("openvino") is not None:
        networks = FullSize("512 x 512", device, kinds=("base", "joint"))
        started = time.perf_counter()
        assert networks.joint is not None, "built with it"
        use_openvino(networks.joint.float(), torch.bfloat16)
        add("OpenVINO, bfloat16", started)
    return {"rounds": rounds, "backends": found}


def time_pictures(rounds: int, device: torch.device) -> dict[str, Any]:
    """Whole pictures and panoramas of the bundled model, after loading, against its base's in as many steps as pictures are compared by."""
    started = time.perf_counter()
    joint = load("demo").to(device)
    loading = round(time.perf_counter() - started, 1)
    base = StableDiffusionPipeline.from_pretrained(bundled_folder("demo-base"), local_files_only=True).to(device)
    for pipeline in (joint, base):
        pipeline.set_progress_bar_config(disable=True)

    def picture(count: int, width: int) -> Callable[[], object]:
        def make() -> object:
            with in_fastest_precision(base.unet):
                return base(
                    ["a red ball on a blue floor"] * count,
                    height=128,
                    width=width,
                    num_inference_steps=BASE_STEPS,
                    guidance_scale=GUIDANCE,
                    generator=generators_of(range(count)),
                    output_type="pt",
                )

        return make

    def joint_picture(count: int, speed: str) -> Callable[[], object]:
        def make() -> object:
            options = SamplingOptions(speed=speed, generator=generators_of(range(count)))
            with in_fastest_precision(joint.joint_unet):
                return joint.run(Generate(prompt=["a red ball on a blue floor"] * count, options=options))

        return make

    def panorama(speed: str, *, tiled: bool = True, scale: int = 1) -> Callable[[], object]:
        def make() -> object:
            options = SamplingOptions(speed=speed, generator=generators_of([0]), **({} if tiled else {"tiled": False}))
            with in_fastest_precision(joint.joint_unet):
                return joint.run(Panorama(prompt="red balls on a blue floor", scale=scale, options=options))

        return make

    found: dict[str, Any] = {}
    for count in (1, 4):
        runs: Runs = {"base": picture(count, 128), **{name: joint_picture(count, name) for name in COMPARED}}
        taken = in_turn(runs, rounds, device)
        found[f"{count} of 128 x 128"] = {name: of(seconds, taken["base"]) for name, seconds in taken.items()}
    runs = {"base, non-tiled": picture(1, 512), "exact, non-tiled": panorama("exact", tiled=False)}
    taken = in_turn({**runs, **{name: panorama(name) for name in COMPARED}, REFINED: panorama("fast", scale=2)}, rounds, device)
    found["panorama of 128 x 512"] = {name: of(seconds, taken["base, non-tiled"]) for name, seconds in taken.items()}
    return {"rounds": rounds, "loading": loading, "pictures": found}


PEAKS: Mapping[str, tuple[str, ...]] = {"base": ("base",), "ControlNet and base": ("base", "controlnet"), "joint": ("base", "joint")}


def peak(kind: str, case: str, device: torch.device) -> float:
    """GiB that one guided step of a kind needs; on a processor that of this process, on a device of what was allocated there."""
    networks = FullSize(case, device, kinds=PEAKS[kind])
    runs = {"base": networks.base, "ControlNet and base": networks.with_controlnet}
    (runs.get(kind) or networks.joint_call(Call(2)))()
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def memory(device: torch.device) -> dict[str, Any]:
    """Each kind and case in a process of its own."""
    found: dict[str, dict[str, float]] = {}
    for case in CASES:
        found[case] = {}
        for kind in PEAKS:
            command = [sys.executable, __file__, "--peak", kind, case, "--device", str(device)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[case][kind] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"peak_gib": found}


def main() -> None:
    """Measure what is asked for, and write the page after each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="calls, backends, pictures, memory; without any, all")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), metavar="CASE", help="of calls")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--peak", nargs=2, metavar=("KIND", "CASE"), help="print one peak, in GiB")
    chosen = parser.parse_args()
    device: torch.device = chosen.device
    if chosen.peak:
        print(json.dumps(peak(*chosen.peak, device)))
        return
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        **{f"calls, {case}": lambda case=case: time_calls(case, chosen.rounds, device) for case in chosen.cases},
        "backends": lambda: time_backends(chosen.rounds, device),
        "pictures": lambda: time_pictures(chosen.rounds, device),
        "memory": lambda: memory(device),
    }
    names = [name for name in measures if not chosen.sections or name.split(",")[0] in chosen.sections]
    if unknown := set(chosen.sections) - {name.split(",")[0] for name in measures}:
        parser.error(f"got {', '.join(sorted(unknown))}; expected some of calls, backends, pictures, memory")
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        known_by = {"commit": code_commit(), "machine": machine(), "precision": precision_name(), "device": str(device)}
        found = {**measures[name](), **known_by}
        figures = load_figures(FIGURES)
        figures.setdefault("times", {})[name] = found
        save_figures(figures, FIGURES)
        write(figures)


if __name__ == "__main__":
    main()
