"""Every public entry judges models, images, labels and sizes alike: it is right, or says in one sentence what to do."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxpurify as jp
from jaxpurify import files
from jaxpurify.cli import main
from jaxpurify.evaluation.detection import detection as measure
from jaxpurify.models import as_target
from jaxpurify.training.pictures import pictures
from jaxpurify.training.task import Task

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))  # where the models are

import front_door_models as models  # noqa: E402
from front_door_models import IMAGES, KEY, LABELS, LOGITS, linear  # noqa: E402

FGSM = jp.attacks.FGSM(epsilon=0.02)
BITS = jp.purifiers.BitDepth(bits=3.0)
DETECTOR = jp.FeatureSqueezing(squeezers=(BITS,), threshold=0.5)
MODEL = as_target(linear)


def evaluate(model=MODEL, images=IMAGES, labels=LABELS, **options):
    options = {"attacks": FGSM, "threat_models": "full", "progress": False} | options
    return jp.evaluate(model, {"none": jp.purifiers.Identity()}, (images, labels), **options)


def detection(model=MODEL, images=IMAGES, labels=LABELS, attack=FGSM, detector=DETECTOR, **options):
    return measure(detector, model, images, labels, KEY, attack=attack, **options)


def attacked(model=MODEL, images=IMAGES, labels=LABELS, attack=FGSM):
    return attack(model, images, labels, KEY)


def run(model=MODEL, images=IMAGES, labels=LABELS, attack=FGSM, **options):
    return jp.attacks.run(attack, model, images, labels, KEY, **options)


def verdict(model=MODEL, images=IMAGES, labels=LABELS, attack=FGSM, **options):
    return jp.attacks.verdict(attack, model, images, labels, KEY, **options)


def calibrated(model=MODEL, images=IMAGES, labels=LABELS, **options):
    return DETECTOR.calibrated(model, images, **options)


def detects(model=MODEL, images=IMAGES, labels=LABELS):
    return DETECTOR.detects(model, images)


def purify(images=IMAGES, **options):
    return jp.purify(BITS, images, **options)


def surrogates(images=IMAGES, labels=LABELS, **options):
    return jp.attacks.transfer(FGSM, [MODEL], MODEL, images, labels, KEY, **options)


def refused(words: str, call: Callable, *arguments: Any, **options: Any) -> None:
    """Expect one sentence with some words in it."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert "Tracer" not in sentence
    assert len(sentence) < 500


def rows(entries, *tables):
    """Return parameters: every entry with every row."""
    return [
        pytest.param(entry, *row, id=f"{entry.__name__}-{name}")
        for entry in entries
        for table in tables
        for name, row in table.items()
    ]


# models


@pytest.mark.parametrize("make", models.RIGHT.values(), ids=models.RIGHT)
def test_a_model_of_any_library_is_the_same_target_everywhere(make):
    model = jp.classifier(make())
    np.testing.assert_allclose(model(IMAGES), LOGITS, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(model, IMAGES), LOGITS, rtol=1e-4, atol=1e-4)
    found = FGSM(make(), IMAGES, LABELS, KEY).images
    gradient = models.WEIGHTS @ (np.asarray(jax.nn.softmax(LOGITS)) - np.eye(5)[LABELS]).T
    wanted = IMAGES + 0.02 * np.sign(gradient.T.reshape(IMAGES.shape))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


GIVEN = (jp.classifier, as_target, attacked, run, verdict, evaluate, calibrated, detects, detection)


@pytest.mark.parametrize(("entry", "make", "words"), rows(GIVEN, models.NO_MODELS))
def test_what_is_not_a_model_is_refused_when_it_is_given(entry, make, words):
    refused(words, entry, make())


@pytest.mark.parametrize(("make", "words"), models.NO_VARIABLES.values(), ids=models.NO_VARIABLES)
def test_what_is_not_a_models_variables_is_refused(make, words):
    model, variables = make()
    refused(words, jp.classifier, model, variables)


def eager(model):
    return jp.classifier(model)(IMAGES)


def traced(model):
    return jax.jit(lambda m, x: m(x))(jp.classifier(model), IMAGES)


CALLED = (eager, traced, attacked, run, verdict, evaluate)


@pytest.mark.parametrize(("entry", "make", "words"), rows(CALLED, models.NO_LOGITS))
def test_what_returns_no_logits_is_refused_with_the_remedy(entry, make, words):
    refused(words, entry, make())


@pytest.mark.parametrize("function", models.NO_TRACE.values(), ids=models.NO_TRACE)
def test_what_cannot_be_compiled_is_refused(function):
    np.testing.assert_allclose(jp.classifier(function)(IMAGES), LOGITS, rtol=1e-4, atol=1e-4)
    for entry in (traced, evaluate):
        refused("must be written in JAX throughout", entry, function)


@pytest.mark.parametrize("function", models.DECISIONS.values(), ids=models.DECISIONS)
def test_decisions_are_logits(function):
    logits = jp.classifier(function)(IMAGES)
    np.testing.assert_array_equal(np.asarray(logits).argmax(axis=1), LABELS)


def test_a_module_is_left_as_it_was():
    module = models.Net(nnx.Rngs(0))
    jp.classifier(module)(IMAGES)
    assert module.dropout.deterministic is False
    model, state = models.stateful()
    jp.classifier(lambda both, x: both[0](x, both[1])[0], (model, state), batched=False)(IMAGES)
    assert model.dropout.inference is False


# images


class Foreign:
    """An array of a library that NumPy can read, with a dtype of its own."""

    dtype = "foreign.float"

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values


class Exchanged:
    """An array that can be had by DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


TENSORS = {
    "NumPy": lambda x: x,
    "JAX": jnp.asarray,
    "PyTorch": torch.from_numpy,
    "PyTorch with gradients": lambda x: torch.from_numpy(x.copy()).requires_grad_(x.dtype.kind == "f"),
    "PyTorch not contiguous": lambda x: torch.from_numpy(np.ascontiguousarray(x.T)).permute(*range(x.ndim)[::-1]),
    "another library": Foreign,
    "DLPack": Exchanged,
    "NNX variable": lambda x: nnx.Param(jnp.asarray(x)),
}


def classified(images=IMAGES):
    return jp.classifier(linear)(images)


def purified(images=IMAGES):
    return BITS(images)


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_arrays_of_other_libraries_are_taken(tensor):
    given = tensor(IMAGES)
    for entry in (classified, purified, purify, calibrated, detects):
        jax.tree.map(np.testing.assert_array_equal, entry(images=given), entry(images=IMAGES))
    assert isinstance(purify(given), jax.Array if isinstance(given, jax.Array | nnx.Variable) else np.ndarray)
    np.testing.assert_array_equal(jp.purify(BITS, [tensor(IMAGES[0])])[0], purify()[0])
    np.testing.assert_array_equal(pictures(given), pictures(IMAGES))
    noise = [jp.evaluation.analyse_noise(each, tensor(np.array(purified()))) for each in (given, IMAGES)]
    np.testing.assert_array_equal(noise[0].image_means, noise[1].image_means)


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_an_evaluation_takes_arrays_of_other_libraries(tensor, whole):
    given = evaluate(images=tensor(IMAGES), labels=tensor(LABELS))
    assert repr(given.records) == repr(whole.records)


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_attacks_take_arrays_of_other_libraries(tensor):
    given, expected = {"images": tensor(IMAGES), "labels": tensor(LABELS)}, run()
    for entry in (attacked, run):
        np.testing.assert_array_equal(entry(**given).images, expected.images)
    assert verdict(**given).robust_accuracy == verdict().robust_accuracy
    assert detection(**given) == detection()


@pytest.fixture(scope="module")
def whole():
    return evaluate()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_purifying_keeps_the_dtype_of_a_tensor(dtype):
    half = torch.from_numpy(IMAGES).to(dtype)
    found = purify(half)
    assert found.dtype.name == str(dtype).split(".")[1]
    expected = torch.from_numpy(purify(half.float().numpy())).to(dtype)
    np.testing.assert_array_equal(found.astype(np.float32), expected.float().numpy())


NO_IMAGES = {
    "uint8": (IMAGES.astype(np.uint8), "got uint8: divide by 255"),
    "PyTorch uint8": (torch.zeros(3, 4, 4, 3, dtype=torch.uint8), "got uint8: divide by 255"),
    "float16": (IMAGES.astype(np.float16), "got float16: convert to float32"),
    "PyTorch bfloat16": (torch.from_numpy(IMAGES).bfloat16(), "got bfloat16: convert to float32"),
    "PyTorch channels first": (torch.zeros(3, 3, 8, 8), "channels first? use images.transpose(0, 2, 3, 1)"),
    "PyTorch elsewhere": (torch.zeros(3, 4, 4, 3, device="meta"), "pass tensor.detach().cpu().numpy()"),
    "PyTorch sparse": (torch.zeros(3, 4, 4, 3).to_sparse(), "pass tensor.detach().cpu().numpy(), dense"),
    "grey": (np.zeros((3, 28, 28), np.float32), "images[..., None]"),
    "one grey image": (np.zeros((28, 28), np.float32), "images[None, ..., None]"),
    "one image": (IMAGES[0], "images[None]"),
    "masked": (np.ma.masked_less(IMAGES, 0.5), "masked array"),
    "objects": (IMAGES.astype(object), "got object"),
    "complex": (IMAGES.astype(np.complex64), "got complex64"),
    "empty": (IMAGES[:0], "empty batch"),
}
NO_ARRAYS = {
    "list": (IMAGES.tolist(), "got list"),
    "None": (None, "got NoneType"),
    "text": ("photos", "got str"),
}
ATTACKS = (attacked, run, verdict)
DOORS = (classified, purified, calibrated, detects, detection, *ATTACKS)


@pytest.mark.parametrize(
    ("entry", "images", "words"),
    rows(DOORS, NO_IMAGES, NO_ARRAYS) + rows((evaluate,), NO_IMAGES),
)
def test_what_are_not_images_are_refused(entry, images, words):
    refused(words, entry, images=images)


NO_PURIFIERS = {
    "class": (lambda: jp.purifiers.BitDepth, "got the class BitDepth"),
    "None": (lambda: None, "must be"),
    "PyTorch": (lambda: torch.nn.Identity(), "got the PyTorch module Identity"),
    "two arguments": (lambda: lambda images, mask: images, "takes (images, mask)"),
    "tuple": (lambda: lambda x: (x, x), "tuple of 2: take the images out, e.g. lambda images: model(images)[0]"),
    "no return": (lambda: lambda x: None, "got None: does the function end without return?"),
    "logits": (lambda: linear, "must return images for images, got shape (3, 5) for (3, 4, 4, 3)"),
    "one image": (lambda: lambda x: x[0], "must return images for images, got shape (4, 4, 3)"),
    "levels": (lambda: lambda x: (255 * x).astype(jnp.uint8), "got uint8: return floats"),
    "NumPy": (lambda: lambda x: np.asarray(x).round(1), "must be written in JAX throughout"),
    "nnx with its own flag": (lambda: Denoiser(own_flag=True), "is it in training mode?"),
}


class Denoiser(nnx.Module):
    """Dropout; with ``own_flag`` in evaluation mode too."""

    def __init__(self, *, own_flag=False):
        self.dropout, self.own_flag = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), own_flag

    def __call__(self, images):
        return self.dropout(images, deterministic=False if self.own_flag else None)


def purify_with(purifier):
    return jp.purify(purifier, IMAGES)


def evaluate_behind(purifier):
    return jp.evaluate(MODEL, {"mine": purifier}, (IMAGES, LABELS), attacks=FGSM, threat_models="blind", progress=False)


def defended(purifier):
    return jax.jit(lambda model: model(IMAGES))(jp.Defended(MODEL, purifier))


@pytest.mark.parametrize(("entry", "make", "words"), rows((purify_with, evaluate_behind, defended), NO_PURIFIERS))
def test_what_is_not_a_purifier_is_refused(entry, make, words):
    if entry is defended and make() is None:
        return  # which is no defence
    refused(words, entry, make())


@pytest.mark.parametrize("make", [Denoiser, lambda: lambda x: x, jp.purifiers.Identity], ids=["nnx", "function", "own"])
def test_a_purifier_is_taken_wherever_one_stands(make):
    chain = jp.Sequential(make(), jp.Repeat(stage=make(), times=2), jp.gradients.straight_through(make()))
    np.testing.assert_array_equal(jp.purify(chain, IMAGES), IMAGES)
    np.testing.assert_allclose(defended(chain), LOGITS, rtol=1e-4, atol=1e-4)
    assert jp.FeatureSqueezing(squeezers=(make(),)).calibrated(MODEL, IMAGES).threshold < 1e-6


UNPURIFIED = {
    "int32": (LABELS, "8-bit levels? convert with images.astype('uint8')"),
    "grey batch": (np.zeros((3, 28, 28), np.float32), "grey? add images[..., None]"),
    "PyTorch channels first": (torch.zeros(3, 8, 8), "channels first? use images.transpose(1, 2, 0)"),
    "PyTorch elsewhere": (torch.zeros(3, 4, 4, 3, device="meta"), "pass tensor.detach().cpu().numpy()"),
    "PyTorch out of range": (255 * torch.ones(4, 4, 3), "divide by 255"),
    "list of text": (["photo.png"], "images[0] must be uint8, or floating point with values in [0, 1], got str"),
    "text": ("photo.png", "got str"),
}


@pytest.mark.parametrize(("images", "words"), UNPURIFIED.values(), ids=UNPURIFIED)
def test_what_cannot_be_purified_is_refused(images, words):
    refused(words, purify, images)


# labels

GOOD_LABELS = {
    "int64": LABELS.astype(np.int64),
    "uint8": LABELS.astype(np.uint8),
    "uint64": LABELS.astype(np.uint64),
    "PyTorch int64": torch.from_numpy(LABELS).long(),
    "JAX": jnp.asarray(LABELS),
    "another library": Foreign(LABELS),
}


@pytest.mark.parametrize("labels", GOOD_LABELS.values(), ids=GOOD_LABELS)
def test_labels_of_any_integer_are_the_same_labels(labels, whole):
    assert repr(evaluate(labels=labels).records) == repr(whole.records)


@pytest.mark.parametrize("labels", GOOD_LABELS.values(), ids=GOOD_LABELS)
def test_attacks_take_labels_of_any_integer(labels):
    np.testing.assert_array_equal(run(labels=labels).images, run().images)
    assert detection(labels=labels) == detection()


NO_LABELS = {
    "bool": (LABELS > 1, "got bool"),
    "float": (LABELS.astype(np.float32), "use labels.astype('int32')"),
    "PyTorch float": (torch.from_numpy(LABELS).float(), "use labels.astype('int32')"),
    "one-hot": (np.eye(5, dtype=int)[LABELS], "use labels.argmax(axis=1)"),
    "one-hot floats": (np.eye(5)[LABELS], "use labels.argmax(axis=1)"),
    "column": (LABELS[:, None], "use labels[:, 0]"),
    "too few": (LABELS[:2], "expected shape (3,), got (2,)"),
    "negative": (LABELS - 9, "images without a class? leave them out"),
    "beyond": (LABELS * 0 + 5, "1-based labels? subtract 1"),
    "huge": (LABELS.astype(np.uint64) + np.uint64(2**63), "labels must be in [0, "),
    "objects": (LABELS.astype(object), "got object"),
    "text": (LABELS.astype(str), "got <U"),
}
NO_ARRAY_OF_LABELS = {"list": (LABELS.tolist(), "got list"), "number": (1, "got int")}


@pytest.mark.parametrize(
    ("entry", "labels", "words"),
    rows((*ATTACKS, detection), NO_LABELS, NO_ARRAY_OF_LABELS) + rows((evaluate,), NO_LABELS),
)
def test_what_are_not_labels_are_refused(entry, labels, words):
    refused(words, entry, labels=labels)


# sizes

BATCHED = (purify, calibrated, detection, evaluate, run, verdict, surrogates)
NO_SIZES = {
    repr(size): (size,) for size in (0, -1, 2.5, 2.0, float("nan"), "3", True, np.int64(0), np.float32(3), np.ones(2))
}


@pytest.mark.parametrize(("entry", "size"), rows(BATCHED, NO_SIZES))
def test_a_batch_size_that_is_no_count_is_refused(entry, size):
    refused("batch_size must be an integer of at least 1, got ", entry, batch_size=size)


@pytest.mark.parametrize("entry", [purify, calibrated, evaluate, run])
def test_a_batch_size_of_numpy_is_a_count(entry):
    given, expected = entry(batch_size=np.int64(2)), entry(batch_size=2)
    if entry is evaluate:
        given, expected = repr(given.records), repr(expected.records)
    jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_a_number_of_images_of_numpy_is_a_count():
    assert len(jp.datasets.load("photos", limit=np.int64(3))) == 3


# Sizes of attacks: what they are given, and what the sentence holds.
EPSILONS = {
    "negative": (FGSM, -0.1, "epsilon"),
    "NaN": (FGSM, float("nan"), "epsilon"),
    "infinite": (FGSM, float("inf"), "epsilon"),
    "in levels": (FGSM, 8.0, "epsilon"),
    "text": (FGSM, "8/255", "epsilon"),
    "truth": (FGSM, True, "epsilon"),
    "per channel": (FGSM, np.full(4, 0.1, np.float32), "epsilon"),
    "list of another length": (FGSM, [0.1, 0.2], "epsilon"),
    "one negative": (FGSM, np.array([0.1, -0.1, 0.1], np.float32), "epsilon"),
    "one NaN": (FGSM, np.array([0.1, np.nan, 0.1], np.float32), "epsilon"),
    "per pixel": (FGSM, np.full((3, 4), 0.1, np.float32), "epsilon"),
    "beyond the l2 ball": (jp.attacks.PGD(norm="l2", epsilon=0.5, steps=1), 7.0, "epsilon"),
    "beyond the l1 ball": (jp.attacks.PGD(norm="l1", epsilon=0.5, steps=1), 49.0, "epsilon"),
}


@pytest.mark.parametrize(("entry", "attack", "epsilon", "words"), rows(ATTACKS, EPSILONS))
def test_a_size_that_cannot_be_meant_is_refused(entry, attack, epsilon, words):
    refused(words, lambda: entry(attack=dataclasses.replace(attack, epsilon=epsilon)))


@pytest.mark.parametrize("epsilon", [np.float32([0, 0.01, 0.03]), jnp.float32([0, 0.01, 0.03]), [0.0, 0.01, 0.03]])
@pytest.mark.parametrize("entry", [attacked, run])
def test_every_image_may_have_its_own_size(entry, epsilon):
    found = entry(attack=jp.attacks.FGSM(epsilon=epsilon)).images
    np.testing.assert_allclose(np.abs(found - IMAGES).max(axis=(1, 2, 3)), [0, 0.01, 0.03], atol=1e-6)


@pytest.mark.parametrize("attack", [jp.attacks.DeepFool(), jp.attacks.DDN(steps=2)], ids=["DeepFool", "DDN"])
def test_a_verdict_needs_a_size(attack):
    refused("epsilon", verdict, attack=attack)


@pytest.mark.parametrize("function", models.DECISIONS.values(), ids=models.DECISIONS)
def test_decisions_are_refused_by_attacks_that_need_gradients_and_serve_the_others(function):
    for entry in ATTACKS:
        refused("gradient", entry, function)
    assert run(function, attack=jp.attacks.RandomNoise(epsilon=0.02, draws=2)).images.shape == IMAGES.shape
    assert verdict(function, attack=jp.attacks.Square(epsilon=0.02, queries=5)).fooled.shape == (3,)


# objects in the wrong place


@pytest.mark.parametrize("call", [jp.attacks.run, jp.attacks.verdict])
@pytest.mark.parametrize(("attack", "got"), [(jp.attacks.PGD, "the class PGD"), (None, "NoneType"), ("pgd", "str")])
def test_what_is_not_an_attack_is_refused(call, attack, got):
    refused(
        f"attack must be an attack such as jaxpurify.attacks.PGD(), got {got}", call, attack, MODEL, IMAGES, LABELS, KEY
    )


WRONG_PLACES = {
    "class of a detector": (lambda: detection(detector=jp.FeatureSqueezing), "got the class FeatureSqueezing"),
    "class of an attack": (lambda: detection(attack=jp.attacks.FGSM), "got the class FGSM"),
    "class of a purifier": (lambda: jp.purify(jp.purifiers.BitDepth, IMAGES), "write BitDepth()"),
    "class of a task": (lambda: fit(Mean, folder="unused"), "got the class Mean"),
    "class of a recipe": (lambda: fit(Mean(), folder="unused", recipe=jp.training.Recipe), "got the class Recipe"),
    "image_shape": (lambda: jp.classifier(linear, image_shape=32), "image_shape must be (height, width, channel)"),
    "class of an attack at transfer": (
        lambda: jp.attacks.transfer(jp.attacks.FGSM, MODEL, MODEL, IMAGES, LABELS, KEY),
        "attack must be an attack such as jaxpurify.attacks.PGD(), got the class FGSM",
    ),
    "text at transfer": (lambda: jp.attacks.transfer("fgsm", MODEL, MODEL, IMAGES, LABELS, KEY), "got str"),
    "several keys": (lambda: fit(Mean(), folder="unused", key=jax.random.split(KEY, 3)), "must be one typed key, got"),
}


@pytest.mark.parametrize(("call", "words"), WRONG_PLACES.values(), ids=WRONG_PLACES)
def test_objects_in_the_wrong_place_are_refused(call, words):
    refused(words, call)


NO_NAMES = {
    "text": "abcde",
    "set": set("abcde"),
    "dict": dict.fromkeys("abcde"),
    "bytes": b"abcde",
    "None inside": ["a", None, "c", "d", "e"],
    "number": 5,
}


@pytest.mark.parametrize("names", NO_NAMES.values(), ids=NO_NAMES)
def test_what_are_not_class_names_are_refused(names):
    for make in (lambda: jp.classifier(linear, class_names=names), lambda: wrapped(class_names=names)):
        refused("class_names must be a sequence of names such as ('cat', 'dog'), got ", make)


def wrapped(**options):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    return jp.interop.torch_classifier(module, **options)


def test_class_names_are_read_as_texts_and_counted():
    given = [b"1", 2, np.int64(3), "4", np.str_("5")]
    assert jp.classifier(linear, class_names=given).class_names == tuple("12345")
    assert wrapped(class_names=np.arange(1, 6)).class_names == tuple("12345")
    for make in (jp.classifier(linear, class_names=list("abcd")), wrapped(class_names=list("abcd"))):
        for entry in (attacked, verdict, evaluate):
            refused("must be one name for each of its 5 outputs, got 4", entry, make)


def noisy(images, key):
    return linear(images) + jax.random.normal(key, (len(images), 5))


def noised(images, key):
    return jnp.clip(images + 0.1 * jax.random.normal(key, images.shape), 0, 1)


def test_functions_of_a_single_key_are_refused_with_the_remedy():
    for entry in (attacked, run, verdict, evaluate):
        refused("must take an array of keys, one an image, got a function of a single key", entry, noisy)
    for call in (
        lambda: jp.purify(noised, IMAGES, key=KEY),
        lambda: evaluate_behind(noised),
        lambda: attacked(jp.Defended(MODEL, noised)),
    ):
        refused("noised must take an array of keys, one an image", call)


def narrow(images):
    return images.reshape(len(images), -1) @ np.ones((50, 5), np.float32)


def grey(images):
    kernel = np.ones((3, 3, 1, 5), np.float32)
    shape = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=shape).mean(axis=(1, 2))


def test_models_of_other_sizes_are_refused_with_the_shape_of_the_images():
    for model in (narrow, grey):
        for entry in (eager, attacked, run, verdict, evaluate):
            refused(f"{model.__name__} cannot be computed for images of shape (", entry, model)
    refused("(dot_general requires contracting dimensions", eager, narrow)


def test_a_models_own_error_is_left_as_it_is():
    def own(images):
        raise ValueError("mine")

    refused("mine", eager, own)


SWAPPED = {
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "grey": lambda x: x[..., :1],
    "more": lambda x: jnp.concatenate([x, x], axis=-1),
}


@pytest.mark.parametrize("purifier", SWAPPED.values(), ids=SWAPPED)
def test_a_purifier_returns_as_many_channels_as_it_is_given(purifier):
    for entry in (purify_with, evaluate_behind, defended):
        refused("must return as many channels as it is given, got shape", entry, purifier)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_a_detector_takes_decisions(dtype):
    def decide(images):
        logits = linear(images)
        return (logits == logits.max(axis=1, keepdims=True)).astype(dtype)

    score = DETECTOR.score(decide, IMAGES)
    expected = DETECTOR.score(lambda x: decide(x).astype(jnp.float32), IMAGES)
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert detects(decide).shape == (3,)


@pytest.mark.parametrize(
    ("images", "words"),
    [(IMAGES * 255, "divide by 255"), (IMAGES - 1, "normalised?"), (np.where(IMAGES > 0.5, np.nan, IMAGES), "NaN")],
    ids=["levels", "normalised", "NaN"],
)
def test_a_detector_refuses_values_out_of_range(images, words):
    refused(words, detects, images=images.astype(np.float32))
    assert jax.jit(lambda x: DETECTOR.detects(MODEL, x))(IMAGES).shape == (3,)


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(x.dtype.newbyteorder(">")), np.ma.array], ids=["big-endian", "nothing masked"]
)
def test_arrays_of_other_makes_are_read_right(change):
    for entry in (classified, purified, purify, calibrated, detects):
        jax.tree.map(np.testing.assert_array_equal, entry(images=change(IMAGES)), entry(images=IMAGES))
    np.testing.assert_array_equal(run(images=change(IMAGES), labels=change(LABELS)).images, run().images)
    assert repr(evaluate(images=change(IMAGES), labels=change(LABELS)).records) == repr(evaluate().records)


def test_a_batch_is_not_filled_up_far_beyond_the_images():
    np.testing.assert_array_equal(run(batch_size=10**9).images, run().images)
    assert verdict(batch_size=10**9).robust_accuracy == verdict().robust_accuracy
    np.testing.assert_array_equal(surrogates(batch_size=10**9).success, surrogates().success)


def wide(images):
    return jnp.concatenate([linear(images), linear(images)[:, :2]], axis=1)


@pytest.mark.parametrize("average", ["logits", "losses"])
def test_surrogates_of_another_number_of_classes_are_refused(average):
    for models_given in (wide, [wide], [wide, wide]):
        for one, other, words in ((models_given, MODEL, "got 7 and 5 outputs"), (MODEL, wide, "got 5 and 7 outputs")):
            refused(words, jp.attacks.transfer, FGSM, one, other, IMAGES, LABELS, KEY, average=average)
    threat = jp.evaluation.transfer(wide)
    refused("the surrogates and the classifier must have the same classes, got 7 and 5", evaluate, threat_models=threat)
    adaptive = jp.attacks.Adaptive(epsilon=0.02, surrogates=(MODEL, wide), steps=1, queries=2, draws=1)
    refused("surrogate 1 and the target must have the same classes, got 7 and 5 outputs", run, attack=adaptive)


# training


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Task):
    """A task of one weight, with the losses that it is given."""

    losses: Callable = lambda errors: (errors, {})

    def network(self, rngs):
        return nnx.Linear(3, 1, rngs=rngs)

    def prepare(self, data, *, split="train"):
        return data

    def batch(self, source, rows, random):
        return {"images": source[rows]}

    def loss(self, network, batch, key):
        return self.losses(jnp.square(network(batch["images"])).mean(axis=(1, 2, 3)))


def fit(task, data=IMAGES, folder: Any = None, **options):
    options = {"recipe": jp.training.Recipe(batch_size=2, held_out=0.0), "steps": 1, "progress": False} | options
    return jp.training.fit(task, data, run=folder, **{"key": KEY} | options)


NO_LOSSES = {
    "mean over the batch": (lambda errors: (errors.mean(), {}), "expected shape (2,) of 'loss', got ()"),
    "measure of the batch": (lambda errors: (errors, {"psnr": errors.mean()}), "expected shape (2,) of 'psnr', got ()"),
    "losses alone": (lambda errors: errors, "return losses, {}"),
}


@pytest.mark.parametrize(("losses", "words"), NO_LOSSES.values(), ids=NO_LOSSES)
def test_a_loss_that_is_not_one_number_per_example_is_refused(tmp_path, losses, words):
    refused(words, fit, Mean(losses), folder=tmp_path)


NO_DATA = {
    "no example": (Mean(), IMAGES[:0], {}, "data must hold at least one example"),
    "none to score on": (Mean(), IMAGES, {"held_out": IMAGES[:0]}, "held_out must hold at least one example"),
    "no picture": (jp.training.BlindSpot(), [], {}, "at least one picture"),
    "PyTorch elsewhere": (jp.training.BlindSpot(), torch.zeros(1, 8, 8, 3, device="meta"), {}, "pass tensor.detach()"),
    "PyTorch out of range": (jp.training.BlindSpot(), torch.full((1, 64, 64, 3), 9.0), {}, "divide by 255"),
    "arrays for classes": (jp.training.Classifier(), (IMAGES, LABELS), {}, "pass jaxpurify.datasets.Dataset(images=…"),
    "number": (jp.training.BlindSpot(), 3, {}, "got int"),
}


@pytest.mark.parametrize(("task", "data", "options", "words"), NO_DATA.values(), ids=NO_DATA)
def test_data_that_cannot_be_trained_on_are_refused(tmp_path, task, data, options, words):
    refused(words, fit, task, data, folder=tmp_path, **options)


@pytest.mark.parametrize("steps", [0, -1, 2.0, "3", True, None])
def test_steps_that_are_no_count_are_refused(tmp_path, steps):
    refused("steps must be an integer of at least 1, got ", fit, Mean(), folder=tmp_path, steps=steps)


def test_a_training_takes_tensors_and_counts_of_other_libraries(tmp_path, lenient):
    task = jp.training.SuperResolution(features=4, blocks=1, patch=8)
    data = torch.from_numpy(np.random.default_rng(0).uniform(size=(3, 24, 24, 3)).astype(np.float32))
    trained = fit(task, data, folder=tmp_path / "tensor", steps=np.int64(1))
    same = fit(task, data.numpy(), folder=tmp_path / "array")
    assert trained.records[0]["loss"] == same.records[0]["loss"]


# paths


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_home_directory_is_meant_by_a_tilde_in_every_path(home):
    data = jp.datasets.Dataset(images=IMAGES, labels=LABELS, class_names=tuple("abcde"))
    evaluated = jp.evaluate(MODEL, BITS, data, attacks=FGSM, threat_models="blind", run="~/run", progress=False)
    assert evaluated.run == home / "run"
    assert jp.evaluation.Evaluation.load("~/run").records
    fit(Mean(), folder="~/trained")
    assert (home / "trained" / "weights.safetensors").exists()
    assert jp.networks.weights.read("~/trained/weights.safetensors")
    jp.images.write("~/a.png", IMAGES[0])
    assert jp.images.read("~/a.png").shape == (4, 4, 3)
    np.savez(home / "data.npz", images=IMAGES, labels=LABELS)
    assert len(jp.datasets.load("~/data.npz")) == len(pictures("~/data.npz")) == 3
    jp.evaluation.analyse_noise(IMAGES, np.asarray(BITS(IMAGES))).save_figure("~/noise.png")
    made = sorted(
        path.name for path in home.iterdir() if not path.name.startswith(".")
    )  # and caches of other libraries
    assert made == ["a.png", "data.npz", "noise.png", "run", "trained"]


def test_the_commands_mean_the_home_directory_by_a_tilde(home, capsys):
    options = ["--limit", "4", "--attack", "fgsm:epsilon=1/255", "--quiet", "--no-cache", "--devices", "1"]
    for target, made in (("~/x.npz", home / "x.npz"), ("~/png", home / "png" / "labels.csv")):
        assert main(["attack", target, *options]) == 0
        assert made.exists()
        assert main(["attack", target, *options]) == 2
        assert "is there already" in capsys.readouterr().err
    assert not (home / "~").exists()
    detect = ["detect", "--calibrate", "~/x.npz", "--data", "~/png", "--classifier", "photos-cnn", "--squeezer"]
    assert main([*detect, "bit-depth:bits=3", *options]) == 0
    assert "chosen on 4 legitimate images" in capsys.readouterr().out
    assert main(["detect", "--calibrate", "~/none", "--data", "~/png", "--classifier", "photos-cnn"]) == 2
    assert "~/png has no split '~/none', expected a file or folder" in capsys.readouterr().err


def test_a_home_directory_that_is_not_known_is_named():
    refused("the home directory in '~nobody-of-that-name/run' is not known", files.expanded, "~nobody-of-that-name/run")


# the command


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        pytest.param({"labels": LABELS.astype(np.float32)}, "use labels.astype", id="float labels"),
        pytest.param({"labels": np.eye(5, dtype=int)[LABELS]}, "one-hot", id="one-hot labels"),
        pytest.param({"images": np.zeros((3, 28, 28), np.float32)}, "images[..., None]", id="grey images"),
        pytest.param({"images": np.zeros((3, 3, 8, 8), np.float32)}, "channels first?", id="channels first"),
    ],
)
def test_the_command_refuses_what_python_refuses(tmp_path, capsys, arrays, words):
    np.savez(tmp_path / "data.npz", **{"images": IMAGES, "labels": LABELS} | arrays)
    assert main(["evaluate", "--data", str(tmp_path / "data.npz"), "--classifier", "photos-cnn", "--no-cache"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("jaxpurify: ")
    assert said.count("\n") == 1
