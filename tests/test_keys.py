import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import keys


def bits(array):
    return np.asarray(jax.random.key_data(array))


def test_image_i_gets_the_key_with_i_folded_in():
    key = jax.random.key(3)
    expected = [bits(jax.random.fold_in(key, i)) for i in range(4)]
    np.testing.assert_array_equal(bits(keys.per_image(key, 4)), expected)


def test_an_array_of_keys_is_taken_as_it_is():
    array = jax.random.split(jax.random.key(1), 3)
    np.testing.assert_array_equal(bits(keys.per_image(array, 3)), bits(array))


@pytest.mark.parametrize("count", [2, 4])
def test_an_array_of_another_length_is_refused(count):
    with pytest.raises(ValueError, match=rf"one typed key or {count} of them .* got shape \(3,\)"):
        keys.per_image(jax.random.split(jax.random.key(1), 3), count)


def test_raw_keys_are_refused_with_the_cure():
    with pytest.raises(TypeError, match=r"raw uint32 array of shape \(2,\): use jax.random.key"):
        keys.check_key(jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match="raw uint32"):
        keys.check_key(np.zeros(2, np.uint32))


@pytest.mark.parametrize("wrong", [0, "seed", None, 1.5, np.zeros(2, np.float32)])
def test_what_is_no_key_is_refused_by_the_name_of_the_argument(wrong):
    with pytest.raises(TypeError, match="draws must be a typed key"):
        keys.check_key(wrong, name="draws")


def test_folding_several_numbers_folds_them_in_turn():
    array = jax.random.split(jax.random.key(1), 2)
    expected = [bits(jax.random.fold_in(jax.random.fold_in(key, 7), 9)) for key in array]
    np.testing.assert_array_equal(bits(keys.fold(array, 7, 9)), expected)


def test_a_traced_number_folds_as_a_plain_one_does():
    array = jax.random.split(jax.random.key(1), 2)
    traced = jax.jit(lambda number: keys.fold(array, number))(jnp.int32(7))
    np.testing.assert_array_equal(bits(traced), bits(keys.fold(array, 7)))


def test_the_stream_of_an_image_does_not_depend_on_its_row():
    array = keys.per_image(jax.random.key(5), 4)
    order = np.array([2, 0, 3, 1])
    whole = keys.stream(array, "search", restart=1, step=2, draw=3)
    moved = keys.stream(array[order], "search", restart=1, step=2, draw=3)
    alone = keys.stream(array[2:3], "search", restart=1, step=2, draw=3)
    np.testing.assert_array_equal(bits(moved), bits(whole)[order])
    np.testing.assert_array_equal(bits(alone), bits(whole)[2:3])


def test_streams_of_different_purposes_restarts_steps_and_draws_never_meet():
    array = keys.per_image(jax.random.key(5), 2)
    streams = [
        bits(keys.stream(array, purpose, restart=restart, step=step, draw=draw))
        for purpose in keys.PURPOSES
        for restart in range(2)
        for step in range(2)
        for draw in range(2)
    ]
    everything = np.concatenate(streams)
    assert len(np.unique(everything, axis=0)) == len(everything)
