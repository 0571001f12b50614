import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify import keys as jk
from jaxpurify.gradients import Expectation, has_surrogate, rematerialised, straight_through, substitute
from jaxpurify.images import resize
from jaxpurify.models import Repeat, Sequential, as_target, classifier, purifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing
from jaxpurify.pytrees import static
from jaxpurify.testing import check_gradient

SHAPE = (3, 6, 7, 2)
RANDOM = np.random.default_rng(0)
IMAGES = jnp.asarray(RANDOM.uniform(0.1, 0.9, SHAPE), jnp.float32)
COTANGENT = jnp.asarray(RANDOM.normal(size=SHAPE), jnp.float32)
KEY = jax.random.key(7)
KEYS = jk.per_image(KEY, 3)


@purifier
class Square:
    amount: float = 1.0

    def __call__(self, images, key=None):
        return jnp.asarray(self.amount, images.dtype) * images * images


@purifier
class Steps:
    """Rounding, whose stand-in is a square: unlike the identity, its gradient shows where it was evaluated."""

    levels: float = 8.0

    def __call__(self, images, key=None):
        return jnp.round(images * jnp.asarray(self.levels, images.dtype)) / jnp.asarray(self.levels, images.dtype)

    def surrogate(self):
        return Square()


@purifier
class NoisySteps:
    """Rounding after a random scale, and the same scale without rounding as its stand-in."""

    random = True

    def __call__(self, images, key=None):
        return jnp.round(8 * NoisyScale()(images, key)) / 8

    def surrogate(self):
        return NoisyScale()


@purifier
class NoisyScale:
    random = True
    level: float = 1.0

    def __call__(self, images, key=None):
        return images * jnp.asarray(self.level, images.dtype) * factors(key, images.shape[1:], images.dtype)


def factors(keys, shape, dtype=jnp.float32):
    return jax.vmap(lambda k: jax.random.uniform(k, shape, dtype))(keys)


@purifier
class Resize:
    changes_size = True
    height: int = static(12)
    width: int = static(14)

    def __call__(self, images, key=None):
        return resize(images, height=self.height, width=self.width)


def pull(model, images=IMAGES, key=None, cotangent=COTANGENT):
    """Return outputs and the gradients with respect to the model and the images."""
    outputs, back = jax.vjp(lambda m, x: m(x, key), model, images)
    return outputs, *back(cotangent)


# straight-through


def test_straight_through_computes_the_model_and_has_exactly_the_identitys_gradient():
    model = BitDepth(bits=2.0)
    outputs, to_model, to_images = pull(straight_through(model))
    np.testing.assert_array_equal(outputs, model(IMAGES))
    np.testing.assert_array_equal(to_images, COTANGENT)
    assert np.abs(jax.tree.leaves(to_model)).max() == 0
    assert np.abs(pull(model)[2]).max() == 0


def nearest_by_hand(size, new):
    """The matrix of nearest-neighbour resizing along one axis: the pixel under the new pixel's centre."""
    matrix = np.zeros((new, size))
    matrix[np.arange(new), np.floor((np.arange(new) + 0.5) * size / new).astype(int)] = 1
    return matrix


@pytest.mark.parametrize("size", [(12, 14), (3, 14), (9, 5)])
def test_straight_through_spreads_back_as_nearest_resizing_where_the_size_changes(size):
    model = Resize(height=size[0], width=size[1])
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(3, *size, 2)), jnp.float32)

    def total(images):
        return (straight_through(model)(images) * cotangent).sum()

    rows, columns = nearest_by_hand(6, size[0]), nearest_by_hand(7, size[1])
    adjoint = np.einsum("hi,nhwc,wj->nijc", rows, np.asarray(cotangent, np.float64), columns)
    np.testing.assert_allclose(jax.grad(total)(IMAGES), adjoint, atol=1e-5)
    if size == (12, 14):
        blocks = np.asarray(cotangent).reshape(3, 6, 2, 7, 2, 2).sum(axis=(2, 4))
        np.testing.assert_allclose(adjoint, blocks, atol=1e-5)
    np.testing.assert_array_equal(straight_through(model)(IMAGES), model(IMAGES))


def test_straight_through_is_linear_through_a_chain():
    outputs, _, to_images = pull(Sequential(Square(), straight_through(Steps())))
    np.testing.assert_array_equal(outputs, Steps()(Square()(IMAGES)))
    np.testing.assert_allclose(to_images, 2 * IMAGES * COTANGENT, rtol=1e-6)


def test_a_plain_function_can_be_straightened():
    outputs, _, to_images = pull(straight_through(lambda images: jnp.floor(images)))
    np.testing.assert_array_equal(outputs, jnp.zeros(SHAPE))
    np.testing.assert_array_equal(to_images, COTANGENT)


def test_a_random_purifier_draws_the_same_inside_straight_through():
    outputs, _, to_images = pull(straight_through(NoisySteps()), key=KEY)
    np.testing.assert_array_equal(outputs, NoisySteps()(IMAGES, KEYS))
    np.testing.assert_array_equal(to_images, COTANGENT)
    with pytest.raises(ValueError, match="random, expected a key"):
        straight_through(NoisySteps())(IMAGES)


# substitute


def test_substitute_computes_the_model_and_has_its_surrogates_gradient():
    outputs, to_model, to_images = pull(substitute(Steps()))
    np.testing.assert_array_equal(outputs, Steps()(IMAGES))
    np.testing.assert_allclose(to_images, 2 * IMAGES * COTANGENT, rtol=1e-6)
    assert to_model.forward.levels == 0
    np.testing.assert_allclose(to_model.backward.amount, (IMAGES * IMAGES * COTANGENT).sum(), rtol=1e-4)


def test_a_given_surrogate_is_used_in_the_place_of_the_models_own():
    _, _, to_images = pull(substitute(Steps(), lambda images: 3 * images))
    np.testing.assert_allclose(to_images, 3 * COTANGENT, rtol=1e-6)


def test_substitute_changes_only_the_stages_with_a_surrogate_and_at_their_true_input():
    chain = Sequential(Square(), Steps(), Repeat(stage=Sequential(Square(amount=0.5), Steps()), times=1))
    outputs, _, to_images = pull(substitute(chain))
    np.testing.assert_array_equal(outputs, chain(IMAGES))
    first = np.asarray(IMAGES, np.float64)
    second = first**2
    third = np.round(second * 8) / 8
    fourth = 0.5 * third**2
    expected = np.asarray(COTANGENT) * 2 * fourth * third * 2 * second * 2 * first
    np.testing.assert_allclose(to_images, expected, rtol=1e-5, atol=1e-7)


def test_the_surrogate_of_a_random_stage_sees_the_same_key():
    outputs, _, to_images = pull(substitute(NoisySteps()), key=KEY)
    np.testing.assert_array_equal(outputs, NoisySteps()(IMAGES, KEYS))
    np.testing.assert_allclose(to_images, factors(KEYS, SHAPE[1:]) * COTANGENT, rtol=1e-6)


def test_a_random_stage_of_a_chain_keeps_its_keys_inside_substitute():
    chain = Sequential(NoisySteps(), NoisySteps())
    outputs, _, to_images = pull(substitute(chain), key=KEY)
    np.testing.assert_array_equal(outputs, chain(IMAGES, KEY))
    expected = factors(jk.fold(KEYS, 0), SHAPE[1:]) * factors(jk.fold(KEYS, 1), SHAPE[1:]) * COTANGENT
    np.testing.assert_allclose(to_images, expected, rtol=1e-5, atol=1e-7)


def test_a_random_surrogate_of_a_deterministic_model_needs_a_key():
    model = substitute(Steps(), NoisyScale())
    assert model.random
    with pytest.raises(ValueError, match="random, expected a key"):
        model(IMAGES)
    outputs, _, to_images = pull(model, key=KEY)
    np.testing.assert_array_equal(outputs, Steps()(IMAGES))
    np.testing.assert_allclose(to_images, factors(KEYS, SHAPE[1:]) * COTANGENT, rtol=1e-6)


def test_a_model_without_surrogate_is_refused():
    chain = Sequential(Square(), Repeat(stage=Square()))
    assert not has_surrogate(chain)
    assert has_surrogate(Sequential(Square(), Repeat(stage=Steps())))
    with pytest.raises(ValueError, match=r"Sequential declares no surrogate.*define surrogate"):
        substitute(chain)


def test_a_surrogate_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape of what it stands for, \(3, 6, 7, 2\), got \(3, 3, 7, 2\)"):
        pull(substitute(Steps(), lambda images: images[:, ::2]))


def test_integers_and_networks_with_keys_of_their_own_pass_through_changed_gradients():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(nnx.Linear(2, 2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
    network.eval()
    graph, state = nnx.split(network)

    @purifier
    class Network:
        weights: object = None

        def __call__(self, images, key=None):
            return nnx.merge(graph, self.weights)(images)

    model = Network(weights=state)
    assert any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(model))
    for changed in (straight_through(model), substitute(GaussianSmoothing(iterations=2), model), rematerialised(model)):
        gradient = jax.jit(jax.grad(lambda x, m=changed: m(x).sum()))(IMAGES)
        assert np.isfinite(gradient).all()
    surrogate = jax.grad(lambda x: substitute(Steps(), GaussianSmoothing(iterations=2))(x).sum())(IMAGES)
    np.testing.assert_allclose(surrogate, np.ones(SHAPE), atol=1e-5)


# rematerialisation


@purifier
class Sharpen:
    """Some smooth passes with a parameter."""

    strength: float = 0.3

    def __call__(self, images, key=None):
        blurred = (images + jnp.roll(images, 1, axis=1) + jnp.roll(images, 1, axis=2)) / 3
        return jnp.tanh(images + jnp.asarray(self.strength, images.dtype) * (images - blurred))


@pytest.mark.parametrize(
    "model",
    [
        Repeat(stage=Sharpen(), times=5),
        Sequential(Sharpen(), Square(), Repeat(stage=Sequential(Sharpen(), Square(amount=1.2)), times=3)),
        Repeat(stage=NoisyScale(level=1.5), times=3),
        Sequential(NoisyScale(), Resize()),
    ],
    ids=["passes", "chain", "random passes", "another size"],
)
def test_rematerialised_computes_and_differentiates_what_the_plain_model_does(model):
    cotangent = resize(COTANGENT, height=12, width=14) if model.changes_size else COTANGENT
    both = [jax.jit(lambda m: pull(m, key=KEY, cotangent=cotangent))(m) for m in (model, rematerialised(model))]
    for plain, again in zip(*(jax.tree.leaves(one) for one in both), strict=True):
        np.testing.assert_allclose(again, plain, rtol=0, atol=1e-6 * np.abs(plain).max())


def test_the_memory_of_rematerialised_passes_does_not_grow_with_their_number():
    images = jax.ShapeDtypeStruct((1, 128, 128, 2), jnp.float32)

    def memory(times, change=lambda model: model):
        function = jax.grad(lambda x: change(Repeat(stage=Sharpen(), times=times))(x).sum())
        return jax.jit(function).lower(images).compile().memory_analysis().temp_size_in_bytes

    # One image a pass is kept, 128 KiB, beside the intermediate values of a single pass.
    kept = 4 * 2 * 128 * 128
    assert memory(16, rematerialised) - memory(2, rematerialised) <= 14 * kept + 4096


def test_rematerialised_draws_what_the_plain_model_draws():
    model = Repeat(stage=Sequential(NoisyScale(), NoisySteps()), times=2)
    np.testing.assert_array_equal(rematerialised(model)(IMAGES, KEY), model(IMAGES, KEY))


def test_wrappers_keep_the_attributes_of_what_they_wrap():
    @purifier
    class Coupled:
        couples_images = True
        changes_size = True

        def __call__(self, images, key=None):
            return images - images.mean(axis=0, keepdims=True)

    for wrap in (straight_through, rematerialised, lambda m: substitute(m, Square())):
        wrapped = wrap(Coupled())
        assert (wrapped.random, wrapped.couples_images, wrapped.changes_size) == (False, True, True)
        assert wrap(NoisyScale()).random


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [Repeat(stage=Sharpen(), times=3), rematerialised(Repeat(stage=Sharpen(), times=3))])
def test_gradients_with_respect_to_images_and_numbers_agree_with_finite_differences(model):
    images = np.random.default_rng(2).uniform(0.2, 0.8, (2, 4, 5, 1))
    check_gradient(lambda inputs: inputs[0](inputs[1]), (model, jnp.asarray(images)))


# expectation


WEIGHTS = np.random.default_rng(3).normal(size=(84, 4))
LABELS = np.array([0, 3, 1])


def noisy_logits(images, key):
    return (images * factors(key, images.shape[1:], images.dtype)).reshape(len(images), -1) @ WEIGHTS.astype(
        images.dtype
    )


def cross_entropy(logits):
    return -jax.nn.log_softmax(logits)[np.arange(len(logits)), LABELS]


TARGET = classifier(noisy_logits)


def expectation_by_hand(of, samples):
    draws = []
    for draw in range(samples):
        scaled = np.asarray(IMAGES, np.float64) * np.asarray(factors(jk.fold(KEYS, draw), SHAPE[1:]), np.float64)
        draws.append(scaled.reshape(3, -1) @ WEIGHTS)
    logits = np.stack(draws)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    rows = np.arange(3)
    if of == "loss":
        return -np.log(probabilities[:, rows, LABELS]).mean(axis=0), logits.mean(axis=0)
    if of == "logits":
        mean = logits.mean(axis=0)
        return np.log(np.exp(mean).sum(axis=-1)) - mean[rows, LABELS], mean
    return -np.log(probabilities.mean(axis=0)[rows, LABELS]), np.log(probabilities.mean(axis=0))


@pytest.mark.parametrize("of", ["loss", "logits", "probabilities"])
def test_an_expectation_is_the_mean_written_by_hand_in_chunks_of_any_size(of):
    for chunk in (None, 2):
        expectation = Expectation(samples=5, chunk=chunk, of=of)
        loss, outputs = expectation(TARGET, IMAGES, KEYS, cross_entropy)
        expected, mean = expectation_by_hand(of, 5)
        np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(outputs, mean, rtol=2e-5, atol=2e-5)


def test_one_sample_is_one_draw():
    loss, outputs = Expectation(samples=1)(TARGET, IMAGES, KEYS, cross_entropy)
    drawn = TARGET(IMAGES, jk.fold(KEYS, 0))
    np.testing.assert_allclose(outputs, drawn, rtol=1e-5)
    np.testing.assert_allclose(loss, cross_entropy(drawn), rtol=1e-5)


def test_an_expectation_averages_trees_of_outputs():
    def several(images, key):
        mean = (images * factors(key, images.shape[1:])).mean(axis=(1, 2, 3))
        return {"mean": mean, "double": 2 * mean}

    target = as_target(several)
    loss, outputs = Expectation(samples=4, chunk=2)(target, IMAGES, KEYS, lambda outputs: outputs["double"])
    np.testing.assert_allclose(outputs["double"], 2 * outputs["mean"], rtol=1e-6)
    np.testing.assert_allclose(loss, outputs["double"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("of", ["loss", "logits", "probabilities"])
def test_the_gradient_of_an_expectation_agrees_with_finite_differences(of):
    expectation = Expectation(samples=3, chunk=2, of=of)
    images = jnp.asarray(np.random.default_rng(2).uniform(0.2, 0.8, SHAPE))
    check_gradient(lambda x: expectation(TARGET, x, KEYS, cross_entropy)[0], images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"samples": 5, "chunk": 6}, r"chunk must be an integer from 1 to samples \(5\), got 6"),
        ({"chunk": 0}, "chunk must be"),
        ({"of": "labels"}, "of must be .* got 'labels'"),
        ({"randomness": "none"}, "randomness must be .* got 'none'"),
    ],
)
def test_an_expectation_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Expectation(**options)
