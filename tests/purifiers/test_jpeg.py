import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.gradients import has_surrogate, substitute
from jaxpurify.purifiers.jpeg import JPEG, DifferentiableJPEG
from jaxpurify.testing import check_purifier
from jaxpurify.transforms.jpeg import jpeg

SHAPE = (4, 31, 45, 3)


@pytest.fixture(scope="module")
def images():
    """Noise, grey, black and white."""
    noise = np.random.default_rng(0).integers(0, 256, SHAPE[1:]) / 255
    flat = [np.full(SHAPE[1:], value) for value in (0.5, 0.0, 1.0)]
    return jnp.asarray(np.stack([noise, *flat]), jnp.float32)


def test_it_is_the_transform(images):
    np.testing.assert_array_equal(JPEG(quality=40)(images), jpeg(images, quality=40))


def test_the_surrogate_has_the_same_numbers():
    surrogate = JPEG(quality=40, subsampling="4:2:2").surrogate()
    assert isinstance(surrogate, DifferentiableJPEG)
    assert (surrogate.quality, surrogate.subsampling) == (40.0, "4:2:2")
    assert not has_surrogate(surrogate)


def test_a_gradient_attack_sees_through_substitute_what_the_exact_gradient_hides(images):
    signs = jnp.asarray(np.random.default_rng(1).choice([-1.0, 1.0], SHAPE), jnp.float32)

    def slope(model):
        return jax.jit(jax.grad(lambda images: (signs * model(images)).sum()))(images)

    np.testing.assert_array_equal(slope(JPEG()), np.zeros(SHAPE))
    seen = np.asarray(slope(substitute(JPEG())))
    assert np.isfinite(seen).all()
    # Noise, grey, black and white alike.
    assert (np.mean(seen != 0, axis=(1, 2, 3)) > 0.9).all()
    np.testing.assert_array_equal(substitute(JPEG())(images), JPEG()(images))


def test_the_surrogate_keeps_the_contract_of_purifiers():
    check_purifier(DifferentiableJPEG(), size=(9, 18))


@pytest.mark.slow
@pytest.mark.parametrize("make", [JPEG, DifferentiableJPEG])
@pytest.mark.parametrize(
    "options", [{"channels": 1}, {"size": (1, 7)}, {"size": (32, 32)}, {"channels": 1, "size": (3, 1)}]
)
def test_the_contract_is_kept_by_grey_thin_and_whole_images(make, options):
    check_purifier(make(), **options)


@pytest.mark.slow
@pytest.mark.parametrize("make", [JPEG, DifferentiableJPEG])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2"])
def test_the_contract_is_kept_under_every_subsampling(make, subsampling):
    check_purifier(make(quality=30, subsampling=subsampling))


@pytest.mark.slow
@pytest.mark.parametrize("make", [JPEG, DifferentiableJPEG])
def test_the_contract_is_kept_in_float64(make, x64):
    check_purifier(make())


@pytest.mark.parametrize("make", [JPEG, DifferentiableJPEG])
def test_bad_numbers_are_refused_in_one_sentence(make):
    for quality in (0, 101, float("nan")):
        with pytest.raises(ValueError, match=f"quality must be from 1 to 100, got {float(quality)}: "):
            make(quality=quality)
    with pytest.raises(ValueError, match="subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '420'"):
        make(subsampling="420")
