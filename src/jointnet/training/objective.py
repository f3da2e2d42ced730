"""The objective of a joint network (Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jointnet.diffusion.schedule import DiscreteProcess, ForwardProcess
from jointnet.errors import UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import shrink_and_enlarge
from jointnet.training.draws import DrawRule, Draws
from jointnet.types import Known, LowRes, Text


class JointObjective(nn.Module):
    """Network and forward process as one module: DDP and FSDP2 wrap this, and the loss runs through its ``__call__``.

    The network's config is read once, here: behind a wrapper, or compiled, it is not looked at again.

    Args:
        process: the base's.
        low_res_process: that of the smaller maps of an upscaling base; by default the same.
        noise_offset: size of the constant added to the noise, see ``draws.draw_noise``.
        min_snr_gamma: the limit of the signal-to-noise ratio in the loss's weight; None weighs all noise levels alike, as the paper does.
        teacher: a trained network whose prediction is the target, in the noise's place; it is no part of this module.
    Raises: UnsupportedBaseError for ``min_snr_gamma`` and a base of flow matching, or a teacher that reads or predicts something else.
    """

    def __init__(
        self,
        network: JointUNet,
        process: ForwardProcess,
        *,
        low_res_process: ForwardProcess | None = None,
        noise_offset: float = 0.0,
        min_snr_gamma: float | None = None,
        teacher: JointUNet | None = None,
    ) -> None:
        super().__init__()
        if teacher is not None:
            check_teacher(teacher, network)
            teacher.requires_grad_(False).eval()
        self._teacher = (teacher,)  # a module in a tuple is no child
        if min_snr_gamma is not None and not isinstance(process, DiscreteProcess):
            raise UnsupportedBaseError("got min_snr_gamma for a base of flow matching; it weighs noise and v prediction only: leave it out")
        self.network = network
        self.modalities = network.modalities
        self.min_snr_gamma = min_snr_gamma
        self.rule = DrawRule(
            process=process,
            low_res_process=(low_res_process or process) if network.config.low_res_channels else None,
            noise_offset=noise_offset,
            has_masked_input=bool(network.config.has_masked_input),
            has_independent_timesteps=bool(network.config.has_independent_timesteps),
        )

    @property
    def teacher(self) -> JointUNet | None:
        """The network that this one learns from."""
        return self._teacher[0]

    def draw(self, x0: Tensor, generator: torch.Generator) -> Draws:
        """Draw a step for clean states (B, M, C, H, W), of which only the shape is read; see ``DrawRule.draw``."""
        return self.rule.draw(x0.shape, generator)

    def forward(
        self, x0: Tensor, text: Text, draws: Draws, *, is_good: Tensor | None = None, counts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return "loss" and one entry a modality.

        The squared norms of Eq. 1 are means over channels and pixels. A base with learned variance is trained on its prediction only.
        With masks the network also reads the known latents; the loss covers the whole map (Sec. 4.1).

        Args:
            is_good: (B,), False for samples that do not count, because they could not be read.
            counts: (M,), what the sums over the batch are divided by; None: this batch's ``counted``.
        Shapes: x0 (B, M, C, H, W).
        """
        process = self.rule.process
        device = next(self.network.parameters()).device

        def moved(value: Tensor) -> Tensor:
            return value.to(device)

        x0, noise, t, is_clean = moved(x0), moved(draws.noise), moved(draws.levels.t), moved(draws.levels.is_clean)
        text = text.map(lambda value: moved(value).to(x0.dtype))  # a base's text encoder may be kept in half precision
        x_t = torch.where(is_clean[:, :, None, None, None], x0, process.add_noise(x0, noise, t))
        known, low_res = None if draws.asked is None else Known(x0, moved(draws.asked)), self._low_res(x0, draws)

        def predict(network: nn.Module) -> Tensor:
            predicted = network(x_t, t, text.embeds, known=known, low_res=low_res, added_cond_kwargs=text.added)
            return predicted.sample[:, :, : x0.shape[2]].float()  # (B, M, C, H, W)

        target, (teacher,) = process.target(x0, noise, t), self._teacher
        if teacher is not None:
            with torch.no_grad():
                target = predict(teacher)

        # L = E[ |eps_x - eps_theta(x_t, y_t, c, t)|^2 + |eps_y - eps_phi(y_t, x_t, c, t)|^2 ]  (Eq. 1), of modalities that are not clean
        errors = (predict(self.network) - target).square().mean((2, 3, 4))  # (B, M)
        if self.min_snr_gamma is not None and isinstance(process, DiscreteProcess):
            errors = errors * min_snr_weight(process, t, self.min_snr_gamma)
        return self.mean_errors(errors, draws, is_good, counts)

    def mean_errors(self, errors: Tensor, draws: Draws, is_good: Tensor | None, counts: Tensor | None) -> dict[str, Tensor]:
        """Return "loss" and one entry a modality, of errors (B, M); ``is_good`` and ``counts`` as for ``forward``."""
        is_counted = self._is_counted(draws, is_good).to(errors.device)
        if counts is None:
            counts = is_counted.sum(0)
        means = torch.where(is_counted, errors, 0).sum(0) / counts.to(errors.device).clamp(min=torch.finfo(errors.dtype).tiny)  # (M,)
        return {"loss": means.sum(), **dict(zip(self.modalities, means.unbind(), strict=True))}

    def counted(self, draws: Draws, is_good: Tensor | None = None) -> Tensor:
        """Return the number of samples (M,) that count for each modality: not clean, and good."""
        return self._is_counted(draws, is_good).sum(0)

    @staticmethod
    def _is_counted(draws: Draws, is_good: Tensor | None) -> Tensor:
        """(B, M)."""
        is_counted = ~draws.levels.is_clean
        return is_counted if is_good is None else is_counted & is_good[:, None].to(is_counted.device)

    def _low_res(self, x0: Tensor, draws: Draws) -> LowRes | None:
        process = self.rule.low_res_process
        if process is None or draws.low_res_t is None or draws.low_res_noise is None:
            return None
        t, noise = draws.low_res_t.to(x0.device), draws.low_res_noise.to(x0.device)
        return LowRes(process.add_noise(shrink_and_enlarge(x0), noise, t).to(x0.dtype), t)


def check_teacher(teacher: JointUNet, student: JointUNet) -> None:
    """Raises: UnsupportedBaseError unless both read and predict the same."""
    for name in ("modalities", "has_masked_input", "has_independent_timesteps", "low_res_channels"):
        theirs, ours = (tuple(value) if isinstance(value, list) else value for value in (teacher.config[name], student.config[name]))
        if theirs != ours:
            raise UnsupportedBaseError(f"got a teacher with {name} = {theirs}; expected {ours}, as the network that learns from it")
    for name in ("in_channels", "out_channels", "cross_attention_dim"):
        theirs, ours = teacher.config.unet_config[name], student.config.unet_config[name]
        if theirs != ours:
            raise UnsupportedBaseError(f"got a teacher whose base has {name} = {theirs}; expected {ours}: both must be of one base")


def min_snr_weight(process: DiscreteProcess, t: Tensor, gamma: float) -> Tensor:
    """Return the weight of the squared error at timesteps t, of t's shape: min(SNR, gamma) of the clean state's error.

    Source: Hang et al. (2023), Sec. 3.4; for v prediction over SNR + 1.
    """
    alpha_bar = process.alpha_bar.to(t.device, torch.float32)[t]
    snr = (alpha_bar / (1 - alpha_bar)).clamp(min=1e-8)  # schedules with a last level of pure noise
    limited = snr.clamp(max=gamma)
    return {"epsilon": limited / snr, "v_prediction": limited / (snr + 1), "sample": limited}[process.prediction_type]
