"""The figures of a measurement, computed from pictures and judges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jointnet.demo.judges.attributes import check_claims
from jointnet.demo.judges.networks import AttributeJudge, Reading
from jointnet.demo.world.captions import CLAIM_KINDS, Caption
from jointnet.demo.world.scene import NEAR_M
from jointnet.evaluation.metrics.alignment import align_disparity
from jointnet.evaluation.metrics.depth import abs_rel, delta

CAP_M = 20.0
"""Depth beyond this is not compared."""


@torch.no_grad()
def in_batches(net: nn.Module, images: Tensor, batch: int = 50) -> Any:
    """Apply a judge to images (N, 3, H, W) in [0, 1]; tensors and Readings are put together again."""
    parts = [net(part) for part in images.split(batch)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return Reading(*(torch.cat([getattr(p, name) for p in parts]) for name in Reading.__dataclass_fields__))


def attribute_shares(judge: AttributeJudge, images: Tensor, captions: Sequence[Caption]) -> dict[str, float]:
    """Share of the captions' claims that the judge finds, by kind, over all ("all"), and of pictures with every claim ("picture")."""
    found: dict[str, list[bool]] = defaultdict(list)
    for checks in check_claims(in_batches(judge, images), captions):
        for claim, holds in checks:
            found[claim.kind].append(holds)
            found["all"].append(holds)
        found["picture"].append(all(holds for _, holds in checks))
    return {kind: float(np.mean(found[kind])) for kind in ("all", *CLAIM_KINDS, "picture") if found[kind]}


def depth_agreement(predicted: Tensor, reference: Tensor) -> dict[str, float]:
    """AbsRel and delta1 of predicted against reference disparity (N, 1, H, W), aligned per image, mean over images.

    Valid where the reference is nearer than CAP_M; images with fewer than 100 such pixels are left out and counted.
    """
    errors, shares, skipped = [], [], 0
    for p, reference_one in zip(predicted, reference, strict=True):
        valid = reference_one > NEAR_M / CAP_M
        if int(valid.sum()) < 100:
            skipped += 1
            continue
        depth_m = align_disparity(p, reference_one, valid, cap_m=CAP_M, unit=NEAR_M)
        truth_m = NEAR_M / reference_one.clamp(min=NEAR_M / CAP_M)
        errors.append(abs_rel(depth_m, truth_m, valid))
        shares.append(delta(depth_m, truth_m, valid))
    return {"abs_rel": float(np.mean(errors)), "delta1": float(np.mean(shares)), "images": len(errors), "skipped": skipped}
