"""What the engine does for a graphics card, as far as it can be seen without one."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from partbook.core import InputError, generator
from partbook.data.sample import Kept, collections, identity
from partbook.drawn.engine import ON_CARD, Stream
from partbook.features.cache import addresses
from partbook.methods.contrastive import (
    Contrastive,
    ContrastiveSettings,
    energy,
    energy_at_once,
    feature_loss,
)
from partbook.methods.method import Step, methods
from partbook.methods.scops import (
    concentration_loss,
    literal_concentration_loss,
    literal_semantic_loss,
    semantic_loss,
)
from partbook.parts.maps import as_on_card
from partbook.parts.warps import uniform, uniforms
from partbook.run import Request, options_of, prepare
from partbook.training.benchmarks import Noise, build_parser, engine_of, run_benchmark
from partbook.training.engine import (
    LONG,
    Launches,
    compiled,
    lay_out,
    precision_of,
    wants_compiling,
)
from partbook.training.fit import (
    cut_gradients,
    draw_ahead,
    fit,
    make_optimiser,
    pictures_of_step,
)


def some(count=2, K=3, size=24, C=5, cells=6, seed=0):
    "Scores (B,K,H,W), features (B,C,h,w), a basis (K,C) and a saliency (B,H,W)."
    g = generator(seed)
    scores = torch.randn(count, K + 1, size, size, generator=g)
    features = torch.rand(count, C, cells, cells, generator=g)
    return (
        scores,
        features,
        torch.rand(K, C, generator=g),
        torch.rand(count, size, size, generator=g),
    )


def both(form, scores):
    "A loss and its gradient, on the processor and as on a card."
    found = []
    for card in ((), ("cpu",)):
        x = scores.clone().requires_grad_()
        if card:
            with as_on_card():
                loss = form(x.softmax(1)[:, 1:])
                slope = torch.autograd.grad(loss.sum(), x)[0]
        else:
            loss = form(x.softmax(1)[:, 1:])
            slope = torch.autograd.grad(loss.sum(), x)[0]
        found.append((loss.detach(), slope))
    return found


@pytest.mark.parametrize("cells", [(6, 6), (5, 7), (24, 24)])
def test_energy_of_a_card(cells):
    g = generator(1)
    mask = torch.rand(2, 24, 30, generator=g, dtype=torch.float64)
    features = torch.randn(2, 5, *cells, generator=g, dtype=torch.float64)
    torch.testing.assert_close(energy_at_once(mask, features), energy(mask, features))


@pytest.mark.parametrize(
    "form",
    [
        lambda f, w, D: lambda maps: concentration_loss(maps),
        lambda f, w, D: lambda maps: semantic_loss(maps, [f], w, D),
        lambda f, w, D: lambda maps: semantic_loss(maps, [f[:, :2], f[:, 2:, ::2, ::2]], w),
        lambda f, w, D: lambda maps: feature_loss(maps, [f, f[:, :, ::2, ::2]]),
    ],
    ids=["concentration", "semantic", "two grids", "feature"],
)
def test_losses_of_a_card(form):
    scores, features, basis, D = some()
    (here, slope), (there, its) = both(form(features, basis, D), scores)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(its, slope, rtol=1e-4, atol=1e-6)


def launches(form, scores):
    "Kernels of a loss and its gradient, as on a card."
    x = scores.clone().requires_grad_()
    form(x.softmax(1)[:, 1:])  # tables that are kept
    maps = x.softmax(1)[:, 1:]
    with as_on_card(), Launches() as seen:
        form(maps).sum().backward()
    return sum(seen.kernels.values())


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_kernels_than_the_literal_form(count):
    scores, features, basis, D = some(count)
    pairs = {
        "concentration": (concentration_loss, literal_concentration_loss),
        "semantic": (
            lambda maps: semantic_loss(maps, [features], basis, D),
            lambda maps: literal_semantic_loss(maps, features, basis, D),
        ),
    }
    for name, forms in pairs.items():
        ours, literal = (launches(form, scores) for form in forms)
        print(name, count, ours, literal)
        assert ours <= literal, name


def test_large_semantic_loss_of_a_card_is_the_fast_one(monkeypatch):
    scores, features, basis, D = some()
    monkeypatch.setattr("partbook.methods.scops.FEW", 0)
    form = lambda maps: semantic_loss(maps, [features], basis, D)
    (here, slope), (there, its) = both(form, scores)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(its, slope, rtol=1e-4, atol=1e-6)


def test_one_draw_is_several():
    wanted = (((7,), -60.0, 60.0), ((7,), 0.5, 2.0), ((7,), 0, 1), ((7, 25, 2), -0.01, 0.01))
    g = generator(5)
    apart = [uniform(shape, g, low, high) for shape, low, high in wanted]
    for one, other in zip(uniforms(generator(5), *wanted), apart):
        assert torch.equal(one, other)


# Without a card: a step where no answer exists. Tensors of torch's meta device have a shape and no
# numbers, so a line that asks for one fails, and so does one that mixes them with the host's.


class NoNumbers:
    "A stream on the meta device; what is drawn from it has a shape."

    device = torch.device("meta")


def drawing(plain):
    "A function of torch that draws, also from a stream without numbers."

    def draw(*given, generator=None, **named):
        stream = None if isinstance(generator, NoNumbers) else generator
        return plain(*given, generator=stream, **named)

    return draw


@pytest.fixture
def nowhere(monkeypatch):
    "Let streams and mixed precision know the meta device."
    streams = torch.Generator

    def stream(seed, device="cpu"):
        known = torch.device(device).type != "meta"
        return streams(device=device).manual_seed(int(seed)) if known else NoNumbers()

    monkeypatch.setattr("partbook.methods.method.generator", stream)
    for name in ("rand", "randn", "randint", "randperm"):
        monkeypatch.setattr(torch, name, drawing(getattr(torch, name)))
    autocast = torch.autocast

    def at(kind, *given, **named):
        return nullcontext() if kind == "meta" else autocast(kind, *given, **named)

    monkeypatch.setattr(torch, "autocast", at)


NAMES = ("contrastive", "scops", "uld", "disentangling", "imm", "lorenz", "zhang", "autolink")


def method_and_batch(name, **changes):
    "A method with its defaults, small, and a batch of noise."
    cls = methods[name]
    given = cls.defaults(cls.Settings().features) | {"size": 64, "batch_size": 4} | changes
    method = cls.build(cls.Settings(**given)).train()
    noise = Noise(4, 64)
    method.prepare(noise)
    method.attend(noise)
    return method, noise.batch(range(4))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_never_waits(name, nowhere):
    with as_on_card():
        method, batch = method_and_batch(name)
    method.to("meta")
    with as_on_card("meta"):
        terms = method.losses(batch.to("meta"), Step(1))
        sum(terms.values()).backward()
        optimiser = make_optimiser(method)
    assert all(v.is_meta and v.dtype == torch.float32 for v in terms.values())
    assert all(p.grad.is_meta for g in optimiser.param_groups for p in g["params"])
    with pytest.raises(RuntimeError, match="meta"):
        terms.popitem()[1].item()  # so that is what a wait looks like


@pytest.mark.parametrize("name", NAMES)
def test_a_step_asks_no_question(name):
    method, batch = method_and_batch(name)
    with as_on_card():
        optimiser = make_optimiser(method)
        for number in (0, 1):
            with Launches() as seen:
                terms = method.losses(batch, Step(number))
                sum(terms.values()).backward()
                cut_gradients(optimiser, 5.0)
                optimiser.step()
    assert not seen.waits and seen.kernels


def test_a_question_is_seen():
    "The count is not zero because nobody looks."
    x = torch.ones(3, requires_grad=True)
    with Launches() as seen:
        x[x > 0].sum().backward()
        x.detach().unique()
        float(x.detach().sum())
    assert sum(seen.waits.values()) >= 3


def test_features_of_a_card_are_known_by_the_host_picture(nowhere):
    batch = Noise(2, 16).batch([0, 1])
    moved = batch.to("meta")
    assert addresses(moved.images, "x") == addresses(batch.images, "x")
    assert not hasattr(batch.to("cpu").images, "on_host")
    with pytest.raises((RuntimeError, NotImplementedError)):
        addresses(moved.images + 0, "x")


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_computed_in_full_precision(name):
    method, batch = method_and_batch(name)
    plain = method.losses(batch, Step(1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.losses(batch, Step(1))
    for term, value in plain.items():
        assert mixed[term].dtype == value.dtype == torch.float32
        torch.testing.assert_close(mixed[term], value, rtol=0.15, atol=0.05, msg=term)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd", "adagrad"])
def test_an_optimiser_of_a_card_is_the_same(optimiser):
    "The fused form, on a processor, where torch has it: the same steps to rounding."
    ends = []
    for card in (False, True):
        with as_on_card() if card else nullcontext():
            settings = ContrastiveSettings(parts=3, size=32, batch_size=4, optimiser=optimiser)
            method = Contrastive.build(replace(settings, steps=4)).train()
            run = engine_of(method, Noise(4, 32), "cpu")
            for number in range(4):
                run.advance(number)
            ends.append([p.detach() for p in method.network.parameters()])
    for here, there in zip(*ends):
        torch.testing.assert_close(there, here, rtol=2e-3, atol=2e-4)


def rows_of(folder, resume, stop=None, **options):
    "The log of a short run, on a processor that counts as a card; killed after some steps."
    settings = ContrastiveSettings(parts=3, size=32, batch_size=4, steps=6, network="deeplab")
    settings.network_weights = "random"
    method = Contrastive.build(settings)

    def kill(step, *_):
        if step == stop:
            raise KeyboardInterrupt

    with as_on_card():
        log = fit(method, Noise(8, 32), folder, "cpu", resume, 2, watch=kill, look=0, **options)
    return method, log.rows


@pytest.mark.parametrize("how", [{}, {"precision": "bf16"}], ids=["full", "bf16"])
def test_a_run_of_a_card_is_taken_up_to_the_same_numbers(tmp_path, how):
    whole, rows = rows_of(tmp_path / "whole", False, **how)
    with pytest.raises(KeyboardInterrupt):
        rows_of(tmp_path / "killed", False, stop=3, **how)
    again, later = rows_of(tmp_path / "killed", True, **how)
    assert later == rows
    for one, other in zip(whole.parameters(), again.parameters()):
        assert torch.equal(one, other)


def test_a_run_is_taken_up_with_its_own_precision(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rows_of(tmp_path, False, stop=3, precision="bf16")
    with pytest.raises(InputError, match="precision = 'bf16', not 'no'"):
        rows_of(tmp_path, True)


def test_precision_of_a_card(monkeypatch):
    card = torch.device("cuda")
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert precision_of("auto", card) == ("bf16" if able else "no")
        assert precision_of("no", card) == "no"
    assert precision_of("auto", torch.device("mps")) == "no"


def test_which_networks_are_turned():
    with as_on_card():
        method = Contrastive.build(
            ContrastiveSettings.published(network_weights="random"), "random"
        )
        light = Contrastive.build(ContrastiveSettings())
        assert lay_out(method) == ["extractor network", "network"]
        assert lay_out(light) == []
    assert method.network.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:Dynamo detected")
@pytest.mark.parametrize("name", ["contrastive", "scops"])
def test_losses_are_one_program(name):
    "No break in the graph, none made anew for the next step, and the same values and gradients."
    torch._dynamo.reset()
    method, batch = method_and_batch(name)
    plain = [losses_and_slopes(method, batch, n) for n in range(3)]
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    method.terms = torch.compile(method.terms, backend=backend, fullgraph=True, dynamic=False)
    for n, (terms, slopes) in enumerate(plain):
        there, its = losses_and_slopes(method, batch, n)
        for term, value in terms.items():
            torch.testing.assert_close(there[term], value, rtol=1e-5, atol=1e-6)
        for one, other in zip(its, slopes):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert len(graphs) == 1


def losses_and_slopes(method, batch, number):
    "The terms of a step and the gradients of the head."
    terms = method.losses(batch, Step(number))
    head = list(method.network.head.parameters())
    return terms, torch.autograd.grad(sum(terms.values()), head)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler for torch's inductor")
def test_a_compiled_run_is_near_a_plain_one_and_taken_up(tmp_path):
    torch._dynamo.reset()
    settings = ContrastiveSettings(parts=3, size=32, batch_size=2, steps=4)

    def run(folder, how, resume=False, stop=None):
        def kill(step, *_):
            if step == stop:
                raise KeyboardInterrupt

        given = dict(out=tmp_path / folder, device="cpu", every=2, look=0, watch=kill)
        method = Contrastive.build(settings)
        return fit(method, Noise(4, 32), resume=resume, compile=how, **given).rows

    plain, quick = (run(name, name) for name in ("no", "yes"))
    for one, other in zip(plain, quick):
        for key, value in one.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, rel=2e-3), key
    record = json.loads((tmp_path / "yes" / "checkpoint" / "checkpoint.json").read_text())
    assert record["precision"] == "no, compiled"
    with pytest.raises(KeyboardInterrupt):
        run("killed", "yes", stop=2)
    with pytest.raises(InputError, match="'no, compiled', not 'no'"):
        run("killed", "no", resume=True)
    assert run("killed", "yes", resume=True) == quick


def test_what_cannot_be_compiled_is_said_once(capsys):
    torch._dynamo.reset()
    method, batch = method_and_batch("contrastive")
    before = method.losses(batch, Step(1))

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    assert not compiled(method, batch, backend=broken)
    assert "terms" not in vars(method) and method.training
    assert capsys.readouterr().out.count("without torch.compile, which fails here") == 1
    after = method.losses(batch, Step(1))
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_who_is_compiled(monkeypatch):
    method, _ = method_and_batch("contrastive", steps=LONG)
    short, _ = method_and_batch("contrastive", steps=LONG - 1)
    without, _ = method_and_batch("imm", steps=LONG)
    card = torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert wants_compiling("auto", method, card)
    assert not wants_compiling("auto", method, torch.device("cpu"))
    assert not wants_compiling("auto", short, card) and not wants_compiling("no", method, card)
    assert not wants_compiling("auto", without, card)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not wants_compiling("auto", method, card)
    with pytest.raises(InputError, match="compile is 'perhaps'; choose one of: auto, no, yes"):
        wants_compiling("perhaps", method, card)


# Drawing on a card. `FakeTensorMode` knows what would lie where, and refuses to mix host and card.


@pytest.mark.parametrize("name", ["birds", "faces", "figures", *range(6)])
def test_everything_is_drawn_where_the_stream_is(name, monkeypatch):
    kind = {} if isinstance(name, str) else {"kind": name}
    drawn = collections["vehicles" if kind else name].open(size=32)

    def nothing_asked(top, parts):  # how many boxes there are is asked once for a batch
        return top.new_zeros((len(top), 1, 4)), top.new_zeros((len(top), 1))

    monkeypatch.setattr("partbook.drawn.vehicles.instance_boxes", nothing_asked)
    with FakeTensorMode():
        drawn.stream = lambda indices: Stream(0, torch.arange(3, device="cuda"))
        batch = drawn.draw(drawn.scene([0, 1, 2], **kind), ["a", "b", "c"])
        tensors = {k: v for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    assert {v.device.type for v in tensors.values()} == {"cuda"}
    assert len(tensors) >= 6


@pytest.mark.parametrize("name", ["birds", "faces", "figures", "vehicles"])
def test_pieces_of_a_card_are_the_same_pictures(name, monkeypatch):
    "A card draws larger pieces; pictures, names and truth do not depend on them."
    here = collections[name].open(size=32)
    monkeypatch.setattr(here, "budget", 32**2)  # one at a time
    there = collections[name].open(size=32)
    monkeypatch.setattr(there, "budget", ON_CARD)
    one, other = here.batch([5, 0, 7]), there.batch([5, 0, 7])
    assert one.names == other.names and identity(here) == identity(there)
    for key, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(other, key), value), key


def test_a_run_draws_on_its_device():
    ready = prepare(Request("birds", "kmeans", device="cpu", limit=2), say=lambda sentence: None)
    ready.source.device = "elsewhere"
    assert ready.source.open("test").device == "elsewhere"
    assert "device" not in options_of(collections["birds"])


def test_a_card_draws_ahead_what_a_run_will_see():
    birds = collections["birds"].open(size=32)
    asked = []

    class Seen(Kept):
        def take(self, indices):
            asked.extend(indices)
            return []

    settings = ContrastiveSettings(parts=3, size=32, batch_size=4, steps=3)
    run = engine_of(Contrastive.build(settings), Noise(4, 32), "cpu")
    run.collection = Seen(birds)
    assert draw_ahead(run, 0) == 0 and not asked
    birds.device = "cuda"
    assert draw_ahead(run, 1) == len(set(asked)) == 8
    seen = [i for t in (1, 2) for i in pictures_of_step(t, 4, len(birds), settings.seed)]
    assert asked == seen


MOST = {  # kernels of a step as a card is asked for them; a change that needs more has a reason
    ("contrastive", False): 860,
    ("scops", False): 780,
    ("contrastive", True): 510,
    ("scops", True): 495,
}


@pytest.mark.parametrize("name, light", MOST)
def test_a_step_stays_small(name, light):
    given = build_parser().parse_args(["kernels", "--method", name, *["--light"] * light])
    row = run_benchmark(given)
    print(row)
    assert row["launches"] <= MOST[name, light] and row["waits"] == 0
    phases = [v for k, v in row.items() if k.startswith("launches_")]
    assert sum(phases) == row["launches"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_gradients_lie_as_their_parameters(precision):
    "The fused optimisers of a card refuse others; axes of length one do not count."
    settings = ContrastiveSettings(parts=3, size=32, batch_size=2, steps=4, network="deeplab")
    settings.network_weights = "random"
    with as_on_card():
        method = Contrastive.build(settings).train()
        run = engine_of(method, Noise(2, 32), "cpu", precision)
        run.advance(0)
    turned = 0
    for group in run.optimiser.param_groups:
        for p in group["params"]:
            tensors = [p.grad, *(v for v in run.optimiser.state[p].values() if v.shape == p.shape)]
            for other in tensors:
                pairs = zip(p.shape, p.stride(), other.stride())
                assert all(a == b for n, a, b in pairs if n > 1)
            turned += p.ndim == 4 and not p.is_contiguous()
    assert turned > 10


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["contrastive", "scops"])
def test_what_was_tried_is_what_runs(name, mixed):
    "The trial before a run compiles once for all its steps, in either precision."
    torch._dynamo.reset()
    method, batch = method_and_batch(name)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert compiled(method, batch, backend)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for number in range(3):
            sum(method.losses(batch, Step(number)).values()).backward()
    assert len(graphs) == 1 and method.training
