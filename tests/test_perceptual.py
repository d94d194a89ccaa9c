"""Trained features on real photographs, where they are; every device this machine has."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from partbook.features.extractor import load_extractor
from partbook.features.perceptual import PerceptualNetwork, layer_names
from partbook.parts.maps import argmax_labels, label_rule, part_centres, softmax_maps, upsample

WEIGHTS = "weights/squeezenet1_1_features.safetensors"
CUB = "data/CUB_200_2011"
KNOWN = {
    "conv1": (-0.0687, 48.8298),
    "fire5": (14.4541, 40.6074),
    "fire8": (10.3697, 26.8558),
}  # mean and deviation
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    ),
]


@pytest.fixture(scope="module")
def weights(shared_path):
    return shared_path(WEIGHTS)


@pytest.fixture(scope="module")
def photographs(shared_path):
    "24 albatrosses at 224 pixels, landmarks scaled with them: (24,3,224,224), (24,15,2), (24,15)."
    root = shared_path(CUB)
    names = dict(line.split() for line in (root / "images.txt").read_text().splitlines()[:24])
    marks = np.array(
        [line.split() for line in (root / "parts" / "part_locs.txt").read_text().splitlines()],
        float,
    )
    images, points, seen = [], [], []
    for number, name in names.items():
        with Image.open(root / "images" / name) as file:
            scale = 224 / np.array(file.size)
            images.append(
                np.asarray(file.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
            )
        own = marks[marks[:, 0] == int(number)]
        points.append(own[:, 2:4] * scale)
        seen.append(own[:, 4] > 0)
    return (
        torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255,
        torch.tensor(np.stack(points)).float(),
        torch.tensor(np.stack(seen)),
    )


def test_file_gives_torchvisions_features(weights, photographs):
    reference = torchvision.models.squeezenet1_1(weights=None).features
    reference.load_state_dict(load_file(weights))
    reference.eval()
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    images = photographs[0][:2]
    found = PerceptualNetwork("squeezenet1_1", ["fire5", "fire9"], weights)(images)
    with torch.no_grad():
        expected = (images - mean) / std
        torch.testing.assert_close(found["fire9"], reference(expected))
        torch.testing.assert_close(found["fire5"], reference[:8](expected))


def test_known_values(weights, photographs):
    "Figures of these weights on these photographs; another decoder may move the third digit."
    layers = PerceptualNetwork("squeezenet1_1", ["conv1", "fire5", "fire8"], weights)(
        photographs[0][:4]
    )
    found = {
        name: (round(x.mean().item(), 4), round(x.std().item(), 4)) for name, x in layers.items()
    }
    for name, values in KNOWN.items():
        assert found[name] == pytest.approx(values, rel=0.01, abs=0.01), found


def nearest_landmark_rate(phi, images, points, seen) -> float:
    "How often the most similar landmark on any other bird is the same landmark."
    features = torch.nn.functional.normalize(phi(images), dim=1)
    grid = (points / 224 * 2 - 1)[:, :, None]
    descriptors = torch.nn.functional.grid_sample(features, grid, align_corners=False)[
        ..., 0
    ].movedim(1, -1)[seen]
    bird, landmark = seen.nonzero().T
    similar = (descriptors @ descriptors.T).masked_fill(bird[:, None] == bird, -2)
    return (landmark[similar.argmax(1)] == landmark).float().mean().item()


def test_trained_features_know_parts(weights, photographs):
    trained = nearest_landmark_rate(load_extractor("squeezenet1_1", weights), *photographs)
    drawn = nearest_landmark_rate(load_extractor("squeezenet1_1", "random"), *photographs)
    assert trained > drawn + 0.2, (trained, drawn)


def test_cells_in_their_places_are_worth_having(weights, photographs):
    aligned, raw = (
        nearest_landmark_rate(load_extractor("squeezenet1_1", weights, align=align), *photographs)
        for align in (True, False)
    )
    assert aligned > raw + 0.04, (aligned, raw)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["rgb", "squeezenet1_1", "resnet50"])
def test_extractors_on_every_device(name, device):
    phi = load_extractor(name, **({} if name == "rgb" else {"weights": "random"}), device=device)
    features = phi(torch.rand(2, 3, 64, 90, generator=torch.Generator().manual_seed(0)).to(device))
    assert (
        features.device.type == device
        and features.shape[:2] == (2, phi.dim)
        and bool(features.isfinite().all())
    )


@pytest.mark.parametrize("device", DEVICES)
def test_maps_on_every_device(device):
    maps = softmax_maps(
        torch.randn(2, 5, 9, 7, generator=torch.Generator().manual_seed(0)).to(device)
    )
    labels = argmax_labels(
        upsample(maps, (36, 28)), torch.ones(2, 36, 28, dtype=torch.bool, device=device)
    )
    assert {
        labels.device.type,
        label_rule(maps).device.type,
        part_centres(maps, (36, 28)).device.type,
    } == {device}


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "squeezenet1_1", "resnet50"])
def test_building_a_network_leaves_the_global_stream_alone(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    PerceptualNetwork(name, [layer_names(name)[4]], "random")
    assert torch.equal(torch.get_rng_state(), before)
