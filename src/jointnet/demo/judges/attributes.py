"""Checks the claims of captions against what the attribute judge reads in pictures."""

from __future__ import annotations

from collections.abc import Sequence

from jointnet.demo.judges.networks import Reading
from jointnet.demo.world.captions import MIDDLE, SIDE, Caption, Claim
from jointnet.demo.world.scene import COLOURS, FLOORS, SETTINGS, SHAPES, SIZES

_MIDDLE_OR_SIDE = (MIDDLE + SIDE) / 2


def check_claims(reading: Reading, captions: Sequence[Caption]) -> list[list[tuple[Claim, bool]]]:
    """For every picture of a reading, each claim of its caption and whether the judge finds it there."""
    if len(captions) != len(reading.present):
        raise ValueError(f"got {len(captions)} captions for {len(reading.present)} pictures; pass one each")
    return [[(claim, _holds(claim, reading, i)) for claim in caption.claims] for i, caption in enumerate(captions)]


def _holds(claim: Claim, reading: Reading, i: int) -> bool:
    if claim.kind == "floor":
        return FLOORS[int(reading.floor[i].argmax())] == claim.value
    if claim.kind == "setting":
        return SETTINGS[int(reading.setting[i].argmax())] == claim.value
    if claim.kind == "count":
        return int((reading.present[i] > 0).sum()) == int(claim.value)
    subject = COLOURS.index(claim.subject)
    if not reading.present[i, subject] > 0:
        return False
    if claim.kind == "shape":
        return SHAPES[int(reading.shape[i, subject].argmax())] == claim.value
    if claim.kind == "size":
        return SIZES[int(reading.size[i, subject].argmax())] == claim.value
    column = float(reading.column[i, subject])
    if claim.kind == "place":
        place = "middle" if abs(column) < _MIDDLE_OR_SIDE else "left" if column < 0 else "right"
        return place == claim.value
    other = COLOURS.index(claim.other)
    if not reading.present[i, other] > 0:
        return False
    right_by = column - float(reading.column[i, other])
    nearer_by = float(reading.nearness[i, subject] - reading.nearness[i, other])
    return {"left of": right_by < 0, "right of": right_by > 0, "behind": nearer_by < 0, "in front of": nearer_by > 0}[claim.value]
