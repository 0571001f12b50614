import jax
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.ensembles import CropEnsemble
from jaxpurify.models import Defended, purifier
from jaxpurify.purifiers import BitDepth, GaussianNoise, GaussianSmoothing


@purifier
class Stubborn:
    """A purifier that comes with an attack of its own."""

    def __call__(self, images, key=None):
        return images

    def adaptive_attacks(self, norm, epsilon):
        return {"own": attacks.PGD(norm=norm, epsilon=epsilon, steps=3)}


def names(target, **options):
    return [part.name for part in attacks.Adaptive(**options).parts(target, 10)]


ALWAYS = ["noise", "APGD-CE", "APGD-T", "FAB-T", "Square", "BoundaryProjection", "HopSkipJump"]


def test_a_plain_model_meets_every_attack_that_asks_for_no_purifier():
    assert names(len) == ALWAYS
    assert names(len, norm="l2") == ALWAYS
    assert names(len, norm="l1") == ALWAYS[:3]


def test_a_purifier_is_gone_around_too():
    assert names(Defended(len, GaussianSmoothing(sigma=1.0))) == ["noise", "transfer", "BPDA", *ALWAYS[1:]]
    assert names(Defended(len, BitDepth()))[:4] == ["noise", "transfer", "BPDA", "substitute"]
    assert names(Defended(len, Stubborn()))[-1] == "own"


@pytest.mark.parametrize("defence", [GaussianNoise(), CropEnsemble(samples=2)])
def test_every_gradient_of_a_random_purifier_is_an_expectation_or_of_fixed_randomness(defence):
    target = Defended(lambda images: images.mean(axis=(1, 2)), defence)
    parts = {part.name: part for part in attacks.Adaptive().parts(target, 3)}
    assert {"PGD", "APGD-CE", "APGD-DLR", "APGD-CE (fixed)", "APGD-T", "HopSkipJump"} <= set(parts)
    assert parts["PGD"].attack.steps == 200
    for name in ("BPDA", "PGD", "APGD-CE", "APGD-DLR"):
        assert parts[name].target.random
        assert parts[name].attack.eot.samples == 20
    for name in ("APGD-CE (fixed)", "APGD-T", "FAB-T", "BoundaryProjection"):
        fixed = parts[name].target
        images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
        np.testing.assert_array_equal(fixed(images), fixed(images, jax.random.key(1)))


def test_every_part_has_the_size_asked_for():
    for part in attacks.Adaptive(norm="l2", epsilon=0.5).parts(Defended(len, BitDepth()), 10):
        assert (part.attack.norm, part.attack.epsilon) == ("l2", 0.5)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"queries": 0}, {"draws": 0}, {"epsilon": 8.0}, {"norm": "l0"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"at least 1|divide by 255|must be one of"):
        attacks.Adaptive(**arguments)
