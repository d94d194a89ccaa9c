"""Detection metrics: the literal rules, invariances, empty cases, real landmarks, bad input."""

import numpy as np
import pytest
import torch
import torchvision
from sklearn.metrics import average_precision_score

from partbook.core import InputError, generator
from partbook.data.sample import Collection, Sample, View, collections
from partbook.evaluation.detection import (
    Detected,
    LandmarkDetection,
    PartDetection,
    averaged,
    best_iou,
    by_part,
    clipped,
    detection_baselines,
    foreground_maps,
    framed,
    mean_positions,
    unit_of,
)
from partbook.evaluation.precision import (
    RULES,
    ScoredHits,
    assign,
    average_precision,
    iou,
    peaks,
    precision_recall,
    shared,
    true_positives,
)
from partbook.evaluation.protocols import default_protocols, protocols
from partbook.methods.method import Method, Settings


def voc(detections, truths, threshold=0.5, rule="all"):
    "The challenge's procedure; detections: (score, picture, box), truths: picture -> boxes."
    taken, right = set(), []
    for _, picture, box in sorted(detections, key=lambda d: -d[0]):
        overlaps = [float(iou(box, t)) for t in truths.get(picture, [])]
        j = int(np.argmax(overlaps)) if overlaps else None
        right.append(bool(overlaps) and overlaps[j] > threshold and (picture, j) not in taken)
        if right[-1]:
            taken.add((picture, j))
    n = sum(map(len, truths.values()))
    recall = np.concatenate([[0], np.cumsum(right) / n, [1]])
    precision = np.concatenate([[0], np.cumsum(right) / np.arange(1, len(right) + 1), [0]])
    if rule == "eleven":
        return np.mean([precision[1:-1][recall[1:-1] >= i / 10].max(initial=0) for i in range(11)])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return float(((recall[1:] - recall[:-1]) * precision[1:]).sum())


@pytest.mark.parametrize("rule", ["all", "eleven"])
@pytest.mark.parametrize("seed", range(6))
def test_bulk_form_is_the_challenge_s_procedure(seed, rule):
    g = generator(seed)
    B, K, D, P, J = 12, 2, 3, 2, 3
    scores = torch.rand(B, K, D, generator=g).sort(-1, descending=True).values
    boxes = torch.cat([2 * torch.rand(B, K, D, 2, generator=g), torch.ones(B, K, D, 2)], -1)
    truth = torch.cat(
        [2 * torch.rand(B, P, J, 2, generator=g), 0.7 + 0.6 * torch.rand(B, P, J, 2, generator=g)],
        -1,
    )
    there = torch.rand(B, P, J, generator=g) < 0.6
    overlap = iou(boxes[:, :, :, None, None], truth[:, None, None]).masked_fill(
        ~there[:, None, None], -torch.inf
    )
    table = ScoredHits().update(scores, true_positives(overlap, 0.3), there.sum(-1)).ap(rule)
    for k in range(K):
        for p in range(P):
            listed = [
                (float(scores[b, k, d]), b, boxes[b, k, d]) for b in range(B) for d in range(D)
            ]
            truths = {b: [truth[b, p, j] for j in range(J) if there[b, p, j]] for b in range(B)}
            assert table[k, p].item() == pytest.approx(voc(listed, truths, 0.3, rule), abs=1e-12)
    assert 0.02 < table.mean() < 0.95


@pytest.mark.parametrize("ties", [False, True])
def test_uninterpolated_is_scikit_learn_s(ties):
    g = generator(1)
    scores = torch.rand(5, 300, generator=g)
    scores = (scores * 12).round() if ties else scores
    hits = torch.rand(5, 300, 3, generator=g) < 0.2
    found = average_precision(scores, hits, hits.sum((0, 1)) * 0 + 300, "none")
    for k in range(5):
        for p in range(3):
            n = int(hits[k, :, p].sum())
            assert found[k, p].item() == pytest.approx(
                average_precision_score(hits[k, :, p], scores[k]) * n / 300, abs=1e-12
            )


def test_order_of_files_does_not_matter_even_with_ties():
    g = generator(2)
    scores, hits = (torch.rand(200, generator=g) * 6).round(), torch.rand(200, 2, generator=g) < 0.4
    order = torch.randperm(200, generator=g)
    for rule in RULES:
        one, other = (
            average_precision(s, h, torch.tensor([90, 120]), rule)
            for s, h in ((scores, hits), (scores[order], hits[order]))
        )
        assert torch.allclose(one, other, atol=1e-14)


def test_only_the_order_of_scores_matters():
    g = generator(3)
    scores, hits = torch.randn(50, generator=g), torch.rand(50, 1, generator=g) < 0.5
    assert average_precision(scores, hits, torch.tensor([30])) == average_precision(
        scores.exp() * 7, hits, torch.tensor([30])
    )
    assert average_precision(scores, hits, torch.tensor([30])) != average_precision(
        -scores, hits, torch.tensor([30])
    )


def test_interpolated_curve_lies_above_and_recall_ends_right():
    g = generator(4)
    scores, hits = torch.rand(80, generator=g), torch.rand(80, 1, generator=g) < 0.4
    n = torch.tensor([50])
    precision, recall, _ = precision_recall(scores, hits, n)
    assert (
        recall[-1].item() == pytest.approx(int(hits.sum()) / 50) and (recall.diff(dim=0) >= 0).all()
    )
    assert average_precision(scores, hits, n) >= average_precision(scores, hits, n, "none")


@pytest.mark.parametrize("t", [0.1, 0.3, 0.5, 0.9])
def test_shared_area_and_overlap(t):
    s = shared(t)
    assert s / (2 - s) == pytest.approx(t)


@pytest.mark.parametrize("seed", range(4))
def test_peaks_are_torchvision_s_greedy_suppression(seed):
    g = generator(seed)
    maps = torch.rand(2, 3, 9 + seed, 12, generator=g)
    box = torch.tensor([[3.0 + seed, 4.5], [2.0, 6.0]])
    scores, points = peaks(maps, 30, box, 0.25)
    top = torch.nn.functional.max_pool2d(maps, 3, 1, 1) == maps
    for b in range(2):
        for k in range(3):
            y, x = top[b, k].nonzero(as_tuple=True)
            middle = torch.stack([x, y], 1) + 0.5
            kept = torchvision.ops.nms(
                torch.cat([middle - box[b] / 2, middle + box[b] / 2], 1), maps[b, k, y, x], 0.25
            )
            n = int(scores[b, k].isfinite().sum())
            assert (
                n == len(kept)
                and torch.equal(points[b, k, :n], middle[kept])
                and torch.equal(scores[b, k, :n], maps[b, k, y, x][kept])
            )


def test_fewer_peaks_are_the_first_of_many():
    maps = torch.rand(2, 2, 10, 10, generator=generator(0))
    box = torch.tensor([3.0, 3.0])
    many, few = peaks(maps, 9, box), peaks(maps, 2, box)
    assert torch.equal(many[0][..., :2], few[0]) and torch.equal(many[1][..., :2, :], few[1])
    assert (many[0].diff(dim=-1).nan_to_num(0) <= 0).all()


def test_a_constant_map_is_one_peak_for_a_large_box():
    scores, _ = peaks(torch.ones(1, 1, 4, 4), 5, torch.tensor([50.0, 50.0]))
    assert scores[0, 0].tolist() == [1.0] + 4 * [-np.inf]


def test_best_iou_without_border_is_a_matter_of_size():
    boxes = torch.tensor([[0.0, 0, 50, 100], [0, 0, 100, 100], [5, 5, 200, 100], [0, 0, 25, 25]])
    assert best_iou(boxes).tolist() == pytest.approx([0.5, 1, 0.5, 0.0625])
    assert best_iou(boxes, 50.0).tolist()[3] == pytest.approx(0.25)


@pytest.mark.parametrize("side", [40.0, 100.0, 260.0])
def test_best_iou_at_the_border_is_what_every_place_finds(side):
    g, frame = generator(5), torch.tensor([230.0, 224.0])
    true = clipped(
        torch.cat(
            [torch.rand(40, 2, generator=g) * 220, 4 + 120 * torch.rand(40, 2, generator=g)], 1
        ),
        frame,
    )
    grid = torch.cartesian_prod(torch.linspace(0, 230, 116), torch.linspace(0, 224, 113))
    tried = iou(
        clipped(torch.cat([grid - side / 2, torch.full_like(grid, side)], 1), frame), true[:, None]
    ).amax(1)
    best = best_iou(true, side, frame)
    assert (tried <= best + 1e-5).all() and (tried > best - 0.06).all()


@pytest.mark.parametrize(
    "value,strict,right",
    [
        (0.5, True, False),
        (0.5, False, True),
        (0.51, True, True),
        (0.49, False, False),
        (-np.inf, False, False),
    ],
)
def test_the_threshold_is_exceeded_or_met(value, strict, right):
    assert (
        true_positives(
            torch.full((1, 1, 1, 1, 1), value), 0.5 if np.isfinite(value) else -np.inf, strict
        ).item()
        is right
    )


def test_by_part_keeps_every_box_once():
    g = generator(6)
    parts = torch.randint(0, 5, (7, 9), generator=g)
    boxes = torch.rand(7, 9, 4, generator=g)
    sorted_, there = by_part(boxes, parts, 4)
    for b in range(7):
        for p in range(4):
            assert torch.equal(sorted_[b, p][there[b, p]], boxes[b][parts[b] == p + 1])
    assert (
        there.shape[2] == max(int((parts == p).sum(1).max()) for p in range(1, 5))
        and not sorted_[~there].any()
    )


def test_naming_channels_prefers_the_whole_to_the_part():
    table = torch.tensor([[0.5, 0.4, 0.0], [0.45, 0.0, 0.1], [0.0, 0.1, torch.nan]])
    assert assign(table).tolist() == [0, 0, 1] and assign(table, one_to_one=True).tolist() in (
        [1, 0, 2],
        [0, 2, 1],
    )
    assert assign(torch.tensor([[torch.nan], [torch.nan]])).tolist() == [-1]


# -------------------------------------------------------- protocols on a small hand-made collection


class Wheels(Collection):
    "Wide pictures with 0 to 3 wheels, sometimes a door; red at a wheel's middle, green at a door."

    part_names, landmark_names, eyes = ("wheel", "door", "wing"), ("first wheel", "door"), None
    size = (56, 112)

    def __init__(self, n, seed=0, first=0):
        self.n, self.seed, self.first = n, seed, first

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        g = generator(self.seed * 1000 + i + self.first)
        wheels = (i + self.first) % 4
        columns = torch.randperm(4, generator=g)[:wheels] * 26 + 13
        rows = torch.randint(12, 44, (wheels,), generator=g)
        image, boxes, parts = torch.full((3, *self.size), 0.1), [], []
        for x, y in zip(columns.tolist(), rows.tolist()):
            image[0, y, x] = 1.0
            boxes.append([x + 0.5 - 12, y + 0.5 - 12, 24, 24])
            parts.append(1)
        door = (i + self.first) % 2 == 0
        if door:
            image[1, 28, 56] = 1.0
            boxes.append([56.5 - 13, 28.5 - 12, 26, 24])
            parts.append(2)
        points = torch.tensor(
            [[float(columns[0]) + 0.5, float(rows[0]) + 0.5] if wheels else [0, 0], [56.5, 28.5]]
        )
        return Sample(
            image,
            f"wheels {i}",
            landmarks=points,
            visible=torch.tensor([wheels > 0, door]),
            box=torch.tensor([6.0, 6, 100, 40]),
            part_boxes=torch.tensor(boxes).reshape(-1, 4).float(),
            box_parts=torch.tensor(parts, dtype=torch.int64),
        )


class Colours(Method):
    "Part k is what has colour k; sees a whole picture or a squeezed one."

    def __init__(self, size=112, order=(1, 0)):
        super().__init__(Settings(parts=2, size=size))
        self.order = list(order)

    def part_maps(self, images):
        return (images[:, self.order] - 0.15).clamp(min=0)


def split(n=24):
    return Wheels(n), Wheels(n, seed=1, first=1)


def test_a_perfect_detector_is_perfect_and_absent_parts_do_not_count():
    protocol = PartDetection()
    found = protocol.measure(protocol.detector(Colours()), *split(), 112)
    assert found.names == ("wheel", "door", "wing") and found.channel.tolist() == [1, 0, -1]
    assert (
        found.average_precision[:2].tolist() == [1, 1]
        and found.average_precision[2].isnan()
        and found.mean == 100
    )
    assert found.curve(0)[0][-1] == 1 and len(found.curve(0)[0]) == int(found.scored.positives[0])
    assert protocol.evaluate(Colours(), *split()) == {"map_iou": 100.0}


def test_channels_are_named_on_the_training_split():
    protocol = PartDetection()
    swapped = protocol.measure(protocol.detector(Colours(order=(0, 1))), *split(), 112)
    assert swapped.channel.tolist() == [0, 1, -1] and swapped.mean == 100

    calls = []

    def turncoat(batch, frame):
        "Exchanges its channels after the training pictures."
        scores, points = protocol.detector(Colours())(batch, frame)
        calls.append(len(batch))
        return (scores, points) if len(calls) == 1 else (scores.flip(1), points.flip(1))

    turned = protocol.measure(turncoat, Wheels(24), Wheels(20), 112)
    assert calls == [24, 20] and turned.channel.tolist() == [1, 0, -1] and turned.mean < 10


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_do_not_matter(batch_size):
    def noisy(batch, frame):
        number = torch.stack([image.double().sum() for image in batch.images])[:, None, None]
        scores = (torch.tensor([0.3, 0.2, 0.1]) + (number * 7.3) % 1).expand(-1, 2, -1)
        where = (
            torch.stack([(number * 3.1) % 1, (number * 5.7) % 1], -1).expand(-1, 2, -1, -1)
            + torch.tensor([0.0, 0.1, 0.2])[:, None]
        )
        return scores.float(), (where % 1 * frame[:, None, None]).float()

    values = [
        PartDetection(side=160.0, threshold=0.05)
        .measure(noisy, *split(), 112, batch_size=n)
        .average_precision[:2]
        for n in (batch_size, 24)
    ]
    assert torch.allclose(*values, atol=1e-12) and 0 < values[0][0] < 1


def test_the_frame_has_short_side_224_and_keeps_proportions():
    batch, frame = next(framed(Wheels(4), 64))
    assert batch.images.shape == (4, 3, 64, 64) and frame.tolist() == 4 * [[448, 224]]
    true, there = PartDetection().truths(batch, frame, 3)
    assert (
        true[1, 0, 0, 2:].tolist() == pytest.approx([96, 96], rel=1e-5)
        and there.sum().item() == 0 + 1 + 2 + 3 + 2
    )


def test_boxes_are_cut_at_the_border_unless_told_otherwise():
    class Edge(Wheels):
        def __getitem__(self, i):
            s = super().__getitem__(i)
            s.part_boxes, s.box_parts = torch.tensor([[0.0, 16, 13, 24]]), torch.tensor([1])
            return s

    def at_the_border(batch, frame):
        return frame.new_ones(len(frame), 1, 1), torch.tensor([0.0, 112]).expand(
            len(frame), 1, 1, 2
        )

    cut, whole = (
        PartDetection(clip=c).measure(at_the_border, Edge(4), Edge(4), 112) for c in (True, False)
    )
    assert cut.mean == 100 and whole.mean == 0
    assert PartDetection().ceiling(Edge(4))[0] == 1 and PartDetection(clip=False).ceiling(Edge(4))[
        0
    ] == pytest.approx(float(13 * 4 * 96 / 1e4 > 0.5))


@pytest.mark.parametrize("threshold,mean", [(0.79, 100.0), (0.95, 0.0)])
def test_a_higher_threshold_wants_more(threshold, mean):
    protocol = PartDetection(threshold=threshold)
    assert protocol.evaluate(Colours(), *split())["map_iou"] == mean


def test_two_detections_of_one_truth_are_one_hit():
    def twice(batch, frame):
        true, there = PartDetection().truths(batch, frame, 3)
        middle = true[:, :1, :1, :2] + true[:, :1, :1, 2:] / 2
        return torch.tensor([0.9, 0.8]).expand(len(frame), 1, 2), middle.expand(-1, -1, 2, -1)

    doors = View(Wheels(8), indices=[1, 5])  # one wheel, no door
    found = PartDetection().measure(twice, doors, doors, 112)
    assert found.scored.collected()[1].sum() == 2 and found.average_precision[0] == 1


def test_landmarks_in_every_unit():
    train, test = split()
    for unit in ("box", "image", None):
        protocol = LandmarkDetection(unit=unit)
        found = protocol.measure(protocol.detector(Colours()), train, test, 112)
        assert found.average_precision[1] == 1 and found.channel.tolist() == [1, 0]
    batch, frame = next(framed(test, 56))
    assert (
        unit_of(batch, frame, "box")[0].tolist() == pytest.approx([400, 160])
        and unit_of(batch, frame, "image").tolist() == frame.tolist()
    )
    assert unit_of(batch, frame, "eyes", (0, 1))[0, 0].item() == pytest.approx(
        4 * float((test[0].landmarks[0] - test[0].landmarks[1]).norm()), rel=1e-4
    )


@pytest.mark.parametrize("away,right", [(0.0999, True), (0.1001, False)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_distance_is_a_tenth_of_the_unit_on_each_axis(axis, away, right):
    protocol = LandmarkDetection()
    batch, frame = next(framed(Wheels(1), 112))  # no wheel; a door
    shift = torch.zeros(2)
    shift[axis] = away * unit_of(batch, frame, "box")[0, axis]
    points = (torch.tensor([56.5, 28.5]) * 4 + shift)[None, None, None]
    hits, positives = protocol.match(points, batch, frame, Wheels(1))
    assert hits.flatten().tolist() == [False, right] and positives.tolist() == [[0, 1]]


def test_masks_stand_in_for_a_background_only_where_there_is_none():
    sample = Wheels(1)[0]
    sample.mask = torch.zeros(56, 112, dtype=torch.bool)
    from partbook.data.sample import collate

    batch, method = collate([sample]), Colours()
    assert (
        foreground_maps(method, batch).max() == 0
        and foreground_maps(method, batch, False).max() > 0.5
    )
    method.has_background = True
    assert foreground_maps(method, batch).max() > 0.5


def test_names_come_from_few_pictures_evenly_spread():
    seen = []

    def watch(batch, frame):
        seen.extend(batch.names)
        return frame.new_ones(len(frame), 1, 1), frame[:, None, None] / 2

    LandmarkDetection(pictures=5).measure(watch, *split(), 112)
    assert seen[:5] == [f"wheels {i}" for i in (0, 5, 10, 15, 20)] and len(seen) == 5 + 24


def test_baselines_do_not_look():
    train, test = split(40)
    rows = detection_baselines(LandmarkDetection(), train, test)
    assert set(rows) == {"image midpoint", "random points", "mean true position"} and all(
        set(r) == {"map_l2"} for r in rows.values()
    )
    where = mean_positions(LandmarkDetection(), train)
    assert where[1].tolist() == pytest.approx([56.5 / 112, 28.5 / 56], abs=1e-4)
    assert (
        rows["image midpoint"]["map_l2"] >= 50 * 0.5
    )  # the door is always in the middle, half of the pictures have one: AP .5
    assert detection_baselines(LandmarkDetection(), train, test) == rows
    boxes = detection_baselines(PartDetection(), train, test)
    assert boxes["image midpoint"]["map_iou"] >= 25 > boxes["random points"]["map_iou"]


def test_same_detections_twice_and_a_report_without_truths():
    protocol = PartDetection()
    assert protocol.evaluate(Colours(), *split()) == protocol.evaluate(Colours(), *split())
    with pytest.raises(InputError, match="None of the test pictures shows any of the parts"):
        Detected(("a",), torch.tensor([0]), torch.tensor([torch.nan]), ScoredHits()).mean


def test_a_part_without_a_channel_detects_nothing():
    scores, hits = torch.tensor([[[0.9], [0.8]]]), torch.ones(1, 2, 1, 2, dtype=torch.bool)
    kept = ScoredHits(torch.tensor([1, -1])).update(scores, hits, torch.ones(1, 2))
    assert kept.ap().tolist() == [1, 0] and kept.collected()[0].tolist() == [
        [pytest.approx(0.8)],
        [-np.inf],
    ]
    assert [
        len(Detected(("a", "b"), kept.channel, kept.ap(), kept).curve(p)[0]) for p in (0, 1)
    ] == [1, 0]


def test_averaging_keeps_the_sum_inside():
    maps = torch.zeros(1, 1, 15, 15)
    maps[0, 0, 7, 7] = 1.0
    assert averaged(maps, 0.4).sum().item() == pytest.approx(1.0) and averaged(
        maps, 0.4
    ).max().item() == pytest.approx(1 / 49)
    assert averaged(maps, 0.0) is maps


# ---------------------------------------------------------------- in the book's registry


def test_defaults_are_the_paper_s():
    part, landmark = PartDetection(), LandmarkDetection()
    assert (part.side, part.short, part.threshold, part.overlap, part.most) == (
        100,
        224,
        0.5,
        0.3,
        3,
    )
    assert (landmark.threshold, landmark.most, landmark.unit, landmark.window) == (0.1, 1, None, 0)


def test_registered_with_order_and_needs():
    landmark, part = protocols["landmark-detection"], protocols["part-detection"]
    assert (landmark.needs, landmark.headline) == (("landmarks",), ("map_l2",)) and (
        part.needs,
        part.headline,
    ) == (("part_boxes",), ("map_iou",))
    assert (
        "Guo" in landmark.source
        and "Guo" in part.source
        and landmark().registered_name == "landmark-detection"
    )
    assert protocols["landmark-regression"].order < landmark.order < part.order


def test_defaults_are_what_a_collection_was_made_for():
    assert default_protocols(collections["birds"].open(size=32)) == [
        "pixels",
        "landmark-regression",
        "census",
    ]  # detecting landmarks is on request
    assert "part-detection" in default_protocols(Wheels(4))


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: average_precision(
                torch.ones(2), torch.ones(2, 1, dtype=torch.bool), torch.tensor([1]), "coco"
            ),
            "There is no rule 'coco' .* all, eleven, none",
        ),
        (lambda: peaks(torch.ones(2, 3, 3)), "must have shape \\(B,K,h,w\\)"),
        (lambda: peaks(torch.ones(1, 1, 3, 3), 0), "`most` is 0"),
        (lambda: peaks(torch.ones(1, 1, 3, 3), 1, None, -0.1), "an overlap lies in"),
        (
            lambda: PartDetection(truth="points"),
            "no truth 'points'; choose one of: annotated, squares",
        ),
        (
            lambda: by_part(torch.ones(1, 1, 4), torch.tensor([[9]]), 8),
            "of part 9, but the collection names only 8 parts",
        ),
        (
            lambda: LandmarkDetection(unit="eyes").evaluate(Colours(), *split()),
            "does not say which landmarks are eyes",
        ),
        (
            lambda: LandmarkDetection(unit="metre").evaluate(Colours(), *split()),
            "no unit 'metre' of distance",
        ),
        (
            lambda: PartDetection().evaluate(Colours(), *(collections["birds"].open(size=32),) * 2),
            "needs part_boxes annotations",
        ),
        (lambda: ScoredHits().ap(), "No picture has been matched yet"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ---------------------------------------------------------------- real landmarks


def test_aligned_faces_can_be_detected_blindly(shared_path):
    "The chapter about CelebA: 0.1 cannot be of the pupil distance, and of the picture it is easy."
    lines = (
        shared_path("data/celeba_aligned_half/list_landmarks_align_celeba.txt")
        .read_text()
        .splitlines()[2:]
    )
    points = torch.tensor([[float(v) for v in line.split()[1:]] for line in lines]).view(-1, 5, 2)
    train, test = points[:310], points[310:]
    eyes = (test[:, 0] - test[:, 1]).norm(dim=-1)[:, None]
    away = test - train.mean(0)

    def blind(distance):
        ap = average_precision(
            torch.ones(len(distance)), distance <= 0.1, torch.full((5,), len(distance))
        )
        return 100 * float(ap.mean())

    assert blind((away / torch.tensor([178.0, 218.0])).norm(dim=-1)) == pytest.approx(99.2, abs=0.1)
    assert blind(away.norm(dim=-1) / eyes) == pytest.approx(57.2, abs=0.1)
    shares = []
    for phase in torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)):
        pixels = test * 224 / 178 + phase
        gap = ((pixels / 16).floor() + 0.5) * 16 - pixels
        shares.append(float((gap.norm(dim=-1) <= 0.1 * eyes * 224 / 178).float().mean()))
    assert 0.2 < np.mean(shares) < 0.35 and max(shares) < 0.64  # the paper reports an mAP of 97.9
