import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.precision import divided, power_of_two, pulled, unit_scaled, widened


def test_powers_of_two_are_exact_and_never_zero_or_infinite():
    exponents = np.arange(-63, 64)
    for share in (1.0, 1.5, 1.999):
        found = np.asarray(power_of_two(jnp.asarray(share * 2.0**exponents, jnp.float32)))
        np.testing.assert_array_equal(found, np.float32(2.0**exponents))
    others = jnp.array([0.0, jnp.inf, jnp.nan, 2e-38, 3e38])
    np.testing.assert_array_equal(power_of_two(others), np.float32([1, 1, 1, 2.0**-63, 2.0**63]))


@pytest.mark.usefixtures("x64")
def test_powers_of_two_of_doubles_are_those_of_floats():
    values = jnp.array([0.0, 1e-300, 0.3, 1.0, 6.0, 1e300, jnp.inf])
    found = power_of_two(values)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [1, 2.0**-63, 0.25, 1, 4, 2.0**63, 1])


def test_a_power_of_two_is_few_operations():
    """Every gradient of an attack takes several."""
    assert len(jax.jit(power_of_two).lower(jnp.ones(3)).as_text().splitlines()) < 50


def test_scaling_rounds_nothing_and_reaches_every_normal_number():
    values = np.float32([[2e-38, 3e-38], [1e30, -2e30], [0.3, -0.1], [0, 0]])
    scaled = np.asarray(unit_scaled(jnp.asarray(values), axis=1))
    assert (np.abs(scaled).max(axis=1)[:3] >= 1).all()
    assert (np.abs(scaled).max(axis=1)[:3] < 2).all()
    assert (scaled[3] == 0).all()
    np.testing.assert_array_equal(scaled[:3, 0] / scaled[:3, 1], values[:3, 0] / values[:3, 1])


def test_dividing_by_nothing_gives_zero_where_the_compiler_knows_of_it_too():
    def twice(values):
        once = divided(values, jnp.abs(values).max())
        return divided(once, jnp.sqrt((once * once).sum()))

    assert (jax.jit(twice)(jnp.zeros(5)) == 0).all()
    assert (jax.jit(lambda: twice(jnp.zeros(5)))() == 0).all()


def test_outputs_of_any_dtype_become_numbers_to_compute_with():
    outputs = {"a": jnp.array([True]), "b": jnp.array([3], jnp.int8), "c": jnp.array([0.5], jnp.bfloat16)}
    wide = widened(outputs)
    assert {leaf.dtype.name for leaf in wide.values()} == {"float32"}
    assert [float(leaf[0]) for leaf in wide.values()] == [1, 3, 0.5]


@pytest.mark.parametrize("half", ["loop", "unrolled"])
@pytest.mark.parametrize("after", [1e-15, 1e-9, 1e-4, 1.0, 1e4, 1e8])
def test_a_gradient_comes_back_whole_through_float16_whatever_comes_after_it(after, half):
    """The true gradient is known: that of a linear function."""
    weights = np.random.default_rng(0).normal(size=(48,)).astype(np.float16)

    def loss(images):
        inner = (images.reshape(len(images), -1).astype(jnp.float16) * weights[None]).sum(axis=1)
        return inner.astype(jnp.float32) * np.float32(after)

    images = np.random.default_rng(1).uniform(size=(3, 4, 4, 3)).astype(np.float32)

    @jax.jit
    def gradient(images):
        _, pull = jax.vjp(loss, images)
        return pulled(lambda scale: pull(scale)[0], jnp.ones(len(images)), half=half)

    expected = np.broadcast_to(weights.astype(np.float64).reshape(4, 4, 3) * after, images.shape)
    np.testing.assert_allclose(gradient(images), expected, rtol=2e-3, atol=after * 1e-3)


def test_images_whose_gradient_is_zero_or_not_finite_do_not_disturb_others():
    def loss(images):
        values = images.astype(jnp.float16).sum(axis=(1, 2, 3)).astype(jnp.float32)
        return values * jnp.array([0.0, jnp.nan, 1e-9])

    images = jnp.ones((3, 2, 2, 1))
    _, pull = jax.vjp(loss, images)
    found = pulled(lambda scale: pull(scale)[0], jnp.ones(3), half="loop")
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], 1e-9, rtol=1e-3)
