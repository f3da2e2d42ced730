"""One training step of a tiny joint network, in one process or as a rank of two: plain, DDP or FSDP2, over gloo on the CPU.

Run by test_parallel.py; a file of its own, because every process imports it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.models.joint_unet import JointUNet
from jointnet.training.draws import Draws
from jointnet.training.objective import JointObjective
from jointnet.types import Text

BATCH, STEPS, RANKS = 4, 2, 2
KINDS = {"stage1": (True, False), "stage2": (False, False), "tasks": (False, True)}
"""Stage -> whether RGB is frozen, and whether the network has masked input and independent timesteps."""

Result = dict[str, Tensor]


def new_objective(stage: str) -> JointObjective:
    """The same tiny network in every process; its exchanges and masked input are not zero, so that all of it has a gradient."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        cross_attention_dim=8,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    network = JointUNet.from_unet(unet)
    is_frozen, has_conditions = KINDS[stage]
    if has_conditions:
        network.add_masked_input().register_to_config(has_independent_timesteps=True)
    with torch.no_grad():
        for parameter in [*network.exchanges.parameters(), *network.masked_inputs.parameters()]:
            parameter.normal_(0, 0.05)
    network.branch("rgb").requires_grad_(not is_frozen)
    return JointObjective(network, DiscreteProcess(torch.linspace(0.999, 0.01, 1000)), noise_offset=0.05)


def batches(objective: JointObjective) -> Iterator[tuple[Tensor, Tensor, Draws]]:
    """Clean states, text embeddings and draws of whole batches."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x0 = torch.randn(BATCH, 2, 4, 8, 8, generator=generator)
        embeds = torch.randn(BATCH, 5, 8, generator=generator)
        yield x0, embeds, objective.draw(x0, generator)


def train(module: nn.Module, objective: JointObjective, rank: int, ranks: int) -> Result:
    """Take STEPS steps on a rank's share of each batch. Returns loss, gradients of the last step, and weights, whole on every rank."""
    rows = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    result: Result = {}
    losses: dict[str, Tensor] = {}
    for x0, embeds, draws in batches(objective):
        optimizer.zero_grad()
        counts = objective.counted(draws) / ranks
        losses = module(x0[rows], Text(embeds[rows]), draws.take(rows), counts=counts)
        losses["loss"].backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        name = name.removeprefix("module.")
        result[f"weight.{name}"] = whole(parameter.detach())
        if parameter.grad is not None:
            result[f"gradient.{name}"] = whole(parameter.grad)
    for name, loss in losses.items():
        mean = loss.detach().clone()
        if ranks > 1:
            dist.all_reduce(mean)
        result[f"loss.{name}"] = mean / ranks
    return result


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def run_rank(rank: int, folder: Path) -> None:
    """Train every stage, with DDP and with FSDP2, as one of two ranks; rank 0 writes ``folder / "WRAPPER-STAGE.pt"``."""
    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=RANKS)
    for wrapper, wrap in WRAPPERS.items():
        for stage in KINDS:
            objective = new_objective(stage)
            result = train(wrap(objective), objective, rank, RANKS)
            if rank == 0:
                torch.save(result, folder / f"{wrapper}-{stage}.pt")
    dist.destroy_process_group()


def sharded(objective: JointObjective) -> JointObjective:
    """Shard every branch and every exchange as a unit, then the rest.

    Each unit is called twice in a forward (a branch's halves; an exchange's input and features). FSDP2 allows that as long as both calls
    go through ``__call__``: it gathers the weights before each and adds up the gradients of both. ``reshard_after_forward=False`` on a
    branch would save the second gathering and hold the whole branch between its halves.
    """
    mesh = dist.init_device_mesh("cpu", (RANKS,))
    for unit in [*objective.network.branches.values(), *objective.network.exchanges.values()]:
        fully_shard(unit, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in objective.parameters())
    return objective


WRAPPERS: dict[str, Callable[[JointObjective], nn.Module]] = {"ddp": DistributedDataParallel, "fsdp2": sharded}
