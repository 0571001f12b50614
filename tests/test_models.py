import dataclasses
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxpurify import keys as jk
from jaxpurify.models import Classifier, Defended, Repeat, Sequential, as_target, attribute, classifier, purifier, sweep
from jaxpurify.pytrees import static
from jaxpurify.testing import count_compilations

SHAPE = (3, 4, 5, 2)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(0, 1, SHAPE), jnp.float32)
KEY = jax.random.key(7)
KEYS = jk.per_image(KEY, 3)


@purifier
class Scale:
    amount: float = 0.5
    mode: str = static("plain")

    def __call__(self, images, key=None):
        return images * jnp.asarray(self.amount, images.dtype)


@purifier
class Noise:
    random = True
    level: float = 0.1

    def __call__(self, images, key=None):
        draw = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))(key)
        return images + jnp.asarray(self.level, images.dtype) * draw


@purifier
class Double:
    changes_size = True

    def __call__(self, images, key=None):
        return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)


@purifier
class MeanShift:
    couples_images = True

    def __call__(self, images, key=None):
        return images - images.mean(axis=0, keepdims=True)


# purifiers


def test_numbers_of_a_purifier_do_not_compile_anew_and_static_fields_do():
    @jax.jit
    def purify(p, images):
        return p(images)

    with count_compilations() as compilations:
        for amount in (0.5, 0.25, 1.0):
            np.testing.assert_allclose(purify(Scale(amount=amount), IMAGES), amount * IMAGES, rtol=1e-6)
        assert compilations.count("purify") == 1
        purify(Scale(mode="other"), IMAGES)
    assert compilations.count("purify") == 2


def test_a_random_purifier_receives_one_key_an_image_whatever_is_passed():
    received = []

    @purifier
    class Look:
        random: bool = True

        def __call__(self, images, key=None):
            received.append(jax.random.key_data(key))
            return images

    Look()(IMAGES, KEY)
    Look()(IMAGES, KEYS)
    np.testing.assert_array_equal(received[0], jax.random.key_data(KEYS))
    np.testing.assert_array_equal(received[1], received[0])


def test_a_deterministic_purifier_receives_no_key_and_still_refuses_a_raw_one():
    received = []

    @purifier
    class Look:
        def __call__(self, images, key=None):
            received.append(key)
            return images

    Look()(IMAGES, KEY)
    Look()(IMAGES)
    assert received == [None, None]
    with pytest.raises(TypeError, match="raw uint32"):
        Look()(IMAGES, jax.random.PRNGKey(0))


def test_a_random_purifier_refuses_missing_raw_and_too_few_keys():
    with pytest.raises(ValueError, match=r"Noise is random, expected a key: pass key=jax.random.key\(0\)"):
        Noise()(IMAGES)
    with pytest.raises(TypeError, match="raw uint32"):
        Noise()(IMAGES, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match=r"3 of them \(one an image\), got shape \(2,\)"):
        Noise()(IMAGES, KEYS[:2])


def test_numpy_images_are_taken():
    np.testing.assert_array_equal(Scale()(np.asarray(IMAGES)), Scale()(IMAGES))


def test_wrong_images_are_refused():
    with pytest.raises(TypeError, match="uint8: divide by 255"):
        Scale()(np.zeros(SHAPE, np.uint8))


@pytest.mark.parametrize("wrong", [lambda x: x[:1], lambda x: x.mean(), lambda x: x[0]])
def test_a_purifier_that_returns_no_images_is_refused(wrong):
    @purifier
    class Wrong:
        changes_size = True

        def __call__(self, images, key=None):
            return wrong(images)

    with pytest.raises(ValueError, match=r"Wrong must return images for images, got shape \(.* for \(3, 4, 5, 2\)"):
        Wrong()(IMAGES)


def test_a_changed_size_must_be_declared():
    undeclared = purifier(type("Undeclared", (), {"__call__": lambda self, images, key=None: images[:, 1:]}))
    with pytest.raises(ValueError, match=r"returned shape \(3, 3, 5, 2\) .* set changes_size = True"):
        undeclared()(IMAGES)
    assert Double()(IMAGES).shape == (3, 8, 10, 2)


def test_a_class_that_cannot_be_called_is_no_purifier():
    with pytest.raises(TypeError, match="Empty must define __call__"):
        purifier(type("Empty", (), {}))


def test_attributes_default_to_false():
    assert [attribute(Scale(), name) for name in ("random", "couples_images", "changes_size")] == [False] * 3
    assert attribute(lambda images: images, "random") is False


# nesting


def test_a_stage_receives_the_keys_with_its_number_folded_in():
    expected = Noise(level=0.2)(Scale()(Noise()(IMAGES, jk.fold(KEYS, 0))), jk.fold(KEYS, 2))
    np.testing.assert_array_equal(Sequential(Noise(), Scale(), Noise(level=0.2))(IMAGES, KEY), expected)


def test_stages_without_randomness_take_any_key_or_none():
    stages = Sequential(Scale(), Repeat(stage=Scale(), times=2))
    np.testing.assert_array_equal(stages(IMAGES, KEY), stages(IMAGES))
    np.testing.assert_allclose(stages(IMAGES, KEYS), IMAGES / 8, rtol=1e-6)


def test_repeating_is_a_sequence_of_one_purifier():
    np.testing.assert_array_equal(
        Repeat(stage=Noise(), times=3)(IMAGES, KEY), Sequential(Noise(), Noise(), Noise())(IMAGES, KEY)
    )


def test_a_sequence_has_the_attributes_of_its_stages():
    mixed = Sequential(Scale(), Sequential(Noise(), Double()), MeanShift())
    assert (mixed.random, mixed.couples_images, mixed.changes_size) == (True, True, True)
    plain = Repeat(stage=Sequential(Scale()))
    assert (plain.random, plain.couples_images, plain.changes_size) == (False, False, False)
    assert Repeat(stage=Noise()).random
    assert Repeat(stage=MeanShift()).couples_images


def test_an_empty_sequence_does_nothing():
    np.testing.assert_array_equal(Sequential()(IMAGES), IMAGES)


@pytest.mark.parametrize(("stage", "got"), [(3, "got int"), (Scale, "got the class Scale")])
def test_a_stage_that_is_no_purifier_is_refused(stage, got):
    with pytest.raises(TypeError, match=f"stage 1 of Sequential must be a purifier, {got}"):
        Sequential(Scale(), stage)


@pytest.mark.parametrize("times", [0, -1, 1.5])
def test_a_wrong_number_of_passes_is_refused(times):
    with pytest.raises((ValueError, TypeError), match="times"):
        Repeat(stage=Scale(), times=times)


def test_repeating_needs_a_kept_size():
    with pytest.raises(ValueError, match="keeps the size"):
        Repeat(stage=Double())


# sweeps


def test_a_sweep_runs_under_vmap():
    swept = jax.vmap(lambda p: p(IMAGES))(sweep(Scale(), amount=[0.25, 0.5, 1.0]))
    for amount, purified in zip((0.25, 0.5, 1.0), swept, strict=True):
        np.testing.assert_allclose(purified, amount * IMAGES, rtol=1e-6)


def test_a_sweep_repeats_every_other_leaf():
    swept = sweep(Sequential(Scale(amount=0.5), Noise(level=0.3)), stages__1__level=np.linspace(0, 1, 4))
    assert isinstance(swept, Sequential)
    np.testing.assert_array_equal(swept.stages[0].amount, np.full(4, 0.5, np.float32))
    np.testing.assert_allclose(swept.stages[1].level, np.linspace(0, 1, 4), rtol=1e-6)
    assert jax.vmap(lambda p: p(IMAGES, KEY))(swept).shape == (4, *SHAPE)


def test_several_fields_are_swept_together():
    chain = Sequential(Scale(), Scale())
    swept = sweep(chain, stages__0__amount=[1.0, 2.0], stages__1__amount=[3.0, 4.0])
    purified = jax.vmap(lambda p: p(IMAGES))(swept)
    np.testing.assert_allclose(purified[:, 0, 0, 0, 0], IMAGES[0, 0, 0, 0] * np.float32([3, 8]), rtol=1e-6)


def test_a_sweep_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Scale has no leaf sigma to sweep, expected one of \['amount'\]"):
        sweep(Scale(), sigma=[1.0])
    with pytest.raises(ValueError, match="has no leaf mode"):
        sweep(Scale(), mode=[1.0])
    with pytest.raises(ValueError, match="arrays of one length"):
        sweep(Sequential(Scale(), Scale()), stages__0__amount=[1.0], stages__1__amount=[1.0, 2.0])
    with pytest.raises(ValueError, match="arrays of one length"):
        sweep(Scale(), amount=1.0)
    with pytest.raises(ValueError, match="at least one field"):
        sweep(Scale())


# classifiers


class Norm(nnx.Module):
    """Batch normalisation, dropout and a linear layer: all that differs between training and evaluation."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(40, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(40, 3, rngs=rngs)
        self.norm.mean[...] = jnp.linspace(-1.0, 1.0, 40)
        self.norm.var[...] = jnp.linspace(0.5, 2.0, 40)

    def __call__(self, images):
        return self.linear(self.dropout(self.norm(images.reshape(len(images), -1))))


def norm_in_numpy(model, images):
    mean, var, weight, bias = (
        np.asarray(value[...], np.float64)
        for value in (model.norm.mean, model.norm.var, model.linear.kernel, model.linear.bias)
    )
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return (flat - mean) / np.sqrt(var + 1e-5) @ weight + bias


def test_an_nnx_module_is_evaluated_on_a_copy_and_left_as_it_was():
    module = Norm()
    before = jax.tree.map(np.asarray, nnx.state(module, nnx.Not(nnx.RngState)))
    model = classifier(module)
    assert model.name == "Norm"
    np.testing.assert_allclose(model(IMAGES), norm_in_numpy(module, IMAGES), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda m, x: m(x))(model, IMAGES), jax.jit(lambda m, x: m(x))(model, IMAGES))
    assert module.norm.use_running_average is False
    assert module.dropout.deterministic is False
    after = jax.tree.map(np.asarray, nnx.state(module, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    module.linear.bias[...] += 100.0
    assert np.abs(model(IMAGES)).max() < 50


class Convolutions(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.group = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        maps = nnx.max_pool(nnx.relu(self.group(self.norm(self.first(images)))), (2, 2), (2, 2))
        return self.last(maps.mean(axis=(1, 2)))


def test_the_forward_pass_of_an_nnx_network_works_under_strict_promotion():
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    assert jax.config.jax_numpy_rank_promotion == "raise"
    model = classifier(Convolutions(nnx.Rngs(0)))
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: model(x).sum()))(IMAGES)
    assert np.isfinite(loss)
    assert gradient.shape == SHAPE


def linen_module():
    class Dense(nn.Module):
        classes: int = 3

        @nn.compact
        def __call__(self, images):
            return nn.Dense(self.classes)(images.reshape(len(images), -1))

    module = Dense()
    return module, [module.init(jax.random.key(seed), IMAGES) for seed in range(2)]


def equinox_module(seed=0):
    first, last = jax.random.split(jax.random.key(seed))
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(80, 3, key=last),
        ]
    )


def new_weights():
    linen, variables = linen_module()
    return {
        "nnx": [classifier(Norm(seed)) for seed in range(2)],
        "linen": [classifier(linen.apply, each) for each in variables],
        "equinox": [classifier(equinox_module(seed), batched=False, channels_first=True) for seed in range(2)],
        "function": [classifier(flat_product, seed * jnp.ones((40, 3))) for seed in range(2)],
    }


def flat_product(variables, images):
    return images.reshape(len(images), -1) @ variables


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox", "function"])
def test_new_weights_do_not_compile_anew(library):
    @jax.jit
    def predict(model, images):
        return model(images)

    first, second = new_weights()[library]
    with count_compilations() as compilations:
        logits = [predict(model, IMAGES) for model in (first, second)]
    assert compilations.count("predict") == 1
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_a_linen_module_is_its_apply_function_with_variables():
    module, (variables, _) = linen_module()
    model = classifier(module.apply, variables)
    assert model.name == "Dense"
    kernel, bias = (np.asarray(variables["params"]["Dense_0"][part]) for part in ("kernel", "bias"))
    np.testing.assert_allclose(model(IMAGES), np.asarray(IMAGES).reshape(3, -1) @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_an_equinox_module_of_single_images_with_channels_first_is_adapted():
    module = equinox_module()
    expected = [module(image.transpose(2, 0, 1)) for image in IMAGES]
    model = classifier(module, batched=False, channels_first=True, name="small")
    np.testing.assert_allclose(model(IMAGES), np.stack(expected), rtol=1e-5, atol=1e-6)
    assert model.name == "small"


def test_an_equinox_module_takes_its_key_by_name():
    class Noisy(eqx.Module):
        scale: jax.Array
        bias: jax.Array

        def __call__(self, image, *, key):
            return self.scale * jax.random.normal(key, (3,)) + self.bias

    model = classifier(Noisy(jnp.float32(2.0), jnp.ones(3)), batched=False, random=True)
    expected = [2 * np.asarray(jax.random.normal(key, (3,))) + 1 for key in KEYS]
    np.testing.assert_allclose(model(IMAGES, KEY), np.stack(expected), rtol=1e-5)


def test_a_plain_function_is_a_classifier():
    def brightness(images):
        return images.mean(axis=(1, 2))

    model = classifier(brightness)
    assert isinstance(model, Classifier)
    assert (model.name, model.random) == ("brightness", False)
    np.testing.assert_allclose(model(IMAGES), np.asarray(IMAGES).mean(axis=(1, 2)), rtol=1e-6)
    assert jax.tree.structure(model) == jax.tree.structure(classifier(brightness))


def noisy_by_position(images, key):
    return jax.vmap(lambda k: jax.random.normal(k, (3,)))(key)


def noisy_by_name(images, *, key):
    return jax.vmap(lambda k: jax.random.normal(k, (3,)))(key)


@pytest.mark.parametrize("function", [noisy_by_position, noisy_by_name])
def test_a_function_with_a_key_is_random_and_receives_one_an_image(function):
    model = classifier(function)
    assert model.random
    np.testing.assert_array_equal(model(IMAGES, KEY), noisy_by_position(IMAGES, KEYS))
    with pytest.raises(ValueError, match="is random, expected a key"):
        model(IMAGES)


def test_an_apply_function_with_a_key_is_random():
    model = classifier(lambda variables, images, key: variables + noisy_by_position(images, key), jnp.ones((3, 3)))
    assert model.random
    np.testing.assert_array_equal(model(IMAGES, KEYS), 1 + noisy_by_position(IMAGES, KEYS))


def test_a_classifier_takes_images_of_its_own_shape_only():
    model = classifier(lambda images: images.mean(axis=(1, 2)), name="mean", image_shape=[4, 5, 2])
    model(IMAGES)
    with pytest.raises(ValueError, match=r"mean takes images of shape \(4, 5, 2\), got \(8, 10, 2\)"):
        model(Double()(IMAGES))
    with pytest.raises(TypeError, match="uint8"):
        model(np.zeros(SHAPE, np.uint8))


def test_logits_of_another_shape_are_refused_with_the_usual_cause():
    with pytest.raises(ValueError, match=r"logits of shape \(3, classes\), got \(2,\): .* pass batched=False"):
        classifier(lambda images: images.mean(axis=(0, 1, 2)))(IMAGES)


def test_what_cannot_be_called_is_no_classifier():
    with pytest.raises(TypeError, match=r"must be callable .* got ndarray"):
        classifier(np.zeros(3))


def test_a_classifier_comes_back_with_new_names():
    model = classifier(flat_product, jnp.ones((40, 3)), name="first", image_shape=(4, 5, 2))
    renamed = classifier(model, name="second", class_names=["a", "b", "c"])
    assert (renamed.name, renamed.image_shape, renamed.class_names) == ("second", (4, 5, 2), ("a", "b", "c"))
    np.testing.assert_array_equal(jax.jit(lambda m, x: m(x))(renamed, IMAGES), model(IMAGES))


# defended models and targets


def test_a_defended_model_is_the_classifier_after_the_purifier():
    model = classifier(flat_product, jnp.arange(120.0).reshape(40, 3))
    defended = Defended(model, Scale(amount=0.25))
    np.testing.assert_array_equal(defended(IMAGES), model(Scale(amount=0.25)(IMAGES)))
    np.testing.assert_array_equal(Defended(model)(IMAGES), model(IMAGES))
    assert (defended.random, defended.couples_images) == (False, False)
    assert Defended(model, MeanShift()).couples_images


def test_new_numbers_and_weights_of_a_defended_model_do_not_compile_anew():
    @jax.jit
    def predict(model, images):
        return model(images)

    with count_compilations() as compilations:
        for number in (1.0, 2.0):
            predict(Defended(classifier(flat_product, jnp.full((40, 3), number)), Scale(amount=number)), IMAGES)
    assert compilations.count("predict") == 1


def test_a_bare_module_can_be_defended():
    module = Norm()
    np.testing.assert_array_equal(Defended(module, Scale())(IMAGES), classifier(module)(Scale()(IMAGES)))


def test_a_classifier_that_cannot_take_the_new_size_says_so_when_joined():
    model = classifier(flat_product, jnp.ones((40, 3)), name="flat", image_shape=(4, 5, 2))
    with pytest.raises(ValueError, match=r"Double turns images of \(4, 5, 2\) into \(8, 10, 2\), which flat cannot"):
        Defended(model, Double())

    @purifier
    class Halve:
        changes_size = True

        def __call__(self, images, key=None):
            return images[:, ::2, ::2]

    back = Sequential(Double(), Halve())
    np.testing.assert_array_equal(Defended(model, back)(IMAGES), model(IMAGES))


def test_the_purifier_of_a_defended_model_receives_the_keys_of_the_images():
    model = classifier(flat_product, jnp.ones((40, 3)))
    np.testing.assert_array_equal(Defended(model, Noise())(IMAGES, KEY), model(Noise()(IMAGES, KEYS)))
    with pytest.raises(ValueError, match="the defended model is random, expected a key"):
        Defended(model, Noise())(IMAGES)


def test_a_random_classifier_shares_its_keys_with_no_stage_of_the_purifier():
    received = {}

    def look(name):
        @purifier
        class Look:
            random = True

            def __call__(self, images, key=None):
                received[name] = np.asarray(jax.random.key_data(key))
                return images

        return Look()

    def function(images, key):
        received["classifier"] = np.asarray(jax.random.key_data(key))
        return images.mean(axis=(1, 2))

    Defended(function, Sequential(look("first"), look("second"), Sequential(look("nested"))))(IMAGES, KEY)
    classifiers = received.pop("classifier")
    splits = [np.asarray(jax.random.key_data(jax.vmap(jax.random.split)(KEYS)[:, i])) for i in range(2)]
    others = np.concatenate([*received.values(), *splits])
    assert len(received) == 3
    assert not (others[:, None] == classifiers).all(axis=-1).any()


def test_anything_callable_is_a_target():
    assert as_target(Scale()).amount == 0.5
    plain = as_target(lambda images: {"mean": images.mean()})
    np.testing.assert_allclose(plain(IMAGES)["mean"], np.asarray(IMAGES).mean(), rtol=1e-6)
    assert as_target(Norm()).name == "Norm"
    assert as_target(equinox_module()).name == "Sequential"
    assert as_target(noisy_by_position).random


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(3, "got int"), ([1, 2], "got list"), (None, "got NoneType"), (Scale, r"got the class Scale: write Scale\(\)")],
)
def test_what_cannot_be_called_is_no_target(wrong, message):
    with pytest.raises(TypeError, match=message):
        as_target(wrong)


def test_a_model_that_cannot_be_called_cannot_be_defended():
    with pytest.raises(TypeError, match="purifier must be callable, got str"):
        Defended(lambda images: images, "gaussian-smoothing")
    with pytest.raises(TypeError, match="class Scale"):
        Defended(lambda images: images, Scale)


def test_defended_models_survive_flattening_with_placeholders():
    defended = Defended(classifier(flat_product, jnp.ones((40, 3)), image_shape=(4, 5, 2)), Scale())
    leaves, structure = jax.tree.flatten(defended)
    rebuilt: Any = jax.tree.unflatten(structure, [object() for _ in leaves])
    assert isinstance(rebuilt, Defended)
    assert dataclasses.is_dataclass(rebuilt)
