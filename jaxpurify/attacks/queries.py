"""Budgets of queries, spent in chunks of one compiled call each, and what black-box attacks ask a target."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpurify.attacks import losses
from jaxpurify.attacks.draws import averaged, draws_of
from jaxpurify.attacks.loops import loop
from jaxpurify.attacks.result import Answer, Problem


class Chunk(NamedTuple):
    """The rounds of queries that one compiled call asks.

    Attributes:
        first: number of its first round, traced.
        count: number of its rounds, traced.
        most: the largest number of rounds that any chunk has.
    """

    first: Any
    count: Any
    most: int

    def repeat(self, target: Any, body: Callable[[Any, Any], Any], state: Any) -> Any:
        """Ask every round of the chunk.

        Args:
            target: what is asked; where it calls back to the host, no device loop is used.
            body: ``(number within the chunk, state)`` to the next state.
            state: the first state.

        Returns:
            The last state.
        """
        return loop(target, self.count, body, state, most=self.most)


class InChunks:
    """What searches share that spend a budget of queries in chunks, on points drawn at random.

    Attributes:
        queries: evaluations of the model, an image and restart.
        chunk: of these in one compiled call.
    """

    queries: int
    chunk: int

    @property
    def evaluations(self) -> int:
        """Chunks of queries; the last may be smaller."""
        return -(-self.queries // self.chunk)

    @property
    def needs_key(self) -> bool:
        """Points are drawn at random."""
        return True


def chunk_of(step: Any, *, rounds: int, chunk: int, cost: int) -> Chunk:
    """Divide a budget into chunks.

    Args:
        step: number of the chunk, traced.
        rounds: rounds of the whole search.
        chunk: evaluations of the model in a chunk, of which some chunks spend up to a round less.
        cost: evaluations in a round.

    Returns:
        The rounds of that chunk.
    """
    numbers = jnp.asarray(step, jnp.uint32), jnp.asarray(step, jnp.uint32) + 1
    first, after = (jnp.minimum(number * chunk // cost, jnp.uint32(rounds)) for number in numbers)
    return Chunk(first, after - first, min(-(-chunk // cost), rounds))


def check_frozen(attack: Any) -> None:
    """Refuse an expectation over fresh draws.

    Args:
        attack: the attack, with an ``eot``.

    Raises:
        ValueError: if its draws are fresh.
    """
    if attack.eot is not None and attack.eot.randomness != "frozen":
        raise ValueError(
            f"{type(attack).__name__} compares answers to different queries, got eot with fresh draws: pass "
            'eot=Expectation(randomness="frozen")'
        )


def check_budget(attack: Any, target: Any, *, rounds: int) -> None:
    """Refuse a budget with which nothing can be tried.

    Args:
        attack: the attack, with ``queries`` and an ``eot``.
        target: the target, whose every draw is a query.
        rounds: questions without which the search moves nowhere.

    Raises:
        ValueError: if the budget is smaller.
    """
    least = rounds * draws_of(attack, target)
    if attack.queries < least:
        raise ValueError(f"{type(attack).__name__} needs at least {least} queries to move at all, got {attack.queries}")


def ask(attack: Any, target: Any, problem: Problem, images: Any, keys: Any) -> tuple[Any, Answer]:
    """Ask a target about images.

    Args:
        attack: decides loss and success, with an ``eot``.
        target: what is asked.
        problem: labels, targets and keys.
        images: shape ``(batch, height, width, channel)``.
        keys: the draws of a random target; images are to be compared on the same ones only, since of many on different
            draws the one with the luckiest would seem the best.

    Returns:
        Losses of shape ``(batch,)``, and the answer.
    """
    judge = losses.resolve(attack.loss)

    def of_outputs(outputs):
        return judge(outputs, problem.labels, problem.targets)

    loss, outputs = averaged(attack, target, images, keys, of_outputs)
    return loss.astype(images.dtype), attack.answer(outputs, problem)
