"""Square Attack: random search over squares of the image, which asks a model for its outputs and for no gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.draws import draws_of
from jaxpurify.attacks.queries import InChunks, ask, check_budget, check_frozen, chunk_of
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.precision import divided
from jaxpurify.pytrees import PerImage, Scalar, concrete, pytree_dataclass, static

# The share of the image that a square covers is halved when that part of 10,000 queries has been asked.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class State(NamedTuple):
    """The search, every leaf with a leading batch axis.

    Attributes:
        best: the image kept.
        loss: the loss of the current point.
        current: the current point: in the linf norm the sign of each value's perturbation, in the l2 norm the
            perturbation.
    """

    best: Best
    loss: Any
    current: Any


@pytree_dataclass
class Square(InChunks, Attack):
    """Change a random square of the perturbation at each query and keep the change if the loss rises.

    Of the budget, the first query asks about the clean image and the second about random vertical stripes (in the l2
    norm, a grid of bumps), from which the search starts.

    Args:
        epsilon: the ball's size, in units of [0, 1].
        initial_share: share of the image that the first squares cover, above 0 and at most 1.
        eot: the draws of a random target over which each query is averaged: the same draws at every query, so its
            ``randomness`` must be ``"frozen"``; None for one draw.
        norm: ``"linf"`` or ``"l2"``.
        queries: evaluations of the model, an image and restart; every draw of a random target counts as one.
        chunk: queries in one compiled call; results do not depend on it.
        restarts: independent searches; the best image of all is kept.
        loss: as for the gradient attacks; the paper's is the margin.
        success: as for the gradient attacks.
        trace: whether the result keeps the loss of the current point at the end of each chunk.

    Source: Andriushchenko et al. 2020 (arXiv 1912.00049), algorithms 1 to 3, with its schedule of sizes for 10,000
    queries stretched to the budget. Our choice: at least one pixel of a square changes its sign, where the paper draws
    again if nothing changes; and random targets are compared on the same draws throughout, because on fresh ones the
    point of the luckiest draw would never be left.
    """

    epsilon: PerImage = 8 / 255
    initial_share: Scalar = 0.8
    eot: Expectation | None = Expectation(samples=20, randomness="frozen")
    norm: str = static("linf")
    queries: int = static(5000)
    chunk: int = static(100)
    restarts: int = static(1)
    loss: str | Callable = static("margin")
    success: Callable | None = static(None)
    trace: bool = static(False)
    uses_gradient = False

    def check(self):
        """Refuse other norms, shares that are none, counts below one and fresh draws."""
        super().check()
        check_counts(self, "queries", "chunk")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'norm of Square must be "linf" or "l2", got {self.norm!r}')
        share: Any = self.initial_share if concrete(self.initial_share) and np.ndim(self.initial_share) == 0 else 0.5
        if not 0 < share <= 1:
            raise ValueError(f"initial_share must be above 0 and at most 1, got {share}")
        check_frozen(self)

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; a budget that ends before the first square is refused."""
        check_budget(self, target, rounds=2)
        return super().prepare(target, images, labels, key, targets)

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        dtype = jnp.int8 if self.norm == "linf" else images.dtype
        return State(blank_best(images), jnp.zeros(images.shape[:1], images.dtype), jnp.zeros(images.shape, dtype))

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Ask one chunk of queries."""
        clean = problem.images
        epsilon = problem.epsilon[:, None, None, None]
        random, cost = attribute(target, "random"), draws_of(self, target)
        draws = _keys.stream(problem.keys, "search", draw=1)  # the same at every query, also of other restarts
        chunk = chunk_of(step, rounds=self.queries // cost, chunk=self.chunk, cost=cost)
        keys = _keys.stream(problem.keys, "search", restart=restart)
        words = _words(keys, chunk, 5 + clean.shape[3])
        space = (_Signs if self.norm == "linf" else _Bumps)(clean, epsilon)
        start = space.start(_keys.stream(problem.keys, "start", restart=restart))

        def query(number, carried):
            best, loss, current = carried
            round_ = chunk.first + number
            size = self._size(round_, self.queries // cost, clean.shape[1:3])
            proposal = space.propose(current, words[number], jnp.where(round_ == 0, 0, size))
            proposal = jnp.where(round_ == 1, start, proposal)
            met, answer = ask(self, target, problem, space.images(proposal), draws)
            best = best.consider(proposal, met, answer, random=random, forwards=cost)
            met = jnp.where(jnp.isnan(met), -jnp.inf, met)
            better = (met > loss) | (round_ <= 1)
            return best, jnp.where(better, met, loss), jnp.where(better.reshape(-1, 1, 1, 1), proposal, current)

        anew = step == 0
        current = jnp.where(anew, jnp.zeros_like(state.current), state.current)
        blank = blank_best(jnp.zeros((len(clean), 1, 1, 1), clean.dtype))._replace(images=jnp.zeros_like(current))
        best, loss, current = chunk.repeat(target, query, (blank, state.loss, current))
        best = state.best.join(best._replace(images=space.images(best.images)), random=random)
        return State(best, loss, current)

    def _size(self, round_: Any, rounds: int, shape: tuple[int, int]) -> Any:
        """Return the side of the square of one query, in pixels."""
        halved = np.array([2 - (-(after + 1) * rounds // 10_000) for after in HALVED_AFTER], np.uint32)
        halvings = (round_ >= halved).sum()
        share = jnp.asarray(self.initial_share, jnp.float32) / (2.0 ** halvings.astype(jnp.float32))
        side = jnp.round(jnp.sqrt(share * np.float32(shape[0] * shape[1]))).astype(jnp.int32)
        if self.norm == "l2":
            side = jnp.maximum(side, 3) | 1
            return jnp.minimum(side, (min(shape) - 1) | 1)
        return jnp.clip(side, 1, min(shape))


def _words(keys: Any, chunk: Any, count: int) -> Any:
    """Return random words of shape (rounds, batch, count), the same for a round whatever the chunk it is in."""

    def one(number):
        return jax.vmap(lambda key: jax.random.bits(key, (count,), jnp.uint32))(_keys.fold(keys, number + 1))

    return jax.vmap(one)(chunk.first + jnp.arange(chunk.most, dtype=jnp.uint32))


def _below(words: Any, count: Any) -> Any:
    """Return integers from 0 to below count, at most 65,536, made of random words."""
    return ((words >> 16) * jnp.asarray(count, jnp.uint32) >> 16).astype(jnp.int32)


def _window(row: Any, column: Any, size: Any, shape: tuple[int, int]) -> Any:
    """Say which pixels are in each image's square: booleans of shape (batch, height, width, 1)."""
    rows = jnp.arange(shape[0], dtype=jnp.int32)[None, :] - row[:, None]
    columns = jnp.arange(shape[1], dtype=jnp.int32)[None, :] - column[:, None]
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    return inside[..., None]


class _Signs(NamedTuple):
    """The corners of an linf ball, each held as the signs of its perturbation; zeros are the clean image."""

    clean: Any
    epsilon: Any

    def images(self, signs):
        return jnp.clip(self.clean + self.epsilon * signs.astype(self.clean.dtype), 0, 1)

    def start(self, keys):
        _, _, width, channels = self.clean.shape
        up = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (1, width, channels)))(keys)
        return jnp.where(up, jnp.int8(1), jnp.int8(-1))

    def propose(self, signs, words, size):
        height, width, channels = self.clean.shape[1:]
        row, column = (_below(words[:, i], side - size + 1) for i, side in enumerate((height, width)))
        corner = jax.vmap(lambda image, i, j: image[i, j])(signs, row, column)
        flips = words[:, 5:] >= jnp.uint32(2**31)
        chosen = jnp.arange(channels, dtype=jnp.int32)[None, :] == _below(words[:, 2], channels)[:, None]
        flips = jnp.where(flips.any(axis=1, keepdims=True), flips, chosen)
        colour = jnp.where(flips, -corner, corner)[:, None, None, :]
        return jnp.where(_window(row, column, size, (height, width)), colour, signs)


class _Bumps(NamedTuple):
    """Perturbations of an l2 ball, most of whose mass is in the middle of squares."""

    clean: Any
    epsilon: Any

    def images(self, perturbation):
        return jnp.clip(self.clean + perturbation, 0, 1)

    def start(self, keys):
        height, width, channels = self.clean.shape[1:]
        size = max(min(height, width) // 5, 1)
        places = [np.arange(side) - side % size // 2 for side in (height, width)]
        tiles = [np.clip(place // size, 0, len(place) // size - 1) for place in places]
        within = [place - tile * size for place, tile in zip(places, tiles, strict=True)]
        inside = [(offset >= 0) & (offset < size) for offset in within]
        bump = _bump(size, size, self.clean.dtype)[np.ix_(*(np.clip(offset, 0, size - 1) for offset in within))]
        bump = jnp.where(np.outer(*inside), bump, 0)

        def one(key):
            up = jax.random.bernoulli(key, 0.5, (height // size, width // size, channels))
            return jnp.where(up, 1, -1).astype(bump.dtype)[np.ix_(*tiles)] * bump[..., None]

        return self._within(jax.vmap(one)(keys))

    def propose(self, perturbation, words, size):
        height, width, channels = self.clean.shape[1:]
        places = [_below(words[:, i], side - size + 1) for i, side in enumerate((height, width, height, width))]
        row, column, other_row, other_column = places
        window = _window(row, column, size, (height, width))
        emptied = _window(other_row, other_column, size, (height, width))
        up = words[:, None, None, 5:] >= jnp.uint32(2**31)
        bump = _bump(size, max(height, width), perturbation.dtype)
        bump = _placed(bump, row, column, words[:, 4], (height, width))
        bump = jnp.where(up, bump[..., None], -bump[..., None])
        old = jnp.where(window, perturbation, 0)
        mixed = _unit(bump + _unit(old, (1, 2)), (1, 2))
        unused = jnp.maximum(self.epsilon**2 - _square(perturbation, (1, 2, 3)), 0)
        freed = _square(jnp.where(window | emptied, perturbation, 0), (1, 2, 3))
        kept = jnp.where(window | emptied, jnp.zeros_like(perturbation), perturbation)
        return self._within(kept + mixed * jnp.sqrt(unused / channels + freed))

    def _within(self, perturbation):
        whole = _unit(perturbation, (1, 2, 3)) * self.epsilon
        return jnp.clip(self.clean + whole, 0, 1) - self.clean


def _square(values, axes):
    return (values * values).sum(axis=axes, keepdims=True)


def _unit(values, axes):
    return divided(values, jnp.sqrt(_square(values, axes)))


def _bump(size: Any, side: int, dtype: Any) -> Any:
    """Return the paper's η of a square of a traced size, in the corner of a square array of zeros.

    Each half is the sum of rectangles that grow from its middle, the k-th with weight 1/k², which is the difference of
    two partial sums; the halves have opposite signs.
    """
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, side + 2) ** 2)])
    rows, columns = jnp.arange(side, dtype=jnp.int32)[:, None], jnp.arange(side, dtype=jnp.int32)[None, :]
    size = jnp.asarray(size, jnp.int32)
    half = size // 2
    upper = rows < half
    middle = jnp.where(upper, half // 2, half + (size - half) // 2)
    distance = jnp.maximum(jnp.abs(rows - middle), jnp.abs(columns - half))
    table = jnp.asarray(sums, dtype)
    values = jnp.where((rows < size) & (columns < size), table[half + 1] - table[distance], 0)
    halves = [_unit(jnp.where(part, values, 0), (0, 1)) for part in (upper, ~upper)]
    return _unit(halves[0] - halves[1], (0, 1))


def _placed(bump: Any, row: Any, column: Any, turned: Any, shape: tuple[int, int]) -> Any:
    """Return the bump at each image's place, for half of them turned by a quarter: shape (batch, height, width)."""
    side = bump.shape[0]
    padded = jnp.pad(jnp.stack([bump, bump.T]), ((0, 0), (side, 0), (side, 0)))

    def one(row, column, turned):
        return jax.lax.dynamic_slice(padded, (turned, side - row, side - column), (1, *shape))[0]

    return jax.vmap(one)(row, column, (turned >> 31).astype(jnp.int32))
