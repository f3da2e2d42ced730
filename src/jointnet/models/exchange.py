"""Zero-initialised convolutions: all that joins the branches (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def zero_conv(in_channels: int, out_channels: int, kernel_size: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size and returns zeros until it is trained."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType] - a bias is always made here
    return conv


class Exchange(nn.Module):
    """What one branch sends to one other: its noisy input, its skips and its mid block's output, each through a zero convolution.

    Args:
        in_channels: channels of the sender's noisy input.
        skip_channels: channels of the sender's skips, conv_in's first; the mid block has the last one's.
        input_kernel: kernel size of the base's conv_in.
    Source: Sec. 3.1, Fig. 2(c).
    """

    def __init__(self, in_channels: int, skip_channels: Sequence[int], input_kernel: int) -> None:
        super().__init__()
        self.input = zero_conv(in_channels, skip_channels[0], input_kernel)
        self.skips = nn.ModuleList(zero_conv(c, c) for c in skip_channels)
        self.mid = zero_conv(skip_channels[-1], skip_channels[-1])

    def forward(self, skips: Sequence[Tensor], mid: Tensor) -> tuple[list[Tensor], Tensor]:
        """The sender's skips and mid output as the receiver adds them; shapes are kept."""
        return [conv(s) for conv, s in zip(self.skips, skips, strict=True)], self.mid(mid)
