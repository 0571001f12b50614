from typing import Any

import jax
import numpy as np
import pytest

from jaxpurify.attacks.hop_skip_jump import HopSkipJump
from jaxpurify.attacks.score_based import NES, SPSA
from jaxpurify.attacks.square import Square
from jaxpurify.pytrees import pytree_dataclass

SEEN: list[int] = []


@pytree_dataclass
class Counting:
    """A target that tells the host of every evaluation, as a model behind an interface that counts queries would."""

    target: Any
    is_target = True
    calls_back = True

    def __call__(self, images, key=None):
        jax.debug.callback(lambda: SEEN.append(images.shape[0]))
        return self.target(images)


@pytest.mark.usefixtures("lenient")  # Adam mixes dtypes
@pytest.mark.parametrize(
    ("attack", "spent"),
    [
        (Square(queries=12, chunk=4), 12),
        (Square(queries=13, chunk=5), 13),
        (HopSkipJump(queries=13, chunk=5), 13),
        (NES(queries=14, samples=2, chunk=4), 11),  # two steps of 5 and the last iterate; a third would not fit
        (SPSA(queries=11, samples=2, chunk=4), 11),
    ],
    ids=["square", "square-rest", "hop-skip-jump", "nes", "spsa"],
)
def test_queries_are_counted_exactly(toy, attack, spent):
    SEEN.clear()
    result = attack(Counting(target=toy.target), toy.images, toy.labels, jax.random.key(0))
    jax.effects_barrier()
    assert sum(SEEN) == 16 * spent
    # HopSkipJump has nothing more to ask of the first image, which is wrong already: for it the rest is padding.
    idle = (np.arange(16) == 0) & isinstance(attack, HopSkipJump)
    np.testing.assert_array_equal(result.forwards, np.where(idle, 1, spent))
    np.testing.assert_array_equal(result.backwards, 0)
