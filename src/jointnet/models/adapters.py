"""Networks without the adapters (LoRA) that peft has put into them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_PEFT_STATE = ("peft_config", "_hf_peft_config_loaded")
"""What diffusers and transformers note on a network with adapters."""


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of the adapters loaded into a network."""
    return sorted(getattr(model, "peft_config", None) or {})


@contextmanager
def without_adapters(*models: nn.Module) -> Iterator[None]:
    """Put the networks' own layers in place of those that peft wraps, until the context ends: to copy or save them as they came.

    What an adapter was fused into stays fused.
    """
    wrapped = [(parent, name, layer) for model in models for parent, name, layer in _wrapped_layers(model)]
    states = [(module, _take(module)) for model in models for module in model.modules()]
    for parent, name, layer in wrapped:
        parent._modules[name] = layer.get_base_layer()
    try:
        yield
    finally:
        for parent, name, layer in wrapped:
            parent._modules[name] = layer
        for module, state in states:
            module.__dict__.update(state)


def _wrapped_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, its name there, peft's layer) of every layer with an adapter."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # an adapter cannot be there before peft is imported, which takes a second
    if peft is None:
        return
    for parent in model.modules():
        if isinstance(parent, peft.BaseTunerLayer):
            continue
        for name, child in parent.named_children():
            if isinstance(child, peft.BaseTunerLayer):
                yield parent, name, child


def _take(module: nn.Module) -> dict[str, Any]:
    """Remove what a module notes of its adapters, and return it."""
    return {name: module.__dict__.pop(name) for name in _PEFT_STATE if name in module.__dict__}
