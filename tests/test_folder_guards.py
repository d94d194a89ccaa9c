"""What a folder must not get wrong: order, squares, memory, masks, soft maps, what is none."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from partbook.core import InputError, generator
from partbook.data import folder as chapter
from partbook.data.folder import Folder, find_pictures, natural_key
from partbook.data.pictures import image_size
from partbook.data.sample import resize

MASKS = "masks beside the photographs"


def photograph(seed, height=120, width=160):
    "A disc on a soft ground, different for each seed."
    g = generator(seed)
    soft = F.interpolate(torch.rand(1, 3, 3, 4, generator=g), (height, width), mode="bicubic")
    ground = soft.clamp(0, 1)[0]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cx, cy, r = (torch.rand(3, generator=g) * torch.tensor([60, 40, 15])).tolist()
    disc = (x - cx - 50) ** 2 + (y - cy - 40) ** 2 < (r + 15) ** 2
    image = torch.where(disc, torch.rand(3, 1, 1, generator=g), 0.5 * ground + 0.25)
    return Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())


def write_masks(folder, names):
    for name in names:
        path = (folder / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        H, W = image_size(folder / name)
        mask = torch.zeros(H, W, dtype=torch.uint8)
        mask[H // 4 : -H // 4, W // 4 : -W // 4] = 255
        Image.fromarray(mask.numpy()).save(path)


@pytest.fixture
def holiday(tmp_path):
    "Eight good photographs, one of them in a sub-folder, and everything that can go wrong."
    folder = tmp_path / "holiday"
    (folder / "more").mkdir(parents=True)
    for k in (1, 2, 3, 9, 10):
        photograph(k).save(folder / f"disc{k}.jpg")
    photograph(4).convert("CMYK").save(folder / "scan.jpg")
    photograph(5).convert("L").save(folder / "Old.PNG")
    photograph(6).save(folder / "more" / "disc1.webp")
    content = (folder / "disc1.jpg").read_bytes()
    (folder / "disc4.jpg").write_bytes(content[:1500])
    (folder / "notes.jpg").write_text("the second one is the best\n")
    (folder / "more" / "nothing.png").write_bytes(b"")
    (folder / "readme.txt").write_text("my discs\n")
    (folder / ".thumbnail.jpg").write_bytes(content)
    (folder / "lost.jpg").symlink_to("elsewhere.jpg")
    (folder / "more" / "up").symlink_to("..", target_is_directory=True)
    return folder


def test_names_are_sorted_as_people_do():
    names = ["bird10.jpg", "Bird9.jpg", "bird 2/1.png", "bird9b.jpg", "a.png"]
    wanted = ["a.png", "Bird9.jpg", "bird9b.jpg", "bird10.jpg", "bird 2/1.png"]
    assert sorted(names, key=natural_key) == wanted


def test_what_is_found(holiday):
    found = find_pictures(holiday)
    assert found.pictures == [
        "disc1.jpg",
        "disc2.jpg",
        "disc3.jpg",
        "disc4.jpg",
        "disc9.jpg",
        "disc10.jpg",
        "more/disc1.webp",
        "more/nothing.png",
        "notes.jpg",
        "Old.PNG",
        "scan.jpg",
    ]
    assert found.skipped == [("lost.jpg", "it is a link that leads nowhere")]
    assert found.ignored == 1


def test_what_is_opened(holiday):
    discs = Folder.open(holiday, size=64)
    assert len(discs) == 8 and discs.foreground == "the whole picture" and discs[0].mask is None
    assert dict(discs.skipped)["disc4.jpg"] == "the file is truncated or damaged; copy it again"
    assert discs.counts() == {
        "photographs": 8,
        "skipped": 4,
        "other files, ignored": 1,
        "masks": 0,
        "soft maps": 0,
    }
    assert [len(Folder.open(holiday, split)) for split in Folder.splits] == [8, 8, 8]
    assert discs.batch(range(8)).images.shape == (8, 3, 64, 64)
    assert Folder.open(holiday)[3].size == (120, 160)  # its own size when none is asked for
    for s, t in zip(discs, Folder.open(holiday)):
        assert (s.image - resize(t, 64).image).abs().mean() < 0.01, s.name


def test_squares_are_exact(tmp_path):
    (tmp_path / "sub" / "masks").mkdir(parents=True)
    lines = ((torch.arange(48) % 2).expand(48, 48) * 255).byte()
    Image.fromarray(lines.numpy()).save(tmp_path / "stripes.png")
    greys = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    # only FOLDER/masks itself holds masks
    Image.fromarray(greys.numpy()).save(tmp_path / "sub" / "masks" / "greys.png")
    dotted = torch.full((32, 32), 101, dtype=torch.uint8)
    dotted[::2, ::2] = 100
    Image.fromarray(dotted.numpy()).save(tmp_path / "dotted.png")
    dots, stripes, same = Folder.open(tmp_path, size=16)
    assert ((dots.image * 255).round()[:, 2:-2, 2:-2] == 101).all()
    assert (stripes.image[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.15
    assert torch.equal((same.image * 255).round().byte()[0], greys)


def test_kept_or_read_again(holiday, monkeypatch):
    discs = Folder.open(holiday, size=64)
    monkeypatch.setattr(chapter, "KEEP", 0)
    again = Folder.open(holiday, size=64)
    assert again._images is None
    assert all(torch.equal(s.image, t.image) for s, t in zip(discs, again))


def test_masks(holiday):
    names = Folder.open(holiday).names
    write_masks(holiday, names[:-1])
    some = "masks for 7 of 8 photographs; the first without one is scan.jpg, so add .*scan.png"
    with pytest.raises(InputError, match=some):
        Folder.open(holiday)
    write_masks(holiday, names)
    masked = Folder.open(holiday, size=64)
    assert masked.foreground == MASKS
    assert len(masked) == 8  # the masks themselves are no photographs
    assert masked.batch([0, 7]).masks.float().mean().item() == pytest.approx(0.25)
    assert masked.counts()["masks"] == 8
    for size in (None, 64):
        assert all(s.mask.shape == s.image.shape[1:] for s in Folder.open(holiday, size=size))
    without = Folder.open(holiday, masks=False)
    assert without.foreground == "the whole picture" and without[0].mask is None
    Image.new("L", (10, 10), 255).save(holiday / "masks" / "disc9.png")
    other = "disc9.png is 10x10 pixels, but its photograph disc9.jpg is 160x120"
    with pytest.raises(InputError, match=other):
        Folder.open(holiday)


@pytest.fixture
def soft(tmp_path):
    (tmp_path / "saliency").mkdir()
    ramp = torch.linspace(0, 255, 160).round().byte().expand(120, 160)
    for k in range(3):
        photograph(k).save(tmp_path / f"{k}.jpg")
        Image.fromarray(ramp.numpy()).save(tmp_path / "saliency" / f"{k}.png")
    return tmp_path, ramp


def test_soft_maps(soft, monkeypatch):
    folder, ramp = soft
    whole = Folder.open(folder)
    squares = Folder.open(folder, size=40)
    assert len(whole) == 3
    assert whole.foreground == squares.foreground == "saliency beside the photographs"
    assert whole.counts()["soft maps"] == 3 and squares.counts()["masks"] == 0
    assert torch.equal(whole[1].saliency, ramp / 255)
    assert torch.equal(whole[1].mask, ramp >= 128)
    assert (squares[1].saliency - torch.linspace(0.01, 0.99, 40)).abs().max() < 0.01
    assert squares.batch([0, 1]).saliency.shape == (2, 40, 40)
    with monkeypatch.context() as patch:
        patch.setattr(chapter, "KEEP", 0)
        again = Folder.open(folder, size=40)
        assert again._images is None and torch.equal(again[2].saliency, squares[2].saliency)
    write_masks(folder, whole.names)
    both = Folder.open(folder, size=40)
    assert both.foreground == MASKS and both[0].mask.float().mean() == 0.25
    assert torch.equal(both[0].saliency, squares[0].saliency)


def test_soft_maps_for_some(soft):
    folder, _ = soft
    (folder / "saliency" / "1.png").unlink()
    some = "has saliency for 2 of 3 photographs; the first without one is 1.jpg"
    with pytest.raises(InputError, match=some):
        Folder.open(folder)
    (folder / "saliency" / "1.png").write_text("no picture")
    with pytest.raises(InputError, match="1.png cannot be read as a picture: it is a text file"):
        Folder.open(folder)


def test_nothing_to_read(holiday):
    empty = holiday / "empty"
    empty.mkdir()
    for path, message in [
        (None, "no default place; give it as --data DIR"),
        (empty, "holds no photograph; looked for files ending in .jpg, .jpeg, .png"),
        (holiday / "disc1.jpg", "is a file, not a folder"),
        (holiday / "nowhere", "There is no folder .*nowhere; check the path"),
    ]:
        with pytest.raises(InputError, match=message):
            Folder.open(path)
    (empty / "a.jpg").write_text("not a photograph")
    tried = "can be read \\(1 tried\\), the last being a.jpg: it is a text file"
    with pytest.raises(InputError, match=f"No picture in .* {tried}"):
        Folder.open(empty)
