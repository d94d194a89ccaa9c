"""Saliency: the command on a folder, and real photographs beside guesses that look at nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from partbook.cli import main
from partbook.data.folder import Folder
from partbook.data.pascal import PASCAL
from partbook.data.saliency import saliency
from partbook.data.sample import collections, resize


@pytest.fixture
def album(tmp_path):
    for s in collections["birds"].open(split="train", size=64).batch(range(3)).samples():
        Image.fromarray((s.image.permute(1, 2, 0) * 255).byte().numpy()).resize((90, 70)).save(tmp_path / f"{s.name.split()[-1]}.png")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (50, 40), (90, 20, 60)).save(tmp_path / "more" / "plain.jpg")
    return tmp_path


def test_masks_are_written_where_discover_finds_them(album, capsys):
    assert main(["saliency", str(album)]) == 0 and "4 written, 0 there already, 0 skipped" in capsys.readouterr().out
    samples = list(Folder.open(album))
    assert len(samples) == 4 and all(s.mask.shape == s.image.shape[1:] for s in samples)
    assert set(np.unique(Image.open(album / "masks" / "more" / "plain.png"))) <= {0, 255}
    assert main(["discover", "--data", str(album), "--features", "rgb", "--size", "16", "--parts", "2", "--steps", "1", "--out", str(album / "out")]) == 0


def test_what_is_there_is_left_alone(album, capsys):
    (album / "masks").mkdir()
    own = album / "masks" / f"{next(album.glob('*.png')).stem}.png"
    Image.new("L", (90, 70), 255).save(own)
    before = own.read_bytes()
    (album / "broken.jpg").write_bytes(b"no picture")
    assert main(["saliency", str(album)]) == 0
    said = capsys.readouterr().out
    assert "3 written, 1 there already, 1 skipped" in said and "broken.jpg" in said and own.read_bytes() == before


def test_soft_maps_elsewhere(album, tmp_path):
    assert main(["saliency", str(album), "--soft", "--out", str(tmp_path / "maps"), "--patches", "60"]) == 0
    values = np.concatenate([np.unique(np.asarray(Image.open(p))) for p in (tmp_path / "maps").rglob("*.png")])
    assert len(np.unique(values)) > 10 and not (album / "masks").exists()


def test_no_photographs(tmp_path, capsys):
    assert main(["saliency", str(tmp_path)]) == 2 and "holds no photograph" in capsys.readouterr().err
    assert main(["saliency", str(tmp_path / "nowhere")]) == 2


def test_better_than_the_middle_on_real_photographs(shared_path):
    "The objects of PASCAL's photographs, all of them together: what a person calls salient is often only one of them."
    album = PASCAL.open(shared_path("data/VOCdevkit"), "all", lists="Segmentation", categories="all", unit="image", area=0.1, min_parts=0, mask="object")
    scores = {"saliency": [], "middle": [], "everything": []}
    for s in album:
        s = resize(s, 200)
        middle = torch.zeros_like(s.mask)
        middle[50:150, 50:150] = True
        for name, guess in (("saliency", saliency(s.image[None])[0] > 0.5), ("middle", middle), ("everything", torch.ones_like(s.mask))):
            scores[name].append(float((guess & s.mask).sum() / (guess | s.mask).sum()))
    mean = {name: sum(v) / len(v) for name, v in scores.items()}
    assert mean["saliency"] > max(mean["middle"], mean["everything"]) + 0.05
