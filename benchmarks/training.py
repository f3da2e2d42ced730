"""What training costs, each measurement in a process of its own.

For benchmarks/run.py: python benchmarks/training.py joint|controlnet STEPS times stage 1 of a joint network, or diffusers' way to train a
ControlNet, on the same base of random weights; waiting WORKERS trains on shards of large JPEGs and tells how long steps waited. Each prints
one line of JSON.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jointnet.data.shards import ShardSource
from jointnet.demo.bundled import bundled_folder
from jointnet.demo.measure.page import table, verdict
from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import demo_stage1, stage1
from jointnet.training.config import RunOptions, TrainConfig
from jointnet.training.joint import joint_objective
from jointnet.training.stage import train_stage
from jointnet.training.state import read_progress
from jointnet.types import Text

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.full_size import UNET

LATENT, TOKENS, WIDTH = 64, 77, 1024
Timing = Callable[[torch.nn.Module, Callable[[], Tensor], int], dict[str, Any]]
"""(what is trained, its loss, steps) -> figures."""
_PROCESS = DiscreteProcess(torch.linspace(0.0292**0.5, 0.1098**0.5, 1000).square().neg().add(1).cumprod(0))


def step_costs(steps: int = 3, rounds: int = 3) -> dict[str, Any]:
    """Processes of both trainings take turns; each begins with a step that does not count."""
    runs: dict[str, list[dict[str, Any]]] = {"joint": [], "controlnet": []}
    for index in range(rounds):
        for kind in list(runs) if index % 2 else reversed(list(runs)):
            runs[kind].append(_printed(kind, str(steps)))
    medians = {kind: [median(run["seconds"]) for run in of_kind] for kind, of_kind in runs.items()}
    ratios = [joint / controlnet for joint, controlnet in zip(medians["joint"], medians["controlnet"], strict=True)]
    return {
        "steps": steps,
        "seconds": {kind: round(median(values), 2) for kind, values in medians.items()},
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ratio": round(median(ratios), 2),
        "peak_gib": {kind: max(run["peak_gib"] for run in of_kind) for kind, of_kind in runs.items()},
        "without_optimizer": {kind: round(median(median(run["network_seconds"]) for run in of_kind), 2) for kind, of_kind in runs.items()},
        "parameters_m": {kind: of_kind[0]["parameters_m"] for kind, of_kind in runs.items()},
    }


def time_joint(steps: int, run: Timing | None = None) -> dict[str, Any]:
    """Stage 1: RGB frozen, in float32 under bfloat16 autocast, with gradient checkpointing."""
    torch.manual_seed(0)
    network = JointUNet.from_unet(UNet2DConditionModel(**UNET))
    objective = joint_objective(network, _PROCESS, stage1())
    network.enable_gradient_checkpointing()
    network.train()
    g = torch.Generator().manual_seed(0)
    x0, text = torch.randn(1, 2, 4, LATENT, LATENT, generator=g), Text(torch.randn(1, TOKENS, WIDTH, generator=g))
    return (run or _timed)(network, lambda: objective(x0, text, objective.draw(x0, g))["loss"], steps)


def time_controlnet(steps: int, run: Timing | None = None) -> dict[str, Any]:
    """As diffusers' example trains: the base frozen and in bfloat16, the ControlNet in float32 under autocast, both with checkpointing."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    controlnet = ControlNetModel.from_unet(unet)
    unet.requires_grad_(False).to(torch.bfloat16)
    for network in (unet, controlnet):
        network.enable_gradient_checkpointing()
        network.train()
    g = torch.Generator().manual_seed(0)
    x0, text = torch.randn(1, 4, LATENT, LATENT, generator=g), torch.randn(1, TOKENS, WIDTH, generator=g)
    condition = torch.rand(1, 3, 8 * LATENT, 8 * LATENT, generator=g)

    def loss() -> Tensor:
        t = torch.randint(0, 1000, (1,), generator=g)
        noise = torch.randn(x0.shape, generator=g)
        noisy = _PROCESS.add_noise(x0, noise, t)
        down, mid = controlnet(noisy, t, text, controlnet_cond=condition, return_dict=False)
        half = torch.bfloat16
        predicted = unet(
            noisy.to(half),
            t,
            text.to(half),
            down_block_additional_residuals=[value.to(half) for value in down],
            mid_block_additional_residual=mid.to(half),
        ).sample
        return (predicted.float() - noise).square().mean()

    return (run or _timed)(controlnet, loss, steps)


def operations() -> dict[str, Any]:
    """Tera-operations of forward and backward of both trainings, counted on tensors without data."""
    counts: dict[str, float] = {}

    def counted(_network: torch.nn.Module, loss: Callable[[], Tensor], _steps: int) -> dict[str, Any]:
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        counts[str(len(counts))] = counter.get_total_flops() / 1e12
        return {}

    with torch.device("meta"):
        time_joint(0, run=counted)
        time_controlnet(0, run=counted)
    joint, controlnet = counts.values()
    return {"joint": round(joint, 3), "controlnet": round(controlnet, 3), "ratio": round(joint / controlnet, 2)}


def operations_section(figures: dict[str, Any]) -> str:
    """The page's part on a training step's operations."""
    return f"""## A training step's operations

Counted, forward, recomputation and backward of one sample are {figures["joint"]:.2f} TFLOP for JointNet's stage 1 and
{figures["controlnet"]:.2f} for the ControlNet: {figures["ratio"]} x. JointNet trains a whole copy, decoder included, and its RGB
loss goes back through the whole frozen branch, where the ControlNet has half a copy and goes back through the base's decoder only."""


def _timed(trained: torch.nn.Module, loss: Callable[[], Tensor], steps: int) -> dict[str, Any]:
    """Seconds of whole steps, and of forward and backward alone."""
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    seconds, network_seconds = [], []
    for _ in range(steps + 1):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        value.backward()
        network_seconds.append(time.perf_counter() - started)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": [round(value, 2) for value in seconds[1:]],
        "network_seconds": [round(value, 2) for value in network_seconds[1:]],
        "parameters_m": round(sum(p.numel() for p in parameters) / 1e6),
        "peak_gib": _peak_gib(),
    }


def waiting_share(rounds: int = 3) -> dict[str, Any]:
    """Each number of workers in a process of its own; they take turns."""
    shares: dict[str, list[float]] = {"0": [], "1": [], "2": []}
    for _ in range(rounds):
        for workers, values in shares.items():
            values.append(_printed("waiting", workers)["waiting"])
    return {"shares": shares, "median": {workers: round(median(values), 4) for workers, values in shares.items()}}


def wait_for_data(workers: int) -> dict[str, Any]:
    """Stage 1 of the demo base at 128 px on shards of JPEGs of 1024 x 768 with 16-bit depth: read, encoded and trained on as they come."""
    with TemporaryDirectory() as scratch:
        shards = _write_shard(Path(scratch) / "data")
        start = bundled_folder("demo-base")
        pipeline = JointNetPipeline.from_base(start, ("rgb", "depth"), local_files_only=True)
        first = demo_stage1()
        config: TrainConfig = replace(
            first, size=128, caches_latents=False, optim=replace(first.optim, batch_size=16, steps=30, warmup_steps=0)
        )
        options = RunOptions(num_workers=workers, log_every=10, save_every_minutes=None, save_every_steps=10_000)
        run = Path(scratch) / "run"
        source = ShardSource(str(shards), Path(scratch) / "cache")
        train_stage(pipeline, source, config, run, recipe="demo-stage1", start=start, start_name="demo-base", options=options)
        rows = read_progress(run, {}).curve
    return {"waiting": median(row["waiting"] for row in rows[1:])}


def _write_shard(folder: Path, count: int = 64) -> Path:
    """One shard of smooth pictures with some noise, whose JPEGs are as large as photographs'."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    path = folder / "000000.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).resize((1024, 768), Image.Resampling.BICUBIC)
            noisy = np.clip(np.asarray(small, np.float32) + rng.normal(0, 6, (768, 1024, 3)), 0, 255).astype(np.uint8)
            depth = np.asarray(small.convert("L"), np.uint16) * 257
            for tail, content in (
                ("jpg", _bytes(Image.fromarray(noisy), "JPEG", quality=90)),
                ("depth.png", _bytes(Image.fromarray(depth), "PNG")),
                ("txt", b"a picture"),
            ):
                info = tarfile.TarInfo(f"{number:06d}.{tail}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _printed(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)


def step_section(figures: dict[str, Any]) -> str:
    """The page's part on a training step."""
    rows = [
        [
            name,
            f"{figures['parameters_m'][kind]} M",
            f"{figures['seconds'][kind]} s",
            f"{figures['without_optimizer'][kind]} s",
            f"{figures['peak_gib'][kind]} GiB",
        ]
        for kind, name in (("joint", "JointNet, stage 1"), ("controlnet", "ControlNet"))
    ]
    return f"""## A training step

Stable Diffusion 2.1-base's full size, random weights, 512 x 512, one sample, bfloat16 autocast, gradient checkpointing, AdamW; seed 0.
The ControlNet is trained as diffusers' example does. Processes of both take turns; medians.

{table(["", "trained parameters", "a step", "of it forward and backward", "peak memory of the process"], rows)}

JointNet's step takes {figures["ratio"]} x the ControlNet's (pairs: {", ".join(map(str, figures["ratios"]))}). Aim: at most 2.0:
{verdict(figures["ratio"] <= 2)}."""


def waiting_section(figures: dict[str, Any]) -> str:
    """The page's part on waiting for data."""
    rows = [[workers, f"{100 * share:.1f} %"] for workers, share in figures["median"].items()]
    return f"""## Waiting for data

Stage 1 of the demo base, 128 px, batches of 16, on shards of 1024 x 768 JPEGs with 16-bit depth, encoded as they come; the workers share
the two cores with the training.

{table(["loader workers", "share of the time that steps wait"], rows)}

Aim: below 5 %: {verdict(min(figures["median"].values()) < 0.05)}."""


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """One measurement."""
    kind, number = arguments[0], int(arguments[1])
    return {"joint": time_joint, "controlnet": time_controlnet, "waiting": wait_for_data}[kind](number)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
