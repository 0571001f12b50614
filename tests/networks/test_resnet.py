import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpurify.networks.resnet import CifarResNet, CifarResNet4b


def images_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


@pytest.mark.usefixtures("lenient")
def test_a_training_step_lowers_the_loss(filled):
    model = filled(lambda: CifarResNet(8, classes=3, rngs=nnx.Rngs(0)))
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(0.05), wrt=nnx.Param)
    images, labels = images_of(6, 8, 8, 3), jnp.arange(6) % 3

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_any_size_gives_logits(filled, jitted):
    model = filled(lambda: CifarResNet(8, classes=7, rngs=nnx.Rngs(0)))
    model.eval()
    assert jitted(model, images_of(2, 33, 18, 3)).shape == (2, 7)


@pytest.mark.parametrize("depth", [20, 56])
def test_depth_counts_the_layers_with_weights(depth):
    model = nnx.eval_shape(lambda: CifarResNet(depth, rngs=nnx.Rngs(0)))
    kernels = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[-1] == "kernel"]
    assert len(kernels) == depth


def test_published_number_of_parameters():
    """He et al. 2016, table 6: 0.27 million for 20 layers and 0.85 for 56, option-A shortcuts having none."""
    for depth, millions in ((20, 0.27), (56, 0.85)):
        model = nnx.eval_shape(lambda depth=depth: CifarResNet(depth, rngs=nnx.Rngs(0)))
        count = sum(variable.size for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)))
        assert round(count / 1e6, 2) == pytest.approx(millions, abs=0.011)


def test_a_new_stage_subsamples_and_puts_a_quarter_of_zero_channels_on_each_side(filled, jitted):
    model = filled(lambda: CifarResNet(8, rngs=nnx.Rngs(0)))
    model.eval()
    block = model.blocks[1]
    block.second.norm.scale.set_value(jnp.zeros(32))
    block.second.norm.bias.set_value(jnp.zeros(32))
    features = images_of(1, 5, 6, 16)
    outputs = jitted(block, features)
    np.testing.assert_allclose(outputs[..., 8:24], features[:, ::2, ::2], rtol=1e-6)
    assert not outputs[..., :8].any()
    assert not outputs[..., 24:].any()


@pytest.mark.parametrize("depth", [19, 2, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(depth, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("construct", [lambda rngs: CifarResNet(8, rngs=rngs), lambda rngs: CifarResNet4b(rngs=rngs)])
def test_float64_images_give_float64_logits(filled, jitted, construct):
    model = filled(lambda: construct(nnx.Rngs(0)))
    model.eval()
    images = images_of(1, 32, 32, 3)
    single = jitted(model, images)
    with jax.enable_x64(True):
        double = jitted(model, images.astype(jnp.float64))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(double, single, atol=1e-4)
