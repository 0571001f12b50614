import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxpurify.networks.convolution import Conv, convolve, own_gradients

LAYOUT = ("NHWC", "HWIO", "NHWC")
# (height, width), kernel, strides, padding, dilation
CASES = {
    "same": ((8, 9), (3, 3), 1, "SAME", 1),
    "strided as in PyTorch": ((8, 7), (3, 3), 2, 1, 1),
    "strided as in TensorFlow": ((8, 7), (3, 3), 2, "SAME", 1),
    "stride 3, uneven padding": ((9, 7), (5, 5), 3, ((2, 1), (0, 3)), 1),
    "strided shortcut": ((8, 8), (1, 1), 2, 0, 1),
    "stride 3 above the kernel": ((11, 10), (2, 2), 3, "VALID", 1),
    "dilated": ((9, 9), (3, 3), 1, 2, 2),
    "uneven kernel and strides": ((7, 11), (2, 3), (2, 3), "VALID", 1),
    "large kernel": ((12, 11), (7, 7), 2, (3, 2), 1),
    "more padding than kernel": ((5, 5), (3, 3), 2, 5, 1),
}


def plain(images, kernel, *, strides, padding, kernel_dilation=1):
    pair = (strides, strides) if isinstance(strides, int) else strides
    if not isinstance(padding, str):
        padding = (padding, padding) if isinstance(padding, int) else padding
        padding = [(side, side) if isinstance(side, int) else side for side in padding]
    dilation = (kernel_dilation, kernel_dilation)
    return lax.conv_general_dilated(images, kernel, pair, padding, rhs_dilation=dilation, dimension_numbers=LAYOUT)


def arrays(*shapes, dtype=np.float64):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(convolution, images, kernel, **geometry):
    """The output and, for a cotangent that tells every output pixel apart, the gradients to images and kernel."""

    def both(images, kernel):
        outputs, pull_back = jax.vjp(lambda images, kernel: convolution(images, kernel, **geometry), images, kernel)
        weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype)).reshape(outputs.shape)
        return outputs, *pull_back(weights)

    return jax.jit(both)(images, kernel)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_the_plain_convolution(case):
    size, taps, strides, padding, dilation = case
    images, kernel = arrays((2, *size, 3), (*taps, 3, 4))
    geometry = {"strides": strides, "padding": padding, "kernel_dilation": dilation}
    ours = value_and_gradients(convolve, images, kernel, **geometry)
    expected = value_and_gradients(plain, images, kernel, **geometry)
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("over", ["images", "kernels", "both"])
def test_gradients_are_right_under_vmap(over):
    images, kernels = arrays((3, 2, 6, 5, 2), (3, 3, 3, 2, 3))
    axes = {"images": (0, None), "kernels": (None, 0), "both": (0, 0)}[over]
    images = images if axes[0] == 0 else images[0]
    kernels = kernels if axes[1] == 0 else kernels[0]

    def gradients(convolution):
        def total(images, kernel):
            return jnp.sum(jnp.sin(convolution(images, kernel, strides=2, padding=1)))

        return jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1)), axes))(images, kernels)

    for got, want in zip(gradients(convolve), gradients(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_gradients_are_right_inside_a_scan():
    images, kernel = arrays((2, 6, 5, 3), (3, 3, 3, 3))

    def descend(convolution, images, kernel, *, unroll):
        def step(carry, _):
            def total(images, kernel):
                return jnp.sum(jnp.sin(convolution(images, kernel, strides=1, padding=1)))

            gradients = jax.grad(total, argnums=(0, 1))(*carry)
            return tuple(value - 0.1 * gradient for value, gradient in zip(carry, gradients, strict=True)), None

        return lax.scan(step, (images, kernel), None, length=3, unroll=unroll)[0]

    ours = jax.jit(lambda *carry: descend(convolve, *carry, unroll=1))(images, kernel)
    expected = jax.jit(lambda *carry: descend(plain, *carry, unroll=3))(images, kernel)
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_scan_of_convolutions_is_differentiated_right():
    images, kernel = arrays((2, 5, 5, 2), (3, 3, 2, 2))

    def iterated(convolution, images, kernel):
        def step(features, _):
            return jnp.tanh(convolution(features, kernel, strides=1, padding=1)), None

        return jnp.sum(lax.scan(step, images, None, length=3)[0])

    ours = jax.jit(jax.grad(lambda *inputs: iterated(convolve, *inputs), argnums=(0, 1)))(images, kernel)
    expected = jax.jit(jax.grad(lambda *inputs: iterated(plain, *inputs), argnums=(0, 1)))(images, kernel)
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_gradients_can_be_differentiated_backwards_again():
    images, kernel = arrays((1, 5, 5, 2), (3, 3, 2, 2))

    def penalty(convolution):
        def slope(kernel):
            return jnp.sum(
                jax.grad(lambda images: jnp.sum(convolution(images, kernel, strides=2, padding=1) ** 3))(images) ** 2
            )

        return jax.jit(jax.grad(slope))(kernel)

    np.testing.assert_allclose(penalty(convolve), penalty(plain), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("strides", [1, 2, 3])
def test_backward_pass_holds_no_convolution_that_is_slow_in_loops(strides):
    images, kernel = arrays((2, 9, 9, 3), (3, 3, 3, 4), dtype=np.float32)

    def total(images, kernel):
        return jnp.sum(convolve(images, kernel, strides=strides, padding=1) ** 2)

    program = jax.jit(jax.grad(total, argnums=(0, 1))).lower(images, kernel).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 1 + strides**2
    for line in convolutions:
        assert "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert re.search(r"lhs_dilate = (?!\[1, 1\])", line) is None
        assert "batch_group_count = 1" in line
        assert "feature_group_count = 1" in line


def backward_pass(images, kernel):
    """Return what tells the two backward passes of a strided convolution apart: JAX's own spreads the cotangent."""

    def total(images, kernel):
        return jnp.sum(convolve(images, kernel, strides=2, padding=1) ** 2)

    return "JAX's" if "lhs_dilation=(2, 2)" in str(jax.make_jaxpr(jax.grad(total))(images, kernel)) else "own"


def test_the_backward_pass_is_chosen_and_the_choice_is_undone():
    images, kernel = arrays((1, 5, 5, 1), (3, 3, 1, 1), dtype=np.float32)
    assert backward_pass(images, kernel) == "own"
    with own_gradients(False):
        assert backward_pass(images, kernel) == "JAX's"
        with own_gradients(True):
            assert backward_pass(images, kernel) == "own"
        assert backward_pass(images, kernel) == "JAX's"
        with pytest.raises(KeyError), own_gradients(True):
            raise KeyError
        assert backward_pass(images, kernel) == "JAX's"
    with pytest.raises(KeyError), own_gradients(False):
        raise KeyError
    assert backward_pass(images, kernel) == "own"


def test_a_function_compiled_with_one_backward_pass_is_traced_anew_for_the_other():
    images, kernel = arrays((1, 5, 5, 1), (3, 3, 1, 1), dtype=np.float32)
    traced = []

    @jax.jit
    def function(images):
        traced.append(backward_pass(images, kernel))
        return images

    function(images)
    with own_gradients(False):
        function(images)
    function(images)
    assert traced == ["own", "JAX's"]


@pytest.mark.usefixtures("x64")
def test_both_backward_passes_give_the_same_gradients():
    images, kernel = arrays((2, 8, 7, 3), (3, 3, 3, 4))
    ours = value_and_gradients(convolve, images, kernel, strides=2, padding=1)
    with own_gradients(False):
        theirs = value_and_gradients(convolve, images, kernel, strides=2, padding=1)
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_gradient_to_images_alone_keeps_no_images():
    images, kernel = arrays((2, 9, 9, 3), (3, 3, 3, 4), dtype=np.float32)
    _, pull_back = jax.vjp(lambda images: convolve(images, kernel, strides=1, padding=1), images)
    assert images.shape not in [leaf.shape for leaf in jax.tree.leaves(pull_back) if hasattr(leaf, "shape")]


def test_forward_mode_is_refused():
    images, kernel = arrays((1, 4, 4, 1), (3, 3, 1, 1), dtype=np.float32)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda images: convolve(images, kernel), (images,), (images,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": -1}, "not negative"),
        ({"padding": "CIRCULAR"}, '"SAME", "VALID"'),
        ({"padding": (1, 1, 1)}, "padding must be"),
        ({"strides": 0}, "strides must be a positive integer"),
        ({"strides": 2, "kernel_dilation": 2}, "both above 1"),
        ({"padding": 0, "kernel_dilation": 5}, "larger than|more than the padded image"),
    ],
)
def test_bad_geometry_is_named(arguments, message):
    images, kernel = arrays((1, 8, 8, 3), (3, 3, 3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        convolve(images, kernel, **arguments)


def test_layer_adds_its_bias_and_computes_in_the_dtype_of_the_images():
    layer = Conv(3, 4, 3, strides=2, padding=1, rngs=nnx.Rngs(0))
    layer.bias.set_value(jnp.arange(4.0))
    (images,) = arrays((2, 7, 8, 3), dtype=np.float32)
    expected = plain(images, layer.kernel[...], strides=2, padding=1) + jnp.arange(4.0).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(layer(images), expected, rtol=1e-6, atol=1e-6)
    assert layer(images.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_layer_without_bias_has_none():
    layer = Conv(3, 4, (1, 2), use_bias=False, rngs=nnx.Rngs(0))
    assert layer.bias is None
    assert layer.kernel.shape == (1, 2, 3, 4)
    assert layer(jnp.zeros((1, 5, 5, 3))).shape == (1, 5, 5, 4)
