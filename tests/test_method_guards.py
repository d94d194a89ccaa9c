"""The chapter on methods, held in full: annotations, networks by name, the folder of a model."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from partbook.core import InputError
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.methods.method import (
    Contract,
    Method,
    Segmenting,
    Settings,
    Trained,
    TrainSettings,
    check_contract,
    check_made,
    check_terms,
    fits,
    load_method,
    methods,
    save_method,
    segmenter,
)


@dataclass
class Chosen(TrainSettings):
    network: str = "auto"
    network_weights: str | None = None


class Bare(Segmenting):
    def __init__(self, settings):
        super().__init__(settings)
        self.network = segmenter(settings, settings.parts)


def test_values_fit_their_annotations():
    assert fits(3, int) and fits(3, float) and not fits(True, int) and not fits(1.5, int)
    assert not fits(math.nan, float) and not fits(10**400, float)
    assert fits((1.0, 2), tuple[float, float])


def test_networks_by_name():
    light, bare = segmenter(Chosen(), 5), segmenter(Chosen(network_weights="random"), 5)
    assert type(light).__name__ == "Light" and light.trained and not bare.trained
    assert light.channels == 5
    large = segmenter(Chosen(features="rgb"), 4, "random")
    assert type(large).__name__ == "DeepLab" and large.channels == 4
    chosen = segmenter(Chosen(features="rgb", network="light"), 4, "random")
    assert type(chosen).__name__ == "Light"


def test_shares_are_the_softmax():
    logits = torch.tensor([1.0, 3, 4]).log().view(1, 3, 1, 1)
    expected = torch.tensor([0.125, 0.375, 0.5])
    assert torch.allclose(Bare(Chosen(parts=3)).shares(logits).flatten(), expected)


def test_tensors_of_another_model_are_refused(tmp_path):
    settings = KMeansSettings(parts=2, size=16, features="rgb")
    save_method(KMeans(settings, load_extractor("rgb")), tmp_path)
    _, record = load_method(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**record, "tensors": {"bytes": 1}}))
    with pytest.raises(InputError, match="the two are of different models"):
        load_method(tmp_path)


def test_the_contract_is_declared():
    "A method of a stranger lacks what it lacks by name, and has an extractor in any case."

    class Empty(Method):
        pass

    empty = Empty(Settings(parts=2, size=16))
    assert empty.extractor is None and isinstance(empty, Contract) and not empty.state_dict()
    for ask in (
        lambda: empty.logits(torch.zeros(1, 3, 16, 16)),
        lambda: empty.fit(None, "cpu"),
        lambda: empty.losses(None, None),
    ):
        with pytest.raises(NotImplementedError, match="Empty must define (logits|fit|losses)"):
            ask()


def test_an_extractor_that_is_set_is_a_module_of_the_method():
    extractor = load_extractor("equivariant", "random")
    method = KMeans(KMeansSettings(), extractor)
    assert method.extractor is extractor
    assert any(name.startswith("extractor.") for name in method.state_dict())
    assert isinstance(methods["kmeans"].build(KMeansSettings()).extractor, type(extractor))


def broken(base=Method, **own):
    "A method with verbs of its own."
    return type("Broken", (base,), own)


OWN = {"logits": lambda self, images: images, "fit": lambda self, collection, device: self}
CONTRACTS = {
    "no method": (dict, "is no class derived from"),
    "an object": (3, "is no class derived from"),
    "no logits": (broken(fit=OWN["fit"]), "lacks logits; define logits(self, images)."),
    "no fit": (broken(logits=OWN["logits"]), "lacks fit; define fit(self, collection, device)."),
    "no losses": (broken(Trained, **OWN), "lacks losses; define losses(self, batch, step)."),
    "fit without a device": (
        broken(logits=OWN["logits"], fit=lambda self, collection: self),
        "has fit(self, collection); expected is fit(self, collection, device).",
    ),
    "losses that want more": (
        broken(Trained, logits=OWN["logits"], losses=lambda self, batch, step, network: {}),
        "has losses(self, batch, step, network); expected is losses(self, batch, step).",
    ),
    "Settings of another kind": (broken(**OWN, Settings=dict), "has Settings that are not derived"),
}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_a_broken_contract_is_told_in_one_sentence(kind):
    cls, words = CONTRACTS[kind]
    with pytest.raises(InputError) as error:
        check_contract(cls, "mine")
    said = str(error.value)
    assert said.startswith("The method 'mine' ") and words in said and "\n" not in said


def test_what_is_built_and_lost_has_to_fit():
    for name in methods.names():
        check_contract(methods[name], name)
    with pytest.raises(InputError, match="'mine': build returned NoneType; it must return"):
        check_made(None, "mine")
    made = broken(**OWN)(Settings())
    check_made(made, "mine")
    made.extractor = torch.nn.Identity()
    with pytest.raises(InputError, match="'mine' has an extractor that is no Extractor"):
        check_made(made, "mine")
    check_terms({"L_f": torch.zeros(())}, "mine")
    for terms in (None, {}, torch.zeros(()), {"L_f": 0.0}, {"L_f": torch.zeros(2)}):
        with pytest.raises(InputError, match="'mine': losses\\(batch, step\\) must return a dict"):
            check_terms(terms, "mine")
