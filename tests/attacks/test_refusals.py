"""What cannot work is refused, or warned of, in one sentence, whatever the attack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.transfer import SurrogateEnsemble
from jaxpurify.models import Defended, classifier, purifier

KEY = jax.random.key(0)


@purifier
class Doubled:
    """Repeats every pixel."""

    changes_size = True

    def __call__(self, images, key=None):
        return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize(
    "attack", [attacks.PGD(steps=2), pytest.param(attacks.AutoAttack(steps=2, queries=10), marks=pytest.mark.slow)]
)
def test_of_a_model_that_returns_nan_nothing_is_proved(toy, attack):
    target = classifier(lambda weights, images: toy.apply(weights, images) * jnp.nan, toy.weights)
    with pytest.warns(UserWarning, match="nothing is proved"):
        found = attacks.verdict(attack, target, toy.images, toy.labels, KEY, batch_size=16)
    assert found.robust_accuracy == 0
    assert (found.status == 2).all()
    with pytest.warns(UserWarning, match="nothing is proved"):
        attacks.run(attack, target, toy.images, toy.labels, KEY, batch_size=16)


@pytest.mark.parametrize("call", [attacks.run, attacks.verdict])
def test_cascades_refuse_what_their_parts_do(toy, call):
    others = (toy.labels + 1) % 5
    with pytest.raises(ValueError, match="AutoAttack is untargeted"):
        call(attacks.AutoAttack(), toy.target, toy.images, toy.labels, KEY, others)
    many = attacks.AutoAttack(version="custom", attacks=(attacks.APGD(target_classes=9),))
    with pytest.raises(ValueError, match="target_classes must be at most 4"):
        call(many, toy.target, toy.images, toy.labels, KEY)


def test_adaptive_goes_around_a_purifier_that_changes_the_size(toy):
    small = toy.images[:, :4, :4]
    weights = np.float32(np.random.default_rng(0).normal(size=(8 * 8 * 3, 3)))
    target = Defended(classifier(lambda w, x: x.reshape(x.shape[0], -1) @ w, weights), Doubled())
    names = [part.name for part in attacks.Adaptive().parts(target, 3)]
    assert "transfer" not in names
    assert "BPDA" in names
    attacks.Adaptive().prepare(target, small, np.zeros(16, np.int32), KEY, None)


@pytest.mark.parametrize("attack", [attacks.NES(queries=50), attacks.SPSA(queries=64), attacks.Square(queries=1)])
def test_budgets_that_end_before_the_first_step_are_refused(toy, attack):
    with pytest.raises(ValueError, match="queries to move at all"):
        attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)


def test_every_draw_of_a_random_target_is_a_query(noisy):
    with pytest.raises(ValueError, match="needs at least 40 queries"):
        attacks.run(attacks.Square(queries=39), noisy.target, noisy.images, noisy.labels, KEY, batch_size=8)


def test_targets_that_are_the_labels_are_refused(toy):
    with pytest.raises(ValueError, match="other classes than the labels"):
        attacks.verdict(attacks.PGD(steps=1), toy.target, toy.images, toy.labels, KEY, toy.labels)


def test_transfer_refuses_averages_that_would_be_ignored(toy):
    ensemble = SurrogateEnsemble(models=(toy.target, toy.target))
    arguments = (toy.target, toy.images, toy.labels, KEY)
    with pytest.raises(ValueError, match="average logits already"):
        attacks.transfer(attacks.FGSM(), ensemble, *arguments, average="losses")
    with pytest.raises(ValueError, match="average logits instead"):
        attacks.transfer(attacks.AutoAttack(), [toy.target, toy.target], *arguments, average="losses")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target_classes", [0, 4])
def test_fab_within_epsilon_finds_what_it_finds_without(toy, norm, target_classes):
    """An epsilon a thousandth above its own distance: the last of the search must not be lost to the filter."""
    attack = attacks.FAB(norm=norm, steps=20, target_classes=target_classes)
    free = attacks.run(attack, toy.target, toy.images, toy.labels, KEY, batch_size=16)
    for image in range(0, 16, 3):
        part = slice(image, image + 1)
        size = float(free.norm[image]) * 1.001 + 1e-6
        within = attacks.run(
            dataclasses.replace(attack, epsilon=size), toy.target, toy.images[part], toy.labels[part],
            jax.random.split(KEY, 16)[part], batch_size=16,
        )  # fmt: skip
        assert within.success.all()
        assert within.norm[0] <= size + 1e-6


def test_an_image_that_stands_within_epsilon_comes_back_clean(toy):
    found = attacks.run(attacks.FAB(epsilon=1e-4, steps=5), toy.target, toy.images, toy.labels, KEY, batch_size=16)
    stands = ~found.success
    assert stands.sum() >= 12
    np.testing.assert_array_equal(found.images[stands], toy.images[stands])
    assert (found.norm[stands] == 0).all()
    clean = np.asarray(toy.target(toy.images[stands])).argmax(axis=1) == toy.labels[stands]
    np.testing.assert_array_equal(found.margin[stands] > 0, clean)
