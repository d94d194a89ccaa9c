"""The chapter on perceptual networks, held in full: names, files, what goes wrong."""

import urllib.error
from unittest import mock

import pytest
import safetensors.torch
import torch

from partbook.core import InputError, generator
from partbook.features.perceptual import VGG19, PerceptualNetwork, geometry, layer_names


@pytest.fixture
def phi():
    return PerceptualNetwork("squeezenet1_1", ["fire5", "fire9"], weights="random", seed=3)


@pytest.fixture
def whole(phi):
    "The state of the whole network."
    state = phi.stages.state_dict()
    return {"features." + k: v for k, v in state.items()} | {
        "classifier.1.weight": torch.zeros(1000, 512, 1, 1),
        "classifier.1.bias": torch.zeros(1000),
    }


@pytest.fixture
def offline(tmp_path):
    "No server, and a cache of its own."

    def unreachable(url, *rest, **more):
        raise urllib.error.URLError("Name or service not known")

    with (
        mock.patch("torch.hub.get_dir", lambda: str(tmp_path / "hub")),
        mock.patch("torch.hub.download_url_to_file", unreachable),
    ):
        yield tmp_path / "hub" / "checkpoints"


def test_names_of_vgg16():
    expected = [f"{k}4_{i}" for i in (1, 2, 3) for k in ("conv", "relu")] + ["pool4"]
    assert [n for n in layer_names("vgg16") if "4_" in n or n == "pool4"] == expected
    sentence = "no perceptual network named 'alexnet'; choose one of: vgg16"
    with pytest.raises(InputError, match=sentence):
        layer_names("alexnet")


def test_strides_of_vgg19():
    names = ("input", "conv1_2", "pool1", "relu2_2", "pool4", "relu5_4")
    assert [geometry("vgg19")[n].stride for n in names] == [1, 1, 2, 2, 16, 16]


def test_vgg19_as_an_extractor():
    images = torch.rand(2, 3, 64, 96, generator=generator(2))
    vgg = VGG19(weights="random")
    assert (vgg.dim, vgg.stride, vgg.layers) == (1024, 16, ("relu5_2", "relu5_4"))
    two = VGG19(weights="random", layers=("relu3_2", "relu5_4"))
    fine, coarse = two.levels(images)
    known = PerceptualNetwork("vgg19", ("relu3_2", "relu5_4"), weights="random")(images)
    assert torch.equal(fine, known["relu3_2"])
    assert torch.equal(coarse, known["relu5_4"])
    assert torch.equal(coarse, two(images)[:, 256:])


def test_files_of_three_kinds(tmp_path, phi, whole):
    images = torch.rand(2, 3, 48, 48, generator=generator(0))
    expected = phi(images)["fire5"]
    safetensors.torch.save_file(phi.stages.state_dict(), tmp_path / "features.safetensors")
    torch.save(whole, tmp_path / "whole.pth")
    parallel = {"state_dict": {"module." + k: v for k, v in whole.items()}}
    torch.save(parallel, tmp_path / "parallel.pth")
    for file in ("features.safetensors", "whole.pth", "parallel.pth"):
        loaded = PerceptualNetwork("squeezenet1_1", ["fire5"], tmp_path / file)
        torch.testing.assert_close(loaded(images)["fire5"], expected)


WRONG = [
    (
        "vgg19",
        None,
        "whole.pth",
        r"whole.pth lacks '2.weight' \(and 29 more of the 32 tensors of vgg19\)",
    ),
    (
        "resnet50",
        None,
        "whole.pth",
        r"lacks 'conv1.weight' \(and \d+ more of the \d+ tensors of resnet50\); is this a file",
    ),
    ("squeezenet1_1", None, "gap.pth", r"gap.pth lacks '3.squeeze.bias'"),
    (
        "squeezenet1_1",
        None,
        "v10.pth",
        r"shape \(96, 3, 7, 7\) for '0.weight' where squeezenet1_1 needs \(64, 3, 3, 3\)",
    ),
    ("squeezenet1_1", None, "absent.pth", "There is no weights file"),
    (
        "squeezenet1_1",
        ["fire10"],
        "random",
        "no layer named 'fire10'; choose among: input, conv1, relu1",
    ),
    ("squeezenet1_1", ["fire9", "fire9"], "random", "each once"),
    ("squeezenet1_1", [], "random", "must be named"),
]


@pytest.mark.parametrize(("name", "layers", "file", "sentence"), WRONG)
def test_what_goes_wrong(name, layers, file, sentence, tmp_path, whole):
    torch.save(whole, tmp_path / "whole.pth")
    gap = {k: v for k, v in whole.items() if k != "features.3.squeeze.bias"}
    torch.save(gap, tmp_path / "gap.pth")
    other = whole | {"features.0.weight": torch.zeros(96, 3, 7, 7)}  # 1.0 begins otherwise
    torch.save(other, tmp_path / "v10.pth")
    with pytest.raises(InputError, match=sentence):
        PerceptualNetwork(name, layers, file if file == "random" else tmp_path / file)


def test_pictures_that_are_too_small(phi):
    sentence = "12x9 pixels are too small for layer '(fire5|pool)"
    with pytest.raises(InputError, match=sentence):
        phi(torch.zeros(1, 3, 9, 12))


@pytest.mark.parametrize(
    ("name", "file"),
    [("vgg19", "vgg19-dcbb9e9d.pth"), ("resnet50", "resnet50-0676ba61.pth")],
)
def test_without_a_network_it_says_what_to_fetch(name, file, offline):
    why = r"could not be downloaded \(Name or service not known\)"
    sentence = rf"\({file}\) {why}; .*--weights FILE, or put it at .*{file}"
    with pytest.raises(InputError, match=sentence):
        PerceptualNetwork(name)


def test_a_cached_file_is_used_and_a_broken_one_is_named(offline, phi, whole):
    images = torch.rand(2, 3, 48, 48, generator=generator(0))
    cached = offline / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True, exist_ok=True)
    torch.save(whole, cached)
    loaded = PerceptualNetwork("squeezenet1_1", ["fire5"])
    torch.testing.assert_close(loaded(images)["fire5"], phi(images)["fire5"])
    cached.write_bytes(cached.read_bytes()[:1000])
    sentence = "squeezenet1_1-b8a52dc0.pth is not a complete PyTorch weights file"
    with pytest.raises(InputError, match=sentence):
        PerceptualNetwork("squeezenet1_1")
