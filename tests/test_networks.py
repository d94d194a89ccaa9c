"""Segmenters with trained weights, on every device, in mixed precision, and a batch taken apart."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from partbook.parts.maps import softmax_maps
from partbook.parts.networks import networks

WEIGHTS = "weights/squeezenet1_1_features.safetensors"
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    ),
]
NAMES = ["squeezenet", "deeplab", "dinov2"]


def pictures(n=2, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(name, *arguments, **options):
    if name == "dinov2":
        pytest.importorskip("timm", reason="dinov2 needs timm")
    return networks[name](*arguments, **options)


def test_file_gives_torchvisions_encoder(shared_path):
    path = shared_path(WEIGHTS)
    reference = torchvision.models.squeezenet1_1(weights=None).features
    reference.load_state_dict(load_file(path))
    net = networks["squeezenet"](5, path)
    with torch.no_grad():
        torch.testing.assert_close(net.backbone(pictures()), reference(pictures()))
        maps = softmax_maps(net(pictures()))
    assert (
        maps - 1 / 5
    ).abs().max() < 0.1  # trained features are large; the start is modest all the same


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_every_device(name, precision, device):
    net = build(name, 4, "random").to(device).train()
    with torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None):
        scores = net(pictures().to(device))
    assert scores.device.type == device and scores.shape == (2, 4, *[round(64 / net.stride)] * 2)
    scores.float().square().mean().backward()
    groups = net.parameter_groups()
    assert all(
        p.grad is not None and bool(p.grad.isfinite().all())
        for group in groups.values()
        for p in group
    )


def test_gradients_of_half_batches_average_to_the_whole():
    "What two processes need: nothing in the light network depends on who else is in the batch."
    net, images = networks["squeezenet"](4, "random"), pictures(4)
    gradients = []
    for parts in ((images,), images.chunk(2)):
        net.zero_grad()
        for part in parts:
            (net(part).square().mean() / len(parts)).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for whole, halves in zip(*gradients):
        torch.testing.assert_close(
            halves, whole, rtol=1e-3, atol=1e-5 * whole.abs().max().item() + 1e-9
        )


@pytest.mark.parametrize("name", NAMES)
def test_building_leaves_the_global_stream_alone_and_obeys_the_seed(name):
    before = torch.get_rng_state()
    first, again, other = (build(name, 3, "random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    states = [net.state_dict() for net in (first, again, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    for part in ("backbone", "head"):
        weights = [k for k in states[0] if k.startswith(part) and states[0][k].ndim > 1]
        assert weights and not any(torch.equal(states[0][k], states[2][k]) for k in weights)
