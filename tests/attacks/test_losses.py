import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import one_hot

from jaxpurify.attacks import losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(9, 5)) * 4
LABELS = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3])
TARGETS = np.array([1, 0, 4, 1, 2, 3, 0, 0, 4])
ROWS = np.arange(9)


def log_probabilities(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def numpy_cross_entropy(logits, labels, targets):
    return -log_probabilities(logits)[ROWS, labels] if targets is None else log_probabilities(logits)[ROWS, targets]


def largest_other(logits, labels):
    return np.array(
        [max(value for i, value in enumerate(row) if i != own) for row, own in zip(logits, labels, strict=True)]
    )


def numpy_margin(logits, labels, targets):
    if targets is None:
        return largest_other(logits, labels) - logits[ROWS, labels]
    return logits[ROWS, targets] - largest_other(logits, targets)


def numpy_dlr(logits, labels, targets):
    """Equations 6 and 7 of Croce and Hein 2020, z sorted in descending order."""
    z = -np.sort(-logits, axis=1)
    own = logits[ROWS, labels]
    if targets is None:
        return -(own - largest_other(logits, labels)) / (z[:, 0] - z[:, 2])
    return -(own - logits[ROWS, targets]) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2)


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(
    ("name", "expected"), [("cross-entropy", numpy_cross_entropy), ("margin", numpy_margin), ("dlr", numpy_dlr)]
)
def test_loss_equals_its_formula(name, expected, targets):
    ours = losses.LOSSES[name](
        jnp.float32(LOGITS), jnp.asarray(LABELS), None if targets is None else jnp.asarray(targets)
    )
    np.testing.assert_allclose(ours, expected(LOGITS, LABELS, targets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("gap", [1e2, 1e4])
def test_dlr_equals_its_formula_at_any_gap(gap, targets):
    logits = np.float32(LOGITS)
    logits[ROWS, LABELS] += np.float32(gap)
    ours = losses.dlr(jnp.asarray(logits), jnp.asarray(LABELS), None if targets is None else jnp.asarray(targets))
    np.testing.assert_allclose(ours, numpy_dlr(logits.astype(np.float64), LABELS, targets), rtol=1e-5)


def test_mean_loss_is_the_mean_over_the_members_of_an_ensemble():
    members = tuple(jnp.float32(LOGITS * scale) for scale in (1, 0.5, -1))
    for targets in (None, jnp.asarray(TARGETS)):
        ours = losses.resolve(losses.MeanLoss("margin"))(members, jnp.asarray(LABELS), targets)
        each = [numpy_margin(np.asarray(member), LABELS, targets) for member in members]
        np.testing.assert_allclose(ours, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


def test_cross_entropy_shows_the_direction_at_any_gap():
    """The softmax of the other logits is the direction of the gradient, however little is left of its length."""
    for gap in (30.0, 200.0, 1e4):
        gradient = jax.grad(lambda z: losses.cross_entropy(z, jnp.array([0])).sum())(jnp.array([[gap, 0.0, 1.0]]))
        np.testing.assert_allclose(gradient / -gradient[0, 0], [[-1, 1 / (1 + np.e), np.e / (1 + np.e)]], rtol=1e-4)
        assert gradient[0, 0] < -1e-21


def test_dlr_ignores_shift_and_scale_of_the_logits():
    once = losses.dlr(jnp.float32(LOGITS), jnp.asarray(LABELS))
    again = losses.dlr(jnp.float32(LOGITS * 30 + 7), jnp.asarray(LABELS))
    np.testing.assert_allclose(once, again, rtol=1e-4)


def test_cross_entropy_keeps_a_gradient_where_the_model_is_sure():
    gradient = jax.grad(lambda x: losses.cross_entropy(x, jnp.array([0])).sum())(jnp.array([[60.0, 0.0, 0.0]]))
    assert np.abs(gradient).max() > 1e-27


@pytest.mark.parametrize(("targets", "needed"), [(None, 3), (jnp.zeros(2, int), 4)])
def test_dlr_refuses_too_few_classes(targets, needed):
    outputs = jnp.zeros((2, needed - 1))
    with pytest.raises(ValueError, match=f"at least {needed} classes, got {needed - 1}: use the margin loss"):
        losses.dlr(outputs, jnp.zeros(2, int), targets)


def test_own_loss_is_raised_from_the_labels_and_lowered_to_the_targets():
    def distance(outputs, reference):
        return ((outputs - reference) ** 2).sum(axis=1)

    own = losses.resolve(distance)
    outputs, labels, targets = jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.full((2, 3), 3.0)
    np.testing.assert_array_equal(own(outputs, labels), [3, 3])
    np.testing.assert_array_equal(own(outputs, labels, targets), [-12, -12])


def test_built_in_losses_may_be_passed_as_functions():
    assert losses.resolve(losses.margin) is losses.resolve("margin")


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"one of \['cross-entropy', 'dlr', 'margin'\] or a function, got 'hinge'"):
        losses.resolve("hinge")


def test_success_is_a_wrong_class_or_the_wanted_one():
    outputs = one_hot(jnp.array([0, 1, 2]), 3)
    labels, targets = jnp.array([0, 0, 0]), jnp.array([1, 1, 1])
    np.testing.assert_array_equal(losses.succeeded(None, outputs, labels, None), [False, True, True])
    np.testing.assert_array_equal(losses.succeeded(None, outputs, labels, targets), [False, True, False])


@pytest.mark.parametrize("bad", [[0, 1, np.nan], [0, 1, np.inf], [-np.inf] * 3])
def test_outputs_that_say_nothing_are_no_success(bad):
    outputs = jnp.array([bad], jnp.float32)
    for targets in (None, jnp.array([1]), jnp.array([2])):
        assert not losses.succeeded(None, outputs, jnp.array([0]), targets)[0]


def test_minus_infinity_is_the_logit_of_a_class_that_cannot_win():
    outputs = jnp.array([[0.0, 1.0, -jnp.inf]])
    assert losses.succeeded(None, outputs, jnp.array([0]), None)[0]
    assert not losses.succeeded(None, outputs, jnp.array([1]), None)[0]
    assert losses.succeeded(None, outputs, jnp.array([0]), jnp.array([1]))[0]


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_and_its_gradient_take_the_labels_logit_without_gathering(name):
    """Gathers, and scatters on the way back, are most of what XLA would compile of an attack."""
    gradient = jax.jit(jax.grad(lambda outputs, labels: losses.LOSSES[name](outputs, labels, None).sum()))
    program = gradient.lower(jnp.float32(LOGITS), jnp.asarray(LABELS)).as_text()
    assert "gather" not in program
    assert name == "dlr" or "scatter" not in program  # whose derivative of the largest logits scatters


@pytest.mark.parametrize("label", [-1, 5])
def test_the_margin_of_a_class_that_there_is_not_is_nan(label):
    assert np.isnan(losses.margin(jnp.float32(LOGITS), jnp.full(9, label))).all()


def test_own_success_sees_the_reference_in_use():
    def equal(outputs, reference):
        return outputs == reference

    outputs, labels, targets = jnp.array([1, 2]), jnp.array([1, 1]), jnp.array([2, 2])
    np.testing.assert_array_equal(losses.succeeded(equal, outputs, labels, None), [True, False])
    np.testing.assert_array_equal(losses.succeeded(equal, outputs, labels, targets), [False, True])


def test_margin_of_the_label_is_nan_where_outputs_are_no_logits():
    labels = jnp.asarray(LABELS)
    ours = losses.label_margin(jnp.float32(LOGITS), labels)
    np.testing.assert_allclose(ours, -numpy_margin(LOGITS, LABELS, None), rtol=1e-5)
    assert np.isnan(losses.label_margin(jnp.zeros((9, 4, 4, 3)), labels)).all()
    assert np.isnan(losses.label_margin(jnp.zeros((9, 5)), jnp.zeros((9, 5)))).all()
