"""The threat models beyond the ladder, and cascades and minimal-norm attacks within an evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, evaluation
from jaxpurify.evaluation.threat_models import ThreatModel, name_attacks
from jaxpurify.models import classifier, purifier
from jaxpurify.purifiers import BitDepth

EPSILON = 0.1


def linear(weights, images):
    return (images.reshape(images.shape[0], -1) - 0.5) @ weights


@purifier
class Rounding:
    """A purifier without a surrogate whose exact gradient is zero."""

    def __call__(self, images, key=None):
        return jnp.round(images * 15) / 15


@pytest.fixture(scope="module")
def planted():
    random = np.random.default_rng(0)
    weights = np.float32(random.normal(size=(75, 3)))
    images = np.float32(random.uniform(0.2, 0.8, size=(8, 5, 5, 3)))
    labels = np.asarray(linear(weights, images)).argmax(axis=1).astype(np.int32)
    return classifier(linear, weights), images, labels


def test_blackbox_and_transfer_break_what_hides_its_gradient(planted):
    model, images, labels = planted
    found = evaluation.evaluate(
        model,
        {"rounding": Rounding()},
        (images, labels),
        attacks=[attacks.PGD(epsilon=EPSILON, steps=5)],
        threat_models=("blind", "full", evaluation.blackbox(queries=200), evaluation.transfer(model, model)),
        batch_size=8,
    )
    records = {(r["threat_model"], r["attack"]) for r in found.records if r["purifier"] == "rounding"}
    assert {("blackbox", "Square-200"), ("transfer", "PGD-5"), ("clean", "none")} <= records
    for threat in ("blackbox", "transfer"):
        assert found.worst("rounding", [threat]).mean() <= 0.25
    queries = {r["forwards"] for r in found.records if r["threat_model"] == "blackbox"}
    assert queries == {200}
    assert ("rounding", "full") in found.reasons


@pytest.mark.slow
def test_adaptive_takes_the_worst_of_all_and_gives_an_upper_bound_where_there_is_no_gradient(planted):
    model, images, labels = planted
    found = evaluation.evaluate(
        model,
        {"rounding": Rounding(), "bits": BitDepth(bits=4.0)},
        (images, labels),
        attacks=[attacks.PGD(epsilon=EPSILON, steps=5)],
        threat_models=("bpda", evaluation.adaptive(steps=5, queries=100)),
        batch_size=8,
    )
    assert found.worst("rounding", ["adaptive"]).mean() <= found.worst("rounding", ["bpda"]).mean()
    (bound,) = [flag for flag in found.flags if "upper bound" in flag]
    assert bound.startswith("rounding: adaptive with Adaptive gives an upper bound")
    worst = found.worst("bits", ["adaptive"])
    assert worst.mean() <= found.worst("bits", ["bpda"]).mean()
    assert {r["attack"] for r in found.records if r["threat_model"] == "adaptive"} == {"Adaptive"}


def test_a_cascade_is_an_attack_of_an_evaluation_like_any_other(planted):
    model, images, labels = planted
    cascade = attacks.AutoAttack(epsilon=EPSILON, steps=5, queries=50)
    run = functools.partial(
        evaluation.evaluate,
        model,
        {"bits": BitDepth(bits=5.0)},
        (images, labels),
        threat_models=("blind",),
        batch_size=8,
    )
    found = run(attacks=[cascade])
    assert (
        found.worst("none", ["blind"]).mean()
        <= run(attacks=[attacks.PGD(epsilon=EPSILON, steps=5)]).worst("none", ["blind"]).mean()
    )
    assert {r["attack"] for r in found.records} == {"none", "AutoAttack"}


def test_minimal_norm_images_shown_to_another_model_are_flagged(planted):
    model, images, labels = planted
    found = evaluation.evaluate(
        model, {"bits": BitDepth(bits=5.0)}, (images, labels), attacks=[attacks.DeepFool(epsilon=1.0)],
        threat_models=("blind",), batch_size=8,
    )  # fmt: skip
    assert "minimal-norm" in found.table()


def test_minimal_norm_attacks_need_an_epsilon_to_be_scored():
    with pytest.raises(ValueError, match="needs epsilon"):
        name_attacks([attacks.DeepFool()])


def test_transfer_needs_a_surrogate():
    with pytest.raises(ValueError, match="at least one surrogate"):
        evaluation.transfer()
    with pytest.raises(ValueError, match="mean of losses"):
        evaluation.transfer(lambda images: images, average="losses")
    assert isinstance(evaluation.transfer(lambda images: images), ThreatModel)


def test_names_tell_attacks_apart():
    named = name_attacks([attacks.AutoAttack(), attacks.AutoAttack(version="plus"), attacks.Square(), attacks.Square()])
    assert list(named) == ["AutoAttack", "AutoAttack plus", "Square-5000", "Square-5000 (2)"]
    assert jax.tree.leaves(named)
