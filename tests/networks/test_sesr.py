import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxpurify import networks
from jaxpurify.metrics import luma_psnr
from jaxpurify.networks import weights
from jaxpurify.networks.edsr import EDSR
from jaxpurify.networks.sesr import SESR, CollapsedSESR

SMALL = {"features": 4, "blocks": 2, "expansion": 6}


def randomised(module, seed=0):
    """Fill every weight of a network, the zeros of an untrained one included."""
    random = np.random.default_rng(seed)
    for variable in jax.tree.leaves(nnx.state(module, nnx.Param), is_leaf=lambda leaf: isinstance(leaf, nnx.Param)):
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 10
        variable.set_value(jnp.asarray(random.normal(size=variable.shape) / np.sqrt(fan_in), jnp.float32))
    return module


@pytest.fixture(scope="module", params=[2, 3])
def wide(request):
    return randomised(nnx.eval_shape(lambda: SESR(request.param, **SMALL, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).uniform(size=(2, 9, 12, 3)), jnp.float32)


def split_call(graph):
    return jax.jit(lambda state, images: nnx.merge(graph, state)(images))


def uncollapsed(state, images, scale):
    """The network as its definition has it: every linear block as two convolutions, every image copied."""

    def block(name, features, *, residual):
        parameters = state[name] if isinstance(name, str) else state["blocks"][name]
        expand, project, bias = (parameters[each] for each in ("expand", "project", "bias"))
        layout = ("NHWC", "HWIO", "NHWC")
        many = lax.conv_general_dilated(features, expand, (1, 1), "SAME", dimension_numbers=layout)
        few = lax.conv_general_dilated(many, project[None, None], (1, 1), "SAME", dimension_numbers=layout)
        return few + bias[None, None, None] + (features if residual else 0)

    def rectify(number, features):
        slope = state["activations"][number]["slope"][None, None, None]
        return jnp.maximum(features, 0) + slope * jnp.minimum(features, 0)

    first = features = rectify(0, block("first", images, residual=False))
    for number in range(2):
        features = rectify(number + 1, block(number, features, residual=True))
    pixels = block("last", features + first, residual=False)
    batch, height, width, _ = images.shape
    added = pixels.reshape(batch, height, width, scale, scale, 3) + images[:, :, :, None, None]
    return added.swapaxes(2, 3).reshape(batch, height * scale, width * scale, 3)


def test_a_collapsed_network_is_the_wide_one_of_the_definition(wide, images):
    (graph, state), (collapsed_graph, collapsed_state) = nnx.split(wide), nnx.split(wide.collapse())

    @jax.jit
    def outputs(state, collapsed_state, images):
        expected = uncollapsed(nnx.to_pure_dict(state), images, wide.scale)
        return expected, nnx.merge(graph, state)(images), nnx.merge(collapsed_graph, collapsed_state)(images)

    expected, in_training, in_use = outputs(state, collapsed_state, images)
    assert np.abs(expected - np.asarray(images).repeat(wide.scale, 1).repeat(wide.scale, 2)).max() > 0.1
    np.testing.assert_allclose(in_training, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(in_use, expected, rtol=0, atol=1e-5)
    # As far from a photograph as a good network is, about 37 dB: collapsing changes it by less than 1e-4 dB.
    photograph = np.clip(expected, 0, 1) + 10 ** (-37 / 20) * np.random.default_rng(0).normal(size=expected.shape)
    reference = jnp.asarray(photograph, jnp.float32)
    wide_psnr, psnr = (luma_psnr(jnp.clip(each, 0, 1), reference) for each in (expected, in_use))
    np.testing.assert_allclose(psnr, wide_psnr, rtol=0, atol=1e-4)


def test_gradients_are_those_of_the_wide_network(images):
    graph, state = nnx.split(randomised(nnx.eval_shape(lambda: SESR(2, **SMALL, rngs=nnx.Rngs(0)))))
    pure = nnx.to_pure_dict(state)
    found = jax.jit(jax.grad(lambda state: (nnx.merge(graph, state)(images) ** 2).mean()))(state)
    expected = jax.jit(jax.grad(lambda pure: (uncollapsed(pure, images, 2) ** 2).mean()))(pure)
    for ours, theirs in zip(jax.tree.leaves(nnx.to_pure_dict(found)), jax.tree.leaves(expected), strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_an_untrained_network_repeats_pixels_from_features_of_some_size(images):
    """Features neither vanish nor explode over the depth, so that the first step of training is a sensible one."""

    @jax.jit
    def untrained(key, images):
        network = SESR(2, features=16, blocks=4, expansion=32, rngs=nnx.Rngs(key))
        first = features = network.activations[0](network.first(images - 0.5))
        for block, activation in zip(network.blocks, network.activations[1:], strict=True):
            features = activation(block(features))
        return network(images), first.std(), features.std()

    outputs, first, last = untrained(jax.random.key(0), images)
    np.testing.assert_array_equal(outputs, np.asarray(images).repeat(2, 1).repeat(2, 2))
    assert 0.1 < first < 1
    assert 0.2 < last / first < 5


@pytest.mark.parametrize("construct", [SESR, CollapsedSESR])
def test_it_takes_a_thirtieth_of_edsr(construct):
    module = nnx.eval_shape(lambda: construct(2, rngs=nnx.Rngs(0)))
    baseline = nnx.eval_shape(lambda: EDSR.baseline(2, rngs=nnx.Rngs(0)))
    assert module.macs_per_pixel == 25 * 3 * 16 + 11 * 9 * 16 * 16 + 25 * 16 * 12
    assert 30 * module.macs_per_pixel <= baseline.macs_per_pixel


def test_multiply_adds_are_those_that_xla_counts():
    module = nnx.eval_shape(lambda: CollapsedSESR(3, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module)
    lowered = split_call(graph).lower(state, jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32))
    assert lowered.cost_analysis()["flops"] / 512**2 / 2 == pytest.approx(module.macs_per_pixel, rel=0.03)


def test_training_computes_no_wide_convolution():
    """The wide kernels are multiplied with one another only: as many operations as in use, but for a constant."""
    graph, state = nnx.split(nnx.eval_shape(lambda: SESR(2, rngs=nnx.Rngs(0))))
    collapsed_graph, collapsed_state = nnx.split(nnx.eval_shape(lambda: CollapsedSESR(2, rngs=nnx.Rngs(0))))
    image = jax.ShapeDtypeStruct((16, 96, 96, 3), jnp.float32)
    wide = split_call(graph).lower(state, image).cost_analysis()["flops"]
    assert wide <= 1.05 * split_call(collapsed_graph).lower(collapsed_state, image).cost_analysis()["flops"]


def test_the_receptive_field_is_what_the_gradient_reaches():
    module = randomised(nnx.eval_shape(lambda: CollapsedSESR(2, features=4, blocks=2, rngs=nnx.Rngs(0))))
    assert nnx.eval_shape(lambda: SESR(2, rngs=nnx.Rngs(0))).receptive_field == 31
    size = 2 * module.receptive_field + 1
    image = jnp.full((1, 1, size, 3), 0.5)
    gradient = jax.jit(jax.grad(lambda image: jnp.abs(module(image)[0, 0, size]).sum()))(image)
    reached = np.flatnonzero((gradient[0, 0] != 0).any(axis=1))
    assert reached[-1] - reached[0] + 1 == module.receptive_field


def test_a_trained_network_is_collapsed_saved_and_loaded_by_name(images, tmp_path):
    collapsed = randomised(nnx.eval_shape(lambda: CollapsedSESR(2, rngs=nnx.Rngs(0))))
    weights.save(collapsed, tmp_path / "a.safetensors")
    network = networks.load_network("sesr-x2", weights=tmp_path / "a.safetensors")
    assert network.name == "sesr-x2"
    graph, state = nnx.split(collapsed)
    found = jax.jit(lambda network, images: network(images))(network, images)
    np.testing.assert_array_equal(found, split_call(graph)(state, images))


@pytest.mark.parametrize("options", [{"features": 8}, {"blocks": 5}, {"scale": 3}])
def test_weights_of_another_size_are_refused(options, tmp_path):
    other = nnx.eval_shape(lambda: CollapsedSESR(**{"scale": 2} | options, rngs=nnx.Rngs(0)))
    weights.save(randomised(other), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"the weights of .* do not fit sesr-x2: ") as raised:
        networks.load_network("sesr-x2", weights=tmp_path / "a.safetensors")
    assert "\n" not in str(raised.value)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4, got 1"):
        SESR(1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="features and blocks must be 1 or more, got 0 and 11"):
        CollapsedSESR(features=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="expansion must be 1 or more, got 0"):
        SESR(expansion=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="channel"):
        jax.eval_shape(lambda: SESR(**SMALL, rngs=nnx.Rngs(0))(jnp.zeros((1, 4, 4, 1))))
