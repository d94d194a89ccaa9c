"""The command and the protocols on real files, where they are: faces, cars, PASCAL-Part."""

import json
import os

import pytest

from partbook.cli import main
from partbook.data.sample import Kept, collections
from partbook.evaluation.protocols import default_protocols, object_view, protocols
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings

QUICK = ["--features", "position", "--size", "32", "--parts", "4", "--steps", "1", "--no-baselines"]
ROOTS = {
    "celeba": ("data/celeba_aligned_half", ["--option", "variant=aligned"], {"landmark_error"}),
    "coco-parts": ("data/car_parts", [], {"fg_nmi", "fg_ari", "map_iou"}),
    "cub": (
        "data/CUB_200_2011",
        ["--option", "categories=1"],
        {"fg_nmi", "landmark_error", "fg_ari_inclusive"},
    ),
}


@pytest.mark.parametrize("name", ROOTS)
def test_discover_and_evaluate(name, shared_path, tmp_path):
    path, options, expected = ROOTS[name]
    where = ["--data", name, "--root", str(shared_path(path)), *options]
    assert main(["discover", *where, *QUICK, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert expected <= set(record) and (tmp_path / "parts.png").stat().st_size > 10_000
    assert (
        main(["evaluate", str(tmp_path / "model"), *where, "--out", str(tmp_path / "again.json")])
        == 0
    )
    again = json.loads((tmp_path / "again.json").read_text())["protocols"]
    assert expected <= {m for found in again.values() for m in found}
    for found in again.values():
        assert found == {k: record[k] for k in found}


def test_pascal_is_evaluated_on_its_parts(shared_path):
    pictures = Kept(
        object_view(
            collections["pascal"].open(shared_path("data/VOCdevkit"), "all", lists="Segmentation"),
            32,
        )
    )
    assert default_protocols(pictures)[0] == "pixels"
    method = KMeans(
        KMeansSettings(parts=4, features="position", size=32, steps=1), load_extractor("position")
    ).fit(pictures)
    for name in ("pixels", "co-segmentation"):
        found = protocols[name]().evaluate(method, pictures, pictures)
        assert all(0 <= v <= 100 for v in found.values())
    assert (
        found["iou"] == found["iou_everything"] > 20
    )  # k-means has no background: the share of the object in its box


def test_another_split_is_another_result(shared_path, tmp_path):
    where = [
        "--data",
        "cub",
        "--root",
        str(shared_path("data/CUB_200_2011")),
        "--option",
        "categories=1",
    ]
    assert main(["discover", *where, *QUICK, "--out", str(tmp_path)]) == 0
    found = {}
    for split in ("train", "test"):
        assert (
            main(
                [
                    "evaluate",
                    str(tmp_path / "model"),
                    *where,
                    "--split",
                    split,
                    "--out",
                    str(tmp_path / f"{split}.json"),
                ]
            )
            == 0
        )
        found[split] = json.loads((tmp_path / f"{split}.json").read_text())["protocols"][
            "landmark-overlap"
        ]["fg_nmi"]
    assert found["train"] != found["test"] and os.path.exists(tmp_path / "model")
