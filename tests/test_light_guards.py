"""What the chapter on the light network claims, in the corners that its examples leave out."""

import pytest
import torch
from safetensors.torch import save_file

from partbook.core import InputError, generator
from partbook.parts.light import Body, Light


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 3, 32, 48, generator=generator(1))


@pytest.fixture(scope="module")
def body():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Body().eval()


def test_a_flat_picture_has_the_same_features_everywhere(body):
    flat = body(torch.full((1, 3, 48, 40), 0.3))
    assert flat.shape == (1, 64, 12, 10)
    assert torch.allclose(flat, flat[..., :1, :1].expand_as(flat), atol=1e-5)


def test_the_start_obeys_the_seed_and_is_modest(pictures):
    network = Light(5, seed=2)
    scores = network.eval()(pictures)
    assert scores.shape == (3, 5, 8, 12)
    assert scores.softmax(1).sub(0.2).abs().max() < 0.1
    assert torch.equal(scores, Light(5, seed=2).eval()(pictures))
    assert not torch.equal(scores, Light(5, seed=3).eval()(pictures))
    assert sum(map(len, network.parameter_groups().values())) == len(list(network.parameters()))


def test_a_trained_body_is_used_as_it_came(pictures, body, tmp_path):
    path = tmp_path / "descriptor.safetensors"
    last = {"head.3.weight": torch.zeros(32, 64, 1, 1), "head.3.bias": torch.zeros(32)}
    save_file({**body.state_dict(), **last}, path)
    light = Light(5, path).train()
    normalised = (pictures - 0.5) / 0.25
    assert torch.equal(light.backbone(normalised), body(normalised))
    assert torch.allclose(light(pictures)[:1], light(pictures[:1]), atol=1e-5)
    untrained = Light(5, seed=2).train()
    assert not torch.allclose(untrained(pictures)[:1], untrained(pictures[:1]), atol=1e-5)
    save_file({"stem.0.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="descriptor.safetensors lacks .* of the light network"):
        Light(5, path)
