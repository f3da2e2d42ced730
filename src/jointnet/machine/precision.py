"""The type that a network computes in, under autocast: its weights stay float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line reads the names
    import torch

Precision = Literal["float32", "bfloat16", "float16", "fastest"]
"""fastest: bfloat16, but float32 on a processor that has no instructions for bfloat16, where it is the faster one."""
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def autocast_type(precision: Precision, device_type: str = "cpu") -> torch.dtype:
    """The type that ``precision`` means on this machine. Raises: ValueError for another name."""
    import torch

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision in types:
        return types[precision]
    if precision != "fastest":
        raise ValueError(f"got precision {precision!r}; expected float32, bfloat16, float16 or fastest")
    return torch.bfloat16 if device_type != "cpu" or multiplies_bfloat16() else torch.float32


def multiplies_bfloat16() -> bool:
    """True if this processor has instructions for bfloat16."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)
