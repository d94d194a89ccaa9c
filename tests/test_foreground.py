"""The guessed foreground on real birds: it holds their landmarks, on much less than their boxes."""

import pytest
import torch

from partbook.data.sample import Kept
from partbook.evaluation.protocols import object_view
from partbook.features.extractor import load_extractor
from partbook.features.foreground import learn_inside
from partbook.readers.cub import CUB


@pytest.mark.parametrize("by", ["component", "border"])
def test_it_holds_the_landmarks_of_real_birds(shared_path, by):
    phi = load_extractor("squeezenet1_1", shared_path("weights/squeezenet1_1_features.safetensors"))
    birds = Kept(object_view(CUB.open(shared_path("data/CUB_200_2011"), "train"), 256))
    batch = learn_inside(birds, by, phi).batch(range(len(birds)))
    x, y = batch.landmarks.floor().long().clamp(0, 255).unbind(-1)
    inside = batch.masks[torch.arange(len(batch))[:, None], y, x] & batch.visible
    assert batch.masks.float().mean() < 0.4 and inside.sum() / batch.visible.sum() > 0.75
