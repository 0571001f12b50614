"""Random noise: the floor that every attack must reach."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.loops import loop
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Best, Problem, blank_best
from jaxpurify.models import attribute
from jaxpurify.pytrees import PerImage, pytree_dataclass, static


class State(NamedTuple):
    """The search: the best noise so far and the loss last met."""

    best: Best
    loss: Any


@pytree_dataclass
class RandomNoise(Attack):
    """Try many draws of random noise of the largest size allowed, the first of them no noise, and keep the worst.

    In the linf norm every value moves by plus or minus ε; in the l2 norm the direction is uniform and the length ε,
    where the draws of a chunk differ in signs alone (random numbers would else cost more than a small network).

    Args:
        epsilon: the ball's size, in units of [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        draws: number of draws, forward passes an image.
        chunk: draws in one compiled call.
        restarts: kept at 1: more restarts are more draws.
        loss: as for the gradient attacks; it decides which draw is kept.
        success: as for the gradient attacks.
        trace: whether the result keeps the loss at the end of each chunk.

    Source: the check of Carlini et al. 2019 (arXiv 1902.06705), section 4.3, that a defence which falls to noise needs
    no attack. The largest size is our choice: within the ball, smaller noise fools less.
    """

    epsilon: PerImage = 8 / 255
    norm: str = static("linf")
    draws: int = static(10_000)
    chunk: int = static(100)
    restarts: int = static(1)
    loss: Any = static("cross-entropy")
    success: Any = static(None)
    trace: bool = static(False)
    uses_gradient = False

    def check(self):
        """Refuse counts below one."""
        super().check()
        check_counts(self, "draws", "chunk")
        object.__setattr__(self, "chunk", min(self.chunk, self.draws))

    @property
    def evaluations(self) -> int:
        """Chunks of draws; the last may be smaller."""
        return -(-self.draws // self.chunk)

    @property
    def needs_key(self) -> bool:
        """Noise draws numbers."""
        return True

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        return State(best=blank_best(problem.images), loss=jnp.zeros(problem.images.shape[:1], problem.images.dtype))

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Evaluate one chunk of draws."""
        clean, keys = problem.images, problem.keys
        random = attribute(target, "random")
        judge = losses.resolve(self.loss)
        keys = _keys.stream(keys, "search", restart=restart, step=step)

        def size(key, epsilon):
            return jnp.abs(ball(self.norm).corner(key, clean.shape[1:], clean.dtype, epsilon))

        sizes = jax.vmap(size)(_keys.fold(keys, 0), problem.epsilon)

        def noisy(image, size, key, number):
            noise = jnp.where(_coins(key, size.shape), size, -size)
            return jnp.where((step == 0) & (number == 0), image, jnp.clip(image + noise, 0, 1))

        def draw(number, carried):
            best, _ = carried
            key = _keys.fold(keys, number + 1)
            images = jax.vmap(noisy, in_axes=(0, 0, 0, None))(clean, sizes, key, number)
            outputs = target(images, _keys.fold(key, 1) if random else None)
            loss = judge(outputs, problem.labels, problem.targets).astype(clean.dtype)
            numbers = jnp.full((len(clean), 1, 1, 1), number, clean.dtype)
            return best.consider(numbers, loss, self.answer(outputs, problem), random=random), loss

        # Only the number of the best draw is kept in the loop: images are large, and made again from it.
        blank = blank_best(jnp.zeros((len(clean), 1, 1, 1), clean.dtype))
        count = jnp.minimum(self.chunk, self.draws - step * self.chunk) if self.draws % self.chunk else self.chunk
        best, loss = loop(target, count, draw, (blank, state.loss), most=self.chunk)
        numbers = best.images[:, 0, 0, 0].astype(jnp.uint32)
        key = jax.vmap(jax.random.fold_in)(keys, numbers + 1)
        images = jax.vmap(noisy)(clean, sizes, key, numbers)
        return State(best=state.best.join(best._replace(images=images), random=random), loss=loss)


def _coins(key: Any, shape: tuple[int, ...]) -> Any:
    """Return fair coins, 32 of each random word."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 32),), jnp.uint32)
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & jnp.uint32(1)
    return (bits.reshape(-1)[:count] == 1).reshape(shape)
