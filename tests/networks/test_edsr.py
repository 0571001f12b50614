import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxpurify import networks
from jaxpurify.networks import edsr, weights
from jaxpurify.networks.edsr import EDSR

MEAN = np.array([0.4488, 0.4371, 0.4040], np.float32)


def abstract(*arguments, construct=EDSR, **options):
    return nnx.eval_shape(lambda: construct(*arguments, **options, rngs=nnx.Rngs(0)))


def parameters(module):
    return sum(weight.size for weight in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.fixture(scope="module")
def baseline():
    """A state dict of the ×2 baseline in the published names."""
    shapes = weights.expected_shapes(abstract(construct=EDSR.baseline), edsr.edsr_table(2))
    random = np.random.default_rng(0)
    return {name: random.random(shape, np.float32) for name, shape in shapes.items()}


def mean_shift(levels):
    """What published state dicts hold beside their weights, for images in 0..levels."""
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    shift = {"sub_mean.weight": weight, "add_mean.weight": weight}
    return shift | {"sub_mean.bias": -levels * MEAN, "add_mean.bias": levels * MEAN}


@pytest.mark.parametrize(
    ("construct", "scale", "count"),
    [(EDSR.baseline, 2, 1_369_859), (EDSR.baseline, 4, 1_517_571), (EDSR.large, 2, 40_729_603)],
)
def test_there_are_as_many_weights_as_published(construct, scale, count):
    assert parameters(abstract(scale, construct=construct)) == count


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_multiply_adds_are_those_that_xla_counts(scale):
    module = abstract(scale, features=8, blocks=2)
    graph, state = nnx.split(module)
    lowered = jax.jit(lambda state, images: nnx.merge(graph, state)(images)).lower(
        state, jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    )
    # XLA counts what is added to what is padded, too, and elementwise operations; neither is much.
    assert lowered.cost_analysis()["flops"] / 512**2 / 2 == pytest.approx(module.macs_per_pixel, rel=0.03)


def test_the_baseline_takes_the_published_multiply_adds():
    assert abstract(construct=EDSR.baseline).macs_per_pixel == 1_372_608


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_receptive_field_is_what_the_gradient_reaches(scale, filled):
    module = filled(lambda: EDSR(scale, features=4, blocks=1, rngs=nnx.Rngs(0)))
    size = 2 * module.receptive_field + 1

    @jax.jit
    def reached(column):
        image = jnp.full((1, 1, size, 3), 0.5)
        gradient = jax.grad(lambda image: jnp.abs(module(image)[0, 0, column]).sum())(image)
        return (gradient[0, 0] != 0).any(axis=1)

    columns = [np.flatnonzero(reached(size // 2 * scale + phase)) for phase in range(scale)]
    assert max(column[-1] - column[0] + 1 for column in columns) == module.receptive_field


def test_an_untrained_network_returns_about_the_mean_colour():
    images = np.random.default_rng(0).uniform(size=(1, 12, 12, 3)).astype(np.float32)
    network = jax.jit(lambda key, images: EDSR(2, features=8, blocks=2, rngs=nnx.Rngs(key))(images))
    difference = np.asarray(network(jax.random.key(0), images)) - MEAN
    assert 0 < np.abs(difference).max() < 0.15


def test_a_residual_scale_of_one_costs_nothing():
    def multiplications(residual_scale):
        module = abstract(2, features=4, blocks=3, residual_scale=residual_scale)
        graph, state = nnx.split(module)
        image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        traced = jax.make_jaxpr(lambda state, image: nnx.merge(graph, state)(image))(state, image)
        return sum(equation.primitive.name == "mul" for equation in traced.eqns)

    assert multiplications(0.1) == multiplications(1.0) + 3


def test_pixels_are_shuffled_row_after_row():
    random = np.random.default_rng(0).normal(size=(2, 3, 4, 27)).astype(np.float32)
    shuffled = np.asarray(edsr.pixel_shuffle(jnp.asarray(random), 3))
    for row, column, down, right in np.ndindex(3, 4, 3, 3):
        first = 3 * (3 * down + right)
        expected = random[:, row, column, first : first + 3]
        np.testing.assert_array_equal(shuffled[:, 3 * row + down, 3 * column + right], expected)


def test_a_mean_shift_is_checked_and_removed(baseline):
    for shift in ({}, mean_shift(255)):
        kept = edsr.without_mean_shift(baseline | shift)
        assert kept.keys() == baseline.keys()
        assert all(kept[name] is array for name, array in baseline.items())
    for change in (lambda bias: bias[::-1], lambda bias: -bias, lambda bias: bias / 2):
        shift = mean_shift(255)
        shift["sub_mean.bias"] = change(shift["sub_mean.bias"])
        with pytest.raises(ValueError, match=r"mean shift of the weights .* trained with another normalisation"):
            edsr.without_mean_shift(baseline | shift)


def check_refused(state, folder, message, *, name="edsr-baseline-x2", cut=0):
    file = folder / "a.safetensors"
    save_file(state, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
    with pytest.raises(ValueError, match=message) as raised:
        networks.load_network(name, weights=file)
    assert "\n" not in str(raised.value)


def test_weights_with_another_mean_shift_are_refused(baseline, tmp_path):
    check_refused(baseline | mean_shift(254), tmp_path, "mean shift of the weights")


@pytest.mark.parametrize("name", ["edsr-baseline-x3", "edsr-large-x2", "sesr-x2"])
def test_weights_of_another_network_are_named(baseline, tmp_path, name):
    message = f"do not fit {name}: .*; they fit edsr-baseline-x2"
    check_refused(baseline | mean_shift(255), tmp_path, message, name=name)


def test_weights_of_another_width_are_refused(tmp_path):
    narrow = weights.expected_shapes(abstract(2, features=32), edsr.edsr_table(2))
    state = {name: np.zeros(shape, np.float32) for name, shape in narrow.items()}
    check_refused(
        state, tmp_path, r"do not fit edsr-baseline-x2: of another shape: .* \(expected .*64.*, got .*32.* more"
    )


def test_truncated_weights_are_refused(baseline, tmp_path):
    check_refused(baseline, tmp_path, "truncated", cut=100)


def test_weights_that_are_not_finite_are_refused(baseline, tmp_path):
    broken = np.full_like(baseline["head.0.bias"], np.nan)
    check_refused(baseline | {"head.0.bias": broken}, tmp_path, "NaN or infinity in head.0.bias")


def test_what_was_saved_here_loads_as_well(baseline, tmp_path):
    """Trained weights are saved in the module's own names, downloaded ones have PyTorch's."""
    save_file(baseline | mean_shift(255), tmp_path / "theirs.safetensors")
    module = networks.load_module("edsr-baseline-x2", weights_file=tmp_path / "theirs.safetensors")
    weights.save(module, tmp_path / "ours.safetensors")
    again = networks.load_module("edsr-baseline-x2", weights_file=tmp_path / "ours.safetensors")
    for first, second in zip(*(jax.tree.leaves(nnx.state(each)) for each in (module, again)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4, got 5"):
        abstract(5)
    with pytest.raises(ValueError, match="features and blocks must be 1 or more, got 64 and 0"):
        abstract(2, blocks=0)
    with pytest.raises(ValueError, match="channel"):
        abstract(2, construct=lambda scale, rngs: EDSR(scale, rngs=rngs)(jnp.zeros((1, 4, 4, 1))))
