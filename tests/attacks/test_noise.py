import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks

KEY = jax.random.key(0)


def run(toy, **options):
    return attacks.RandomNoise(**{"draws": 20, "chunk": 5, **options})(toy.target, toy.images, toy.labels, KEY)


def test_every_pixel_moves_by_epsilon_unless_the_clean_image_is_worst(toy):
    result = run(toy, epsilon=0.1, trace=True)
    moved = np.abs(np.asarray(result.images) - toy.images)
    inner = (toy.images > 0.1) & (toy.images < 0.9)
    clean = ~moved.any(axis=(1, 2, 3))
    assert clean.sum() < 8
    np.testing.assert_allclose(moved[~clean][inner[~clean]], 0.1, atol=1e-6)
    assert result.trace.shape == (16, 4)
    np.testing.assert_array_equal(result.forwards, 20)
    np.testing.assert_array_equal(result.backwards, 0)


def test_the_loss_is_that_of_the_image_returned(toy):
    result = run(toy, epsilon=0.1, loss="margin")
    outputs = np.array(toy.target(jnp.asarray(result.images)))
    own = outputs[np.arange(16), toy.labels]
    outputs[np.arange(16), toy.labels] = -np.inf
    np.testing.assert_allclose(result.loss, outputs.max(axis=1) - own, atol=1e-5)
    np.testing.assert_array_equal(result.success, result.loss > 0)


def test_l2_noise_has_length_epsilon(ramp):
    attack = attacks.RandomNoise(
        epsilon=0.5, norm="l2", draws=20, chunk=5, loss=lambda o, _: o, success=lambda o, _: o > 2
    )
    result = attack(ramp.target, ramp.images, ramp.labels, KEY)
    np.testing.assert_allclose(result.norm, 0.5, rtol=1e-4)


def test_more_draws_are_never_weaker(toy):
    few, more = run(toy, epsilon=0.1), run(toy, epsilon=0.1, draws=40)
    assert (more.success >= few.success).all()
    alike = np.asarray(more.success == few.success)
    assert (more.loss >= few.loss)[alike].all()
    assert (more.loss > few.loss).any()


def test_draws_differ_between_images_and_keys(ramp):
    images = np.full((16, 4, 5, 3), 0.5, np.float32)
    attack = attacks.RandomNoise(epsilon=0.1, draws=20, chunk=5, loss=lambda o, _: o, success=lambda o, _: o > 2)
    once = np.asarray(attack(ramp.target, images, ramp.labels, KEY).images)
    again = np.asarray(attack(ramp.target, images, ramp.labels, jax.random.key(1)).images)
    assert len(np.unique(once.reshape(16, -1), axis=0)) == 16
    assert (once != again).any(axis=(1, 2, 3)).all()


def test_the_first_draw_is_the_clean_image(toy):
    wrong = run(toy, draws=1, epsilon=0.1)
    np.testing.assert_array_equal(wrong.images, toy.images)
    np.testing.assert_array_equal(wrong.success, np.arange(16) == 0)


def test_noise_is_weaker_than_a_gradient(toy):
    noise = run(toy, epsilon=16 / 255)
    pgd = attacks.PGD(epsilon=16 / 255, steps=8)(toy.target, toy.images, toy.labels, KEY)
    assert noise.success.mean() < 0.3
    assert pgd.success.mean() > 0.4
    assert (pgd.success >= noise.success).all()


@pytest.mark.parametrize("name", ["draws", "chunk"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        attacks.RandomNoise(**{name: 0})
