import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import networks
from jaxpurify.attacks import PGD
from jaxpurify.datasets import load
from jaxpurify.gradients import has_surrogate, substitute
from jaxpurify.models import Defended, sweep
from jaxpurify.networks.edsr import EDSR
from jaxpurify.purifiers import JPEG, BitDepth, GaussianNoise, Resizing, SuperResolution, WaveletDenoising, registry
from jaxpurify.testing import check_gradient, check_purifier

HEIGHT, WIDTH = 12, 10


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (2, HEIGHT, WIDTH, 3)), jnp.float32)


def slope(model, images):
    """Return the gradient of a sum of the outputs with various weights."""

    def total(images):
        outputs = model(images)
        return (jnp.cos(jnp.arange(outputs.size, dtype=images.dtype)) * outputs.ravel()).sum()

    return jax.jit(jax.grad(total))(images)


def test_the_stages_come_in_the_papers_order(doubling, images):
    purifier = SuperResolution(network=doubling, jpeg=JPEG(quality=95), rounded=True)
    denoised = JPEG(quality=95)(WaveletDenoising(sigma=0.02)(images))
    enlarged = jax.jit(doubling)(denoised)
    assert 0 < enlarged.min() < enlarged.max() < 1
    np.testing.assert_allclose(purifier(images), jnp.round(enlarged * 255) / 255, atol=1 / 255 + 1e-6)
    np.testing.assert_allclose(dataclasses.replace(purifier, rounded=False)(images), enlarged, atol=1e-6)
    levels = np.asarray(purifier(images)) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)


def test_the_classifier_sees_the_larger_image_unless_it_is_asked_back(doubling, images):
    purifier = SuperResolution(network=doubling)
    assert purifier.changes_size
    assert purifier(images).shape == (2, 2 * HEIGHT, 2 * WIDTH, 3)
    back = dataclasses.replace(purifier, back=True)
    assert not back.changes_size
    shrunk = jax.image.resize(purifier(images), images.shape, method="bicubic", antialias=True)
    np.testing.assert_allclose(back(images), shrunk, atol=1e-6)


def test_bicubic_enlarging_is_one_argument_away(images):
    control = SuperResolution.pretrained("bicubic", sigma=0.0)
    expected = jax.image.resize(images, (2, 2 * HEIGHT, 2 * WIDTH, 3), method="bicubic")
    np.testing.assert_allclose(control(images), jnp.clip(expected, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(control(images), Resizing(scale=2.0, back=False)(images))


def test_the_exact_gradient_is_that_of_finite_differences(x64, doubling):
    images = jnp.asarray(np.random.default_rng(1).uniform(0.1, 0.9, (1, 8, 6, 3)))
    purifier = SuperResolution(network=doubling, denoise=WaveletDenoising(sigma=0.04), back=True)
    assert jax.eval_shape(purifier, images).dtype == np.float64
    check_gradient(purifier, images, step=1e-7)


def test_rounding_hides_the_gradient_and_has_a_surrogate(images):
    plain = SuperResolution(network=Resizing(scale=2.0, back=False), denoise=None)
    rounded = dataclasses.replace(plain, rounded=True)
    assert not has_surrogate(plain)
    np.testing.assert_array_equal(slope(rounded, images), jnp.zeros_like(images))
    # Rounding passes the gradient as it is, so what is left is that of the other stages.
    exact = slope(plain, images)
    assert np.mean(np.asarray(exact) != 0) > 0.9
    np.testing.assert_allclose(slope(substitute(rounded), images), exact, atol=1e-5)


@pytest.mark.slow
def test_jpeg_and_rounding_have_their_surrogates(doubling, images):
    jpeg = JPEG(quality=95)
    purifier = SuperResolution(network=doubling, denoise=None, jpeg=jpeg, rounded=True)
    np.testing.assert_array_equal(slope(purifier, images), jnp.zeros_like(images))
    seen = slope(substitute(purifier), images)
    np.testing.assert_allclose(seen, slope(lambda x: doubling(substitute(jpeg)(x)), images), atol=1e-5)
    assert np.mean(np.asarray(seen) != 0) > 0.9
    np.testing.assert_array_equal(substitute(purifier)(images), purifier(images))


def test_sigma_is_swept_in_one_program(doubling, images):
    sigmas = jnp.asarray([0.0, 0.02, 0.04])
    swept = sweep(SuperResolution(network=doubling), denoise__sigma=sigmas)
    together = jax.vmap(lambda purifier: purifier(images))(swept)
    for sigma, purified in zip(sigmas.tolist(), together, strict=True):
        alone = SuperResolution(network=doubling, denoise=WaveletDenoising(sigma=sigma))(images)
        np.testing.assert_allclose(purified, alone, atol=1e-5)
    assert float(jnp.abs(together[0] - together[2]).max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"back": True}, {"jpeg": JPEG(quality=95), "rounded": True}])
def test_the_contract_of_purifiers_is_kept(doubling, options):
    check_purifier(SuperResolution(network=doubling, **options), size=(9, 12))


def test_a_random_stage_makes_it_random(doubling, images):
    purifier = SuperResolution(network=doubling, denoise=GaussianNoise())
    assert purifier.random
    with pytest.raises(ValueError, match="random, expected a key"):
        purifier(images)
    assert jax.eval_shape(purifier, images, jax.random.key(0)).shape == (2, 2 * HEIGHT, 2 * WIDTH, 3)


@pytest.mark.slow
def test_an_attack_that_knows_it_reaches_the_classifier(doubling):
    images = load("photos", split="test", limit=4).images
    model = Defended(networks.load_classifier("photos-cnn"), SuperResolution(network=doubling, back=True))

    @jax.jit
    def attack(model, images):
        labels = model(images).argmax(axis=1).astype(jnp.int32)
        result = PGD(epsilon=8 / 255, steps=3)(model, images, labels, jax.random.key(0))
        losses = [-jax.nn.log_softmax(model(x))[jnp.arange(4), labels] for x in (images, result.images)]
        return *losses, jnp.abs(result.images - images).max()

    before, after, size = attack(model, jnp.asarray(images))
    assert (after > before).all()
    assert size <= 8 / 255 + 1e-6


def test_one_pixel_is_enlarged_too(doubling):
    pixel = SuperResolution(network=doubling, denoise=None)(jnp.full((1, 1, 1, 3), 0.5))
    assert pixel.shape == (1, 2, 2, 3)
    assert np.isfinite(pixel).all()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"network": 3}, TypeError, "network must be a callable images -> images, got int"),
        ({"network": EDSR}, TypeError, "got the class EDSR"),
        ({"network": GaussianNoise()}, TypeError, "same images every time, got GaussianNoise"),
        ({"denoise": 0.02}, TypeError, "denoise must be a purifier or None, got float"),
        ({"jpeg": 95}, TypeError, "jpeg must be a purifier or None, got int"),
        ({"scale": 0}, ValueError, "scale must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_no_stage_is_refused(fields, error, message):
    with pytest.raises(error, match=message):
        SuperResolution(**{"network": BitDepth()} | fields)


def test_a_network_of_another_scale_or_of_other_channels_is_refused(doubling, images):
    with pytest.raises(ValueError, match=r"EDSR turned .* into \(2, 24, 20, 3\), expected \(2, 36, 30, 3\) at scale 3"):
        SuperResolution(network=doubling, scale=3)(images)
    with pytest.raises(ValueError, match=r"expected \(2, 24, 20, 1\) at scale 2: give images of its channels"):
        SuperResolution(network=lambda x: doubling(jnp.repeat(x, 3, axis=3)), denoise=None)(images[..., :1])


@pytest.fixture
def asked(monkeypatch, doubling):
    """The networks asked for by name; all of them are the tiny one."""
    names = []
    monkeypatch.setattr(
        networks, "load_network", lambda name, weights=None: (names.append((name, weights)), doubling)[1]
    )
    return names


def test_networks_are_loaded_by_name(asked):
    purifier = SuperResolution.pretrained(sigma=None, jpeg=95)
    assert (purifier.denoise.sigma, purifier.jpeg.quality, purifier.jpeg.subsampling) == (None, 95, "4:2:0")
    assert SuperResolution.pretrained("edsr-baseline", weights="mine.safetensors", back=True).back
    assert SuperResolution.pretrained("edsr-large", scale=4).scale == 4
    assert asked == [("sesr-x2", None), ("edsr-baseline-x2", "mine.safetensors"), ("edsr-large-x4", None)]
    with pytest.raises(
        ValueError, match="network must be one of small, edsr-baseline, edsr-large, bicubic, got 'vdsr'"
    ):
        SuperResolution.pretrained("vdsr")
    with pytest.raises(ValueError, match="bicubic enlarging has no weights, got 'x'"):
        SuperResolution.pretrained("bicubic", weights="x")


def test_it_is_written_on_the_command_line(asked):
    purifier = registry.make(
        "super-resolution:network=edsr-baseline,sigma=0.04,jpeg=90,rounded=true,back=true,weights=a.b"
    )
    assert asked == [("edsr-baseline-x2", "a.b")]
    assert (purifier.denoise.sigma, purifier.jpeg.quality, purifier.rounded, purifier.back) == (0.04, 90, True, True)
    plain = registry.make("super-resolution:sigma=none,jpeg=none")
    assert (plain.denoise.sigma, plain.jpeg, plain.rounded, plain.back) == (None, None, False, False)


def test_denoising_may_be_left_out():
    assert SuperResolution.pretrained("bicubic", sigma=0).denoise is None
    assert registry.make("super-resolution:network=bicubic,sigma=0").denoise is None
    assert SuperResolution.pretrained("bicubic", sigma=None).denoise.sigma is None
