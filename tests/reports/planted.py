"""Models with a fault planted in them: classifiers whose gradients lie, and such as couple images or draw in secret.

Each function takes a sound classifier made by ``jaxpurify.classifier`` and returns one with the same, or nearly the
same, answers on clean images.
"""

import dataclasses
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxpurify as jp


def on_logits(model: Any, change: Any) -> Any:
    """Return a classifier whose logits are changed by a function of them."""
    return jp.classifier(_OnLogits(model.apply, change), model.variables, name=change.__name__)


@dataclasses.dataclass(frozen=True)
class _OnLogits:
    apply: Any
    change: Any

    def __call__(self, variables, images):
        return self.change(self.apply(variables, images))


def one_hot(model: Any) -> Any:
    """Give the decision alone."""

    def decision(logits):
        return jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1])

    return on_logits(model, decision)


def half_logits(model: Any, dtype: Any = jnp.float16, scale: float = 30.0) -> Any:
    """Scale the logits up and round them to half precision."""

    def half(logits):
        return (logits * scale).astype(dtype)

    return on_logits(model, half)


def floored(model: Any, scale: float = 200.0, floor: float = 1e-6) -> Any:
    """Give the logarithms of probabilities that are kept above a floor, of logits scaled up."""

    def log_probabilities(logits):
        return jnp.log(jnp.maximum(jax.nn.softmax(scale * logits), floor))

    return on_logits(model, log_probabilities)


def tiny_logits(model: Any, scale: float = 1e-30) -> Any:
    """Scale the logits down to nearly nothing."""

    def tiny(logits):
        return logits * scale

    return on_logits(model, tiny)


def ripple(model: Any, frequency: float = 3000.0, slope: float = 1.0) -> Any:
    """Add a deterministic ripple to the images: its slope hides the model's, and it has no height to speak of."""

    def apply(variables, images):
        return model.apply(variables, images + slope * jnp.sin(frequency * images) / frequency * 10)

    return jp.classifier(apply, model.variables, name="ripple")


def wave(model: Any, frequency: float = 3.0, height: float = 1.0) -> Any:
    """Add a ripple along one direction of signs to the likeliest class: attacks feel it more than random steps."""

    def apply(variables, images):
        logits = model.apply(variables, images)
        signs = np.random.default_rng(0).choice(np.float32([-1, 1]), (1, *images.shape[1:]))
        ripple = height * jnp.sin(frequency * (images * signs).sum(axis=(1, 2, 3)))
        return logits + ripple[:, None] * jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1])

    return jp.classifier(apply, model.variables, name="wave")


def lying_at_the_boundary(model: Any, gap: float = 0.5, *, turned: bool = False) -> Any:
    """Take the gradient away, or turn it round, where the two likeliest classes are close, and leave it elsewhere."""

    def lying(logits):
        top = jax.lax.top_k(logits, 2)[0]
        lie = jax.lax.stop_gradient(2 * logits) - logits if turned else jax.lax.stop_gradient(logits)
        return jnp.where((top[:, 0] - top[:, 1] < gap)[:, None], lie, logits)

    return on_logits(model, lying)


def k_winners(model: Any, share: float = 0.3) -> Any:
    """Replace the ReLUs of one of the library's networks by the largest share of each image's activations."""

    def winners(features):
        flat = features.reshape(len(features), -1)
        least = jax.lax.top_k(flat, max(1, int(share * flat.shape[1])))[0][:, -1:]
        return jnp.where(flat >= least, flat, jnp.zeros_like(flat)).reshape(features.shape)

    def apply(variables, images):
        with mock.patch.object(nnx, "relu", winners):
            return model.apply(variables, images)

    return jp.classifier(apply, model.variables, name="k-winners")


@jp.purifier
class HardGate:
    """Set coefficients of the cosine transform to zero where they are small: steps, with a true gradient in between."""

    threshold: float = 0.05

    def __call__(self, images, key=None):
        spectrum = jax.scipy.fft.dctn(images, axes=(1, 2), norm="ortho")
        kept = jnp.where(jnp.abs(spectrum) > self.threshold, spectrum, 0.0)
        return jp.images.saturate(jax.scipy.fft.idctn(kept, axes=(1, 2), norm="ortho"))
