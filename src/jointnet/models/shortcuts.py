"""Ways in which one call of the joint network may do less than all: unguided dense branches, deep features kept, branches at rest.

A call without a shortcut runs as ``JointUNet.forward`` does; with one, through here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from jointnet.errors import RangeError
from jointnet.models.branch import Branch, Features
from jointnet.types import Kept, Known, LowRes, Sent, Shortcut


class Exchanging(Protocol):
    """What is asked of the joint network here."""

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def branch_of(self, modality: str) -> Branch: ...

    def received_input(self, index: int, maps: dict[str, Tensor], known: Known | None) -> Tensor | int: ...

    def sends(self, sender: str, receiver: str) -> bool: ...

    def send_features(self, sender: str, receiver: str, features: Features, *, has_mid: bool) -> Sent: ...


def predict_with(
    network: Exchanging,
    shortcut: Shortcut,
    maps: dict[str, Tensor],
    t: Tensor,
    text: Tensor,
    *,
    known: Known | None,
    low_res: LowRes | None,
    added: dict[str, Tensor] | None,
    cross_attention_kwargs: dict[str, Any] | None,
) -> Tensor:
    """Run the network with a shortcut. Shapes: maps each (B, C, H, W), t (B, M), text (B, L, D) -> (B, M, C_out, H, W).

    Raises: RangeError if the shallow part is to be larger than a branch's outermost block.
    """
    names, kept = network.modalities, shortcut.kept or Kept()
    running = [name for name in names if name not in shortcut.resting]
    for name in running:
        if shortcut.layers > network.branch_of(name).most_layers:
            raise RangeError(f"got {shortcut.layers} layers for a shallow part; expected at most {network.branch_of(name).most_layers}")
    rows = {name: _Rows(len(text), shortcut.unguided and name != "rgb") for name in names}
    count = shortcut.layers if shortcut.is_shallow else None

    # 1. What each branch receives at its input, and its first half
    features: dict[str, Features] = {}
    for index, name in enumerate(names):
        if name in shortcut.resting:
            continue
        own = rows[name]
        seen = {other: own.cut(noisy_map) for other, noisy_map in maps.items()}
        of_known = None if known is None else known.map(own.cut)
        state, level = seen[name], None
        if low_res is not None:
            state, level = torch.cat([state, own.cut(low_res.maps[:, index]).to(state)], 1), own.cut(low_res.level)
        features[name] = network.branch_of(name).encode(
            state,
            own.cut(t[:, index]),
            own.cut(text),
            network.received_input(index, seen, of_known),
            class_labels=level,
            added_cond_kwargs=None if added is None else {key: own.cut(value) for key, value in added.items()},
            cross_attention_kwargs=cross_attention_kwargs,
            layers=count,
        )

    if count and shortcut.tolerance is not None and _has_changed(features, kept.shallow, shortcut.tolerance):
        whole = replace(shortcut, is_shallow=False, kept=kept)
        return predict_with(
            network, whole, maps, t, text, known=known, low_res=low_res, added=added, cross_attention_kwargs=cross_attention_kwargs
        )

    # 2. What they send each other; of a shallow call only the first skips are new
    for sender in running:
        for receiver in running:
            if network.sends(sender, receiver):
                of, earlier = features[sender], kept.sent.get((sender, receiver))
                skips, mid = network.send_features(sender, receiver, of, has_mid=not count)
                if count and earlier is not None:
                    skips, mid = [*skips, *earlier[0][count:]], earlier[1]
                kept.sent[sender, receiver] = skips, mid

    # 3. Second halves
    for name in running:
        skips, mid = list(features[name].skips), features[name].mid
        for sender in names:
            if (sender, name) in kept.sent:
                sent_skips, sent_mid = kept.sent[sender, name]
                skips = [a + rows[sender].to(rows[name], b) for a, b in zip(skips, sent_skips[: len(skips)], strict=True)]
                mid = mid if count else mid + rows[sender].to(rows[name], sent_mid)
        branch = network.branch_of(name)
        received = features[name]._replace(skips=skips, mid=kept.deep[name] if count else mid)
        if not shortcut.layers:
            prediction = branch.decode(received, cross_attention_kwargs)
        else:
            if not count:
                deep = branch.decode(received, cross_attention_kwargs, part="deep", layers=shortcut.layers)
                kept.deep[name], kept.shallow[name] = deep, features[name].skips[shortcut.layers - 1]
                received = received._replace(skips=skips[: shortcut.layers], mid=deep)
            prediction = branch.decode(received, cross_attention_kwargs, part="shallow", layers=shortcut.layers)
        kept.predictions[name] = cast(Tensor, rows[name].to(rows["rgb"], prediction))
    if not shortcut.keeps_sent:
        kept.sent.clear()
    return torch.stack([kept.predictions[name] for name in names], 1)


def _has_changed(features: dict[str, Features], earlier: dict[str, Tensor], tolerance: float) -> bool:
    """True if the last shallow skip of any branch is further from the earlier one than a share of it, in mean absolute value."""
    changes = [(of.skips[-1] - earlier[name]).abs().mean() / earlier[name].abs().mean() for name, of in features.items()]
    return bool(torch.stack(changes).max() > tolerance)


@dataclass(frozen=True)
class _Rows:
    """Which rows of a batch a branch runs on: all, or the second half."""

    count: int
    is_half: bool

    def cut(self, rows: Tensor) -> Tensor:
        """This branch's rows of all rows."""
        return rows[self.count // 2 :] if self.is_half else rows

    def to(self, other: _Rows, sent: Tensor | int) -> Tensor | int:
        """What this branch sends, on the other's rows."""
        if self.is_half == other.is_half or not isinstance(sent, Tensor):
            return sent
        return torch.cat([sent, sent]) if self.is_half else sent[self.count // 2 :]
