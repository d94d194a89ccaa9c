"""A background learned with the parts: the rule, the guess, and a method kept inside it."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.sample import Collection, Sample
from partbook.features.extractor import RGB
from partbook.features.foreground import Component, Robust, foregrounds, learn_inside
from partbook.methods.background import (
    Clusters,
    Inside,
    as_many_centres,
    border_ratios,
    border_shares,
    memberships,
    object_odds,
    on_border,
    with_background,
)
from partbook.methods.dff import DFF, DFFSettings
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.methods.method import load_method, save_method
from partbook.parts.maps import upsample


class Flags(Collection):
    "A disc, its halves red and yellow, on grass or on sky; the truth is known."

    def __init__(self, count=8, size=32, plain=False):
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        self.inside = (y - size / 2).square() + (x - size / 2).square() < (size / 3.5) ** 2
        self.left = x < size / 2
        self.count = count
        self.plain = plain

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        ground = torch.tensor([[0.1, 0.6, 0.1], [0.3, 0.5, 0.95]][i % 2])
        paint = torch.where(self.left, 0.1, 0.8)
        flag = torch.stack([torch.full_like(paint, 0.9), paint, torch.full_like(paint, 0.05)])
        image = torch.where(self.inside, flag, ground[:, None, None])
        if self.plain:
            image = torch.full_like(image, 0.5)
        noise = 0 if self.plain else 0.02 * torch.rand(image.shape, generator=generator(i))
        return Sample((image + noise).clamp(0, 1), f"flag{i}")


@pytest.fixture(scope="module")
def flags():
    return Flags()


@pytest.fixture(scope="module")
def images(flags):
    return flags.batch(range(4)).images


@pytest.fixture(scope="module")
def guess(flags):
    return Clusters.fitted(flags, RGB(), count=4)


@pytest.fixture(scope="module")
def whole(flags, guess):
    "K-means inside the guess, and the guess kept with it."
    seen = learn_inside(flags, "clusters", RGB())
    settings = KMeansSettings(parts=2, features="rgb", size=32, steps=2)
    return Inside(KMeans(settings, RGB()).fit(seen), guess)


def test_the_ring_is_a_tenth_of_the_side():
    for size, width in ((4, 1), (14, 1), (16, 2), (20, 2), (40, 4)):
        ring = on_border((size, size))
        assert (~ring).sum() == (size - 2 * width) ** 2 and not ring[
            width:-width, width:-width
        ].any()
    assert on_border((1, 1)).all() and on_border((2, 9)).all()
    assert on_border((3, 30)).sum() == 90 - 1 * 24


def test_belonging_fades_with_squared_distance():
    vectors = torch.randn(50, 3, generator=generator(0))
    centres = torch.randn(4, 3, generator=generator(1))
    squared = (vectors[:, None] - centres).square().sum(-1)
    q = memberships(vectors, centres, 0.7)
    assert torch.allclose(q, (-squared / 0.7).softmax(1), atol=1e-5)
    nearest = F.one_hot(squared.argmin(1), 4).float()
    assert torch.allclose(memberships(vectors, centres, 1e-4), nearest, atol=1e-2)


def test_ratios_average_to_one_and_bayes_agrees():
    q = torch.rand(400, 5, generator=generator(0)).softmax(1)
    border = torch.rand(400, generator=generator(1)) < 0.3
    whole, edge = border_shares(q, border)
    assert torch.isclose(whole.sum(), torch.ones(())) and torch.isclose(edge.sum(), torch.ones(()))
    ratios = border_ratios(whole, edge)
    assert torch.isclose((whole * ratios).sum(), torch.ones(()))
    assert torch.isclose((q @ ratios).mean(), torch.ones(()))
    certain = F.one_hot(torch.arange(400) % 5, 5).float()
    whole, edge = border_shares(certain, border)
    odds = object_odds(certain, border_ratios(whole, edge))
    shares = [float(border[m::5].float().mean() / border.float().mean()) for m in range(5)]
    assert odds[:5].exp().reciprocal().tolist() == pytest.approx(shares, rel=1e-4)


def test_a_border_like_everything_else_says_nothing():
    share = torch.tensor([0.25, 0.75])
    assert border_ratios(share, share).eq(0).all()
    assert object_odds(torch.eye(2), torch.zeros(2)).gt(0).all()
    small = Flags(4, 2)  # every cell lies on the border
    guess = Clusters.fitted(small, RGB(), count=2)
    assert guess.ratios.eq(0).all() and guess.masks(small[0].image[None]).all()


def test_the_disc_is_found_on_grass_and_on_sky(flags, guess, images):
    found = guess.masks(images)
    assert (found == flags.inside).float().mean() > 0.97
    assert torch.equal(found, guess.odds(images) > 0)  # rgb has a cell for each pixel
    assert guess.ratios.gt(1).sum() >= 2 and guess.ratios.lt(0.5).sum() >= 2


def test_too_few_descriptors_for_so_many_clusters(flags):
    for few in (Flags(1, 16, plain=True), Flags(1, 2)):
        found = Clusters.fitted(few, RGB(), count=64)
        assert len(found.centres) < 64 and found.masks(few[0].image[None]).all()
    centres, J = as_many_centres(torch.ones(5, 3), 16, generator(0))
    assert len(centres) == 1 and J == 0
    with pytest.raises(InputError, match="K is 1 but there are only 0"):
        as_many_centres(torch.ones(0, 3), 16, generator(0))
    with pytest.raises(InputError, match="'clusters' is read off features.*choose robust"):
        Clusters.fitted(flags)


def test_labels_are_the_background_or_the_parts_inside(whole, images):
    labels = whole.labels(images)
    odds = upsample(whole.estimate.odds(images)[:, None], images.shape[-2:])[:, 0]
    assert torch.equal(labels == 0, odds <= 0)
    assert torch.equal(labels[odds > 0], whole.inner.labels(images)[odds > 0])
    assert sorted(labels.unique().tolist()) == [0, 1, 2]
    logits = whole.logits(images)
    assert torch.equal(whole.read_labels(logits, background=False), whole.inner.labels(images))
    mask = torch.zeros_like(labels).bool()
    assert not whole.labels(images, mask).any()


def test_the_share_of_the_background_is_the_likelihood_ratio(whole, images):
    logits = whole.logits(images)
    R = whole.part_maps(images)
    assert logits[:, 1:].amax(1).abs().max() < 1e-6
    assert torch.allclose(logits[:, 0], -whole.estimate.odds(images), atol=1e-6)
    assert torch.allclose(R.sum(1), torch.ones_like(R[:, 0]), atol=1e-5)
    ratio = (R[:, 0] / R[:, 1:].amax(1)).log()
    assert torch.allclose(ratio, logits[:, 0], atol=1e-3)
    assert whole.has_background and whole.parts == 2 and R.shape[1] == 3


@pytest.mark.parametrize("kind", ["clusters", "border", "component", "robust"])
def test_a_saved_model_is_the_same(kind, flags, images, tmp_path):
    settings = KMeansSettings(parts=2, features="rgb", size=32, steps=0)
    guess = foregrounds[kind].fitted(flags, RGB())
    made = with_background(KMeans(settings, RGB()).fit(flags), guess)
    save_method(made, tmp_path / "m")
    loaded, record = load_method(tmp_path / "m")
    assert record["wrapped"] == [{"wrapper": "inside", "foreground": kind}]
    assert isinstance(loaded, Inside) and type(loaded.estimate) is foregrounds[kind]
    assert torch.equal(loaded.logits(images), made.logits(images))
    assert torch.equal(loaded.labels(images), made.labels(images))
    assert loaded.estimate.reads_features == (kind != "robust")


def test_the_guess_moves_with_the_method(flags, images, guess):
    settings = KMeansSettings(parts=2, features="rgb", size=32, steps=0)
    made = Inside(KMeans(settings, RGB()).fit(flags), guess)
    before = made.labels(images)
    assert made.double().estimate.centres.dtype == torch.float64
    assert made.estimate.extractor is made.inner.extractor
    assert torch.equal(made.labels(images.double()), before)
    assert torch.equal(made.float().labels(images), before)


DAMAGE = {
    "no ratios": lambda t, p: t.pop(p + "ratios"),
    "another number of clusters": lambda t, p: t.update({p + "ratios": torch.ones(3)}),
    "other features": lambda t, p: t.update({p + "centres": torch.ones(4, 7)}),
    "not a number": lambda t, p: t[p + "ratios"].fill_(torch.nan),
    "no width": lambda t, p: t[p + "width"].fill_(0),
    "one too many": lambda t, p: t.update({p + "more": torch.ones(1)}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors_are_one_sentence(damage, whole, tmp_path):
    from safetensors.torch import load_file, save_file

    save_method(whole, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    DAMAGE[damage](tensors, "wrapped0.")
    save_file(tensors, path)
    record = json.loads((tmp_path / "m" / "model.json").read_text())
    record.pop("tensors")
    (tmp_path / "m" / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="the wrapper inside does not fit.*again") as error:
        load_method(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["luck", None, 3, ["clusters"]])
def test_a_damaged_record_is_one_sentence(kind, whole, tmp_path):
    save_method(whole, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    record = json.loads(path.read_text())
    record["wrapped"][0]["foreground"] = kind
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="the wrapper inside does not fit.*no foreground named"):
        load_method(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")


def test_a_background_of_its_own_stays(flags, guess):
    own = DFF(DFFSettings(parts=2, features="rgb", size=32, background=0.1), RGB())
    assert own.has_background and with_background(own, None) is own
    with pytest.raises(InputError, match="'dff' has a background of its own"):
        Inside(own, guess)


def test_other_guesses_can_be_kept_too(flags, images):
    settings = KMeansSettings(parts=2, features="rgb", size=32, steps=0)
    kmeans = KMeans(settings, RGB()).fit(flags)
    for guess in (Robust(), Component.fitted(flags, RGB())):
        made = with_background(kmeans, guess)
        assert torch.equal(made.labels(images) > 0, guess.saliency(images) > 0.5)
