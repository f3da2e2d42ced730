"""MiDaS's DPT-hybrid as its authors wrote it: timm's vision transformer, read at four places. Small, with their names of weights."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.data.labelers.networks import SIZE, dpt_config


class OriginalDPT(nn.Module):
    """The sizes of ``dpt_config``, with three channels; its state_dict has the names of omnidata_dpt_normal_v2.ckpt without "model.".

    Source: github.com/isl-org/DPT (dpt/models.py, vit.py, blocks.py), as Omnidata took it over.
    """

    def __init__(self) -> None:
        super().__init__()
        config = dpt_config()
        width, features = config.hidden_size, config.fusion_hidden_size
        bit = config.backbone_config
        backbone = ResNetV2(
            layers=tuple(bit.depths),  # type: ignore[union-attr]
            channels=tuple(bit.hidden_sizes),  # type: ignore[union-attr]
            stem_chs=bit.embedding_size,  # type: ignore[union-attr]
            preact=False,
            stem_type="same",
            conv_layer=partial(StdConv2dSame, eps=1e-8),
            norm_layer=partial(_group_norm, groups=bit.num_groups),  # type: ignore[union-attr]
            num_classes=0,
            global_pool="",
        )
        self.pretrained = nn.Module()
        self.pretrained.model = VisionTransformer(
            img_size=SIZE,
            patch_size=1,
            embed_dim=width,
            depth=config.num_hidden_layers or 0,
            num_heads=config.num_attention_heads or 0,
            mlp_ratio=2,
            num_classes=10,
            embed_layer=partial(HybridEmbed, backbone=backbone),
        )
        for place, sizes in ((3, config.neck_hidden_sizes[2]), (4, config.neck_hidden_sizes[3])):
            readout = nn.Module()
            readout.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())
            steps: list[nn.Module] = [readout, nn.Identity(), nn.Identity(), nn.Conv2d(width, sizes, 1)]
            if place == 4:
                steps.append(nn.Conv2d(sizes, sizes, 3, stride=2, padding=1))
            setattr(self.pretrained, f"act_postprocess{place}", nn.Sequential(*steps))
        self.scratch = nn.Module()
        for i, channels in enumerate(config.neck_hidden_sizes, 1):
            setattr(self.scratch, f"layer{i}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{i}", _Fusion(features))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 3, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, SIZE, SIZE) -> (B, 3, SIZE, SIZE)."""
        vit, scratch = self.pretrained.model, self.scratch
        layers: list[Tensor] = []
        x = vit.patch_embed.backbone.stem(x)
        for stage in vit.patch_embed.backbone.stages:
            x = stage(x)
            layers.append(x)
        grid = x.shape[-2:]
        x = vit.patch_embed.proj(layers.pop()).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1) + vit.pos_embed
        for i, block in enumerate(vit.blocks):
            x = block(x)
            if i in (8, 11):
                steps = getattr(self.pretrained, f"act_postprocess{3 if i == 8 else 4}")
                read = steps[0].project(torch.cat([x[:, 1:], x[:, :1].expand(-1, x.shape[1] - 1, -1)], -1))
                layers.append(steps[3:](read.transpose(1, 2).unflatten(2, grid)))
        path: Tensor | None = None
        for i in (4, 3, 2, 1):
            path = getattr(scratch, f"refinenet{i}")(getattr(scratch, f"layer{i}_rn")(layers[i - 1]), path)
        return scratch.output_conv(path)


class _Unit(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x.relu()).relu())


class _Fusion(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1, self.resConfUnit2 = _Unit(features), _Unit(features)

    def forward(self, layer: Tensor, path: Tensor | None) -> Tensor:
        x = layer if path is None else path + self.resConfUnit1(layer)
        return self.out_conv(interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True))


def _group_norm(channels: int, groups: int, **options: object) -> nn.Module:
    from timm.layers import GroupNormAct

    return GroupNormAct(channels, groups, **options)
