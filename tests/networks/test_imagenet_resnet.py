import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxpurify.networks import weights
from jaxpurify.networks.imagenet_resnet import ImageNetResNet, _max_pool, imagenet_resnet_table

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "imagenet_photographs.py"


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_published_number_of_parameters(depth, parameters):
    """torchvision's documentation of its weights gives these numbers."""
    model = nnx.eval_shape(lambda: ImageNetResNet(depth, rngs=nnx.Rngs(0)))
    kernels = {path: variable.size for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert sum(kernels.values()) == parameters
    assert sum(path[-1] == "kernel" and "shortcut" not in path for path in kernels) == depth
    assert set(weights.expected_shapes(model, imagenet_resnet_table(depth))) == set(imagenet_resnet_table(depth))


def test_pooling_is_that_of_a_window_and_so_is_its_gradient():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 11, 3)), jnp.float32)

    def window(features):
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(features, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

    value, transpose = jax.vjp(_max_pool, features)
    expected, their_transpose = jax.vjp(window, features)
    np.testing.assert_array_equal(value, expected)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=value.shape), jnp.float32)
    np.testing.assert_allclose(transpose(cotangent)[0], their_transpose(cotangent)[0], rtol=1e-6, atol=1e-6)


def test_the_gradient_has_no_scattering_which_is_slow_on_the_cpu():
    model = nnx.eval_shape(lambda: ImageNetResNet(18, rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    gradient = jax.grad(lambda images, state: nnx.merge(graph, state)(images).sum())
    program = str(jax.make_jaxpr(gradient)(jnp.zeros((1, 32, 32, 3)), state))
    assert "select_and" not in program
    assert "reduce_window" not in program


def test_any_size_and_dtype_gives_logits():
    model = nnx.eval_shape(lambda: ImageNetResNet(18, classes=7, rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)

    def shape_of(images):
        return jax.eval_shape(lambda state, images: nnx.merge(graph, state)(images), state, images)

    assert shape_of(jax.ShapeDtypeStruct((2, 32, 45, 3), jnp.float32)).shape == (2, 7)
    with jax.enable_x64(True):
        assert shape_of(jax.ShapeDtypeStruct((2, 33, 32, 3), jnp.float64)).dtype == np.float64
    with pytest.raises(ValueError, match="at least 32 rows and columns, got shape \\(2, 40, 31, 3\\)"):
        shape_of(jax.ShapeDtypeStruct((2, 40, 31, 3), jnp.float32))


@pytest.mark.parametrize("use", [imagenet_resnet_table, lambda depth: ImageNetResNet(depth, rngs=nnx.Rngs(0))])
def test_other_depths_are_refused(use):
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, got 20"):
        use(20)


@pytest.fixture(scope="module")
def correct(real_data):
    """Which of the photographs ResNet-18 recognises."""
    specification = importlib.util.spec_from_file_location("imagenet_photographs", EXPERIMENT)
    photographs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(photographs)
    model = nnx.eval_shape(lambda: ImageNetResNet(18, rngs=nnx.Rngs(0)))
    state = weights.read(real_data / "imagenet" / "resnet18.safetensors")
    weights.load(model, state, table=imagenet_resnet_table(18))
    model.eval()
    graph, state = nnx.split(model)
    predict = jax.jit(lambda state, images: nnx.merge(graph, state)(images).argmax(axis=1))
    data = photographs.load(real_data / "imagenet")
    batches = np.split(data.images, range(20, len(data), 20))
    return np.concatenate([predict(state, batch) for batch in batches]) == data.labels


@pytest.mark.slow
def test_real_weights_reach_their_accuracy(correct):
    """77.0 % of the 300 photographs, resized to 256 pixels (bilinear) and cropped to 224."""
    assert correct.sum() == 231
