"""What warps and jitter must never do, case by case (the chapter shows the examples)."""

import importlib.util
import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from scipy.interpolate import RBFInterpolator

from partbook.core import InputError, generator
from partbook.data.sample import collections
from partbook.parts.maps import upsample
from partbook.parts.warps import (
    Jitter,
    Warp,
    _grid_basis,
    affine_warp,
    basis,
    blend,
    cell_centres,
    lattice,
    pixel_positions,
    random_affine,
    random_jitter,
    random_spline,
    solve_spline,
    solved_spline,
    thin_plate,
    turn_hue,
    unit_positions,
)

S = 48
birds = collections["birds"].open(split="train", size=S)
batch = birds.batch(range(8))
g = generator(0)
corners = tuple((x, y) for y in (-1.0, 0.1, 1.0) for x in (-1.0, 0.0, 0.7))
bent = Warp(
    torch.eye(2, 3) + 0.3 * torch.randn(5, 2, 3, generator=g),
    0.05 * torch.randn(5, 9, 2, generator=g),
    corners,
)
flat = Warp(bent.affine)
gentle = Warp(bent.affine, 0.3 * bent.weights, corners)
everywhere = cell_centres((6, 9)).flatten(0, 1).expand(5, -1, -1)
images = torch.rand(2, 3, 8, 8, generator=generator(1))
still, mirror, turn = (
    torch.tensor(m)[None].repeat(2, 1, 1)
    for m in ([[1.0, 0, 0], [0, 1, 0]], [[-1.0, 0, 0], [0, 1, 0]], [[0.0, -1, 0], [1, 0, 0]])
)
labels = torch.tensor([[[1, 2, 3, 0]]])
step = Warp(torch.tensor([[[1.0, 0, -0.5], [0, 1, 0]]]))
v = torch.cat(
    [torch.rand(5, 7, 2, generator=generator(5)) * 2 - 1, torch.tensor(corners[4]).expand(5, 1, 2)],
    1,
)
control = lattice(5)
p = torch.tensor(control)
targets = p + 0.15 * torch.randn(6, 25, 2, generator=generator(6))
spline = solve_spline(control, targets)
similar = random_affine(6, generator(7), mirror=0.5, shear=0.2)
solved_similar = solve_spline(p, similar.at(p.expand(6, -1, -1)))
elsewhere = torch.rand(40, 2, generator=generator(8)) * 3 - 1.5


def test_positions():
    centres = cell_centres((2, 4))
    assert centres[0, 1].tolist() == [-0.25, -0.5] and centres[1, 3].tolist() == [0.75, 0.5]
    assert unit_positions(torch.tensor([1.5, 0.5]), (2, 4)).tolist() == [-0.25, -0.5]
    assert pixel_positions(centres[0, 1], (2, 4)).tolist() == [1.5, 0.5]


def test_rows_are_counted_and_indexed_and_shapes_are_checked():
    flat = Warp(torch.eye(2, 3).repeat(4, 1, 1))
    assert (
        len(flat) == 4
        and len(flat[1:3]) == 2
        and len(flat[0]) == 1
        and len(flat[torch.tensor([3, 0, 3])]) == 3
    )
    with pytest.raises(InputError, match=r"must be \(B,2,3\), not \(2, 3\)"):
        Warp(torch.eye(2, 3))
    with pytest.raises(
        InputError, match=r"with 1 control points must be \(4, 1, 2\), not \(4, 2\)"
    ):
        Warp(flat.affine, torch.zeros(4, 2), ((0.0, 0.0),))


def test_the_plate_by_hand():
    root = math.exp(0.5)
    row = basis(torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, root]]), ((0.0, 0.0),))
    torch.testing.assert_close(
        row,
        torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.6, 0.8, 1.0, 0.0], [0.0, root, 1.0, math.e]]),
        rtol=0,
        atol=1e-6,
    )
    r2 = torch.linspace(0, 1, 1001)
    assert abs(r2[thin_plate(r2).argmin()] - 1 / math.e) < 1e-3 and torch.isclose(
        thin_plate(r2).min(), torch.tensor(-1 / math.e)
    )


def test_a_grid_is_g_at_each_centre_and_torchs_own_where_affine():
    g, corners = generator(0), tuple((x, y) for y in (-1.0, 0.1, 1.0) for x in (-1.0, 0.0, 0.7))
    bent = Warp(
        torch.eye(2, 3) + 0.3 * torch.randn(5, 2, 3, generator=g),
        0.05 * torch.randn(5, 9, 2, generator=g),
        corners,
    )
    everywhere = cell_centres((6, 9)).flatten(0, 1).expand(5, -1, -1)
    torch.testing.assert_close(bent.grid((6, 9)).flatten(1, 2), bent.at(everywhere))
    flat = Warp(bent.affine)
    torch.testing.assert_close(
        flat.grid((6, 9)), F.affine_grid(flat.affine, (5, 3, 6, 9), align_corners=False)
    )
    torch.testing.assert_close(
        flat.grid((6, 9)), F.affine_grid(flat.affine, (5, 3, 6, 9), align_corners=False)
    )


def test_tables_serve_training_and_half_precision_does_not_round():
    with torch.inference_mode():
        bent.grid((7, 5))
    A = bent.affine.clone().requires_grad_()
    Warp(A, bent.weights, corners).grid(
        (7, 5)
    ).sum().backward()  # the table was made in inference mode and still takes gradients
    assert A.grad is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            torch.equal(bent.grid((6, 9)), bent.grid((6, 9)).float())
            and bent.at(everywhere).dtype == torch.float32
        )
        rounded = bent.grid((6, 9))
    torch.testing.assert_close(rounded, bent.grid((6, 9)))
    assert _grid_basis.cache_info().maxsize == 8


def test_limit_cases():
    images = torch.rand(2, 3, 8, 8, generator=generator(1))
    still, mirror, turn = (
        torch.tensor(m)[None].repeat(2, 1, 1)
        for m in ([[1.0, 0, 0], [0, 1, 0]], [[-1.0, 0, 0], [0, 1, 0]], [[0.0, -1, 0], [1, 0, 0]])
    )
    for affine, expected in (
        (still, images),
        (mirror, images.flip(3)),
        (turn, images.rot90(1, (2, 3))),
    ):
        torch.testing.assert_close(Warp(affine)(images), expected, rtol=0, atol=1e-5)


def test_reading_masks_labels_and_floats():
    step = Warp(torch.tensor([[[1.0, 0, -0.5], [0, 1, 0]]]))
    labels = torch.tensor([[[1, 2, 3, 0]]])
    assert step(labels).tolist() == [[[0, 1, 2, 3]]] and step(labels).dtype == torch.int64
    assert step(labels > 1).tolist() == [[[False, False, True, True]]]
    assert step(labels.float()[:, None], padding="border").flatten().tolist() == [1, 1, 2, 3]
    half = Warp(torch.tensor([[[1.0, 0, -0.25], [0, 1, 0]]]))
    torch.testing.assert_close(
        half(labels.float()).flatten(), torch.tensor([0.5, 1.5, 2.5, 1.5])
    )  # floats are averaged
    assert 2 not in half(torch.tensor([[[1, 3, 1, 3]]])).flatten().tolist()  # labels are not
    with pytest.raises(
        InputError,
        match=r"2 rows needs pictures of shape \(2,C,H,W\) or \(2,H,W\), not \(3, 8, 8\)",
    ):
        Warp(still)(torch.zeros(3, 8, 8))


def test_a_warp_is_linear_in_the_picture():
    x = torch.rand(5, 2, 6, 9, generator=generator(2), requires_grad=True)
    m = torch.rand(5, 2, 6, 9, generator=generator(3))
    (adjoint,) = torch.autograd.grad((bent(x) * m).sum(), x)
    torch.testing.assert_close((bent(x) * m).sum(), (x * adjoint).sum())
    assert (
        bent(x.half()).dtype == torch.float16 and bent(x.detach().double()).dtype == torch.float64
    )


def test_a_coarse_map_is_warped_by_the_same_numbers():
    smooth = F.interpolate(torch.rand(5, 2, 4, 4, generator=generator(4)), (32, 32), mode="bicubic")
    gentle = Warp(bent.affine, 0.3 * bent.weights, corners)
    inside = gentle(torch.ones(5, 1, 64, 64)) > 0.999
    inner = F.max_pool2d(1 - inside.float(), 9, 1, 4) < 0.5  # away from the border of what is seen
    difference = (
        upsample(gentle(smooth), (64, 64)) - gentle(upsample(smooth, (64, 64)))
    ).abs() * inner
    assert inner.float().mean() > 0.2 and difference.max() < 0.05


def test_slopes_are_those_of_autograd():
    by_autograd = torch.func.vmap(
        torch.func.jacrev(lambda v, A, w: Warp(A[None], w[None], corners).at(v[None, None])[0, 0]),
        (0, 0, 0),
    )
    found = torch.stack([by_autograd(v[:, i], bent.affine, bent.weights) for i in range(7)], 1)
    torch.testing.assert_close(bent.slopes(v)[:, :7], found, rtol=1e-4, atol=1e-5)
    assert bent.slopes(v).isfinite().all() and torch.equal(
        flat.slopes(v)[:, 3], flat.affine[:, :, :2]
    )


def test_points_by_hand_and_of_splines():
    assert Warp(mirror)(labels.expand(2, 1, 4)).tolist()[0] == [[0, 3, 2, 1]]
    assert Warp(mirror).points(torch.tensor([[[0.5, 0.5]]]).repeat(2, 1, 1), (1, 4))[
        0, 0
    ].tolist() == [
        3.5,
        0.5,
    ]
    assert step.points(torch.tensor([[[1.5, 0.5]]]), (1, 4)).tolist() == [
        [[2.5, 0.5]]
    ]  # one pixel to the right, as above
    there = gentle.points(pixel_positions(gentle.at(v), (40, 60)), (40, 60))
    torch.testing.assert_close(there, pixel_positions(v, (40, 60)), rtol=0, atol=0.01)


def test_gradients_of_solved_points():
    def solved(u, A, w):
        return Warp(A, w, corners).points(u, (40, 60), iterations=12)

    arguments = [
        t.double()
        for t in (
            pixel_positions(gentle.at(v), (40, 60))[:2, :3],
            gentle.affine[:2],
            gentle.weights[:2],
        )
    ]
    assert torch.autograd.gradcheck(
        solved, [t.requires_grad_() for t in arguments], eps=1e-5, atol=1e-3
    )


def test_points_without_a_solution_are_told():
    folded = Warp(torch.eye(2, 3)[None], torch.tensor([[[1.2, 0.9]]]), ((0.1, 0.0),))
    lost = (
        folded.points(pixel_positions(cell_centres(8).view(1, -1, 2), (64, 64)), (64, 64))
        .isnan()
        .any(-1)
    )
    assert 0 < lost.sum() < 64
    back = folded.at(
        unit_positions(
            folded.points(pixel_positions(cell_centres(8).view(1, -1, 2), (64, 64)), (64, 64)),
            (64, 64),
        )
    )
    torch.testing.assert_close(
        back[~lost], cell_centres(8).view(1, -1, 2)[~lost], rtol=0, atol=4e-4
    )  # those found are right


def test_one_after_the_other():
    assert torch.allclose(flat.then(flat.inverse()).affine, torch.eye(2, 3), atol=1e-5)
    torch.testing.assert_close(flat.then(bent).at(v), flat.at(bent.at(v)))
    u = pixel_positions(flat.at(gentle.at(v)), (40, 60))
    torch.testing.assert_close(
        flat.then(gentle).points(u, (40, 60)),
        gentle.points(flat.points(u, (40, 60)), (40, 60)),
        rtol=0,
        atol=0.02,
    )
    torch.testing.assert_close(flat.inverse().at(flat.at(v)), v, rtol=0, atol=1e-5)
    for wrong in (lambda: bent.then(flat), bent.inverse):
        with pytest.raises(InputError, match="spline"):
            wrong()


def test_affine_numbers():
    one, none = torch.ones(1), torch.zeros(1, 2)
    point = torch.tensor([[[48.0, 32.0]]])
    assert affine_warp(0 * one, 2 * one, none, one).points(point, (64, 64)).tolist() == [
        [[64.0, 32.0]]
    ]
    quarter = affine_warp(math.pi / 2 * one, one, none, one)
    torch.testing.assert_close(quarter.affine, turn[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        affine_warp(math.pi / 2 * one, one, none, -one)(images[:1]),
        images[:1].rot90(1, (2, 3)).flip(3),
        rtol=0,
        atol=1e-5,
    )
    assert torch.equal(random_affine(2, generator(0), 0, (1, 1), 0, mirror=1).affine, mirror)
    lean = affine_warp(0 * one, one, none, one, 0.5 * one)
    assert lean.at(torch.tensor([[[0.0, 1.0]]])).tolist() == [[[0.5, 1.0]]]
    A = random_affine(500, generator(1), mirror=0.5).affine[:, :, :2]
    size = A.det().abs()[:, None, None]
    torch.testing.assert_close(A.mT @ A, size * torch.eye(2), rtol=0, atol=1e-5)
    degrees = torch.atan2(A[:, 1, 1], A[:, 0, 1]).rad2deg() - 90
    zooms = 1 / size.flatten().sqrt()
    assert (
        -60 <= degrees.min() < -55
        and 55 < degrees.max() <= 60
        and 0.7 <= zooms.min() < 0.72
        and 1.95 < zooms.max() <= 2
    )
    assert (
        abs((A.det() < 0).float().mean() - 0.5) < 0.1
        and abs(zooms.log().mean() - math.log(0.7 * 2) / 2) < 0.05
    )
    shifts = random_affine(500, generator(1)).affine[:, :, 2]
    assert 0.095 < shifts.abs().max() <= 0.1 and shifts.mean(0).abs().max() < 0.01
    leaning = random_affine(500, generator(1), rotation=0, zoom=(1, 1), shear=0.3).affine[:, 0, 1]
    assert 0.28 < leaning.abs().max() <= 0.3 and abs(leaning.mean()) < 0.05
    with pytest.raises(InputError, match=r"zoom \(0, 2\) must be two positive numbers"):
        random_affine(1, generator(0), zoom=(0, 2))


def test_splines_pass_through_their_targets():
    torch.testing.assert_close(spline.at(p.expand(6, -1, -1)), targets, rtol=0, atol=2e-5)
    assert spline.weights.abs().max() > 0.01
    assert spline.weights.sum(1).abs().max() < 1e-5 and (spline.weights.mT @ p).abs().max() < 1e-5

    assert solved_similar.weights.abs().max() < 1e-5
    torch.testing.assert_close(solved_similar.affine, similar.affine, rtol=0, atol=1e-5)
    assert len(control) == 25 and control[1] == (-0.5, -1.0) and control[24] == (1.0, 1.0)
    fine = torch.tensor(
        lattice(10), dtype=torch.float64
    )  # a hundred points: the system is solved in double precision, whatever the targets are
    exact = solve_spline(
        lattice(10), (fine + 0.1 * torch.randn(100, 2, generator=generator(8)))[None]
    )
    torch.testing.assert_close(
        exact.at(fine[None]),
        fine[None] + 0.1 * torch.randn(100, 2, generator=generator(8)),
        rtol=0,
        atol=1e-10,
    )
    single = solve_spline(lattice(10), exact.at(fine[None]).float())
    torch.testing.assert_close(single.weights.double(), exact.weights, rtol=0, atol=1e-5)


def test_splines_are_scipys():
    elsewhere = torch.rand(40, 2, generator=generator(8)) * 3 - 1.5
    for one_spline, q in zip(spline, targets):
        reference = RBFInterpolator(
            p.double().numpy(), q.double().numpy(), kernel="thin_plate_spline", degree=1
        )(elsewhere.double().numpy())
        torch.testing.assert_close(
            one_spline.at(elsewhere[None])[0], torch.tensor(reference).float(), rtol=0, atol=2e-5
        )


def test_splines_bend_least_and_refuse_what_determines_none():
    def bending_energy(warp):
        p = torch.tensor(warp.control, dtype=torch.float64)
        K, w = thin_plate((p[:, None] - p).square().sum(-1)), warp.weights.double()
        return torch.einsum("bid,ij,bjd->b", w, K, w)

    more = torch.cat([p, torch.tensor([[0.3, 0.1], [-0.7, 0.2], [0.25, -0.8]])])
    free = solve_spline(
        more, spline.at(more.expand(6, -1, -1))
    )  # the extra points where the spline goes anyway
    forced = solve_spline(
        more,
        spline.at(more.expand(6, -1, -1))
        + 0.02 * F.pad(torch.randn(6, 3, 2, generator=generator(9)), (0, 0, 25, 0)),
    )
    assert (bending_energy(spline) > 0).all() and (
        bending_energy(forced) > bending_energy(spline) + 1e-3
    ).all()
    torch.testing.assert_close(bending_energy(free), bending_energy(spline), rtol=1e-3, atol=1e-5)
    assert bending_energy(solved_similar).abs().max() < 1e-8
    for sources in (
        ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)),
        ((0.0, 0.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),
    ):
        with pytest.raises(InputError, match="distinct and not all on one line"):
            solve_spline(sources, torch.zeros(1, len(sources), 2))
    with pytest.raises(InputError, match=r"must have shape \(B,25,2\), not \(6, 9, 2\)"):
        solve_spline(control, targets[:, :9])


def test_splines_are_kornias():
    if importlib.util.find_spec("kornia"):  # a second reference, where it is installed
        from kornia.geometry.transform import get_tps_transform, warp_points_tps

        order = [2, 0, 1]  # kornia writes the constant first, and U(r²)/2
        C, many = spline.coefficients(), elsewhere.expand(6, -1, -1)
        ours_there = warp_points_tps(many, p.expand(6, -1, -1), 2 * C[:, 3:], C[:, order])
        torch.testing.assert_close(ours_there, spline.at(many), rtol=0, atol=2e-5)
        # its solver puts the kernels on the targets: through all targets as well,
        # but another surface, and not the one that bends least
        sources = p.double().expand(6, -1, -1)
        theirs = get_tps_transform(sources, targets.double())
        torch.testing.assert_close(
            warp_points_tps(sources, targets.double(), *theirs), targets.double(), rtol=0, atol=1e-6
        )
        assert (
            warp_points_tps(many.double(), targets.double(), *theirs) - spline.at(many)
        ).abs().max() > 0.05
        # where the targets are the sources, shifted a whole, both must find the shift
        turned = affine_warp(
            torch.full((1,), 0.0), torch.ones(1), torch.tensor([[0.1, -0.2]]), torch.ones(1)
        ).at(p[None])
        weights, affine = get_tps_transform(p[None], turned)
        same = solve_spline(control, turned)
        torch.testing.assert_close(affine[:, [1, 2, 0]].mT, same.affine, rtol=0, atol=1e-4)


def test_numbers_of_scops_sampler():
    quiet, scops = (solved_spline(400, generator(2), jitter=j, mirror=0.5) for j in (0.0, 0.01))
    A = quiet.affine[:, :, :2]
    factor = A.det().abs().sqrt()
    assert (
        quiet.weights.abs().max() < 1e-5
        and (A.mT @ A - factor[:, None, None] ** 2 * torch.eye(2)).abs().max() < 1e-5
    )
    assert (
        0.5 <= factor.min() < 0.51
        and 1.41 < factor.max() < 1 / 0.7 + 1e-5
        and abs(factor.mean() - (0.5 + 1 / 0.7) / 2) < 0.03
    )
    assert 0.4 < (A.det() < 0).float().mean() < 0.6
    lattice_points = p.expand(400, -1, -1)
    off = torch.linalg.solve(
        A[:, None], (scops.at(lattice_points) - quiet.at(lattice_points))[..., None]
    )  # undo the similarity
    assert (
        0.0099 < off.abs().max() < 0.01 + 1e-4
        and abs(off.abs().mean() - 0.005) < 1e-4
        and off.mean().abs() < 1e-3
    )
    assert (
        0.095 < quiet.affine[:, :, 2].abs().max() <= 0.1 + 1e-5
        and quiet.affine[:, :, 2].mean(0).abs().max() < 0.015
    )
    angles = torch.atan2(A[:, 1, 1], A[:, 0, 1]).rad2deg() - 90
    assert -60.1 < angles.min() < -55 and 55 < angles.max() < 60.1


def test_numbers_of_disentanglings_sampler():
    jakab = random_spline(400, generator(3))
    w = jakab.weights
    assert w.shape == (400, 100, 2) and torch.isclose(
        w.square().mean(), torch.tensor(0.001**2 + 0.5 * 0.005**2), rtol=0.02
    )
    torch.testing.assert_close(
        random_spline(400, generator(3), share=1).weights.std(),
        torch.tensor(math.hypot(0.001, 0.005)),
        rtol=0.02,
        atol=0,
    )
    torch.testing.assert_close(
        random_spline(400, generator(3), share=0).weights.std(),
        torch.tensor(0.001),
        rtol=0.02,
        atol=0,
    )
    assert (
        torch.equal(jakab.affine[:, :, :2], torch.eye(2).expand(400, 2, 2))
        and abs(jakab.affine[:, :, 2].std() - 0.1) < 0.01
    )
    correlation = torch.corrcoef(w.abs().flatten(0, 1).mT)[0, 1]
    assert abs(correlation) < 0.02  # b is drawn for each coordinate by itself


def test_each_process_takes_its_rows():
    for sampler in (random_affine, solved_spline, random_spline):
        whole, again = sampler(6, generator(14)), sampler(6, generator(14))
        for rows in (slice(0, 3), slice(3, 6), torch.tensor([5, 0, 2])):
            part = again[rows]
            assert torch.equal(part.affine, whole.affine[rows]) and (
                part.weights is None or torch.equal(part.weights, whole.weights[rows])
            )
            torch.testing.assert_close(
                part(batch.images[:6][rows]), whole(batch.images[:6])[rows], rtol=0, atol=1e-5
            )
            assert part.control == whole.control and part.to("cpu").affine.device.type == "cpu"


def test_hue_by_hand():
    def colour(*rgb):
        return torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)

    for turn_by, expected in (
        (0, (1, 0, 0)),
        (1 / 3, (0, 1, 0)),
        (0.5, (0, 1, 1)),
        (-1 / 6, (1, 0, 1)),
    ):
        torch.testing.assert_close(
            turn_hue(colour(1, 0, 0), torch.tensor([turn_by])), colour(*expected), rtol=0, atol=1e-6
        )
    assert torch.equal(turn_hue(colour(0.3, 0.3, 0.3), torch.tensor([0.4])), colour(0.3, 0.3, 0.3))
    assert blend(
        colour(0.2, 0.4, 0.8), 0.0, torch.tensor([1.5])
    ).flatten().tolist() == pytest.approx([0.3, 0.6, 1.0])


def by_torchvision(image, j):
    image = tv.adjust_brightness(image, float(j.brightness))
    image = tv.adjust_contrast(image, float(j.contrast))
    image = tv.adjust_saturation(image, float(j.saturation))
    image = tv.adjust_hue(image, float(j.hue))
    return tv.rgb_to_grayscale(image, 3) if bool(j.grey) else image


def test_jitter_is_torchvisions_and_passes_gradients():
    count = 8
    photos = torch.cat(
        [
            batch.images[: count - 2],
            torch.rand(1, 3, S, S, generator=generator(15)),
            torch.full((1, 3, S, S), 0.5),
        ]
    )
    plain = Jitter(*torch.ones(3, count), torch.zeros(count), torch.zeros(count, dtype=torch.bool))
    strong = random_jitter(count, generator(16), 0.9, 0.9, 0.9, 0.5, p=1, grey=0.3)
    for step_only in ("brightness", "contrast", "saturation", "hue", "grey", None):
        names = [step_only] if step_only else [f.name for f in fields(Jitter)]
        jitter = replace(plain, **{name: getattr(strong, name) for name in names})
        expected = torch.stack([by_torchvision(image, j) for image, j in zip(photos, jitter)])
        torch.testing.assert_close(jitter(photos), expected, rtol=0, atol=1e-5)
        assert (jitter(photos) - photos).abs().max() > 0.1
    torch.testing.assert_close(plain(photos), photos, rtol=0, atol=1e-6)
    x = photos.clone().requires_grad_()
    strong(x).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_numbers_of_the_jitter():
    drawn = random_jitter(2000, generator(17))
    touched = drawn.brightness != 1
    assert abs(touched.float().mean() - 0.8) < 0.03 and abs(drawn.grey.float().mean() - 0.2) < 0.03
    assert torch.equal(touched, drawn.hue != 0) and torch.equal(
        touched, drawn.contrast != 1
    )  # all four or none
    assert (
        abs(drawn.grey[touched].float().mean() - drawn.grey[~touched].float().mean()) < 0.06
    )  # grey does not care
    for name, middle, reach in (
        ("brightness", 1, 0.3),
        ("contrast", 1, 0.3),
        ("saturation", 1, 0.2),
        ("hue", 0, 0.2),
    ):
        away = getattr(drawn, name) - middle
        assert (
            0.98 * reach < away.max() <= reach + 1e-6
            and -reach - 1e-6 <= away.min() < -0.98 * reach
        )
    scops_jitter = random_jitter(50, generator(17), p=1, grey=0)
    assert (scops_jitter.hue != 0).all() and not scops_jitter.grey.any()
    assert torch.equal(drawn[7:9].contrast, drawn.contrast[7:9]) and len(drawn[7]) == 1
    with pytest.raises(
        InputError, match=r"2 rows needs images of shape \(2,3,H,W\), not \(2, 1, 4, 4\)"
    ):
        drawn[:2](torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match="hue in"):
        random_jitter(1, generator(0), hue=0.7)


def test_the_old_identity_of_corners_blurs():
    line = torch.linspace(-1, 1, S)
    old_identity = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
    noise = torch.rand(1, 1, S, S, generator=generator(19))
    then_, now = (F.grid_sample(noise, old_identity, align_corners=c) for c in (True, False))
    torch.testing.assert_close(then_, noise, rtol=0, atol=1e-4)
    assert (now - noise).abs().mean() > 0.05


def test_splines_far_away_and_zooms():
    jakab = random_spline(400, generator(3))
    far = torch.tensor([[[50.0, 30.0]]])
    ratio = (jakab[:1].at(far) - far) / (
        thin_plate(far.square().sum(-1, keepdim=True)) * jakab[:1].weights.sum(1, keepdim=True)
    )
    assert (ratio - 1).abs().max() < 0.1

    shares = [
        float((abs(w.affine[:, :, :2].det()) < 1).float().mean())
        for w in (
            solved_spline(4000, generator(21), jitter=0.0),
            random_affine(4000, generator(21)),
        )
    ]
    assert (
        abs(shares[0] - 0.5 / (1 / 0.7 - 0.5)) < 0.03
        and abs(shares[1] - math.log(2) / math.log(2 / 0.7)) < 0.03
    )


def test_folds():
    push = random_spline(1, generator(6), shift=0.0)

    def turned_and_bent(rotation, bend):
        "The warp of two sliders: degrees, and the strength of the bend."
        warp = affine_warp(
            torch.full((1,), rotation * math.pi / 180),
            torch.ones(1),
            torch.zeros(1, 2),
            torch.ones(1),
        )
        return warp.then(replace(push, weights=bend * push.weights))

    def folded_share(warp):
        "Percent of the warped picture that is folded over."
        return 100 * float(
            (torch.linalg.det(warp.slopes(cell_centres(32).view(1, -1, 2))) < 0).float().mean()
        )

    assert (
        folded_share(turned_and_bent(120, 0)) == 0
        and folded_share(turned_and_bent(0, 1)) == 0
        and folded_share(turned_and_bent(0, 7)) > 1
    )


def test_mirrored_names_are_a_permutation():
    names = collections["birds"].landmark_names
    other = [n.replace("left", "*").replace("right", "left").replace("*", "right") for n in names]
    partner = [names.index(n) for n in other]
    assert sorted(partner) == list(range(len(names)))
    assert any(i != j for i, j in enumerate(partner))
