import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxpurify.networks import weights
from jaxpurify.networks.blind_spot import BORDERS, BlindSpotNetwork, blind_spot_table
from jaxpurify.networks.convolution import own_gradients


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def network(filled):
    return lambda layers, width=2, channels=3, **options: filled(
        lambda: BlindSpotNetwork(channels, width=width, layers=layers, **options, rngs=nnx.Rngs(0))
    )


def own_pixel(module, height, width=None):
    """Return the blocks (pixel, output channel, input channel) of the Jacobian, and what lies beside them."""
    graph, state = nnx.split(module)
    width = width or height
    count = height * width
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(1, height, width, 3)), jnp.float32)
    jacobian = jax.jit(jax.jacrev(lambda images: nnx.merge(graph, state)(images)))(images)
    pixels = np.asarray(jacobian).reshape(count, 3, count, 3)
    diagonal = np.stack([pixels[i, :, i] for i in range(count)])
    neighbours = [pixels[i, :, i + 1] for i in range(count - 1) if (i + 1) % width]
    return diagonal, np.stack(neighbours or [pixels[i, :, i + width] for i in range(count - width)])


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layers", [1, slow(2), slow(3), 8, 17])
def test_blind_spot_ignores_every_channel_of_the_own_pixel(network, layers, border):
    diagonal, neighbours = own_pixel(network(layers, border=border), 12)
    assert np.all(diagonal == 0)
    assert np.mean(neighbours != 0) > 0.9


@pytest.mark.parametrize("size", [(2, 1), (2, 2), (1, 9), (5, 4), (3, 7), slow((4, 6)), slow((7, 5)), slow((2, 13))])
def test_blind_spot_is_blind_in_images_smaller_than_its_steps(network, size):
    diagonal, neighbours = own_pixel(network(8, border="opposite"), *size)
    assert np.all(diagonal == 0)
    assert np.mean(neighbours != 0) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layers", [8, 17, 25])
def test_blind_spot_stays_blind_on_images_as_large_as_several_dilated_steps(network, layers, border):
    assert np.all(own_pixel(network(layers, border=border), 26)[0] == 0)


def test_masks_reach_no_offset_of_zero_at_any_depth():
    around = {(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)} - {(0, 0)}
    knight = {(0, 0)} | {(a, b) for a in (-2, -1, 1, 2) for b in (-2, -1, 1, 2) if abs(a) != abs(b)}
    quincunx = {(0, 0)} | {(a, b) for a in (-3, 3) for b in (-3, 3)}
    seen = around
    for number in range(30):
        assert (0, 0) not in seen
        seen = {(a + c, b + d) for a, b in seen for c, d in (quincunx if number else knight)}


@pytest.mark.parametrize(("layers", "field"), [slow(1, 3), slow(2, 7), (8, 43), (17, 97)])
def test_receptive_field_is_what_the_gradient_of_the_centre_reaches(network, layers, field):
    module, size = network(layers), field + 12
    assert module.receptive_field == field
    # Slopes of 1 make the network linear: random slopes multiply the far corners down to zero in float32.
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        positive = jnp.abs(variable[...]) / jnp.abs(variable[...]).max()
        variable.set_value(jnp.ones_like(positive) if "slope" in path[-1] else positive)
    graph, state = nnx.split(module)
    images = jnp.zeros((1, size, size, 3))
    gradient = jax.jit(jax.grad(lambda images: nnx.merge(graph, state)(images)[0, size // 2, size // 2].sum()))(images)
    rows, columns = np.nonzero(np.asarray(gradient)[0].sum(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (field, field)
    assert rows.min() == columns.min() == size // 2 - field // 2


def test_training_keeps_the_blind_spot(network, lenient):
    module = network(3)
    graph, state = nnx.split(module)
    optimiser = optax.adam(1e-2)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 12, 12, 3)), jnp.float32)

    @jax.jit
    def step(state, memory):
        loss, gradient = jax.value_and_grad(lambda state: jnp.mean((nnx.merge(graph, state)(images) - images) ** 2))(
            state
        )
        change, memory = optimiser.update(gradient, memory, state)
        return optax.apply_updates(state, change), memory, loss

    memory, losses = optimiser.init(state), []
    trained = state
    for _ in range(5):
        trained, memory, loss = step(trained, memory)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    module = nnx.merge(graph, trained)
    assert np.all(own_pixel(module, 12)[0] == 0)
    entry = blind_spot_table(3)["new2.new2.conv1.weight"]
    kernel = entry.layout.encode(np.asarray(module.rest[0].kernel[...]))
    assert np.count_nonzero(kernel) == 9 * 2 * 2


def test_gradients_of_a_training_step_are_those_of_an_attack(network):
    graph, state = nnx.split(network(4))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 12, 10, 3)), jnp.float32)

    def gradients(own):
        def loss(state, images):
            with own_gradients(own):
                return jnp.sum(jnp.square(nnx.merge(graph, state)(images) - images))

        return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(state, images))

    ours, theirs = gradients(True), gradients(False)
    scale = max(float(jnp.abs(gradient).max()) for gradient in ours)
    assert scale > 0
    for got, want in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * scale)


def test_grey_images_have_one_slope_after_the_first_layer_as_published(network):
    published = {name: entry.path for name, entry in blind_spot_table(2).items()}
    assert published["new1.activation_new1.weight"] == "first.slope"
    assert network(2, channels=1).first.slope.shape == (1,)
    assert network(2, channels=3).first.slope.shape == (2,)


def test_what_a_state_dict_holds_under_a_mask_is_dropped(network):
    module, table = network(3), blind_spot_table(3)
    random = np.random.default_rng(0)
    state = {name: random.normal(size=shape) for name, shape in weights.expected_shapes(module, table).items()}
    weights.load(module, state, table=table)
    kernel = table["new_0.new3.conv1.weight"].layout.encode(np.asarray(module.rest[1].kernel[...]))
    mask = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_allclose(kernel, state["new_0.new3.conv1.weight"] * mask, rtol=1e-6)


def test_multiply_adds_are_those_of_the_taps_that_are_left():
    module = nnx.eval_shape(lambda: BlindSpotNetwork(rngs=nnx.Rngs(0)))
    assert module.macs_per_pixel == 8 * 3 * 64 + (9 + 6 * 5 + 2 * 9) * 64**2 + 64 * 3


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"width": 0}, {"channels": 0}])
def test_counts_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number of at least 1, got 0"):
        BlindSpotNetwork(**wrong, rngs=nnx.Rngs(0))


def test_images_of_other_channels_are_refused(network):
    module = network(2, channels=1)
    with pytest.raises(ValueError, match="images must have 1 channels, last, got the shape"):
        module(jnp.zeros((1, 8, 8, 3)))
