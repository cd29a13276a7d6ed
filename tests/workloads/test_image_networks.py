"""Networks by name against torchvision's: the same logits and gradients from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from modelyard_workloads.models.image_classifier import ImageArchitecture, build_network
from torch import Tensor, nn


def theirs(name: str) -> nn.Module:
    arguments: dict[str, Any] = {"aux_logits": False, "init_weights": False, "dropout": 0.0}
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=7, **(arguments if name == "inception_v3" else {})
    )
    return network


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet50", 64), ("inception_v3", 96)])
def test_logits_and_gradients_are_torchvisions(name: str, size: int) -> None:
    torch.manual_seed(3)
    reference = theirs(name).train()
    network = build_network(ImageArchitecture(name=name, channels=3, classes=7, image_size=size)).train()
    network.load_state_dict(reference.state_dict())
    images, labels = torch.rand(4, 3, size, size), torch.tensor([0, 3, 6, 2])
    gradients: list[dict[str, Tensor]] = []
    logits = []
    for model in (reference, network):
        answer = model(images)
        F.cross_entropy(answer, labels).backward()  # type: ignore[no-untyped-call]
        logits.append(answer.detach())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    assert len(gradients[0]) == len(gradients[1])
    for own, gradient in gradients[1].items():
        expected = gradients[0][own]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "inception_v3", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_architectures_are_found_by_name_and_take_grey_images_and_other_sizes(name: str) -> None:
    with torch.device("meta"):
        network = build_network(ImageArchitecture(name=name, channels=1, classes=10, image_size=96))
        assert network(torch.empty(2, 1, 96, 96)).shape == (2, 10)
