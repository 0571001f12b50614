"""What networks read beyond the border, against loops over pixels, and that one colour stays one colour."""

import itertools
import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxpurify import networks
from jaxpurify.networks import blind_spot, borders, conversion, registry, weights
from jaxpurify.networks.blind_spot import BlindSpotNetwork
from jaxpurify.networks.convolution import Conv, own_gradients
from jaxpurify.networks.edsr import EDSR
from jaxpurify.networks.sesr import SESR

SIZES = ((2, 2), (1, 9), (9, 1), (5, 4), (6, 7), (13, 8))
AROUND = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
KNIGHT = [(0, 0), (-2, -1), (-2, 1), (2, -1), (2, 1), (-1, -2), (-1, 2), (1, -2), (1, 2)]
QUINCUNX = [(0, 0), (-3, -3), (-3, 3), (3, -3), (3, 3)]


def read_from(pixel, tap, size):
    """The pixel that a tap reads, by the sentences that define it."""
    place, step = list(pixel), list(tap)
    both_outside = [False, False]
    for axis in (0, 1):
        if not 0 <= place[axis] + step[axis] < size[axis]:
            step[axis] = -step[axis]
            both_outside[axis] = not 0 <= place[axis] + step[axis] < size[axis]
    if any(both_outside) and max(map(abs, tap)) > 1:
        return pixel
    for axis, other in ((0, 1), (1, 0)):
        if both_outside[axis]:
            if step[other] == 0:
                step[other] = tap[axis] if 0 <= place[other] + tap[axis] < size[other] else -tap[axis]
            step[axis] = 0
    return place[0] + step[0], place[1] + step[1]


def looped(images, kernel, taps):
    outputs = np.zeros((*images.shape[:3], kernel.shape[-1]))
    size = images.shape[1:3]
    for row, column in np.ndindex(*size):
        for tap, matrix in zip(taps, kernel, strict=True):
            source = read_from((row, column), tap, size)
            outputs[:, row, column] += images[:, source[0], source[1]] @ matrix
    return outputs


def prelu(features, slope):
    return np.where(features > 0, features, slope * features)


@pytest.fixture(scope="module")
def network(filled):
    return filled(lambda: BlindSpotNetwork(3, width=3, layers=3, border="opposite", rngs=nnx.Rngs(0)))


def looking(module, number, images):
    """The looking stream of one layer, as the network has it, and by the loop."""
    layer = module.first if number == 0 else module.rest[number - 1]
    found = layer(images) if number == 0 else layer(images, images)[0]
    kernel, bias, slope = (np.asarray(each[...], np.float64) for each in (layer.kernel, layer.bias, layer.slope))
    return found, prelu(looped(np.asarray(images), kernel, (AROUND, KNIGHT, QUINCUNX)[number]) + bias, slope)


def noise(*size):
    return jnp.asarray(np.random.default_rng(1).uniform(size=(2, *size, 3)), jnp.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_tap_outside_is_the_one_on_the_opposite_side(network, number, size):
    found, expected = looking(network, number, noise(*size))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("number", [1, 2])
def test_reflection_at_the_border_is_another_rule(monkeypatch, network, number):
    monkeypatch.setattr(blind_spot, "opposite_padded", reflected)
    found, expected = looking(network, number, noise(13, 8))
    assert np.abs(found - expected).max() > 0.01


def reflected(features, offset):
    return jnp.pad(features, ((0, 0), *((step, step) for step in offset), (0, 0)), mode="reflect")


def own_pixel(module, size):
    graph, state = nnx.split(module)
    count = size[0] * size[1]
    jacobian = jax.jit(jax.jacrev(lambda images: nnx.merge(graph, state)(images)))(noise(*size)[:1])
    pixels = np.asarray(jacobian).reshape(count, 3, count, 3)
    return np.stack([pixels[i, :, i] for i in range(count)])


def test_reflection_at_the_border_would_uncover_the_pixel(monkeypatch, network):
    assert np.all(own_pixel(network, (13, 8)) == 0)
    monkeypatch.setattr(blind_spot, "opposite_padded", reflected)
    assert np.any(own_pixel(network, (13, 8)) != 0)


@pytest.mark.parametrize(
    ("offset", "taps"), [((2, 1), KNIGHT[:5]), ((1, 2), [(0, 0), *KNIGHT[5:]]), ((3, 3), QUINCUNX)]
)
def test_both_ways_to_read_the_opposite_side_agree_where_both_apply(offset, taps):
    for size in itertools.product((2 * offset[0], 9), (2 * offset[1], 11)):
        assert borders.has_opposites(size, offset)
        images = noise(*size)
        padded = np.asarray(borders.opposite_padded(images, offset))
        sources = borders.opposite_sources(*size, tuple(taps))
        for tap, source in zip(taps, sources, strict=True):
            top, left = offset[0] + tap[0], offset[1] + tap[1]
            expected = np.asarray(images).reshape(2, -1, 3)[:, source].reshape(images.shape)
            np.testing.assert_array_equal(padded[:, top : top + size[0], left : left + size[1]], expected)


def test_inside_the_border_makes_no_difference(filled):
    def output(border):
        return filled(lambda: BlindSpotNetwork(3, width=2, layers=2, border=border, rngs=nnx.Rngs(0)))(noise(12, 11))

    zeros, opposite = output("zeros"), output("opposite")
    np.testing.assert_allclose(zeros[:, 3:-3, 3:-3], opposite[:, 3:-3, 3:-3], atol=1e-6)
    assert np.abs(zeros - opposite)[:, 0].max() > 0.01


def test_a_pixel_without_neighbours_is_refused(network):
    with pytest.raises(ValueError, match=r"images must have more than one pixel.*\(1, 1, 1, 3\)"):
        network(jnp.zeros((1, 1, 1, 3)))


@pytest.mark.parametrize(
    "size", [(1, 9), (33, 47), *(pytest.param(s, marks=pytest.mark.slow) for s in [(2, 2), (5, 4), (32, 32)])]
)
@pytest.mark.parametrize("name", ["blind-spot", "edsr-baseline-x2", "sesr-x2"])
def test_shipped_networks_keep_black_grey_and_white_at_every_border(name, size):
    levels = np.array([0, 128, 255], np.float32).reshape(3, 1, 1, 1)
    images = jnp.broadcast_to(levels / 255, (3, *size, 3))
    restored = jax.jit(lambda network, images: network(images))(networks.load_network(name), images)
    assert np.abs(np.clip(restored, 0, 1) * 255 - levels).max() < 1


def small_sesr(border="edge"):
    return SESR(features=4, blocks=2, expansion=6, border=border, rngs=nnx.Rngs(0))


def small_edsr(border):
    return EDSR(4, features=4, blocks=2, border=border, rngs=nnx.Rngs(0))


def small_blind_spot():
    return BlindSpotNetwork(3, width=3, layers=3, border="opposite", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("make", [small_sesr, small_edsr])
def test_one_colour_stays_one_colour_with_edges_and_not_with_zeros(filled, make):
    images = jnp.broadcast_to(jnp.array([0.2, 0.7, 0.4]), (1, 5, 8, 3))
    spread = []
    for border in ("edge", "zeros"):
        module = filled(lambda border=border: make(border))
        outputs = np.asarray(module(images)).reshape(5, module.scale, 8, module.scale, 3)
        spread.append(np.abs(outputs - outputs[:1, :, :1]).max() / np.abs(outputs).max())
    assert spread[0] < 1e-5 < 1e-2 < spread[1]


def test_edges_are_the_nearest_pixel(filled):
    conv = filled(lambda: Conv(3, 2, (3, 5), border="edge", rngs=nnx.Rngs(0)))
    images, kernel = noise(4, 5), np.asarray(conv.kernel[...], np.float64)
    expected = np.zeros((2, 4, 5, 2)) + np.asarray(conv.bias[...])
    for row, column, down, right in np.ndindex(4, 5, 3, 5):
        source = images[:, min(max(row + down - 1, 0), 3), min(max(column + right - 2, 0), 4)]
        expected[:, row, column] += np.asarray(source, np.float64) @ kernel[down, right]
    np.testing.assert_allclose(conv(images), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{"strides": 2}, {"kernel_dilation": 2}, {"kernel_size": 2}])
def test_edges_are_for_odd_kernels_without_strides(options):
    with pytest.raises(ValueError, match='the border "edge" needs an odd kernel without strides or dilation'):
        Conv(3, 2, **{"kernel_size": 3} | options, border="edge", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("size", [(9, 8), (4, 3)])
@pytest.mark.parametrize("make", [small_blind_spot, small_sesr])
def test_gradients_at_the_border_are_those_of_jax(filled, make, size):
    graph, state = nnx.split(filled(make))

    def gradients(own):
        def loss(state, images):
            with own_gradients(own):
                return jnp.sum(jnp.square(nnx.merge(graph, state)(images)))

        return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(state, noise(*size)))

    for got, want in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, float(jnp.abs(want).max())))


@pytest.mark.parametrize("make", [BlindSpotNetwork, EDSR, SESR, networks.CollapsedSESR])
def test_unknown_borders_are_refused(make):
    with pytest.raises(ValueError, match=r"border must be one of zeros, (opposite|edge), got 'reflect'"):
        make(border="reflect", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("name", "border"), [("blind-spot", "opposite"), ("sesr-x2", "edge")])
def test_the_border_is_kept_with_the_weights(tmp_path, name, border):
    module = networks.load_module(name)
    assert module.border == border
    weights.save(module, tmp_path / "a.safetensors")
    assert networks.load_module(name, weights_file=tmp_path / "a.safetensors").border == border
    relabel(tmp_path / "a.safetensors", {})
    assert networks.load_module(name, weights_file=tmp_path / "a.safetensors").border == "zeros"
    relabel(tmp_path / "a.safetensors", {"border": "reflect"})
    with pytest.raises(ValueError, match=r"a\.safetensors: border must be one of .*, got 'reflect'"):
        networks.load_module(name, weights_file=tmp_path / "a.safetensors")


def relabel(path, metadata):
    save_file(weights.read(path), path, metadata=metadata)


def test_a_collapsed_network_and_a_converted_file_keep_the_border(tmp_path):
    module = SESR(features=4, blocks=1, expansion=6, border="edge", rngs=nnx.Rngs(0)).collapse()
    assert module.border == "edge"
    state = {f"module.{name}": array for name, array in weights.read(shipped("sesr-x2")).items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"border": "edge"})
    assert conversion.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors").architecture == "sesr-x2"
    assert weights.metadata(tmp_path / "b.safetensors")["border"] == "edge"
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": dict.fromkeys(state, "a.safetensors")}))
    assert networks.load_module("sesr-x2", weights_file=tmp_path / "i.json").border == "edge"


def shipped(name):
    return str(resources.files("jaxpurify.networks").joinpath("shipped", registry.architecture(name).shipped.file))
