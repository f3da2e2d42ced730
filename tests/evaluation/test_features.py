"""Extractors and distances on random weights in the public forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import vgg16
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, Dinov2Config, Dinov2Model

from jointnet.demo.training.text import new_tokenizer
from jointnet.evaluation.features import open_extractor
from jointnet.evaluation.generation import StoredFeatures, clip_score
from jointnet.evaluation.perceptual import open_distance
from jointnet.modalities.write import to_pil


def pictures(count: int = 3, size: tuple[int, int] = (40, 56)) -> torch.Tensor:
    smooth = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(smooth, size=size, mode="bilinear").mul(255).round() / 255


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = new_tokenizer()
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 20, **ends}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer.model_max_length = 20
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_inception_is_torch_fidelitys_and_its_pickle_is_read_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
    monkeypatch.undo()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    extractor = open_extractor(f"inception:{tmp_path / 'weights.pth'}")
    images = pictures(2)
    features, logits = theirs((images * 255).round().byte())
    assert torch.allclose(extractor(images), features, atol=1e-5)
    assert extractor.probabilities is not None
    assert torch.allclose(extractor.probabilities(images), logits.softmax(1), atol=1e-5)
    assert extractor.distance == "FID"


def test_clip_score_is_that_of_transformers_own_model_and_processor(clip_folder: Path, tmp_path: Path) -> None:
    extractor = open_extractor(f"clip:{clip_folder}")
    captions = ["a red ball", "a large blue box on grass", "a sphere"]
    paths = []
    for number, picture in enumerate(pictures()):
        paths.append(tmp_path / f"{number}.png")
        to_pil(picture).save(paths[-1])
    stored = StoredFeatures(paths, extractor, tmp_path / "features")
    stored.compute()
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    read = processor(text=captions, images=[to_pil(p) for p in pictures()], return_tensors="pt", padding=True)
    with torch.no_grad():
        cosines = model(**read).logits_per_image.diagonal() / model.logit_scale.exp()
    assert clip_score(stored, captions) == pytest.approx(100 * float(cosines.mean()), abs=0.3)  # they resize bytes


def test_dinov2_gives_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    extractor = open_extractor(f"dinov2:{tmp_path}")
    assert extractor(pictures()).shape == (3, 16)
    assert extractor.distance == "FD-DINOv2"


@pytest.mark.slow
def test_lpips_reads_torchvisions_vgg_and_is_0_of_a_picture_to_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(vgg16(weights=None).state_dict(), tmp_path / "vgg.pth")
    distance = open_distance(f"lpips:{tmp_path / 'vgg.pth'}")
    a, b = pictures(2, (64, 64)) * 2 - 1, pictures(2, (64, 64)).flip(0) * 2 - 1
    assert float(distance(a, a).abs().max()) == 0
    assert float(distance(a, b).min()) > 0
    assert distance(a, b).shape == (2,)


def test_the_offline_distance_grows_with_the_difference() -> None:
    distance = open_distance("eff-lite0")
    a = pictures(1, (64, 64)) * 2 - 1
    near, far = ((a + scale * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1) for scale in (0.05, 0.5))
    assert float(distance(a, a)) == 0
    assert 0 < float(distance(a, near)) < float(distance(a, far))
