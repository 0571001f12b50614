"""The compiled parts of training: one step, parts of one, the score and the samples."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxpurify.checks import kind
from jaxpurify.networks.convolution import own_gradients
from jaxpurify.parallel import Placement
from jaxpurify.training.recipe import PRECISIONS, Recipe
from jaxpurify.training.task import Batch, Task


class State(NamedTuple):
    """Everything that a step changes.

    Args:
        step: steps done.
        parameters: the weights.
        others: running statistics, such as those of batch normalisation.
        average: moving average of the weights.
        optimiser: Optax's state.
    """

    step: Array
    parameters: Any
    others: Any
    average: Any
    optimiser: Any


class Gradients(NamedTuple):
    """Sums over the parts of a batch."""

    gradients: Any
    others: Any
    measures: Any


class Programs:
    """Compile what training runs, each part once.

    Args:
        task: what is trained.
        recipe: how.
        steps: how many steps there are.
        rngs: source of the initial weights.
        placement: the devices.
    """

    def __init__(self, task: Task, recipe: Recipe, *, steps: int, rngs: nnx.Rngs, placement: Placement):
        self.task, self.recipe, self.placement = task, recipe, placement
        module = task.network(rngs)
        module.train()
        split: Any = nnx.split(module, nnx.Param, ...)
        self.graph: Any
        self.graph, parameters, others = split
        self.optimiser = recipe.optimiser(steps)
        average = jax.tree.map(jnp.copy, parameters)
        start = State(jnp.uint32(0), parameters, others, average, self.optimiser.init(parameters))
        self.start = placement.everywhere(start)
        self.step = jax.jit(self._step, donate_argnums=0)
        self.part = jax.jit(self._part, donate_argnums=2)
        self.update = jax.jit(self._update, donate_argnums=0)
        self.looped = jax.jit(self._looped, donate_argnums=0)
        self.score = jax.jit(functools.partial(self._evaluated, self._scored))
        self.panels = jax.jit(functools.partial(self._evaluated, task.panels))

    def advance(self, state: State, parts: list[Batch], keys: list[Array]) -> tuple[State, dict[str, Array]]:
        """Do one step on one batch.

        Args:
            state: it is used up.
            parts: the batch in parts, on the devices.
            keys: one typed key a part.

        Returns:
            The new state, and the means of the loss and the other measures.
        """
        if len(parts) == 1:
            return self.step(state, parts[0], keys[0])
        if self.task.loops:
            return self.looped(state, parts, keys)
        total = None
        for part, key in zip(parts, keys, strict=True):
            total = self.part(state, (part, key), total)
        return self.update(state, total)

    def module(self, state: State) -> nnx.Module:
        """Return the network with the averaged weights, in evaluation mode.

        Args:
            state: the state.

        Returns:
            The network as it is trained, not yet finished by the task; bound to none of the devices.
        """
        weights = state.average if self.recipe.average else state.parameters
        module = nnx.merge(self.graph, *jax.tree.map(_unbound, (weights, state.others)))
        module.eval()
        return module

    def _step(self, state: State, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        return self._update(state, self._part(state, (batch, key), None))

    def _part(self, state: State, example: tuple[Batch, Array], total: Gradients | None) -> Gradients:
        batch, key = example
        others = state.others if total is None else total.others
        dtype = PRECISIONS[self.recipe.precision]

        def mean_loss(parameters):
            cast = jax.tree.map(lambda leaf: leaf.astype(dtype), parameters)
            # Made anew in this trace: Flax refuses to change a variable of another, such as a running mean.
            network = nnx.merge(self.graph, cast, jax.tree.map(lambda leaf: leaf, others))
            losses, measures = _each_example(self.task.loss(network, batch, key), batch, type(self.task).__name__)
            changed = nnx.state(network, nnx.Not(nnx.Param))
            measured = {"loss": losses} | measures
            return losses.mean(), (changed, jax.tree.map(jnp.mean, measured))

        with own_gradients(self.task.loops):
            gradients, (others, measures) = jax.grad(mean_loss, has_aux=True)(state.parameters)
        if total is not None:
            gradients, measures = jax.tree.map(jnp.add, (total.gradients, total.measures), (gradients, measures))
        return Gradients(gradients, others, measures)

    def _looped(self, state: State, parts: list[Batch], keys: list[Array]) -> tuple[State, dict[str, Array]]:
        examples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(parts, keys, strict=True))
        shapes = jax.eval_shape(self._part, state, (parts[0], keys[0]), None)
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)._replace(others=state.others)

        def add(total: Gradients, example: tuple[Batch, Array]) -> tuple[Gradients, None]:
            return self._part(state, example, total), None

        return self._update(state, jax.lax.scan(add, total, examples)[0])

    def _update(self, state: State, total: Gradients) -> tuple[State, dict[str, Array]]:
        parts = self.recipe.accumulate
        gradients, measures = jax.tree.map(lambda leaf: leaf / parts, (total.gradients, total.measures))
        measures["gradient_norm"] = optax.tree.norm(gradients)
        updates, optimiser = self.optimiser.update(gradients, state.optimiser, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        done = state.step.astype(jnp.float32)
        share = 1 - jnp.minimum(self.recipe.average, (1 + done) / (10 + done))
        average = optax.incremental_update(parameters, state.average, share)
        return State(state.step + 1, parameters, total.others, average, optimiser), measures

    def _evaluated(self, measure: Callable, weights: Any, others: Any, batch: Batch, key: Array) -> Any:
        module = nnx.merge(self.graph, weights, others)
        module.eval()
        return measure(module, batch, key)

    def _scored(self, module: Any, batch: Batch, key: Array) -> dict[str, Array]:
        scores = self.task.score(module, batch, key)
        _check_measures(scores, batch, f"the scores of {type(self.task).__name__}")
        return scores

    def evaluated(self, measure: Callable, state: State, batch: Batch, key: Array) -> Any:
        """Run ``score`` or ``panels`` with the averaged weights.

        Args:
            measure: one of the two.
            state: the state.
            batch: examples on the device.
            key: one typed key.

        Returns:
            What it returns.
        """
        return measure(state.average if self.recipe.average else state.parameters, state.others, batch, key)


def _each_example(found: Any, batch: Batch, task: str) -> tuple[Array, dict[str, Array]]:
    """Return what a task's loss returned, if it is a loss and other measures of each example."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], dict):
        raise TypeError(
            f"the loss of {task} must be a pair of losses and a dict of other measures, got {kind(found)}: return "
            "losses, {}"
        )
    losses, measures = found
    _check_measures({"loss": losses} | measures, batch, f"the loss of {task}")
    return losses, measures


def _check_measures(measures: dict[str, Array], batch: Batch, what: str) -> None:
    (count, *_), *_ = (values.shape for values in batch.values())
    for name, values in measures.items():
        if jnp.shape(values) != (count,):
            raise ValueError(
                f"{what} must have one number per example, expected shape ({count},) of {name!r}, got "
                f"{jnp.shape(values)}: take means over the other axes, but not over the batch"
            )


def _unbound(leaf: Array) -> Array:
    """Copy an array so that it may meet arrays of any device: what was put on some devices refuses others."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_unbound(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.array(np.asarray(leaf))
