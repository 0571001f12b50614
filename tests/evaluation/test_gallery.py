"""The gallery shows what purifiers do to an image that was really attacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import networks
from jaxpurify.detectors import FeatureSqueezing
from jaxpurify.evaluation import gallery
from jaxpurify.models import purifier
from jaxpurify.purifiers import BitDepth, Identity


@purifier
class Half:
    changes_size = True

    def __call__(self, images, key=None):
        return images[:, ::2, ::2]


@purifier
class Salt:
    random = True

    def __call__(self, images, key=None):
        return jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))(key)


@pytest.fixture(scope="module")
def shown():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return gallery.subject()


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_attack_changes_what_the_classifier_sees(shown):
    classifier = networks.load_classifier("photos-cnn")
    seen = [int(classifier(jnp.asarray(image)).argmax()) for image in (shown.clean, shown.attacked)]
    assert seen[0] == shown.label == gallery.photos.CLASS_NAMES.index("chelsea")
    assert seen[1] != shown.label
    assert np.abs(shown.attacked - shown.clean).max() == pytest.approx(8 / 255, abs=1e-6)


def test_a_tile_for_each_and_its_distance_to_the_clean_image(shown):
    figure = gallery.gallery(shown, {"none": Identity(), "bits": BitDepth(), "half": Half(), "salt": Salt()})
    assert len(figure.axes[0].images) == 6
    error = np.mean((shown.attacked - shown.clean) ** 2)
    assert words(figure)[2] == f"none\n{-10 * np.log10(error):.1f} dB"
    np.testing.assert_array_equal(figure.axes[0].images[4].get_array(), shown.attacked[0, ::2, ::2])


def test_a_detector_shows_its_scores(shown):
    detector = FeatureSqueezing(squeezers=(BitDepth(bits=2.0),))
    model = networks.load_classifier("photos-cnn")
    scores = [float(detector.score(model, image)[0]) for image in (shown.attacked, shown.clean)]
    figure = gallery.gallery(shown, {"squeezing": detector})
    assert words(figure)[2] == "squeezing\nscore {:.2f}, clean {:.2f}".format(*scores)


def test_before_and_after_and_the_change(shown):
    figure = gallery.before_and_after(shown, BitDepth(bits=1.0), name="one bit")
    before, after, change = (image.get_array() for image in figure.axes[0].images)
    np.testing.assert_array_equal(before, shown.attacked[0])
    np.testing.assert_array_equal(after, np.round(shown.attacked[0]))
    factor = int(words(figure)[2].split()[-1])
    np.testing.assert_allclose(change, np.clip(0.5 + factor * (after - before), 0, 1), atol=1e-6)


def test_only_colour_images_are_taken():
    with pytest.raises(ValueError, match=r"image must be RGB, expected shape \(height, width, 3\), got \(8, 8, 1\)"):
        gallery.subject(np.zeros((8, 8, 1), np.uint8))
