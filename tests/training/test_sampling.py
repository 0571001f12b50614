"""Which examples make which batch."""

import jax
import numpy as np
import pytest

from jaxpurify.training.sampling import CROPS, ORDER, generator, rows, seed_of

SEED = seed_of(jax.random.key(7))


@pytest.mark.parametrize("total", [1, 5, 12])
def test_every_epoch_has_each_row_once_in_an_order_of_its_own(total):
    epochs = rows(SEED, first=0, count=4 * total, total=total).reshape(4, total)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(total))
    assert total < 12 or len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_a_batch_is_a_function_of_its_position_alone():
    whole = rows(SEED, first=0, count=70, total=12)
    parts = [rows(SEED, first=first, count=7, total=12) for first in range(0, 70, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(rows(SEED, first=33, count=30, total=12), whole[33:63])  # it spans three epochs


def test_keys_seeds_and_purposes_have_streams_of_their_own():
    draws = [
        generator(seed, *numbers).integers(2**62)
        for seed in (SEED, seed_of(jax.random.key(8)))
        for numbers in ((ORDER, 0), (ORDER, 1), (CROPS, 0), (CROPS, 1))
    ]
    assert len(set(draws)) == len(draws)
    assert generator(SEED, CROPS, 5).integers(2**62) == generator(SEED, CROPS, 5).integers(2**62)


def test_the_seed_is_the_keys_data():
    assert tuple(np.asarray(jax.random.key_data(jax.random.key(7))).tolist()) == SEED
