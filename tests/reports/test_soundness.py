"""Classifiers whose gradients lie are said to be so, and sound ones are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify.attacks import agreement
from jaxpurify.attacks.agreement import Agreement, measure

from . import planted

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def photos():
    return jp.datasets.load("photos", split="test", limit=8).images


@pytest.fixture(scope="module")
def sound():
    return jp.networks.load_classifier("photos-cnn")


PLANTS = [
    planted.one_hot,
    planted.floored,
    planted.ripple,
    planted.k_winners,
    planted.wave,
    planted.lying_at_the_boundary,
    functools.partial(planted.lying_at_the_boundary, turned=True),
]


@pytest.mark.parametrize("plant", PLANTS)
def test_gradients_that_lie_are_found(plant, sound, photos):
    found = measure(plant(sound), photos)
    assert not found.reliable
    assert "gradient attacks" in found.sentence


AMONG_SIX = np.float32(np.random.default_rng(0).uniform(size=(6, 8, 8, 3)))


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_gradients_that_lie_near_the_decision_boundary_alone_are_found(turned, one_class):
    """Far from it, where the clean images are, they are right."""
    weights = np.random.default_rng(1).normal(size=(192, 4)).astype(np.float32)
    images = AMONG_SIX
    if one_class:
        direction = (weights[:, 0] - weights[:, 1:].mean(axis=1)).reshape(1, 8, 8, 3)
        images = np.float32(np.clip(0.2 * images + 0.4 + 0.2 * np.sign(direction), 0, 1))
    model = jp.classifier(affine, weights)
    gaps = -np.diff(-np.sort(-np.asarray(model(images)), axis=1)[:, :2], axis=1)
    found = measure(planted.lying_at_the_boundary(model, gap=float(0.5 * np.median(gaps)), turned=turned), images)
    assert measure(model, images).reliable
    assert found.rho[0] > 0.99
    assert found.zero >= (0.0 if turned else 0.25)
    assert not found.reliable


@pytest.mark.parametrize(
    ("frequency", "height"), [(0.2, 3.0), (0.5, 3.0), (1.0, 1.0), (3.0, 0.3), (3.0, 1.0), (8.0, 1.0)]
)
def test_a_ripple_that_random_directions_hardly_feel_is_found(frequency, height, sound, photos):
    found = measure(planted.wave(sound, frequency, height), photos)
    assert found.astray >= 0.25
    assert not found.reliable
    assert found.sentence.startswith("its gradients are unreliable")


@pytest.mark.parametrize(
    "purifier",
    [
        None,
        jp.purifiers.GaussianSmoothing(),
        jp.purifiers.LowPass(),
        jp.purifiers.Median(),
        jp.purifiers.WaveletDenoising(),
        jp.purifiers.GaussianNoise(),
        planted.HardGate(),
    ],
    ids=lambda purifier: type(purifier).__name__,
)
def test_sound_models_are_not_accused(purifier, sound, photos):
    found = measure(jp.Defended(sound, purifier) if purifier is not None else sound, photos, KEY)
    assert found.reliable, found
    assert found.zero == 0
    assert "ρ = " in found.sentence


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_alone_is_no_lie(dtype, sound, photos):
    def apply(variables, images):
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        return sound.apply(variables, images.astype(dtype)).astype(jnp.float32)

    assert measure(jp.classifier(apply, sound.variables), photos).reliable


@pytest.mark.parametrize("purifier", [jp.purifiers.JPEG(), jp.purifiers.BitDepth(bits=3)])
def test_what_rounds_is_blind(purifier, sound, photos):
    found = measure(jp.Defended(sound, purifier), photos)
    assert found.blind
    assert not found.reliable


def affine(weights, images):
    return (images.reshape(images.shape[0], -1) - 0.5) @ weights


WEIGHTS = np.float32(np.random.default_rng(1).normal(size=(75, 4)))
IMAGES = np.float32(np.random.default_rng(0).uniform(size=(6, 5, 5, 3)))


def test_of_an_affine_model_the_gradients_say_all():
    found = measure(jp.classifier(affine, WEIGHTS[:, :2]), IMAGES)
    np.testing.assert_allclose(found.rho, 1.0, atol=1e-3)
    np.testing.assert_allclose(found.cosine, 1.0, atol=1e-5)
    assert (found.zero, found.images, found.judged) == (0.0, 6, 0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_the_logits_does_not_matter(scale):
    found = measure(jp.classifier(affine, WEIGHTS[:, :2] * np.float32(scale)), IMAGES)
    np.testing.assert_allclose(found.rho, 1.0, atol=1e-3)


def test_a_gradient_turned_round_agrees_to_minus_one():
    def turned(weights, images):
        return affine(weights, jax.lax.stop_gradient(2 * images) - images)

    found = measure(jp.classifier(turned, WEIGHTS[:, :2]), IMAGES)
    np.testing.assert_allclose(found.rho, -1.0, atol=1e-3)
    assert "ρ = -1.00 at 1/255" in found.sentence


def test_black_and_white_pixels_spoil_nothing_behind_a_purifier_that_clips():
    images = np.round(IMAGES)
    found = measure(jp.Defended(jp.classifier(affine, WEIGHTS[:, :2]), jp.purifiers.Identity()), images)
    clipped = measure(lambda_target(lambda x: affine(WEIGHTS[:, :2], jp.images.saturate(x))), images)
    np.testing.assert_allclose([found.rho, clipped.rho], 1.0, atol=1e-3)


def lambda_target(function):
    return jp.models.as_target(function)


@pytest.mark.parametrize(("share", "reliable"), [(1 / 8, True), (3 / 8, False)])
def test_images_without_a_gradient_are_counted(share, reliable):
    def half_seen(weights, images):
        seen = jnp.arange(images.shape[0]) >= int(share * images.shape[0])
        return affine(weights, jnp.where(seen[:, None, None, None], images, jax.lax.stop_gradient(images)))

    found = measure(jp.classifier(half_seen, WEIGHTS), IMAGES)
    assert found.zero == share
    assert found.reliable is reliable


def test_gradients_that_lie_at_some_images_are_found():
    def ripple_on_bright_images(weights, images):
        bright = images.mean(axis=(1, 2, 3), keepdims=True) > 0.6
        return affine(weights, images + jnp.where(bright, jnp.sin(9000 * images) / 300, 0.0))

    images = np.concatenate([0.5 * IMAGES[:5], 0.5 + 0.5 * IMAGES[:3]])
    found = measure(jp.classifier(ripple_on_bright_images, WEIGHTS), images)
    assert found.rho[0] > 0.9
    assert 0.25 <= found.lying <= 0.375
    assert not found.reliable
    assert "of images: what they predict there" in found.sentence


@pytest.mark.parametrize("grid", ["on", "off"])
def test_gradients_that_lie_on_or_off_the_grey_levels_alone_are_found(grid):
    phase = {"on": 0.0, "off": 0.5 * np.pi}[grid]

    def apply(weights, images):
        # The slope of the ripple is largest on the grey levels, or zero there.
        return affine(weights, images + 0.02 * turned * jnp.sin(2 * np.pi * 255 * images + phase))

    turned = np.random.default_rng(5).choice(np.float32([-1, 1]), (1, 5, 5, 3))
    images = np.float32(np.round(255 * IMAGES) / 255)
    assert not measure(jp.classifier(apply, WEIGHTS), images).reliable


def test_gradients_that_are_not_finite_count_as_none():
    def infinite(weights, images):
        return affine(weights, images + 0 * jnp.sqrt(jnp.abs(images - images)))

    assert measure(jp.classifier(infinite, WEIGHTS), IMAGES).blind


def test_a_callback_has_no_gradient():
    def apply(images):
        logits = jax.ShapeDtypeStruct((len(images), 4), images.dtype)
        return jax.pure_callback(lambda x: np.asarray(affine(WEIGHTS, np.asarray(x))), logits, images)

    assert measure(lambda_target(apply), IMAGES).blind


def test_random_targets_keep_their_draws():
    def noisy(weights, images, key):
        noise = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(key)
        return affine(weights, images + noise)

    found = measure(jp.classifier(noisy, WEIGHTS[:, :2], random=True), IMAGES, KEY)
    np.testing.assert_allclose(found.rho, 1.0, atol=1e-3)


def test_pytorch_modules_are_measured():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 4))
    assert measure(jp.interop.torch_classifier(module), IMAGES).reliable


@pytest.mark.parametrize(
    "change", [lambda z: z.argmax(axis=1), lambda z: z[:, :1], lambda z: {"logits": z}, lambda z: z > 0]
)
def test_what_gives_no_logits_is_not_measured(change):
    assert measure(lambda_target(lambda images: change(affine(WEIGHTS, images))), IMAGES) is None


def test_nothing_is_measured_while_tracing():
    target = jp.classifier(affine, WEIGHTS)
    jax.jit(lambda images: [measure(target, images) is None or 1 / 0, images][1])(IMAGES)


def test_what_is_measured_costs_few_passes_of_eight_images_and_is_remembered():
    passes = []

    def apply(weights, images):
        jax.debug.callback(lambda: passes.append(len(images)))
        return affine(weights, images)

    target = jp.classifier(apply, WEIGHTS)
    many = np.resize(IMAGES, (20, 5, 5, 3))
    first = measure(target, many)
    jax.effects_barrier()
    assert set(passes) == {8}
    assert len(passes) <= 64
    passes.clear()
    assert measure(target, many.copy()) is first
    for key in (None, jax.random.key(1), jax.random.split(jax.random.key(2), 20)):
        assert measure(target, many, key) is first  # a deterministic target draws nothing
    jax.effects_barrier()
    assert not passes
    assert measure(target, IMAGES[:3]) is not first  # gradients may lie about other images


@pytest.mark.parametrize(
    ("found", "reliable", "blind", "says"),
    [
        (Agreement((0.99, 0.95), 0.0, 0.9, 8), True, False, "to ρ = 0.99 at 1/255"),
        (Agreement((0.30, 0.95), 0.0, 0.9, 8), False, False, "ρ = 0.30 at 1/255"),
        (Agreement((0.30, 0.95), 0.0, 0.9, 8, judged=1), True, False, "to ρ = 0.95 at 4/255"),
        (Agreement((0.99, 0.95), 0.0, 0.0, 8), False, False, "underflow"),
        (Agreement((0.99, 0.95), 0.25, 0.9, 8), False, False, "zero at 25% of images"),
        (Agreement((0.99, 0.95), 0.0, 0.9, 8, lying=0.25), False, False, "unreliable at 25% of images"),
        (Agreement((0.99, 0.05), 0.0, 0.9, 8), False, False, "as far away as attacks go (ρ = 0.05 at 4/255"),
        (Agreement((0.99, 0.95), 0.0, 0.9, 8, astray=0.25), False, False, "at 25% of images a step that follows them"),
        (Agreement((0.0, 0.0), 1.0, 0.0, 8), False, True, "see nothing"),
    ],
)
def test_a_sentence_says_what_was_found(found, reliable, blind, says):
    assert (found.reliable, found.blind) == (reliable, blind)
    assert says in found.sentence


def test_the_same_is_found_again(sound, photos):
    first = measure(sound, photos)
    agreement._MEASURED._found.clear()
    assert measure(sound, photos) == first


@pytest.fixture(scope="module")
def networks(real_data, tmp_path_factory):
    """The published classifiers of CIFAR-10 by name, and test images."""

    def load(name, checkpoint):
        weights = tmp_path_factory.mktemp("weights") / "weights.safetensors"
        jp.networks.convert(real_data / "cifar10" / checkpoint, weights)
        return jp.networks.load_classifier(name, weights=weights)

    found = {name: load(f"cifar-{name}", f"{name}.th") for name in ("resnet20", "resnet56")}
    found["robust"] = load("cifar-resnet4b", "robust_resnet4b.pth")
    return found, jp.datasets.load(str(real_data / "cifar10" / "test.npz")).images[:8]


@pytest.mark.slow
@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant is not planted.wave])
def test_gradients_that_lie_are_found_in_published_networks(plant, networks):
    classifiers, images = networks
    assert not measure(plant(classifiers["robust"]), images).reliable


@pytest.mark.slow
@pytest.mark.parametrize("name", ["robust", "resnet20", "resnet56"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_published_networks_are_not_accused(name, dtype, networks):
    classifiers, images = networks
    network = classifiers[name]

    def half(variables, images):
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        return network.apply(variables, images.astype(dtype)).astype(jnp.float32)

    found = measure(network if dtype is None else jp.classifier(half, network.variables), images)
    assert found.reliable, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "purifier",
    [
        "gaussian-smoothing",
        "low-pass",
        "wavelet",
        "median",
        "total-variation",
        "resizing",
        "gaussian-noise",
        "random-crop",
    ],
)
def test_purifiers_before_a_published_network_are_not_accused(purifier, networks):
    classifiers, images = networks
    found = measure(jp.Defended(classifiers["robust"], jp.purifiers.make(purifier)), images, KEY)
    assert found.reliable, found
    assert found.rho[0] > 0.9


CLASSES = 4
MANY = np.random.default_rng(7).uniform(0.2, 0.8, (200, 6, 6, 3)).astype(np.float32)
SLOPES = np.random.default_rng(8).normal(size=(108, CLASSES)).astype(np.float32)


def plainly(weights, images):
    return images.reshape(len(images), -1) @ weights


def without_gradient_in_one_class(weights, images):
    logits = plainly(weights, images)
    return jnp.where((logits.argmax(axis=1) == 3)[:, None], jax.lax.stop_gradient(logits), logits)


def flipped_in_one_class(weights, images):
    logits = plainly(weights, images)
    lie = jax.lax.stop_gradient(2 * logits) - logits
    return jnp.where((logits.argmax(axis=1) == 3)[:, None], lie, logits)


def flipped_far_from_clean_images(weights, images):
    logits, clean = plainly(weights, images), jnp.round(images * 15) / 15
    lie = jax.lax.stop_gradient(2 * logits) - logits
    return jnp.where((jnp.abs(images - clean).mean(axis=(1, 2, 3)) > 1.2 / 255)[:, None], lie, logits)


def sorted_by_class():
    images = np.round(MANY * 15) / np.float32(15)
    labels = np.asarray(plainly(SLOPES, images)).argmax(axis=1).astype(np.int32)
    order = np.argsort(labels, kind="stable")
    return images[order], labels[order]


@pytest.mark.filterwarnings("ignore:the target")
@pytest.mark.parametrize("plant", [without_gradient_in_one_class, flipped_in_one_class, flipped_far_from_clean_images])
def test_what_lies_in_one_class_or_away_from_clean_images_is_said_to(plant):
    """The images are sorted by class, as a folder of them is: the first eight are of one class."""
    images, labels = sorted_by_class()
    attack, target = jp.attacks.PGD(epsilon=0.05, steps=10), jp.classifier(plant, SLOPES)
    honest = jp.attacks.verdict(attack, jp.classifier(plainly, SLOPES), images, labels, jax.random.key(0))
    found = jp.attacks.verdict(attack, target, images, labels, jax.random.key(0))
    assert not honest.flags
    assert found.robust_accuracy > honest.robust_accuracy
    assert found.flags
    assert (found.status[~found.fooled] == 3).any()
    evaluated = jp.evaluate(
        target, jp.purifiers.Identity(), (images, labels), attacks=attack, threat_models="full", progress=False
    )
    assert any("gradient" in flag for flag in evaluated.flags)


@pytest.mark.filterwarnings("ignore:the target")
def test_what_was_found_on_some_images_is_not_said_of_others():
    images, labels = sorted_by_class()
    attack, target = jp.attacks.PGD(epsilon=0.05, steps=5), jp.classifier(flipped_in_one_class, SLOPES)
    honest, lying = labels != 3, labels == 3
    assert not jp.attacks.verdict(attack, target, images[honest], labels[honest], jax.random.key(0)).flags
    assert jp.attacks.verdict(attack, target, images[lying], labels[lying], jax.random.key(0)).flags
