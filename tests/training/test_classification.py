import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpurify import datasets, networks, parallel, training
from jaxpurify.networks import registry, resnet
from jaxpurify.training.classification import shifted
from jaxpurify.training.programs import Programs

SMALLEST = "cifar-resnet8"


def labelled(count, *, classes=resnet.CIFAR_CLASSES, side=8, seed=0):
    random = np.random.default_rng(seed)
    images = random.uniform(size=(count, side, side, 3)).astype(np.float32)
    return datasets.Dataset(images, random.integers(len(classes), size=count), classes, name="noise")


@pytest.fixture(scope="module")
def task():
    """A task of the smallest network with batch normalisation, registered while this file is tested."""
    smallest = registry.Architecture(
        construct=lambda rngs: resnet.CifarResNet(8, rngs=rngs), class_names=resnet.CIFAR_CLASSES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ARCHITECTURES, SMALLEST, smallest)
        yield training.Classifier(network_name=SMALLEST, shift=1)


@pytest.fixture(scope="module")
def stepped(task):
    """One training step: the programs, the batch, the network before and the state after."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        recipe = training.Recipe(learning_rate=1e-2)
        programs = Programs(task, recipe, steps=2, rngs=nnx.Rngs(0), placement=parallel.placement(None))
        before = programs.module(programs.start)
        batch = task.scored_batch(task.prepare(labelled(6)), np.arange(6), np.random.default_rng(0))
        state, measures = programs.advance(programs.start, [jax.device_put(batch)], [jax.random.key(0)])
        return programs, batch, before, state, measures


def test_training_moves_the_running_statistics_by_those_of_the_batch(task, stepped):
    programs, batch, before, state, _ = stepped
    normalised = (batch["images"] - np.float32(resnet.CifarResNet.mean)) / np.float32(resnet.CifarResNet.deviation)
    features = jax.lax.conv_general_dilated(
        normalised, before.stem.conv.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = programs.module(state).stem.norm
    np.testing.assert_allclose(norm.mean[...], 0.1 * features.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * features.var(axis=(0, 1, 2)), rtol=1e-4)


def test_the_step_minimises_the_smoothed_cross_entropy_of_the_batch_in_training_mode(task, stepped):
    _, batch, before, _, measures = stepped
    before.train()
    logits = np.asarray(before(jnp.asarray(batch["images"])), np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.eye(10)[batch["labels"]] * 0.9 + 0.1 / 10
    before.eval()
    np.testing.assert_allclose(measures["loss"], -(wanted * logs).sum(axis=1).mean(), rtol=1e-4)
    np.testing.assert_allclose(measures["accuracy"], np.mean(logits.argmax(axis=1) == batch["labels"]), rtol=1e-6)


def test_evaluation_uses_the_running_statistics(task, stepped):
    programs, batch, _, state, _ = stepped
    classifier = task.function(programs.module(state))
    assert (classifier.name, classifier.class_names) == (SMALLEST, resnet.CIFAR_CLASSES)
    logits = classifier(batch["images"])
    # With the statistics of the batch, an image would change what is said of the others.
    np.testing.assert_allclose(classifier(batch["images"][:1]), logits[:1], atol=1e-4)
    module = programs.module(state)
    module.train()
    assert np.abs(module(jnp.asarray(batch["images"])) - logits).max() > 0.1


def test_images_are_shifted_by_whole_pixels_with_reflections():
    images = np.random.default_rng(0).uniform(size=(40, 6, 7, 3)).astype(np.float32)
    found = shifted(images, np.random.default_rng(1), shift=2)
    steps = set()
    for image, moved in zip(images, found, strict=True):
        # A reflection without its border repeated has period 2 (side - 1).
        rows, columns = (np.abs(np.arange(-2, side + 2)) for side in (6, 7))
        rows, columns = (np.minimum(at, 2 * (side - 1) - at) for at, side in ((rows, 6), (columns, 7)))
        same = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if np.array_equal(image[rows[down : down + 6]][:, columns[right : right + 7]], moved)
        ]
        assert len(same) == 1
        steps |= set(same)
    assert len(steps) > 12
    np.testing.assert_array_equal(shifted(images, np.random.default_rng(1), shift=0), images)


@pytest.mark.parametrize(
    ("flips", "mirrors"),
    [
        ({"flip": False}, [np.s_[:, :]]),
        ({}, [np.s_[:, :], np.s_[:, ::-1]]),
        ({"flip_vertically": True}, [np.s_[:, :], np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]]),
    ],
)
def test_every_flip_that_was_asked_for_comes_as_often(flips, mirrors):
    data = labelled(400, side=4)
    task = training.Classifier(network_name="cifar-resnet20", shift=0, **flips)
    batch = task.batch(data, np.arange(400), np.random.default_rng(0))
    counts = [
        sum(np.array_equal(a[mirror], b) for a, b in zip(data.images, batch["images"], strict=True))
        for mirror in mirrors
    ]
    assert sum(counts) == 400
    assert min(counts) > 0.7 * 400 / len(mirrors)
    np.testing.assert_array_equal(batch["labels"], data.labels)


def test_images_are_scored_as_they_are():
    data = labelled(8)
    task = training.Classifier(network_name="cifar-resnet20", flip_vertically=True)
    batch = task.scored_batch(data, np.array([3, 1]), np.random.default_rng(0))
    np.testing.assert_array_equal(batch["images"], data.images[[3, 1]])
    assert not np.array_equal(task.batch(data, np.array([3, 1]), np.random.default_rng(0))["images"], batch["images"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network_name": "sesr-x2"}, "network_name must be a classifier"),
        ({"network_name": "alexnet"}, "there is no network 'alexnet'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be a share"),
        ({"shift": -1}, "shift must be a number of pixels of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        training.Classifier(**arguments)


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        ("photos-cnn", labelled(2), r"photos-cnn tells apart 8 classes .* got noise with 10 classes \(airplane, "),
        ("cifar-resnet20", labelled(2, classes=tuple(map(str, range(11)))), "got noise with 11 classes"),
        ("cifar-resnet20", labelled(2, side=4), "larger than the shift of 4, got"),
        ("cifar-resnet4b", labelled(2), r"takes images of shape \(32, 32, 3\)"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused_in_a_sentence(network, data, message):
    with pytest.raises(ValueError, match=message):
        training.Classifier(network_name=network).prepare(data)


def test_data_without_names_and_with_fewer_classes_are_taken():
    data = labelled(4, classes=tuple(map(str, range(7))))
    assert training.Classifier(network_name="cifar-resnet20").prepare(data) is data


@pytest.mark.slow
def test_fit_trains_a_registered_network_scores_it_unchanged_images_and_its_weights_load(lenient, tmp_path):
    data, held_out = labelled(12), labelled(6, seed=1)
    task = training.Classifier(network_name="cifar-resnet20", label_smoothing=0.0)
    recipe = training.Recipe(batch_size=4, accumulate=2)
    trained = training.fit(task, data, held_out=held_out, steps=3, run=tmp_path, key=jax.random.key(0), recipe=recipe)
    logits = trained.function(held_out.images)
    scored = next(record for record in reversed(trained.records) if record["kind"] == "held out")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(held_out.labels))
    np.testing.assert_allclose(scored["loss"], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(scored["accuracy"], np.mean(logits.argmax(axis=1) == held_out.labels))
    loaded = networks.load_classifier("cifar-resnet20", weights=tmp_path / "weights.safetensors")
    np.testing.assert_allclose(loaded(held_out.images), logits, atol=1e-6)
