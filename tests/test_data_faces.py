"""Drawn faces: the same bits always, fitting annotations; features tell parts, colours do not."""

import pytest
import torch

from partbook.core import InputError
from partbook.data.sample import Kept, View, collections
from partbook.drawn import faces as F
from partbook.drawn.engine import Stream
from partbook.drawn.faces import CLOTHES, HOME, LOWER, MIDDLE, NECK, UPPER, Faces, pose_face
from partbook.evaluation.protocols import PixelOverlap
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings


@pytest.fixture(scope="module")
def few():
    return Faces.open(split="test", size=64).batch(range(40))


@pytest.fixture(scope="module")
def learned():
    "Faces to learn from, and held-out ones of other people."
    return [
        Kept(View(collections["faces"].open(split=split, size=64), indices=range(n)))
        for split, n in (("train", 240), ("test", 120))
    ]


def people(n, **numbers):
    own = Stream(0, torch.arange(n))
    p = F.own_head(own) | F.own_hair(own) | F.look(own) | F.worn(own)
    return F.turn(p | {k: torch.full((n,), float(v)) for k, v in numbers.items()})


def test_same_bits_alone_and_together(few):
    alone = Faces.open(split="test", size=64)[17]
    for field, value in (
        ("image", few.images),
        ("mask", few.masks),
        ("parts", few.parts),
        ("landmarks", few.landmarks),
        ("visible", few.visible),
        ("box", few.boxes),
    ):
        assert torch.equal(getattr(alone, field), value[17]), field
    assert alone.name == few.names[17] and alone.category == int(few.categories[17])


def test_next_year_the_same(few):
    assert few.categories[:8].tolist() == [385, 376, 373, 300, 362, 369, 308, 312]
    assert torch.bincount(few.parts[:8].flatten()).tolist() == pytest.approx(
        [19945, 2483, 2126, 2106, 1333, 855, 3920], abs=2
    )
    assert float(few.landmarks[:8].mean()) == pytest.approx(34.60304, abs=0.001) and float(
        few.boxes[:8].mean()
    ) == pytest.approx(25.53125)
    assert few.images[:8].mean((0, 2, 3)).tolist() == pytest.approx(
        [0.49557, 0.47315, 0.41647], abs=1e-4
    )


@pytest.mark.parametrize(
    "yaw, pitch",
    [(0.0, 0.0), (0.55, 0.2), (-0.55, 0.2), (0.55, -0.2), (-0.7, 0.0), (0.7, 0.0), (-0.3, -0.2)],
)
@pytest.mark.parametrize("smile, gape", [(-0.2, 0.0), (1.1, 1.0)])
def test_landmarks_are_where_the_chart_shows_them(yaw, pitch, smile, gape):
    p = people(60, yaw=yaw, pitch=pitch, smile=smile, open=gape)
    wanted = F.face_landmarks(p)
    seen = F.unchart(p, wanted)
    at = F.chart(p, seen[:, None, :, 0], seen[:, None, :, 1])
    torch.testing.assert_close(torch.stack([at.u[:, 0], at.v[:, 0]], -1), wanted, atol=1e-4, rtol=0)
    assert (at.edge < 0).all()  # on the head


def test_a_turned_head_is_a_turned_ellipse():
    p = people(30, yaw=0.6, pitch=0.0)
    y = torch.full((30, 1, 1), -0.4)
    head = F.outline(p, 0 * y, y)
    a, phi = head.half * head.root, torch.linspace(-1.2, 0.8, 11)
    x = a * (phi.sin() * torch.tensor(0.6).cos() + 1.12 * phi.cos() * torch.tensor(0.6).sin())
    torch.testing.assert_close(F.chart(p, x, y.expand_as(x)).u, a * phi.sin(), atol=1e-4, rtol=0)


def test_labels_masks_boxes_and_landmarks_agree(few):
    assert (
        torch.equal(few.parts > 0, few.masks)
        and few.parts.min() == 0
        and few.parts.max() == CLOTHES
    )
    heads = few.masks & (few.parts < NECK)
    for head, box in zip(heads, few.boxes):
        y, x = head.nonzero().unbind(1)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
    x, y = few.landmarks.floor().long().clamp(0, 63).unbind(-1)
    own = few.parts[torch.arange(len(few))[:, None], y, x] == torch.tensor(HOME)
    assert own[few.visible].float().mean() > 0.97
    assert (few.landmarks[:, 0, 0] < few.landmarks[:, 1, 0]).all() and (
        few.landmarks[:, 3, 0] < few.landmarks[:, 4, 0]
    ).all()  # left of the picture


def test_a_hand_hides_and_is_no_part():
    place = {"hand_side": 1.0, "hand_up": 0.4, "hand_x": 0.0, "hand_turn": 0.0}
    free, hidden = pose_face(24, **place), pose_face(24, hand=1.0, **place)
    assert free.visible.all() and not hidden.visible[3:].all() and hidden.visible[:2].all()
    assert hidden.mask.sum() < free.mask.sum() and torch.equal(
        hidden.parts[free.parts == UPPER], free.parts[free.parts == UPPER]
    )
    covered = (hidden.parts == 0) & (free.parts > 0)
    assert set(free.parts[covered].unique().tolist()) & {LOWER, NECK, MIDDLE} and torch.equal(
        hidden.parts[~covered], free.parts[~covered]
    )


def test_a_hat_counts_as_hair():
    bare, capped = pose_face(24), pose_face(24, hat=1.0)
    changed = bare.parts != capped.parts
    assert (capped.parts[changed] == F.HAIR).all() and changed.sum() > 50


def test_people_stay_in_their_split_and_keep_their_faces():
    members = {split: Faces(split).scene(range(len(Faces(split)))) for split in Faces.splits}
    sets = {split: set(scene.identity.tolist()) for split, scene in members.items()}
    assert (
        sets["train"] <= set(range(250))
        and sets["val"] <= set(range(250, 300))
        and sets["test"] <= set(range(300, 400))
    )
    scene, who = members["test"], int(members["test"].identity[0])
    rows = (scene.identity == who).nonzero()[:, 0]
    assert len(rows) > 1
    for name in ("wide", "eye x", "mouth", "style", "volume"):
        assert len(scene.pose[name][rows].unique()) == 1, name
    assert (
        len(scene.pose["yaw"][rows].unique()) == len(rows)
        and len(scene.colours["skin"][rows].unique(dim=0)) == 1
    )


def test_unaligned():
    scene = Faces.open().scene(range(500))
    middle, eyes = scene.landmarks.mean(1), scene.landmarks[:, 1] - scene.landmarks[:, 0]
    assert (
        (middle.std(0) > torch.tensor([0.08, 0.06])).all()
        and (middle > 0).all()
        and (middle < 1).all()
    )
    length = eyes.norm(dim=-1)
    assert length.max() / length.min() > 1.5 and torch.atan2(eyes[:, 1], eyes[:, 0]).std() > 0.12


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: Faces.open(size=8), "at least 16"),
        (lambda: Faces.open(split="dev"), "no split 'dev'"),
        (lambda: Faces.open(seed=-1), "seed is -1"),
        (lambda: Faces.open(split="test")[500], "indices go from 0 to 499"),
        (lambda: Faces.open()[-1], "no face"),
        (lambda: Faces.open().batch([]), "at least one index"),
        (lambda: Faces.open().batch([0], beak=1.0), "no parameter 'beak'"),
        (lambda: pose_face(400), "no person 400"),
        (lambda: pose_face(-1), "no person -1"),
        (lambda: pose_face(0, tail=1.0), "no parameter 'tail'"),
    ],
)
def test_wrong_input(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong()


def fg_nmi(features, learned, seed):
    method = KMeans(
        KMeansSettings(features=features, parts=6, seed=seed, steps=10), load_extractor(features)
    ).fit(learned[0])
    return PixelOverlap().evaluate(method, *learned)["fg_nmi"]


def test_colours_do_not_tell(learned):
    assert max(fg_nmi("rgb", learned, seed) for seed in range(3)) <= 20


def test_descriptors_find_parts(learned):
    "The descriptors that ship were trained on birds, and never saw a face."
    assert sum(fg_nmi("equivariant", learned, seed) for seed in range(3)) / 3 >= 30
