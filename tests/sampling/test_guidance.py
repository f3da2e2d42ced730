from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jointnet.sampling.guidance import Guided
from jointnet.types import Conditioning, Step, Text


def text(value: float) -> Text:
    return Text(torch.full((2, 3, 4), value))


def denoiser(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
    """A denoiser with a closed form: x plus the prompt's number, times (1 + t)."""
    return (x + conditioning.text.embeds[:, 0, 0, None, None, None, None]) * (1 + step.t[:, :, None, None, None])


X = torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
T = Step(0, 1, torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
BOTH = Conditioning(text(2.0), text(-1.0))


def test_guidance_is_its_formula() -> None:
    negative, positive = denoiser(X, T, Conditioning(text(-1.0))), denoiser(X, T, Conditioning(text(2.0)))
    guided = Guided(denoiser, 7.5)(X, T, BOTH)
    assert torch.allclose(guided, negative + 7.5 * (positive - negative), atol=1e-5)


def test_scale_one_is_the_prompt_alone() -> None:
    assert torch.allclose(Guided(denoiser, 1.0)(X, T, BOTH), denoiser(X, T, Conditioning(text(2.0))), atol=1e-5)


def test_full_rescale_brings_back_the_prompts_deviation() -> None:
    positive = denoiser(X, T, Conditioning(text(2.0)))
    rescaled = Guided(lambda x, t, c: denoiser(x, t, c) * c.text.embeds[:, 0, 0, None, None, None, None], 3.0, rescale=1.0)(X, T, BOTH)
    assert torch.allclose(rescaled.std((2, 3, 4)), (2 * positive).std((2, 3, 4)), rtol=1e-4)


def test_half_rescale_is_half_way() -> None:
    plain, half, full = (Guided(denoiser, 5.0, rescale=r)(X, T, BOTH) for r in (0.0, 0.5, 1.0))
    assert torch.allclose(half, (plain + full) / 2, atol=1e-5)


def test_guidance_without_a_negative_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="negative"):
        Guided(denoiser, 2.0)(X, T, Conditioning(text(1.0)))


def test_a_learned_variance_is_the_prompts_own_and_is_not_guided() -> None:
    def learned(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        prediction = denoiser(x, step, conditioning)
        return torch.cat([prediction, 10 * prediction], 2)

    guided = Guided(learned, 7.5, rescale=0.5)(X, T, BOTH)
    assert torch.equal(guided[:, :, :4], Guided(denoiser, 7.5, rescale=0.5)(X, T, BOTH))
    assert torch.allclose(guided[:, :, 4:], 10 * denoiser(X, T, Conditioning(text(2.0))))
