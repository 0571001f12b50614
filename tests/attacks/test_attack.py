import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify.models
from jaxpurify import attacks, keys
from jaxpurify.attacks.attack import Attack
from jaxpurify.models import as_target, classifier
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
PGD = attacks.PGD(epsilon=16 / 255, steps=8, trace=True)


@pytest.fixture(scope="module")
def found(toy):
    return PGD(toy.target, toy.images, toy.labels, KEY)


def test_some_images_fall_and_some_stand(found):
    assert 3 < found.success.sum() < 16
    np.testing.assert_array_equal(found.status, np.where(found.success, 1, 0))
    assert attacks.STATUS[1].startswith("fooled")


def test_result_tells_the_truth_about_its_images(toy, found):
    outputs = np.asarray(toy.target(found.images), np.float64)
    rows = np.arange(16)
    np.testing.assert_array_equal(outputs.argmax(axis=1) != toy.labels, found.success)
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, toy.labels]
    np.testing.assert_allclose(found.loss, losses, atol=1e-5)
    own = outputs[rows, toy.labels]
    outputs[rows, toy.labels] = -np.inf
    np.testing.assert_allclose(found.margin, own - outputs.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.norm, np.abs(found.images - toy.images).max(axis=(1, 2, 3)), atol=1e-7)
    assert found.norm.max() <= 16 / 255 + 1e-6
    np.testing.assert_array_equal(found.forwards, 9)
    np.testing.assert_array_equal(found.backwards, 9)
    assert found.trace.shape == (16, 9)


def assert_same(one, other, tolerance=1e-5):
    np.testing.assert_array_equal(one.success, other.success)
    for name in ("images", "loss", "margin", "norm", "trace"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=tolerance, rtol=tolerance)


def test_eager_jitted_and_nested_calls_agree(toy, found):
    """Jitted, the whole search is a loop on the device; eager, the host drives it."""

    @jax.jit
    def outer(target, images):
        inner = jax.jit(lambda images: PGD(target, images, toy.labels, KEY))
        result = inner(images)
        return result, result.images.sum()

    assert_same(outer(toy.target, toy.images)[0], found)
    constants = jax.jit(lambda: PGD(toy.target, toy.images, toy.labels, KEY))
    assert_same(constants(), found)


def test_an_attack_can_be_swept_over_epsilon(toy, found):
    swept = jaxpurify.models.sweep(PGD, epsilon=[0.0, 16 / 255])
    both = jax.vmap(lambda attack: attack(toy.target, toy.images, toy.labels, KEY))(swept)
    assert_same(jax.tree.map(lambda leaf: leaf[1], both), found)
    np.testing.assert_array_equal(both.images[0], toy.images)
    np.testing.assert_array_equal(both.success[0], np.arange(16) == 0)


def test_an_image_keeps_its_result_in_any_row_and_company(toy, found):
    order = np.random.default_rng(0).permutation(16)
    own = keys.per_image(KEY, 16)
    shuffled = PGD(toy.target, toy.images[order], toy.labels[order], own[order])
    padded = np.resize(np.arange(5), 16)
    few = PGD(toy.target, toy.images[padded], toy.labels[padded], own[padded])
    for name in ("images", "success", "loss", "trace"):
        expected = np.asarray(getattr(found, name))
        np.testing.assert_array_equal(getattr(shuffled, name), expected[order])
        np.testing.assert_array_equal(getattr(few, name), expected[padded])


def test_one_compilation_serves_every_epsilon_batch_key_and_set_of_weights(toy):
    jax.clear_caches()  # which other files may have filled

    def run(epsilon, images=toy.images, labels=toy.labels, key=KEY, target=toy.target):
        return attacks.PGD(epsilon=epsilon, steps=2)(target, images, labels, key)

    others = classifier(toy.apply, tuple(2 * weight for weight in toy.weights))
    with count_compilations() as compilations:
        for epsilon in (0.01, 1 / 255, np.float32(0.02), jnp.asarray(0.03), 0):
            run(epsilon)
        for images in (1 - toy.images, jnp.asarray(toy.images), toy.images.astype(np.float64)):
            run(0.01, images=images)
        run(0.01, labels=toy.labels.astype(np.uint8))
        run(0.01, key=jax.random.key(1))
        run(0.01, target=others)
    assert compilations.count("advance") == 1


def test_a_deterministic_search_needs_no_key(toy):
    for attack in (attacks.FGSM(), attacks.IFGSM(steps=2), attacks.MIFGSM(steps=2)):
        one, other = (attack(toy.target, toy.images, toy.labels, key) for key in (None, KEY))
        np.testing.assert_array_equal(one.images, other.images)


def broken(images):
    """Return NaN for images that were moved, and a class for those that were not."""
    logits = jnp.stack([images.mean(axis=(1, 2, 3)), jnp.zeros(len(images))], axis=1)
    clean = (images == 0.5).all(axis=(1, 2, 3))
    return jnp.where(clean[:, None], logits, jnp.nan)


@pytest.mark.parametrize("random_start", [False, True])
def test_a_model_that_returns_nan_is_flagged_and_yields_its_clean_image(random_start):
    images, labels = np.full((4, 4, 5, 3), 0.5, np.float32), np.zeros(4, int)
    attack = attacks.PGD(steps=2, random_start=random_start)
    with pytest.warns(UserWarning, match="nothing is proved"):
        result = attacks.run(attack, as_target(broken), images, labels, KEY)
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.status, 2)
    assert not result.success.any()
    with pytest.warns(UserWarning, match="nothing is proved"):
        verdict = attacks.verdict(attack, as_target(broken), images, labels, KEY)
    np.testing.assert_array_equal(verdict.status, 2)
    assert attacks.STATUS[2].startswith("not finite")


def rooted(images):
    """Finite logits whose gradient is not finite at a black pixel."""
    rooted = jnp.sqrt(images)
    return jnp.stack([rooted.mean(axis=(1, 2, 3)), jnp.full(len(images), 0.65)], axis=1)


def test_a_gradient_that_is_not_finite_is_flagged_and_the_rest_of_it_used():
    images = np.full((2, 4, 5, 3), 0.5, np.float32)
    images[1, 0, 0] = 0.0
    result = attacks.IFGSM(epsilon=0.01, steps=2)(as_target(rooted), images, np.zeros(2, int))
    np.testing.assert_array_equal(result.status, [0, 2])
    np.testing.assert_allclose(result.norm, 0.01, rtol=1e-4)


def good(name, **changes):
    images = np.full((3, 4, 5, 3), 0.5, np.float32)
    call = {"attack": PGD, "images": images, "labels": np.zeros(3, int), "key": KEY, "targets": None, **changes}
    return pytest.param(call, id=name)


def filled(value):
    images = np.full((3, 4, 5, 3), 0.5, np.float32)
    images[1, 2, 3, 0] = value
    return images


BAD = [
    (good("uint8", images=np.zeros((3, 4, 5, 3), np.uint8)), TypeError, "uint8: divide by 255"),
    (good("float16", images=np.zeros((3, 4, 5, 3), np.float16)), TypeError, "float16"),
    (good("channels first", images=np.zeros((2, 3, 8, 8), np.float32)), ValueError, "channels first"),
    (good("one image", images=np.zeros((8, 8, 3), np.float32)), ValueError, "add a batch axis"),
    (good("no image", images=np.zeros((0, 4, 5, 3), np.float32)), ValueError, "empty batch"),
    (good("NaN", images=filled(np.nan)), ValueError, "NaN or infinity in image 1"),
    (good("0-255", images=filled(200)), ValueError, "still in 0–255"),
    (good("normalised", images=filled(-1)), ValueError, "normalised"),
    (good("a list", images=[[0.5]]), TypeError, "got list: pass an array"),
    (good("label too large", labels=np.array([0, 1, 2])), ValueError, r"labels must be in \[0, 2\)"),
    (good("label below zero", labels=np.array([0, 1, -1])), ValueError, "values from -1 to 1"),
    (good("float labels", labels=np.zeros(3)), TypeError, "labels must be an array of integers.*float64"),
    (
        good("one-hot labels", labels=np.zeros((3, 2), int)),
        ValueError,
        r"labels must have one entry an image.*\(3, 2\)",
    ),
    (good("fewer labels", labels=np.zeros(2, int)), ValueError, r"expected shape \(3,\), got \(2,\)"),
    (good("no labels", labels=None), TypeError, "labels must be an array of integers"),
    (good("target too large", targets=np.array([0, 1, 5])), ValueError, r"targets must be in \[0, 2\)"),
    (good("missing key", key=None), ValueError, "starts from random points, expected a key: pass key=jax.random.key"),
    (good("raw key", key=np.zeros(2, np.uint32)), TypeError, "typed key.*raw uint32"),
    (good("an integer as key", key=7), TypeError, "typed key.*got int"),
    (good("too few keys", key=jax.random.split(KEY, 2)), ValueError, "3 of them"),
    (good("dlr of two classes", attack=attacks.PGD(loss="dlr")), ValueError, "more classes than 2: use the margin"),
]


def pair(images):
    return images.reshape(len(images), -1)[:, :2]


@pytest.mark.parametrize("way", ["call", "run", "verdict"])
@pytest.mark.parametrize(("call", "error", "message"), [(*case.values, *rest) for case, *rest in BAD])
def test_bad_input_is_refused_in_one_sentence(call, error, message, way):
    arguments = dict(call)
    attack = arguments.pop("attack")
    function = {"call": attack, "run": attacks.run, "verdict": attacks.verdict}[way]
    if way != "call":
        arguments["attack"] = attack
    with pytest.raises(error, match=message) as caught:
        function(target=as_target(pair), **arguments)
    assert "\n" not in str(caught.value)


def test_a_random_target_without_a_key_is_refused(noisy):
    with pytest.raises(ValueError, match="the target is random, expected a key"):
        attacks.FGSM()(noisy.target, noisy.images, noisy.labels)


def test_outputs_that_are_no_logits_need_a_loss_of_their_own(ramp):
    with pytest.raises(
        ValueError, match=r"must return logits of shape \(16, classes\), got \(16,\): .*pass your own loss="
    ):
        PGD(ramp.target, ramp.images, np.zeros(16, int), KEY)


def test_outputs_that_are_no_logits_need_a_success_of_their_own(ramp):
    attack = attacks.PGD(loss=lambda outputs, reference: outputs)
    with pytest.raises(ValueError, match="pass your own success="):
        attack(ramp.target, ramp.images, np.zeros(16, int), KEY)


def test_what_cannot_be_called_is_no_target(toy):
    with pytest.raises(TypeError, match="a target must be callable, got int"):
        PGD(7, toy.images, toy.labels, KEY)


def test_values_are_not_looked_at_while_traced(toy):
    shape = jax.eval_shape(lambda images: PGD(toy.target, images, toy.labels, KEY).images, toy.images)
    assert shape.shape == toy.images.shape


def test_every_registered_attack_is_an_attack_made_from_text():
    for name, kind in attacks.names().items():
        assert issubclass(kind, Attack)
        assert isinstance(attacks.make(f"{name}:epsilon=4/255"), kind)
    assert attacks.make("pgd:epsilon=4/255").epsilon == pytest.approx(4 / 255)
    with pytest.raises(ValueError, match="pgd"):
        attacks.make("deep-fool")
