"""A joint network whose calls run on OpenVINO: the same numbers, computed by another library on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jointnet.errors import MissingPackageError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet, JointUNetOutput, per_modality
from jointnet.types import Known

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""What can be computed in, and OpenVINO's names."""


def use_openvino(network: JointUNet, dtype: torch.dtype = torch.float32) -> JointUNet:
    """Let a network's calls run on OpenVINO, in place; each size of its inputs is compiled in its first call, which takes minutes.

    Calls with a speed's shortcuts, with a scale for adapters, with gradients, or of upscaling bases go on in torch; all of them do where
    the network was moved to another type or device. A size has the weights of its first call: after loading an adapter, call this again.

    Args:
        network: float32, on the CPU.
        dtype: float32, or bfloat16 to compute in it where the processor can.
    Raises: MissingPackageError without the package openvino; UnsupportedBaseError for another type or device, or a network with hooks.
    """
    try:
        import openvino  # pyright: ignore[reportMissingImports] # noqa: F401 - an extra
    except ImportError as error:
        raise MissingPackageError("OpenVINO needs its package; install the extra: pip install 'jointnet[openvino]'") from error
    if network.dtype != torch.float32 or network.device.type != "cpu" or dtype not in PRECISIONS:
        raise UnsupportedBaseError(
            f"got a network in {network.dtype} on {network.device} to be run in {dtype}; expected float32 on the CPU, run in "
            f"{' or '.join(str(one).removeprefix('torch.') for one in PRECISIONS)}: load the model so"
        )
    if not isinstance(network.__dict__.get("forward", None), _Calls | None):
        raise UnsupportedBaseError("got a network with hooks (offloading, casting) on its calls; remove them first")
    network.forward = _Calls(network, PRECISIONS[dtype])
    return network


def leave_openvino(network: JointUNet) -> JointUNet:
    """Undo ``use_openvino``."""
    if isinstance(network.__dict__.get("forward"), _Calls):
        del network.forward
    return network


class _Calls:
    """Takes the place of a network's ``forward``."""

    def __init__(self, network: JointUNet, precision: str) -> None:
        self.network, self.precision = network, precision
        self.compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        known: Known | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        added = dict(added_cond_kwargs or {})
        is_moved = self.network.dtype != torch.float32 or self.network.device.type != "cpu"
        if is_moved or torch.is_grad_enabled() or any(value is not None for value in others.values()):
            return type(self.network).forward(
                self.network,
                sample,
                timestep,
                encoder_hidden_states,
                known=known,
                added_cond_kwargs=added or None,
                return_dict=return_dict,
                **others,
            )
        inputs = {"sample": sample, "timestep": per_modality(timestep, sample), "text": encoder_hidden_states}
        if known is not None:
            inputs |= {"latents": known.latents, "asked": known.asked}
        inputs |= {f"added {name}": value for name, value in added.items()}
        key = tuple((name, tuple(value.shape), value.dtype) for name, value in inputs.items())
        if key not in self.compiled:
            self.compiled[key] = self._compile(inputs)
        made = self.compiled[key]([_array(value) for value in inputs.values()])[0]
        prediction = torch.from_numpy(np.array(made)).to(sample.dtype)
        return JointUNetOutput(sample=prediction) if return_dict else (prediction,)

    def _compile(self, inputs: dict[str, Tensor]) -> Callable[..., Any]:
        import openvino  # pyright: ignore[reportMissingImports] - an extra

        example = tuple(torch.from_numpy(_array(value)) for value in inputs.values())
        model = openvino.convert_model(torch.export.export(_ByPosition(self.network, list(inputs)), example))
        return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": self.precision})


class _ByPosition(nn.Module):
    """A network whose inputs are tensors alone, in an order."""

    def __init__(self, network: JointUNet, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *tensors: Tensor) -> Tensor:
        inputs = dict(zip(self.names, tensors, strict=True))
        known = Known(inputs["latents"], inputs["asked"]) if "asked" in inputs else None
        added = {name.removeprefix("added "): value for name, value in inputs.items() if name.startswith("added ")}
        return type(self.network).forward(
            self.network,
            inputs["sample"],
            inputs["timestep"],
            inputs["text"],
            known=known,
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]


def _array(value: Tensor) -> np.ndarray:
    """On the CPU, in a type that numpy has."""
    return (value.float() if value.is_floating_point() else value).contiguous().numpy()
