"""CUB, twice: on drawn birds in its layout, always; on the real albatrosses, where they are."""

import numpy as np
import pytest
import torch
from painters.cub import write_cub_fixture
from PIL import Image

from partbook.data.sample import View, batches, cropped, resized
from partbook.readers.cub import CUB, LANDMARKS

EXPECTED = {
    "drawn": {
        "images": 8,
        "train": 4,
        "test": 4,
        "categories": 3,
        "landmarks": 15,
        "visible landmarks": 89,
        "greyscale images": 1,
        "masks": 0,
        "lines of other images, ignored": 0,
    },
    "real": {
        "images": 178,
        "train": 90,
        "test": 88,
        "categories": 3,
        "landmarks": 15,
        "visible landmarks": 1989,
        "greyscale images": 0,
        "masks": 0,
        "lines of other images, ignored": 0,
    },
}
SPECIES = {"drawn": {0: 3, 1: 3, 2: 2}, "real": {0: 60, 1: 60, 2: 58}}


@pytest.fixture(scope="module", params=["drawn", "real"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def root(kind, request, tmp_path_factory):
    if kind == "drawn":
        return write_cub_fixture(tmp_path_factory.mktemp("cub") / "CUB_200_2011")
    return request.getfixturevalue("shared_path")("data/CUB_200_2011")


@pytest.fixture(scope="module")
def samples(root):
    return list(CUB.open(root, "all"))


def test_counts(root, kind):
    cub = CUB.open(root, "all")
    assert cub.counts() == EXPECTED[kind]
    assert cub.landmark_names == LANDMARKS and cub.foreground == "inside the true box"


def test_splits_and_categories(root, kind, samples):
    train, test = (CUB.open(root, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (EXPECTED[kind]["train"], EXPECTED[kind]["test"])
    names = [s.name for s in samples]
    chosen = [names[r] for r in sorted([*train.rows, *test.rows])]
    assert chosen == names and set(train.rows).isdisjoint(test.rows)
    counts = torch.bincount(torch.tensor([s.category for s in samples]))
    assert dict(enumerate(counts.tolist())) == SPECIES[kind]
    second = CUB.open(root, "all", categories=(2,))
    assert (
        len(second) == SPECIES[kind][1]
        and len(second.category_names) == 1
        and second[0].category == 0
    )


def test_every_sample(samples):
    for s in samples:
        H, W = s.size
        x, y, w, h = s.box.tolist()
        assert 0 <= x < x + w <= W and 0 <= y < y + h <= H, s.name
        points = s.landmarks[s.visible]
        assert ((points > 0) & (points < torch.tensor([W, H]))).all(), s.name
        assert torch.equal(points % 1, torch.full_like(points, 0.5)), (
            s.name
        )  # the middle of the pixel that was clicked
        assert not s.landmarks[~s.visible].any()
        near = (points >= s.box[:2] - 12) & (points <= s.box[:2] + s.box[2:] + 12)
        assert near.all(), s.name


def test_one_batch_of_all(root, samples):
    cub = CUB.open(root, "all")
    batch = next(batches(resized(cub, 32), len(cub)))
    assert (
        batch.images.shape == (len(cub), 3, 32, 32)
        and batch.landmarks.shape == (len(cub), 15, 2)
        and batch.boxes.shape == (len(cub), 4)
    )
    assert batch.masks is None and bool((batch.landmarks[batch.visible] <= 32).all())
    small = CUB.open(root, "all", size=32)
    assert torch.equal(small[1].image, batch.images[1]) and torch.equal(
        small[1].landmarks, batch.landmarks[1]
    )
    some = View(cub, indices=range(8))
    birds = next(batches(resized(cropped(some, pad=0.05, square=True), 32), 8))
    assert (
        birds.images.shape == (8, 3, 32, 32)
        and int((batch.visible[:8] & ~birds.visible).sum()) <= 2
    )  # a few lie beyond the box


def test_minimum_of_visible_landmarks(root, kind, samples):
    enough = sum(int(s.visible.sum()) >= 6 for s in samples)
    assert len(CUB.open(root, "all", min_visible=6)) == enough == (178 if kind == "real" else 7)


def test_greyscale(root, samples, tmp_path):
    "A greyscale file, as some of the full data set are, has three equal channels."
    grey = [
        s
        for s in samples
        if torch.equal(s.image[0], s.image[1]) and torch.equal(s.image[1], s.image[2])
    ]
    assert len(grey) == CUB.open(root, "all").counts()["greyscale images"]


def test_landmarks_are_counted_from_zero(kind, samples):
    """An eye is a dark disc: its centre lies on the pixel named, not one before it.

    The centre is averaged over both eyes, so that facing cancels. A window around the landmark is
    moved by whole pixels; where the mean centre of darkness crosses the window's middle is the
    offset sought.
    """
    if kind == "drawn":
        pytest.skip(
            "drawn birds are consistent by construction; this is about the annotators of the "
            "real ones"
        )
    eyes = [LANDMARKS.index("left eye"), LANDMARKS.index("right eye")]
    shifts, r = np.arange(-2, 3), 4
    steps = np.arange(-r, r + 1)
    means = np.zeros((2, len(shifts)))
    for side, eye in enumerate(eyes):
        for j, shift in enumerate(shifts):
            centres = []
            for s in samples:
                if not s.visible[eye]:
                    continue
                x, y = s.landmarks[eye].floor().int().tolist()
                colours = s.image[
                    :, max(y - r, 0) : y + r + 1, max(x + shift - r, 0) : x + shift + r + 1
                ]
                window = np.tensordot(
                    [76.245, 149.685, 29.07], colours.numpy(), 1
                )  # luminance, 0 to 255
                if window.shape == (2 * r + 1, 2 * r + 1) and window.std() >= 8:
                    dark = np.clip(window.mean() - window, 0, None) ** 2
                    centres.append((dark.sum(0) * steps).sum() / dark.sum())
            means[side, j] = np.mean(centres)
    slope, middle = np.polyfit(shifts, means.mean(0), 1)
    offset = -middle / slope
    assert slope < -0.2 and abs(offset) < 0.5, (
        offset
    )  # were pixels counted from one, it would be -1


def test_masks_are_the_majority_and_all_or_none(tmp_path):
    root = write_cub_fixture(tmp_path / "CUB_200_2011", masks=True)
    (tmp_path / "CUB_200_2011" / "segmentations").rename(
        tmp_path / "segmentations"
    )  # beside the folder will do
    cub = CUB.open(root, "all")
    assert cub.foreground == "true masks (segmentations/)" and cub.counts()["masks"] == 8
    path = tmp_path / "segmentations" / "001.Drawn_Albatross" / "bird_0001.png"
    votes = np.asarray(Image.open(path)).copy()
    true = votes > 127
    votes[:10] = 102  # two of five annotators
    Image.fromarray(votes).save(path)
    assert torch.equal(cub[0].mask[10:], torch.from_numpy(true[10:])) and not cub[0].mask[:10].any()
    path.unlink()
    partly = CUB.open(root, "all")
    assert (
        partly.foreground == "inside the true box (segmentations/ lacks 1 of 8)"
        and partly[0].mask is None
    )
