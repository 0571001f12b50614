"""Models that couple the images of a batch, or draw in secret, are found; sound ones are not accused."""

# ruff: noqa: NPY002 (the generators that all share are among what is found)

import gc
import random
import weakref

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxpurify as jp
from jaxpurify import probing
from jaxpurify.independence import check_independence
from jaxpurify.models import as_target

SHAPE = (6, 6, 3)
IMAGES = np.float32(np.random.default_rng(0).uniform(0.05, 0.95, (9, *SHAPE)))
WEIGHTS = np.float32(np.random.default_rng(1).normal(size=(108, 5)))
COUPLED = "must treat each image by itself"
AGAIN = "must answer the same images alike"
TRACED = "must be the same function whenever it is called"


def flat(images):
    return images.reshape(images.shape[0], -1)


def linear(images):
    return (flat(images) - 0.5) @ jnp.asarray(WEIGHTS, images.dtype)


def batch_statistics(images):
    return linear((images - images.mean(axis=0, keepdims=True)) / images.std(axis=0, keepdims=True))


def a_little_batch_statistics(images):
    return linear(images - 0.01 * images.mean(axis=0, keepdims=True))


def largest_of_batch(images):
    return linear(images / images.max())


def largest_logit_of_batch(images):
    logits = linear(images)
    return logits / jnp.abs(logits).max()


def attention_over_the_batch(images):
    features = flat(images)
    return jax.nn.softmax(features @ features.T, axis=1) @ linear(images)


def softmax_over_the_batch(images):
    return jax.nn.softmax(linear(images), axis=0)


def left_neighbour(images):
    return linear(images) + 0.1 * jnp.roll(linear(images), 1, axis=0)


def place_in_the_batch(images):
    return linear(images) * jnp.linspace(1.0, 1.1, images.shape[0], dtype=images.dtype)[:, None]


def sorted_by_confidence(images):
    logits = linear(images)
    return logits[jnp.argsort(logits.max(axis=1))]


def half_batch_statistics(images):
    images = images.astype(jnp.bfloat16)
    return linear(images - images.mean(axis=0, keepdims=True)).astype(jnp.float32)


def rank_in_the_batch(images):
    return linear(images).max(axis=1).argsort().argsort()


def several_outputs(images):
    return {"logits": linear(images), "statistics": batch_statistics(images)}


@pytest.mark.parametrize(
    "function",
    [
        batch_statistics,
        a_little_batch_statistics,
        largest_of_batch,
        largest_logit_of_batch,
        attention_over_the_batch,
        softmax_over_the_batch,
        left_neighbour,
        place_in_the_batch,
        sorted_by_confidence,
        half_batch_statistics,
        rank_in_the_batch,
        several_outputs,
    ],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("count", [1, 9])
def test_functions_that_couple_images_are_found(function, count):
    with pytest.raises(ValueError, match=f"^classifier {COUPLED}"):
        check_independence(as_target(function), IMAGES[:count], name="classifier")


def test_the_brightest_image_of_a_batch_hides_no_maximum_over_it():
    images = IMAGES.copy()
    images[:, 0] = 1.0
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(as_target(largest_of_batch), images)


class Normalised(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, images, train):
        images = flax.linen.BatchNorm(use_running_average=not train)(images)
        return flax.linen.Dense(5)(flat(images))


def test_linen_with_mutable_statistics_is_found_and_without_passes():
    module = Normalised()
    variables = module.init(jax.random.key(0), IMAGES, train=False)

    def training(variables, images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    def evaluating(variables, images):
        return module.apply(variables, images, train=False)

    with pytest.raises(ValueError, match=COUPLED):
        check_independence(jp.classifier(training, variables), IMAGES)
    check_independence(jp.classifier(evaluating, variables), IMAGES)


class OwnFlag(nnx.Module):
    """Modules that ask their own flag, which `eval()` does not know."""

    def __init__(self, *, normalise=False, drop=False, training=True):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0)) if normalise else None
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0)) if drop else None
        self.out = nnx.Linear(108, 5, rngs=nnx.Rngs(1))
        self.training = training

    def __call__(self, images):
        if self.norm is not None:
            images = self.norm(images, use_running_average=not self.training)
        if self.dropout is not None:
            images = self.dropout(images, deterministic=not self.training)
        return self.out(flat(images))


@pytest.mark.parametrize("layer", ["normalise", "drop"])
def test_nnx_with_a_flag_of_its_own_is_found_and_passes_with_the_flag_off(layer):
    with pytest.raises(ValueError, match="changes its own variables when it is called: is it in training mode"):
        check_independence(jp.classifier(OwnFlag(**{layer: True})), IMAGES)
    check_independence(jp.classifier(OwnFlag(training=False, **{layer: True})), IMAGES)


def test_a_module_that_changes_itself_is_named():
    module = OwnFlag(normalise=True)
    with pytest.raises(ValueError, match="changes its own variables when it is called"):
        check_independence(as_target(lambda images: module(images)), IMAGES)


class Counter:
    """Functions with a memory."""

    def __init__(self):
        self.calls = 0

    def scales(self, images):
        self.calls += 1
        return linear(images) * self.calls

    def alternates(self, images):
        self.calls += 1
        return linear(images) if self.calls % 2 else linear(images[:, ::-1])


compiled_noise = jax.jit(lambda images: linear(images) + np.float32(np.random.normal(size=5))[None])


@pytest.mark.parametrize(
    "function",
    [
        lambda images: linear(images) + np.float32(np.random.normal()),
        lambda images: linear(images) + np.float32(np.random.default_rng().normal(size=(1, 5))),
        lambda images: linear(images * random.uniform(0.9, 1.0)),
        lambda images: linear(images + jax.random.normal(jax.random.key(np.random.randint(1000)), images.shape)),
        lambda images: linear(images)[:, np.random.permutation(5)],
        lambda images: linear(images[:, ::-1] if random.random() < 0.5 else images),
        lambda images: linear(images[:, ::-1] if np.random.rand() < 0.5 else images),
        lambda images: jax.lax.fori_loop(0, 3, lambda _, x: x + random.random(), linear(images)),
        compiled_noise,
        Counter().scales,
        Counter().alternates,
    ],
    ids=[
        "normal",
        "generator",
        "python",
        "key",
        "permutation",
        "python-flip",
        "flip",
        "loop",
        "compiled",
        "counter",
        "alternating",
    ],
)
def test_what_is_drawn_or_counted_while_tracing_is_found(function):
    with pytest.raises(ValueError, match=TRACED):
        check_independence(as_target(function), IMAGES)


def test_what_is_drawn_on_the_host_at_each_call_is_found():
    def function(images):
        drawn = jax.ShapeDtypeStruct(images.shape, images.dtype)
        noise = jax.pure_callback(lambda x: np.float32(np.random.normal(size=x.shape)), drawn, images)
        return linear(images + 0.1 * noise)

    with pytest.raises(ValueError, match=AGAIN):
        check_independence(as_target(function), IMAGES)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_pytorch_modules_that_no_mode_switches_off_are_found(torch):
    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(108, 5)

        def forward(self, images):
            return self.out(torch.nn.functional.dropout(images.flatten(1), 0.5))

    def layers(**options):
        parts = torch.nn.Flatten(), torch.nn.BatchNorm1d(108, **options), torch.nn.Dropout(), torch.nn.Linear(108, 5)
        return jp.interop.torch_classifier(torch.nn.Sequential(*parts).train())

    with pytest.raises(ValueError, match=AGAIN):
        check_independence(jp.interop.torch_classifier(Dropping()), IMAGES)
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(layers(track_running_stats=False), IMAGES)
    check_independence(layers(), IMAGES)


def shared_key(images, key):
    return linear(images + 0.1 * jax.random.normal(key[0], images.shape, images.dtype))


def key_per_image(images, key):
    noise = jax.vmap(lambda k: jax.random.normal(k, SHAPE, images.dtype))(key)
    return linear(images + 0.1 * noise)


def test_a_random_model_may_draw_with_the_keys_of_each_image_only():
    check_independence(as_target(key_per_image), IMAGES, jax.random.key(3))
    check_independence(as_target(key_per_image), IMAGES, jax.random.split(jax.random.key(3), 9))
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(as_target(shared_key), IMAGES, jax.random.key(3))


@jp.purifier
class Centred:
    """Takes the batch's mean away."""

    def __call__(self, images, key=None):
        return images - images.mean(axis=0, keepdims=True)


@jp.purifier
class Together(Centred):
    couples_images = True

    def __call__(self, images, key=None):
        return images - images.mean(axis=0, keepdims=True)


@jp.purifier
class Forgetful(Together):
    def __call__(self, images, key=None):
        return images + np.float32(0.1 * np.random.uniform())


def test_purifiers_that_couple_images_are_found_unless_they_say_so():
    for model in (Centred(), jp.Defended(linear, Centred()), jp.Sequential(jp.purifiers.Identity(), Centred())):
        with pytest.raises(ValueError, match=COUPLED):
            check_independence(model, IMAGES)
    check_independence(Together(), IMAGES)
    check_independence(jp.Defended(linear, Together()), IMAGES)
    with pytest.raises(ValueError, match=TRACED):
        check_independence(Forgetful(), IMAGES)


def seeded(images):
    np.random.seed(0)
    return linear(images + np.float32(np.random.normal(size=(1, *SHAPE))))


@pytest.mark.parametrize(
    "model",
    [
        linear,
        lambda images: linear(images.astype(jnp.float16)),
        lambda images: linear(images.astype(jnp.bfloat16)).astype(jnp.float32),
        lambda images: jnp.where(jnp.arange(5) == 2, -jnp.inf, linear(images)),
        lambda images: linear(images) * jnp.where(images[:, :1, 0, 0] > 0.5, jnp.nan, 1.0),
        lambda images: linear(images).argmax(axis=1),
        lambda images: linear(images) > 0,
        lambda images: linear(images) * 1e-30,
        seeded,
        jp.purifiers.JPEG(),
        jp.purifiers.GaussianNoise(),
        jp.purifiers.RandomResizing(),
        jp.Defended(linear, jp.Repeat(stage=jp.purifiers.GaussianSmoothing(), times=2)),
    ],
    ids=[
        "linear",
        "float16",
        "bfloat16",
        "masked",
        "nan",
        "labels",
        "truth",
        "tiny",
        "seeded",
        "jpeg",
        "noise",
        "resizing",
        "defended",
    ],
)
def test_sound_models_pass(model):
    check_independence(as_target(model), IMAGES)


def test_what_returns_one_answer_for_all_images_is_told_apart():
    with pytest.raises(ValueError, match=r"must return outputs with one row per image, got shape \(5,\)"):
        check_independence(as_target(lambda images: linear(images).mean(axis=0)), IMAGES)


def test_nothing_is_asked_while_tracing():
    def inside(images):
        check_independence(as_target(batch_statistics), images)
        check_independence(as_target(batch_statistics), IMAGES)
        return images

    jax.jit(inside)(IMAGES)
    jax.vmap(lambda images: check_independence(as_target(batch_statistics), images) or images)(IMAGES[None])


def affine(weights, images):
    return flat(images) @ weights


def test_what_is_known_of_a_model_depends_on_weights_and_shape_and_keeps_no_weights():
    known, asked = probing.Remembered(), []

    def recall(weights, images=IMAGES):
        return known.recall(jp.classifier(affine, weights), images, lambda: asked.append(1) or len(asked))

    weights = jnp.asarray(WEIGHTS)
    assert [recall(weights), recall(weights), recall(weights, IMAGES[:2])] == [1, 1, 1]
    assert recall(weights + 1) == 2
    assert recall(weights, IMAGES[:, :3]) == 3
    assert [recall(WEIGHTS), recall(WEIGHTS.copy()), recall(WEIGHTS + 1)] == [4, 4, 5]
    reference = weakref.ref(weights)
    del weights
    gc.collect()
    assert reference() is None
    for number in range(20):
        recall(WEIGHTS + 2 + number)
    assert recall(WEIGHTS) == 26


def test_new_weights_in_a_pytorch_module_are_noticed(torch):
    known, asked = probing.Remembered(), []
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 5))

    def recall():
        model = jp.Defended(jp.interop.torch_classifier(module), jp.purifiers.Identity())
        return known.recall(model, IMAGES, lambda: asked.append(1) or len(asked))

    assert [recall(), recall()] == [1, 1]
    with torch.no_grad():
        module[1].weight.mul_(1.003)
    assert recall() == 2
    module[1].weight.data = torch.zeros(5, 108)
    assert recall() == 3
    module.train(not module.training)
    assert recall() == 4
    module[0].flag = True
    assert recall() == 5
    module[0].flag = False
    assert recall() == 6


def with_large_logits(function, large, which, added=False):
    def masked(images):
        logits = function(images)
        where = jnp.isin(jnp.arange(5), jnp.asarray(which))[None]
        return logits + jnp.where(where, np.float32(large), 0) if added else jnp.where(where, np.float32(large), logits)

    return masked


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("which", [(2,), (0, 1, 2)])
@pytest.mark.parametrize("large", [-1e9, -3e6, np.finfo(np.float32).min / 2, 3e6])
def test_a_large_logit_excuses_no_other(large, which, added):
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(as_target(with_large_logits(a_little_batch_statistics, large, which, added)), IMAGES)
    check_independence(as_target(with_large_logits(linear, large, which, added)), IMAGES)


def ghost_statistics(images, size=16):
    if len(images) < size:
        return linear(images)
    groups = images.reshape(-1, size, *images.shape[1:])
    return linear((groups - groups.mean(axis=1, keepdims=True)).reshape(images.shape))


def batch_of_sixteen(images):
    return batch_statistics(images) if len(images) >= 16 else linear(images)


def several_at_once(images):
    return linear(images[:, ::-1] if len(images) >= 16 else images)


def place_in_a_large_batch(images):
    return place_in_the_batch(images) if len(images) >= 16 else linear(images)


@pytest.mark.parametrize(
    "function",
    [ghost_statistics, lambda i: ghost_statistics(i, 32), batch_of_sixteen, several_at_once, place_in_a_large_batch],
    ids=["ghost", "ghost-32", "sixteen", "number", "place"],
)
def test_coupling_that_begins_above_eight_images_is_found(function):
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(as_target(function), IMAGES)


def test_few_rows_of_eight_images_are_asked_for_and_other_rounding_in_a_large_batch_is_none_of_its_faults():
    asked = []

    def function(images):
        jax.debug.callback(lambda: asked.append(len(images)))
        quantised = jnp.round(images * 255) / 255
        return linear(quantised) * (1 + 1e-5 * (len(images) > 8))

    check_independence(as_target(function), IMAGES)
    jax.effects_barrier()
    assert sorted(asked) == [8] * 5 + [32] * 2  # beside the 51 passes of eight that measure gradients: 512 rows


@pytest.mark.parametrize(
    "function",
    [
        lambda images: linear(images) + 1e6,
        lambda images: (linear(images) + 100).astype(jnp.float16),
        lambda images: (linear(images) * 1e-3 + 1e6).astype(jnp.bfloat16),
        lambda images: jnp.where(images > 0.9, images, 0.0),
        lambda images: jnp.zeros((len(images), 5)),
    ],
    ids=["offset", "float16", "bfloat16", "black", "constant"],
)
def test_offsets_and_narrow_numbers_are_not_accused(function):
    check_independence(as_target(function), IMAGES)


def rounded_by_place(values):
    """Libraries for matrices may treat every other row in another way."""
    return values * jnp.where(jnp.arange(len(values)) % 2, np.float32(1 + 2.0**-23), np.float32(1))[:, None]


def small_distance(images, coupling=0.0):
    near = rounded_by_place(jax.nn.softmax(linear(images)))
    distance = jnp.abs(near - jax.nn.softmax(linear(images * 0.999))).sum(axis=1)
    return distance + coupling * distance.mean(keepdims=True)


def one_logit(images, coupling=0.0):
    parts = rounded_by_place(linear(images) * 10)
    logit = parts[:, :1] - 10 * linear(jnp.asarray(IMAGES[:1]))[:, :1]  # nearly zero for image 0
    return logit + coupling * logit.mean(keepdims=True)


@pytest.mark.parametrize("function", [small_distance, one_logit])
def test_differences_of_large_numbers_may_round_as_those_do(function):
    check_independence(as_target(function), IMAGES)
    with pytest.raises(ValueError, match=COUPLED):
        check_independence(as_target(lambda images: function(images, 0.01)), IMAGES)


@pytest.mark.parametrize("number", range(6))
def test_a_draw_among_few_from_a_generator_of_its_own_is_found(number):
    generator = np.random.default_rng(number)
    with pytest.raises(ValueError, match=TRACED):
        check_independence(as_target(lambda i: linear(i[:, :, ::-1] if generator.random() < 0.5 else i)), IMAGES)


@pytest.mark.parametrize("wrap", [jp.classifier, lambda function: jp.Defended(function, jp.purifiers.Identity())])
def test_a_private_draw_is_found_however_a_function_is_given(wrap):
    generator = np.random.default_rng(3)
    with pytest.raises(ValueError, match=TRACED):
        check_independence(wrap(lambda i: linear(i[:, :, ::-1] if generator.random() < 0.5 else i)), IMAGES)


def test_a_detector_that_couples_images_is_not_calibrated():
    detector = jp.FeatureSqueezing(squeezers=(lambda i: jnp.clip(i - i.mean(0, keepdims=True) + 0.5, 0, 1),))
    with pytest.raises(ValueError, match=f"^the target with its detector {COUPLED}"):
        detector.calibrated(linear, IMAGES)
    assert jp.FeatureSqueezing(squeezers=(Together(),)).calibrated(linear, IMAGES).threshold is not None


@pytest.mark.parametrize(
    ("output", "words"),
    [("cat", "got str"), (1.5, "got float"), ([1.0], "got list of 1")],
    ids=["str", "float", "list"],
)
def test_a_detector_judges_what_a_model_returns_first(output, words):
    with pytest.raises(ValueError, match=rf"must return logits of shape \(1, classes\), {words}"):
        jp.FeatureSqueezing().calibrated(lambda images: output, IMAGES)


def test_a_tensor_of_pytorch_gets_the_same_sentence_from_a_detector(torch):
    with pytest.raises(ValueError, match=r"must return logits of shape \(1, classes\), got .*Tensor: wrap a PyTorch"):
        jp.FeatureSqueezing().calibrated(lambda images: torch.zeros(len(images), 5), IMAGES)


@jp.purifier
class Picky(Centred):
    """Takes images of 40 pixels alone."""

    def __call__(self, images, key=None):
        if images.shape[1] != 40:
            raise ValueError("40 pixels only")
        return jnp.clip(images - images.mean(axis=0, keepdims=True) + 0.5, 0, 1)


def test_a_purifier_that_refuses_the_small_cut_is_tried_on_the_whole():
    images = np.random.default_rng(0).integers(256, size=(2, 40, 40, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match=f"^Picky {COUPLED}"):
        jp.purify(Picky(), images)


@pytest.mark.parametrize("shared", [False, True])
def test_targets_of_own_threat_models_are_probed(shared):
    data = jp.datasets.Dataset(images=IMAGES, labels=np.zeros(len(IMAGES), np.int32), class_names=tuple("abcde"))
    own = jp.ThreatModel("own", target=lambda classifier, purifier: as_target(batch_statistics), shared=shared)
    with pytest.raises(ValueError, match=f"^the target of threat model 'own' {COUPLED}"):
        jp.evaluate(
            linear, {"none": jp.purifiers.Identity()}, data, attacks=jp.attacks.PGD(steps=1), threat_models=[own]
        )


def test_surrogates_of_the_adaptive_attack_are_probed():
    attack = jp.attacks.Adaptive(surrogates=(linear, batch_statistics), steps=1, queries=1, draws=1)
    with pytest.raises(ValueError, match=f"^surrogate 1 {COUPLED}"):
        jp.attacks.run(attack, linear, IMAGES[:2], np.zeros(2, np.int32), key=jax.random.key(0))
