import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.attacks.rules import kth_largest, steepest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_statistics_are_those_of_sorting(dtype):
    random = np.random.default_rng(0)
    sizes = np.abs(random.normal(size=50) * 10.0 ** random.integers(-35, 30, size=50)).astype(dtype)
    sizes[:5] = sizes[10]  # ties
    sizes[5:8] = 0
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(jax.vmap(kth_largest, in_axes=(None, 0)))(jnp.asarray(sizes), jnp.arange(1, 51))
        np.testing.assert_array_equal(found, np.sort(sizes)[::-1])
        assert found[0].dtype == dtype


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_an_l1_step_is_the_sign_of_the_largest_entries_that_may_move(share):
    random = np.random.default_rng(1)
    image = np.round(random.uniform(size=(6, 7, 3)) * 4) / 4  # many pixels are black or white
    gradient = random.normal(size=(6, 7, 3))
    free = ~(((image == 0) & (gradient < 0)) | ((image == 1) & (gradient > 0)))
    limit = np.sort(np.abs(gradient[free]))[::-1][: int(np.ceil(share * 126))][-1]
    expected = np.sign(gradient) * (free & (np.abs(gradient) >= limit))
    rule = steepest("l1", l1_share=share)
    step, _ = rule.update(jnp.float32(-gradient), rule.init(jnp.float32(image)), jnp.float32(image))
    np.testing.assert_allclose(step, expected / np.abs(expected).sum(), atol=1e-7)
    assert 0 < (~free).sum() < 60
    still, _ = rule.update(jnp.zeros((6, 7, 3)), None, jnp.float32(image))
    np.testing.assert_array_equal(still, 0)
