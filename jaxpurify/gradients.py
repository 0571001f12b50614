"""Changed backward passes of any callable, and the expectation over the keys of a random one.

How to differentiate is an object of its own, apart from what is computed: ``straight_through(p)``, ``substitute(p)``
and ``rematerialised(p)`` all compute what ``p`` computes. Exact differentiation is what you get without a wrapper.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.models import Repeat, Sequential, as_purifier, as_target, attribute, purifier
from jaxpurify.precision import widened
from jaxpurify.pytrees import pytree_dataclass, static


def straight_through(model: Any) -> Any:
    """Compute ``model`` forward and the identity backward (BPDA with the identity).

    Where the output has another size, the backward pass is that of nearest-neighbour resizing to that size. The
    model's own leaves receive zero gradients.

    Args:
        model: a purifier, or any callable ``(images, key=None) -> images``.

    Returns:
        A purifier with the same outputs, bit for bit.

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420), section 4.1. Other sizes: our choice, the simplest
    linear map that keeps a pixel's gradient at its place.
    """
    if attribute(model, "is_ensemble"):
        return _within(model, straight_through)
    return _Changed(forward=as_purifier(model), backward=_Nearest())


def substitute(model: Any, surrogate: Any = None) -> Any:
    """Compute ``model`` forward and a differentiable surrogate backward, with the same key (BPDA).

    Without ``surrogate``, the model's own are used: ``Sequential``, ``Repeat`` and ensembles are walked, stages that
    declare a surrogate get it, at the true input of that stage, and the others keep their exact gradient.

    Args:
        model: a purifier, or any callable ``(images, key=None) -> images``.
        surrogate: a callable ``(images, key=None) -> images`` with outputs of the same shape.

    Returns:
        A purifier with the same outputs, bit for bit. The surrogate's leaves receive gradients, the model's none.

    Raises:
        ValueError: if no stage declares a surrogate and none is given.

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420), section 4.1.2.
    """
    if attribute(model, "is_ensemble"):
        return _within(model, lambda stage: substitute(stage, surrogate))
    if surrogate is not None:
        return _Changed(forward=as_purifier(model), backward=as_purifier(surrogate))
    if not has_surrogate(model):
        raise ValueError(
            f"{type(model).__name__} declares no surrogate, expected one: pass substitute(purifier, surrogate=...) or "
            "define surrogate(self) on its class"
        )
    return _walk(model, lambda stage: substitute(stage, stage.surrogate()) if has_surrogate(stage) else stage)


def has_surrogate(model: Any) -> bool:
    """Say whether a purifier, or any stage of it, declares a surrogate.

    Args:
        model: a purifier or any callable.

    Returns:
        True where ``substitute(model)`` has something to substitute.
    """
    if attribute(model, "is_ensemble"):
        return has_surrogate(model.after().stage)
    if isinstance(model, Sequential):
        return any(has_surrogate(stage) for stage in model.stages)
    if isinstance(model, Repeat):
        return has_surrogate(model.stage)
    return callable(getattr(model, "surrogate", None))


def rematerialised(model: Any) -> Any:
    """Differentiate exactly with the memory of one stage, computing intermediate values again on the way back.

    ``Repeat`` becomes one ``scan`` over its passes; every stage of a ``Sequential`` is rematerialised by itself.

    Args:
        model: a purifier, or any callable ``(images, key=None) -> images``.

    Returns:
        A purifier with the same outputs and gradients.

    Source: Chen et al. 2016 (arXiv 1604.06174). The loop is our choice: unrolled rematerialisation saves no memory on
    the CPU, where the compiler merges the second computation with the first.
    """
    if attribute(model, "is_ensemble"):
        return _within(model, rematerialised)
    if isinstance(model, Repeat):
        return _Scanned(stage=model.stage, times=model.times)
    if isinstance(model, Sequential):
        return Sequential(*(rematerialised(stage) for stage in model.stages))
    return _Rematerialised(stage=as_target(model))


def _within(model: Any, change: Callable[[Any], Any]) -> Any:
    """Change the purifier that an ensemble draws from, and keep the average."""
    ensemble = model.after()
    return dataclasses.replace(ensemble, stage=change(ensemble.stage))


def _walk(model: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(model, Sequential):
        return Sequential(*(_walk(stage, change) for stage in model.stages))
    if isinstance(model, Repeat):
        return Repeat(stage=_walk(model.stage, change), times=model.times)
    return change(model)


@purifier
class _Nearest:
    """The identity, or nearest-neighbour resizing where the forward pass changed the size."""

    changes_size = True
    size: tuple[int, int] | None = static(None)

    def __call__(self, images, key=None):
        if self.size is None or images.shape[1:3] == self.size:
            return images
        return jax.image.resize(images, (images.shape[0], *self.size, images.shape[3]), method="nearest")


class _Mirror:
    """Attributes of the purifier within."""

    @property
    def random(self) -> bool:
        return attribute(self.inner, "random")  # type: ignore[attr-defined]

    @property
    def couples_images(self) -> bool:
        return attribute(self.inner, "couples_images")  # type: ignore[attr-defined]

    @property
    def changes_size(self) -> bool:
        # A callable that is no purifier says nothing of sizes, so none is held to be wrong.
        return attribute(self.inner, "changes_size") or not attribute(self.inner, "is_purifier")  # type: ignore[attr-defined]


@purifier
class _Changed(_Mirror):
    """One callable forward, another backward."""

    forward: Any
    backward: Any

    @property
    def inner(self):
        return self.forward

    @property
    def random(self) -> bool:
        return attribute(self.forward, "random") or attribute(self.backward, "random")

    def __call__(self, images, key=None):
        data = None if key is None else jax.random.key_data(key)
        implementation = None if key is None else str(jax.random.key_impl(key))
        return _custom(_Call(implementation))(self.forward, self.backward, images, data)


class _Call(NamedTuple):
    """Calls a model with the raw data of its keys, the form in which keys pass through a custom gradient."""

    implementation: str | None

    def __call__(self, model, images, data):
        key = None if data is None else jax.random.wrap_key_data(data, impl=self.implementation)
        return model(images, key)


def _custom(call: _Call) -> Callable:
    @jax.custom_vjp
    def run(forward, backward, images, data):
        return call(forward, images, data)

    def run_forward(forward, backward, images, data):
        return call(forward, images, data), (backward, images, data)

    def run_backward(residuals, gradient):
        backward, images, data = residuals
        identity = isinstance(backward, _Nearest)
        stand_in = _Nearest(size=gradient.shape[1:3]) if identity else backward
        outputs, pull = jax.vjp(lambda model, x: call(model, x, data), stand_in, images)
        if outputs.shape != gradient.shape:
            raise ValueError(
                f"a surrogate must return the shape of what it stands for, {gradient.shape}, got {outputs.shape}"
            )
        to_backward, to_images = pull(gradient.astype(outputs.dtype))
        return None, None if identity else to_backward, to_images, None

    run.defvjp(run_forward, run_backward)
    return run


@purifier
class _Rematerialised(_Mirror):
    """One stage, computed again on the way back."""

    stage: Any

    @property
    def inner(self):
        return self.stage

    def __call__(self, images, key=None):
        return jax.checkpoint(lambda stage, x, k: stage(x, k))(self.stage, images, key)


@purifier
class _Scanned(_Mirror):
    """Passes of one stage as a loop, each computed again on the way back."""

    stage: Any
    times: int = static()

    @property
    def inner(self):
        return self.stage

    def __call__(self, images, key=None):
        @jax.checkpoint
        def one_pass(x, number):
            return self.stage(x, None if key is None else _keys.fold(key, number)), None

        return jax.lax.scan(one_pass, images, jnp.arange(self.times, dtype=jnp.uint32))[0]


@pytree_dataclass
class Expectation:
    """Expectation over transformations (EOT): the average of a random target over fresh keys.

    Args:
        samples: draws a step.
        chunk: draws computed at once, vectorised; all by default. Chunks are computed again on the way back, so memory
            holds one chunk's intermediate values (on the CPU, where they are unrolled, the compiler may keep more).
        of: what is averaged: ``"loss"``, ``"logits"`` or ``"probabilities"``.
        randomness: ``"fresh"`` keys each step, or ``"frozen"``: the same draws at every step.

    Source: Athalye et al. 2018 (arXiv 1707.07397); averaging losses is the usual form, and logits or
    probabilities are variants.
    """

    samples: int = static(20)
    chunk: int | None = static(None)
    of: str = static("loss")
    randomness: str = static("fresh")

    def check(self):
        """Refuse counts below one and unknown names."""
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be an integer of at least 1, got {self.samples}")
        if self.chunk is not None and (not isinstance(self.chunk, int) or not 1 <= self.chunk <= self.samples):
            raise ValueError(f"chunk must be an integer from 1 to samples ({self.samples}), got {self.chunk}")
        if self.of not in ("loss", "logits", "probabilities"):
            raise ValueError(f'of must be "loss", "logits" or "probabilities", got {self.of!r}')
        if self.randomness not in ("fresh", "frozen"):
            raise ValueError(f'randomness must be "fresh" or "frozen", got {self.randomness!r}')

    def __call__(self, target: Any, images: Any, keys: Any, loss: Callable) -> tuple[Any, Any]:
        """Average over draws.

        Args:
            target: a random target.
            images: shape ``(batch, height, width, channel)``.
            keys: typed keys of shape ``(batch,)``; draw d gets them with d folded in.
            loss: outputs to per-image losses of shape ``(batch,)``, or to a tree of such arrays.

        Returns:
            The expected loss, shape ``(batch,)``, and the mean outputs, in float32 at least.
        """
        chunk = self.chunk or self.samples
        parts = [
            self._chunk(target, images, keys, np.arange(first, min(first + chunk, self.samples), dtype=np.uint32), loss)
            for first in range(0, self.samples, chunk)
        ]
        if self.of == "probabilities":
            # In logarithms throughout: probabilities that vanish in float32 would have no gradient.
            logs = jax.nn.logsumexp(jnp.stack([outputs for _, outputs in parts]), axis=0) - np.log(self.samples)
            return loss(logs), logs
        losses, outputs = jax.tree.map(lambda *values: sum(values) / self.samples, *parts)
        return (losses, outputs) if self.of == "loss" else (loss(outputs), outputs)

    def _chunk(self, target, images, keys, draws, loss):
        @jax.checkpoint
        def run(target, images):
            def one(draw):
                outputs = target(images, _keys.fold(keys, draw))
                value = loss(outputs) if self.of == "loss" else jnp.zeros(images.shape[0], images.dtype)
                outputs = widened(outputs)
                return value, jax.nn.log_softmax(outputs) if self.of == "probabilities" else outputs

            losses, outputs = jax.vmap(one)(draws)
            if self.of == "probabilities":
                return losses.sum(axis=0), jax.nn.logsumexp(outputs, axis=0)
            return jax.tree.map(lambda value: value.sum(axis=0), (losses, outputs))

        return run(target, images)
