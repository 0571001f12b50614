"""Total variation against scikit-image's, and the reconstruction from kept pixels against SciPy's L-BFGS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from skimage.restoration import denoise_tv_chambolle

from jaxpurify.testing import check_gradient
from jaxpurify.transforms.total_variation import total_variation_denoise, total_variation_reconstruct


def noise(shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).random(shape), dtype)


def waves(shape):
    """A smooth picture with an edge, and noise of 8/255."""
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    picture = 0.5 + 0.2 * np.sin(rows / 4)[None, :, :, None] + 0.2 * (columns > shape[2] / 2)[None, :, :, None]
    return np.broadcast_to(picture, shape) + np.random.default_rng(1).choice([-1, 1], shape) * 8 / 255


@pytest.mark.parametrize("shape", [(2, 31, 45, 3), (1, 16, 16, 1), (1, 7, 1, 3), (1, 1, 9, 1)])
@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_equals_scikit_image_at_the_same_number_of_passes(shape, iterations):
    images = noise(shape)
    for weight in (0.01, 0.1, 1.0):
        found = total_variation_denoise(images, weight=weight, iterations=iterations)
        assert found.dtype == jnp.float32
        for image, denoised in zip(np.asarray(images, np.float64), found, strict=True):
            expected = denoise_tv_chambolle(image, weight=weight, eps=0, max_num_iter=iterations, channel_axis=-1)
            np.testing.assert_allclose(denoised, expected, atol=2e-6)


def test_float64_images_are_denoised_in_float64(x64):
    image = noise((9, 12, 3), np.float64)
    found = total_variation_denoise(image[None], weight=0.1, iterations=30)[0]
    expected = denoise_tv_chambolle(np.asarray(image), weight=0.1, eps=0, max_num_iter=30, channel_axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_no_weight_changes_nothing():
    images = noise((1, 8, 8, 3))
    np.testing.assert_array_equal(total_variation_denoise(images, weight=0.0), images)


@pytest.mark.parametrize("iterations", [2, 20])
def test_the_gradient_of_denoising_is_that_of_finite_differences(iterations, x64):
    def function(inputs):
        return total_variation_denoise(inputs["images"], weight=inputs["weight"], iterations=iterations)

    check_gradient(function, {"images": noise((2, 6, 5, 2), np.float64), "weight": jnp.asarray(0.1)})


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_the_gradients_of_flat_images_are_finite_and_keep_the_mean(value):
    flat = jnp.full((1, 6, 7, 1), value)
    gradient = jax.grad(lambda images: jnp.sum(total_variation_denoise(images, weight=0.1) * noise(images.shape)))(flat)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.sum(gradient), np.sum(noise(flat.shape)), rtol=1e-5)
    kept = (noise(flat.shape) < 0.5).astype(jnp.float32)
    gradient = jax.grad(lambda images: jnp.sum(total_variation_reconstruct(images, kept, weight=0.03)))(flat)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["denoise", "reconstruct"])
def test_the_memory_of_the_gradient_does_not_grow_with_the_number_of_passes(name):
    images = noise((1, 64, 64, 3))
    reconstruct = functools.partial(total_variation_reconstruct, kept=jnp.ones_like(images))
    function = {"denoise": total_variation_denoise, "reconstruct": reconstruct}[name]

    def memory(iterations):
        gradient = jax.grad(lambda images: jnp.sum(function(images, weight=0.1, iterations=iterations) ** 2))
        return jax.jit(gradient).lower(images).compile().memory_analysis().temp_size_in_bytes

    # Sixteen times the passes, a quarter of sixteen times the states.
    assert memory(256) < 4.5 * memory(16)


def objective(values, images, kept, weight, smooth=0.0):
    """Guo et al.'s objective and its gradient, with norms rounded off near 0 by ``smooth``."""

    def norm(differences, axes):
        norms = np.sqrt(np.sum(differences**2, axis=axes, keepdims=True) + smooth**2)
        return np.sum(norms), differences / np.where(norms > 0, norms, 1)

    gradient = np.zeros_like(values)
    total, part = norm(kept * (values - images), None)
    gradient += kept * part
    for axis, along in ((0, 1), (1, 0)):
        value, part = norm(np.diff(values, axis=axis), along)
        total += weight * value
        ahead, behind = [(0, 0)] * 3, [(0, 0)] * 3
        ahead[axis], behind[axis] = (1, 0), (0, 1)
        gradient += weight * (np.pad(part, ahead) - np.pad(part, behind))
    return total, gradient


def least(image, kept, weight):
    """The least objective that L-BFGS finds in float64, as the norms' corners become sharper and sharper."""
    values = image
    for smooth in (1e-2, 1e-3, 1e-4):

        def smoothed(flat, smooth=smooth):
            total, gradient = objective(flat.reshape(image.shape), image, kept, weight, smooth)
            return total, gradient.ravel()

        found = minimize(
            smoothed, values.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "maxfun": 2000}
        )
        values = found.x.reshape(image.shape)
    return objective(values, image, kept, weight)[0]


@pytest.mark.parametrize(("weight", "iterations"), [(0.03, 50), pytest.param(0.15, 50, marks=pytest.mark.slow)])
def test_the_reconstruction_minimises_the_objective_of_guo_et_al(weight, iterations):
    image = waves((1, 16, 14, 3))
    kept = (noise(image.shape) < 0.5).astype(jnp.float32)
    found = total_variation_reconstruct(jnp.asarray(image, jnp.float32), kept, weight=weight, iterations=iterations)
    reached = objective(np.asarray(found[0], np.float64), image[0], np.asarray(kept[0], np.float64), weight)[0]
    kept = np.asarray(kept, np.float64)
    best = least(image[0], kept[0], weight)
    assert abs(reached / best - 1) < 0.01
    assert reached < objective(image[0], image[0], kept[0], weight)[0]


def test_kept_values_stay_where_total_variation_is_cheap():
    images = jnp.asarray(waves((1, 16, 14, 3)), jnp.float32)
    kept = (noise(images.shape) < 0.5).astype(jnp.float32)
    found = total_variation_reconstruct(images, kept, weight=0.01)
    np.testing.assert_allclose(kept * found, kept * images, atol=1e-6)
    assert float(jnp.abs((1 - kept) * (found - images)).max()) > 0.01


def test_dropped_values_have_no_influence():
    images = noise((2, 9, 12, 3))
    kept = (noise(images.shape) < 0.4).astype(jnp.float32)
    other = jnp.where(kept == 1, images, 1 - images)
    first, second = (total_variation_reconstruct(given, kept, weight=0.1) for given in (images, other))
    np.testing.assert_array_equal(first, second)


def test_nothing_kept_is_no_division_by_zero():
    found = total_variation_reconstruct(noise((1, 5, 5, 1)), jnp.zeros((1, 5, 5, 1)), weight=0.1)
    np.testing.assert_array_equal(found, np.zeros((1, 5, 5, 1)))


def test_the_gradient_of_the_reconstruction_is_that_of_finite_differences(x64):
    images = noise((1, 6, 5, 2), np.float64)
    kept = jnp.asarray(np.random.default_rng(3).random(images.shape) < 0.5, images.dtype)

    def function(inputs):
        return total_variation_reconstruct(inputs["images"], kept, weight=inputs["weight"], iterations=9)

    check_gradient(function, {"images": images, "weight": jnp.asarray(0.1)}, step=1e-6)


@pytest.mark.parametrize("options", [{"weight": -0.1}, {"weight": np.inf}, {"weight": np.ones(2)}, {"iterations": 0}])
def test_nonsense_is_refused(options):
    images = noise((1, 4, 4, 1))
    for function in (total_variation_denoise, functools.partial(total_variation_reconstruct, kept=images)):
        with pytest.raises(ValueError, match=next(iter(options))):
            function(images, **{"weight": 0.1} | options)
