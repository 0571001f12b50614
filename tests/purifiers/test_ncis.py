import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify import networks
from jaxpurify.attacks import PGD
from jaxpurify.datasets import load
from jaxpurify.gradients import rematerialised
from jaxpurify.models import Defended, sweep
from jaxpurify.networks.blind_spot import BlindSpotNetwork
from jaxpurify.purifiers import NCIS, BlindSpot, GaussianSmoothing, registry
from jaxpurify.testing import check_gradient, check_purifier, count_compilations


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (2, 12, 10, 3)), jnp.float32)


def as_it_is(purifier):
    return purifier


def test_a_pass_smooths_and_then_restores(blind_spot, images):
    smoothed = GaussianSmoothing(sigma=0.6, iterations=3)(images)
    expected = jax.jit(blind_spot)(smoothed)
    assert 0 < expected.min() < expected.max() < 1
    np.testing.assert_allclose(NCIS(network=blind_spot, sigma=0.6, iterations=3)(images), expected, atol=1e-6)
    np.testing.assert_allclose(BlindSpot(network=blind_spot)(smoothed), expected, atol=1e-6)


def test_values_outside_are_cut_off_after_every_pass(images):
    darkening = NCIS(network=lambda images: 1.4 - 2 * images, sigma=0.0, passes=2)
    inner = jnp.clip(1.4 - 2 * images, 0, 1)
    np.testing.assert_allclose(darkening(images), jnp.clip(1.4 - 2 * inner, 0, 1), atol=1e-6)


def test_two_passes_are_one_applied_twice(blind_spot, images):
    once = NCIS(network=blind_spot)
    twice = dataclasses.replace(once, passes=2)
    np.testing.assert_allclose(twice(images), once(once(images)), atol=1e-6)
    assert float(jnp.abs(twice(images) - once(images)).max()) > 1e-3


def test_a_number_of_passes_is_one_compilation(images):
    purifier = NCIS(network=lambda images: 0.9 * images)
    with count_compilations() as compilations:
        for sigma, passes in ((0.5, 3), (0.5, 4), (0.7, 3), (0.6, 4)):
            dataclasses.replace(purifier, sigma=sigma, passes=passes)(images)
    assert compilations.count("_purified") == 2


def test_the_exact_gradient_is_that_of_finite_differences(x64, blind_spot):
    images = jnp.asarray(np.random.default_rng(1).uniform(0.1, 0.9, (1, 7, 6, 3)))
    purifier = NCIS(network=blind_spot, passes=3)
    assert jax.eval_shape(purifier, images).dtype == np.float64
    check_gradient(purifier, images, step=1e-6)


@pytest.mark.parametrize("wrap", [as_it_is, pytest.param(rematerialised, marks=pytest.mark.slow)])
def test_the_loop_has_the_gradient_of_the_passes_written_out(blind_spot, images, wrap):
    def written_out(purifier):
        return lambda images: purifier.one_pass(purifier.one_pass(images))

    @jax.jit
    def gradients(sigma, images):
        def total(sigma, images, wrap):
            return (weights * wrap(NCIS(network=blind_spot, sigma=sigma, passes=2))(images)).sum()

        weights = jnp.cos(jnp.arange(images.size, dtype=jnp.float32)).reshape(images.shape)
        return [jax.grad(total, argnums=(0, 1))(sigma, images, wrap) for wrap in (written_out, wrap)]

    expected, looped = gradients(jnp.float32(0.6), images)
    assert float(jnp.abs(expected[1]).max()) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), looped, expected)


def test_the_gradients_memory_does_not_grow_with_the_passes():
    network = nnx.eval_shape(lambda: BlindSpotNetwork(3, width=32, layers=1, rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)

    def temporary(passes):
        purifier = NCIS(network=network, passes=passes)
        gradient = jax.jit(jax.grad(lambda x, p: (p(x) ** 2).sum()))
        return gradient.lower(images, purifier).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) <= 1.5 * temporary(2)


def test_sigma_and_iterations_are_swept_in_one_program(blind_spot, images):
    swept = sweep(NCIS(network=blind_spot, passes=2), sigma=jnp.asarray([0.3, 0.8]), iterations=jnp.asarray([1.0, 5.0]))
    together = jax.vmap(lambda purifier: purifier(images))(swept)
    for sigma, iterations, purified in zip((0.3, 0.8), (1, 5), together, strict=True):
        alone = NCIS(network=blind_spot, sigma=sigma, iterations=iterations, passes=2)(images)
        np.testing.assert_allclose(purified, alone, atol=1e-5)


def test_modules_and_functions_are_networks_too(blind_spot_module, blind_spot, images):
    np.testing.assert_array_equal(BlindSpot(network=blind_spot_module)(images), BlindSpot(network=blind_spot)(images))
    np.testing.assert_array_equal(BlindSpot(network=lambda images: 0.5 * images)(images), 0.5 * images)


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 3])
def test_the_contract_of_purifiers_is_kept(blind_spot, passes):
    check_purifier(NCIS(network=blind_spot, passes=passes), size=(9, 12))


@pytest.mark.slow
def test_an_attack_that_knows_it_reaches_the_classifier(blind_spot):
    images = load("photos", split="test", limit=4).images
    model = Defended(networks.load_classifier("photos-cnn"), NCIS(network=blind_spot, passes=2))

    @jax.jit
    def attack(model, images):
        labels = model(images).argmax(axis=1).astype(jnp.int32)
        result = PGD(epsilon=8 / 255, steps=3)(model, images, labels, jax.random.key(0))
        losses = [-jax.nn.log_softmax(model(x))[jnp.arange(4), labels] for x in (images, result.images)]
        return *losses, jnp.abs(result.images - images).max()

    before, after, size = attack(model, jnp.asarray(images))
    assert (after > before).all()
    assert size <= 8 / 255 + 1e-6


def test_a_pixel_without_neighbours_is_refused(blind_spot):
    for purifier in (BlindSpot(network=blind_spot), NCIS(network=blind_spot)):
        with pytest.raises(ValueError, match="images must have more than one pixel"):
            purifier(jnp.full((1, 1, 1, 3), 0.5))
        assert jax.eval_shape(purifier, jnp.full((1, 1, 2, 3), 0.5)).shape == (1, 1, 2, 3)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"network": 3}, TypeError, "network must be a callable images -> images, got int"),
        ({"passes": 0}, ValueError, "passes must be an integer of at least 1, got 0"),
        ({"sigma": -1.0}, ValueError, "sigma must be finite and at least 0, got -1.0"),
        ({"iterations": -1.0}, ValueError, "iterations must be finite and at least 0"),
        ({"boundary": "zero"}, ValueError, "boundary"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, error, message):
    with pytest.raises(error, match=message):
        NCIS(**{"network": GaussianSmoothing()} | fields)


def test_a_network_of_other_channels_is_refused(blind_spot, images):
    with pytest.raises(ValueError, match="images must have 3 channels, last, got the shape"):
        NCIS(network=blind_spot)(images[..., :1])
    with pytest.raises(ValueError, match=r"expected \(2, 12, 10, 3\) at scale 1: give images of its channels"):
        BlindSpot(network=lambda images: images[..., :1])(images)
    with pytest.raises(ValueError, match=r"expected \(2, 12, 10, 3\) at scale 1: give the one that it was trained for"):
        BlindSpot(network=lambda images: images[:, ::2])(images)


def test_networks_are_loaded_by_name_and_written_on_the_command_line(monkeypatch, blind_spot):
    asked = []
    monkeypatch.setattr(
        networks, "load_network", lambda name, weights=None: (asked.append((name, weights)), blind_spot)[1]
    )
    assert isinstance(BlindSpot.pretrained(), BlindSpot)
    assert NCIS.pretrained(weights="mine.safetensors", passes=3).passes == 3
    purifier = registry.make("ncis:sigma=0.7,iterations=2,passes=2,boundary=mirror")
    assert (purifier.sigma, purifier.iterations, purifier.passes, purifier.boundary) == (0.7, 2.0, 2, "mirror")
    assert isinstance(registry.make("blind-spot:weights=other"), BlindSpot)
    assert asked == [
        ("blind-spot", None),
        ("blind-spot", "mine.safetensors"),
        ("blind-spot", None),
        ("blind-spot", "other"),
    ]


def test_images_smaller_than_the_receptive_field_are_warned_of(blind_spot):
    network = BlindSpot(network=blind_spot).network
    field = network.apply.receptive_field
    sentence = rf"the images \(2×{field}.* are smaller than the receptive field of .* \({field}×{field}\)"
    with pytest.warns(UserWarning, match=sentence):
        BlindSpot(network=network)(jnp.zeros((1, 2, field, 3)))
    with warnings.catch_warnings(action="error"):
        BlindSpot(network=network)(jnp.zeros((1, field, field, 3)))
