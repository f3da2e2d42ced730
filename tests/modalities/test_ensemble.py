from __future__ import annotations

import torch
from torch.nn.functional import normalize

from jointnet.modalities.ensemble import merge_affine, merge_directions, merge_values


def test_affine_copies_are_merged_without_doubt() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 20, 30, generator=g)
    scales, shifts = torch.rand(8, generator=g) + 0.5, torch.randn(8, generator=g)
    copies = scales[:, None, None, None] * truth + shifts[:, None, None, None]
    merged, uncertainty = merge_affine(copies)
    assert torch.allclose(uncertainty, torch.zeros(1, 20, 30), atol=1e-5)
    correlation = torch.corrcoef(torch.stack([merged.flatten(), truth.flatten()]))[0, 1]
    assert correlation > 1 - 1e-5
    assert abs(float(merged.mean() - copies.mean())) < 0.05


def test_merging_beats_a_single_sample_and_uncertainty_says_where() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 40, 40, generator=g)
    noise = torch.full((1, 40, 40), 0.02)
    noise[:, :, 20:] = 0.2
    samples = truth + noise * torch.randn(16, 1, 40, 40, generator=g)
    merged, uncertainty = merge_affine(samples)
    assert (merged - truth).abs().mean() < 0.5 * (samples[0] - truth).abs().mean()
    ratio = float(uncertainty[..., 20:].mean() / uncertainty[..., :20].mean())
    assert 8 < ratio < 12


def test_noise_flattens_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.linspace(0, 1, 64).expand(1, 64, 64)
    merged, _ = merge_affine(truth + 0.2 * torch.randn(8, 1, 64, 64, generator=g))
    centred = truth - truth.mean()
    gain = float((merged * centred).sum() / centred.square().sum())
    assert abs(gain - 1) < 0.02


def test_a_sample_upside_down_is_doubted_and_turns_nothing_over() -> None:
    truth = torch.linspace(0, 1, 64).expand(1, 64, 64)
    merged, uncertainty = merge_affine(torch.stack([truth, truth, 1 - truth]))
    assert torch.allclose(merged, truth, atol=1e-5)
    assert uncertainty.mean() > 0.1


def test_uncertainty_is_half_the_mean_distance_of_two_samples() -> None:
    samples = torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    pairs = [(samples[i] - samples[j]).abs() for i in range(5) for j in range(i)]
    assert torch.allclose(merge_values(samples)[1], torch.stack(pairs).mean(0) / 2, atol=1e-6)


def test_one_sample_is_itself() -> None:
    maps = torch.rand(1, 1, 4, 4)
    merged, uncertainty = merge_affine(maps)
    assert torch.equal(merged, maps[0])
    assert uncertainty.max() == 0


def test_directions_are_averaged_on_the_sphere() -> None:
    g = torch.Generator().manual_seed(0)
    truth = normalize(torch.randn(3, 10, 10, generator=g), dim=0)
    samples = normalize(truth + 0.1 * torch.randn(9, 3, 10, 10, generator=g), dim=1)
    samples[:, :, 0] = 0
    samples[:3, :, 1] = 0
    merged, uncertainty = merge_directions(samples)
    assert torch.allclose(merged[:, 1:].norm(dim=0), torch.ones(9, 10), atol=1e-5)
    assert (merged * truth).sum(0)[1:].min() > 0.98
    assert merged[:, 0].abs().max() == 0
    angle = torch.rad2deg((samples[:, :, 5] * merged[:, 5]).sum(1).clamp(-1, 1).acos()).mean(0)
    assert torch.allclose(uncertainty[0, 5], angle, atol=1e-3)


def test_of_two_samples_the_middle_is_their_mean() -> None:
    samples = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(merge_values(samples)[0], samples.mean(0), atol=1e-6)


def test_large_maps_are_aligned_on_small_ones_to_the_same_gains() -> None:
    """Gain and shift are two numbers: found on area means they undo what was done to the samples, as on the full maps."""
    g = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.rand(1, 1, 9, 12, generator=g), size=(600, 800), mode="bilinear")[0]
    gains = torch.tensor([0.8, 1.0, 1.2]).view(3, 1, 1, 1)
    samples = gains * truth + torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1, 1) + 0.01 * torch.randn(3, 1, 600, 800, generator=g)
    merged, uncertainty = merge_affine(samples)
    assert (merged - truth).abs().mean() < 0.01
    assert uncertainty.mean() < 0.01
