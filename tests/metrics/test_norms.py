import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.metrics.norms import check_perturbations, perturbation_norms

CLEAN = np.full((3, 4, 5, 2), 0.5, np.float32)


def perturbed(image, **pixels):
    adversarial = CLEAN.copy()
    for value, pixel in pixels.values():
        adversarial[(image, *pixel)] = value
    return adversarial


def test_norms_have_their_closed_form():
    adversarial = CLEAN.copy()
    adversarial[1] += 0.25
    adversarial[2, 0, 0, 0] = 0.5 - 0.375
    adversarial[2, 3, 4, 1] = 0.5 + 0.5
    np.testing.assert_allclose(perturbation_norms(CLEAN, adversarial, norm="linf"), [0, 0.25, 0.5])
    np.testing.assert_allclose(perturbation_norms(CLEAN, adversarial, norm="l2"), [0, 0.25 * np.sqrt(40), 0.625])


def test_norms_are_computed_in_float64_on_the_host():
    adversarial = jnp.asarray(CLEAN) + jnp.float32(8 / 255)
    norms = perturbation_norms(jnp.asarray(CLEAN), adversarial, norm="l2")
    assert isinstance(norms, np.ndarray)
    assert norms.dtype == np.float64


def test_shapes_and_names_are_checked():
    with pytest.raises(ValueError, match=r"norm must be one of \['l1', 'l2', 'linf'\], got 'l3'"):
        perturbation_norms(CLEAN, CLEAN, norm="l3")
    with pytest.raises(ValueError, match=r"shape of the clean ones, \(3, 4, 5, 2\), got \(2, 4, 5, 2\)"):
        perturbation_norms(CLEAN, CLEAN[:2], norm="l2")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.01, -0.01])
def test_an_image_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=r"adversarial image 1 leaves \[0, 1\] or is not finite"):
        check_perturbations(CLEAN, perturbed(1, pixel=(value, (0, 0, 0))), norm="linf", epsilon=1.0)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.1)])
def test_an_image_out_of_the_ball_is_named(norm, epsilon):
    inside = perturbed(2, pixel=(0.6, (1, 1, 1)))
    np.testing.assert_allclose(check_perturbations(CLEAN, inside, norm=norm, epsilon=epsilon), [0, 0, 0.1], atol=1e-7)
    outside = perturbed(2, pixel=(0.60001, (1, 1, 1)))
    with pytest.raises(ValueError, match=f"adversarial image 2 is 0.1000.* away in {norm}, expected at most 0.1000"):
        check_perturbations(CLEAN, outside, norm=norm, epsilon=epsilon)


def test_rounding_errors_of_a_large_ball_pass():
    clean, adversarial = np.zeros((1, 64, 64, 3), np.float32), np.full((1, 64, 64, 3), 0.75, np.float32)
    size = 0.75 * np.sqrt(64 * 64 * 3)
    check_perturbations(clean, adversarial, norm="l2", epsilon=size * (1 - 9e-7))
    with pytest.raises(ValueError, match="the attack is at fault"):
        check_perturbations(clean, adversarial, norm="l2", epsilon=size * (1 - 1e-5))


def test_norms_take_the_memory_of_one_image_and_not_of_all():
    clean = np.zeros((400, 32, 32, 3), np.float32)
    adversarial = clean + np.float32(0.01)
    tracemalloc.start()
    try:
        check_perturbations(clean, adversarial, norm="l2", epsilon=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < clean.nbytes / 10
