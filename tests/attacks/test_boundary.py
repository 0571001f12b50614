import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.boundary import BoundaryProjection
from jaxpurify.metrics.norms import perturbation_norms
from jaxpurify.models import classifier

KEY = jax.random.key(0)


def reachable(linear):
    """Exact distances of images from the plane where both logits are zero; the box binds in none of those returned."""
    weight = np.float64(linear.weights[0][:, 1]).reshape(linear.images.shape[1:])
    logits = (linear.images * weight).sum(axis=(1, 2, 3)) + np.float64(linear.weights[1][1])
    exact, free = {}, {}
    for norm, distance, step in (
        ("linf", np.abs(logits) / np.abs(weight).sum(), np.sign(weight)),
        ("l2", np.abs(logits) / np.linalg.norm(weight), weight / np.linalg.norm(weight)),
    ):
        nearest = linear.images - (np.sign(logits) * distance)[:, None, None, None] * step
        exact[norm], free[norm] = distance, (nearest >= 0).all(axis=(1, 2, 3)) & (nearest <= 1).all(axis=(1, 2, 3))
    return exact, free


def steep(weights, images):
    flat = images.reshape(images.shape[0], -1) @ weights[0] + weights[1].reshape(1, -1)
    return jax.nn.softmax(1e4 * flat)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("saturated", [False, True])
def test_the_nearest_point_of_a_plane_is_found_even_behind_a_saturated_softmax(linear, norm, saturated):
    exact, free = reachable(linear)
    target = classifier(steep, linear.weights) if saturated else linear.target
    attack = BoundaryProjection(norm=norm, steps=4)
    if saturated:
        with pytest.warns(UserWarning, match="give logits"):
            found = attacks.run(attack, target, linear.images, linear.labels, KEY, batch_size=12)
    else:
        found = attacks.run(attack, target, linear.images, linear.labels, KEY, batch_size=12)
    assert found.success.sum() >= 9  # behind a saturated softmax, all starts may be on one side of the plane
    chosen = free[norm] & found.success
    assert chosen.sum() >= 3
    norms = perturbation_norms(linear.images, found.images, norm=norm)
    ratio = norms[chosen] / exact[norm][chosen]
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= 1.01).all()


def test_passes_are_counted(toy):
    queries = []

    def counted(images):
        jax.debug.callback(lambda: queries.append(1))
        return toy.apply(toy.weights, images)

    found = BoundaryProjection(steps=3)(counted, toy.images, toy.labels, KEY)
    jax.effects_barrier()
    np.testing.assert_array_equal(found.forwards, len(queries))
    np.testing.assert_array_equal(found.forwards, 1 + 16 + 16 + 3 * (1 + 4 + 16))
    np.testing.assert_array_equal(found.backwards, 3)


def test_a_model_that_nothing_fools_leaves_its_images_as_they_were(toy):
    found = attacks.run(
        BoundaryProjection(steps=2), lambda x: jnp.stack([x[:, 0, 0, 0] + 2, x[:, 0, 0, 0]], axis=1), toy.images,
        np.zeros(16, np.int32), KEY, batch_size=16,
    )  # fmt: skip
    assert not found.success.any()
    np.testing.assert_array_equal(found.images, toy.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1"}, "norm of BoundaryProjection must be"),
        ({"steps": 0}, "steps must be"),
        ({"epsilon": 8.0}, "divide by 255"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoundaryProjection(**arguments)


def test_target_classes_and_random_targets_are_refused(toy, noisy):
    with pytest.raises(ValueError, match="untargeted"):
        BoundaryProjection()(toy.target, toy.images, toy.labels, KEY, targets=toy.labels)
    with pytest.raises(ValueError, match="random target"):
        BoundaryProjection()(noisy.target, noisy.images, noisy.labels, KEY)
