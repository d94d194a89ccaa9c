"""Landmark regression on the published check points and on real birds, and wrong input."""

import pytest
import torch

from partbook.core import InputError
from partbook.evaluation.benchmarks import cub_baselines, landmark_check, main
from partbook.evaluation.landmarks import (
    LandmarkErrors,
    LandmarkRegression,
    box_scale,
    fill_absent,
    interocular,
    landmark_error,
)
from partbook.evaluation.results import read_rows


def test_published_check_points(shared_path):
    "19 000 faces to fit, 1 000 to test: six decimals."
    standardised, origin = (
        r["landmark_error"] for r in landmark_check(shared_path("data/landmark_regression_check"))
    )
    assert round(standardised, 6) == 3.260942 and round(origin, 6) == 3.481517


def test_trivial_baselines_on_real_birds(shared_path, root):
    "The nine numbers of the contrastive paper's Table 1, as printed; and baselines, lower ones."
    rows = cub_baselines(shared_path("data/CUB_200_2011"))
    paper = {
        r["method"]: r
        for r in read_rows(root / "results" / "published.csv")
        if r["benchmark"] == "CUB landmark regression"
    }
    columns = ("cub_001", "cub_002", "cub_003")
    for row in rows[3:]:
        assert row["source"].startswith("recomputed, as published")
        assert [round(row[c], 1) for c in columns] == [paper[row["method"]][c] for c in columns]
    for described, published in zip(rows[:3], rows[3:]):
        assert all(described[c] < published[c] for c in columns)


def test_command_with_wrong_folders(capsys, tmp_path):
    for arguments, words in (
        (["landmarks"], "nothing to do"),
        (["landmarks", "--check", str(tmp_path)], "is missing"),
        (["landmarks", "--cub", str(tmp_path)], "holds no images.txt"),
        (["overlap", "--labels", "0"], "must be positive"),
    ):
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1 and "Traceback" not in message


def test_memory_does_not_grow_with_pictures():
    "What is kept is moments: their shapes do not depend on how many pictures there were."
    regression = LandmarkRegression()
    shapes = set()
    for _ in range(5):
        regression.update(torch.randn(50, 3, 2), torch.randn(50, 4, 2))
        shapes.add(tuple(m.shape for m in regression._moments))
    assert len(shapes) == 1 and regression.seen.tolist() == [250] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_same_error_on_a_gpu():
    c, l, v = torch.randn(200, 4, 2), torch.randn(200, 5, 2), torch.rand(200, 5) < 0.7
    errors = [
        landmark_error(
            LandmarkRegression().fit(c.to(d), l.to(d), v.to(d)).predict(c.to(d)), l.to(d), v.to(d)
        )
        for d in ("cpu", "cuda")
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)


c, l, v = torch.randn(6, 2, 2), torch.randn(6, 3, 2), torch.ones(6, 3, dtype=torch.bool)
absent = torch.where(torch.arange(12).view(6, 2, 1) == 5, torch.nan, c)
fitted = LandmarkRegression().fit(c, l, v)
BAD = {
    r"centres must be floats of shape \(N,K,2\)": lambda: LandmarkRegression().fit(c.flatten(1), l),
    "must be floats of shape": lambda: LandmarkRegression().fit(c.long(), l),
    "no part centres to learn from": lambda: LandmarkRegression().fit(c[:0], l[:0]),
    "one set for each picture": lambda: LandmarkRegression().fit(c, l[:5]),
    "Visibility must be boolean of shape": lambda: LandmarkRegression().fit(c, l, v[:, :2]),
    "Visibility must be boolean of shape .*, not torch.float32": lambda: LandmarkRegression().fit(
        c, l, v.float()
    ),
    "marked visible has coordinates that are not finite": lambda: LandmarkRegression().fit(
        c, torch.where(v[..., None], torch.nan, l), v
    ),
    "1 part centres are absent": lambda: LandmarkRegression().fit(absent, l),
    "midpoint must have shape": lambda: fill_absent(absent, torch.ones(3)),
    "call fit or update first": lambda: LandmarkRegression().predict(c),
    "fitted on 2 parts, not on 1": lambda: fitted.predict(c[:, :1]),
    "same numbers of parts and landmarks": lambda: (
        LandmarkRegression().fit(c, l).update(c[:, :1], l)
    ),
    "must have one shape": lambda: landmark_error(l[:, :2], l),
    "Visibility must be boolean": lambda: landmark_error(l, l, v.long()),
    "The scale must have shape": lambda: landmark_error(l, l, v, torch.ones(5)),
    "scale of picture 3 is not a positive number": lambda: landmark_error(
        l, l, v, torch.tensor([1.0, 1, 1, 0, 1, 1])
    ),
    "scale of picture 0": lambda: landmark_error(l, l, v, interocular(torch.zeros_like(l), 0, 1)),
    "scale of picture 5": lambda: landmark_error(
        l, l, v, box_scale(torch.tensor([[0.0, 0, 2, 3]] * 5 + [[0.0, 0, 2, float("nan")]]))
    ),
    "Boxes must have shape": lambda: box_scale(torch.ones(6, 2)),
    "No visible landmark was measured": lambda: landmark_error(l, l, v & False),
    "so there is no landmark error": lambda: LandmarkErrors().percent(),
    "Landmark 2 is visible here but was never visible in training": lambda: landmark_error(
        LandmarkRegression().fit(c, l, v & torch.tensor([True, True, False])).predict(c), l, v
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input(words):
    with pytest.raises(InputError, match=words) as error:
        BAD[words]()
    assert "\n" not in str(error.value)


def test_a_picture_without_visible_landmarks_needs_no_scale():
    scale = torch.tensor([1.0, 1, 1, 0, 1, 1])
    seen = v & (torch.arange(6) != 3)[:, None]
    assert landmark_error(l + 1, l, seen, scale) == pytest.approx(100 * 2**0.5)
