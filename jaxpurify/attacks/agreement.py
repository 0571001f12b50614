"""Whether a target's gradients say what the target does, measured around clean images."""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks.losses import cross_entropy
from jaxpurify.attacks.tracing import traced
from jaxpurify.precision import pulled, unit_scaled, widened
from jaxpurify.probing import ROWS, Program, Remembered, eight_keys, forward, rounding
from jaxpurify.pytrees import concrete

STEPS = (1 / 255, 4 / 255)
DIRECTIONS = 12
# Measured: sound classifiers and purifiers have 0.72 to 1.00 at 1/255, hardly an image below 0.3, 0.25 to 1.00 at
# 4/255, and a cosine of at least 0.86; those whose gradients lie have at most 0.4 at 1/255, or lie at some images
# alone, or their steps go astray.
_LEAST_RHO = 0.6
_LEAST_RHO_FAR = 0.1
_LEAST_RHO_OF_AN_IMAGE = 0.2
_LEAST_COSINE = 0.1
_TOO_MANY = 0.25
_OPPOSITE = -0.5
_NARROW = 1e-4  # the rounding of half precision is above it


class Agreement(NamedTuple):
    """How well a target's gradients agree with what it does, on a few images.

    Attributes:
        rho: correlation over random directions of how the margin changes with what its gradient predicts, median over
            images, for steps of 1/255 and 4/255 per value.
        zero: share of images at which the gradients of the margin and of the cross entropy are zero or not finite.
        cosine: cosine of these two gradients, median over images: low where one underflows.
        images: number of images.
        lying: share of images whose own correlation is below 0.2.
        lowest: the correlation of the image whose own is the lowest.
        judged: which of ``rho`` counts: the first; where the target computes in half precision, the higher.
        astray: share of images at which a step of 1/255 or 4/255 against the sign of the gradient lowers the margin by
            less than half of what the best random direction does.
    """

    rho: tuple[float, float]
    zero: float
    cosine: float
    images: int
    lying: float = 0.0
    judged: int = 0
    lowest: float = 1.0
    astray: float = 0.0

    @property
    def blind(self) -> bool:
        """Whether gradient attacks see nothing at all."""
        return self.zero == 1

    @property
    def reliable(self) -> bool:
        """Whether gradient attacks can be relied on."""
        agrees = self.rho[self.judged] >= _LEAST_RHO and self.rho[1] >= _LEAST_RHO_FAR
        few = max(self.zero, self.lying, self.astray) < _TOO_MANY
        return agrees and few and self.lowest > _OPPOSITE and self.cosine >= _LEAST_COSINE

    @property
    def sentence(self) -> str:
        """What was found, in words that follow the target's name and a colon."""
        step = f"{round(255 * STEPS[self.judged])}/255"
        agreement = f"ρ = {self.rho[self.judged]:.2f} at {step}"
        if self.blind:
            return "its gradients are zero, or it has none, so gradient attacks see nothing"
        if self.zero >= _TOO_MANY:
            return f"its gradients are zero at {self.zero:.0%} of images, so gradient attacks say little"
        if self.rho[self.judged] < _LEAST_RHO:
            return (
                f"its gradients are unreliable: what they predict agrees with what the model does to {agreement} "
                f"(sound models: above {_LEAST_RHO}), so gradient attacks say little"
            )
        if self.rho[1] < _LEAST_RHO_FAR:
            return (
                "its gradients are unreliable: what they predict does not agree with what the model does as far away "
                f"as attacks go (ρ = {self.rho[1]:.2f} at 4/255; sound models: above {_LEAST_RHO_FAR}), so gradient "
                "attacks say little"
            )
        if self.lying >= _TOO_MANY:
            return (
                f"its gradients are unreliable at {self.lying:.0%} of images: what they predict there agrees with what "
                f"the model does to less than ρ = {_LEAST_RHO_OF_AN_IMAGE} at {step}, so gradient attacks say little"
            )
        if self.lowest <= _OPPOSITE:
            return (
                "its gradients are unreliable: at some image what they predict is the opposite of what the model does "
                f"(ρ = {self.lowest:.2f} at {step}), so gradient attacks say little"
            )
        if self.astray >= _TOO_MANY:
            return (
                f"its gradients are unreliable: at {self.astray:.0%} of images a step that follows them lowers the "
                "margin by less than half of what the best random one does, so gradient attacks say little"
            )
        if self.cosine < _LEAST_COSINE:
            return (
                "its gradients are unreliable: that of the cross entropy has little to do with that of the margin "
                f"(cosine {self.cosine:.2f}: does one of them underflow?), so gradient attacks say little"
            )
        return f"its gradients predict what the model does to {agreement}"


def measure(target: Any, images: Any, key: Any = None) -> Agreement | None:
    """Measure how well a target's gradients predict what it does around clean images.

    The margin is the logit of the class that the target gives an image, less the largest other. Central differences of
    it along twelve random directions of signs are compared with what one exact gradient predicts, at up to eight images
    (fewer are taken again, with other directions), spread over all, and so is what a step against the sign of the
    gradient does. The images are moved to at least 4/255 from black and white, so that no purifier cuts a difference
    short, every other one between the grey levels of its file, and half of these by 4/255; of the rest, half are moved
    to the decision boundary, on the way to an image of another class, since attacks end there. What was found is
    remembered for the same structure, weights and images, and for a random target the same key.

    Args:
        target: a pytree callable ``(images, key=None) -> logits``.
        images: clean images, shape ``(batch, height, width, channel)``; eight of them are looked at.
        key: a typed key, or one per image, for a random target: each image's draws are the same throughout.

    Returns:
        What was found, or None where the outputs are not floating-point logits ``(batch, classes)`` of at least two
        classes, or the call is being traced.

    Source: our choice, after the gradient-masking checks of Athalye, Carlini and Wagner 2018 (arXiv 1802.00420).
    """
    if not concrete((target, images, key)):
        return None
    chosen = np.linspace(0, len(images) - 1, min(len(images), ROWS)).round().astype(int)
    images = np.asarray(images[chosen] if isinstance(images, np.ndarray) else np.asarray(images)[chosen])
    keys = eight_keys(target, images, key[chosen] if key is not None and key.ndim else key)
    about = hashlib.sha256(images.tobytes())
    about.update(b"" if keys is None else np.asarray(jax.random.key_data(keys)).tobytes())
    find = functools.partial(_measure, target, images, keys)
    return _MEASURED.recall(target, images, find, about=about.digest())


def _measure(target: Any, images: Any, keys: Any) -> Agreement | None:
    count = min(len(images), ROWS)
    random, rows = np.random.default_rng(0), np.arange(ROWS)
    centre = images[rows % count]
    # Every other one is moved between the grey levels of its file, and of these every other as far as attacks go: a
    # gradient may be right where the images are, and wrong where an attack's iterates are.
    near = random.uniform(-0.5, 0.5, centre.shape) / 255
    far = random.choice([-1.0, 1.0], centre.shape) * STEPS[-1]
    centre = centre + np.where((rows % 2 == 1).reshape(-1, 1, 1, 1), near, 0)
    centre = centre + np.where((rows % 4 == 3).reshape(-1, 1, 1, 1), far, 0)
    centre = np.clip(centre, STEPS[-1], 1 - STEPS[-1]).astype(images.dtype)
    keys = None if keys is None else _keys.stream(keys, "search")
    outputs = forward(target, centre, keys)
    if not (isinstance(outputs, jax.Array) and outputs.ndim == 2 and outputs.shape[1] > 1):
        return None
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        return None
    centre = _with_some_at_the_boundary(target, centre, keys, np.asarray(outputs).argmax(axis=1))
    outputs = forward(target, centre, keys)
    logits = np.asarray(outputs).astype(np.float64)
    own = logits.argmax(axis=1)
    slopes = np.eye(logits.shape[1])[own] - np.eye(logits.shape[1])[_others(logits, own).argmax(axis=1)]
    cotangents = slopes.astype(outputs.dtype), _loss_slopes(outputs, own.astype(np.int32))
    of_margin, of_loss = (_direction(_gradient(target, centre, keys, one)) for one in cotangents)
    signs = [random.choice(np.array([-1, 1], np.int8), centre.shape) for _ in range(DIRECTIONS)]
    predicted = np.stack([(of_margin * _flat(sign)).sum(axis=1) for sign in signs])
    narrow = rounding(target, centre, keys) > _NARROW

    def margin(points):
        logits = np.asarray(forward(target, points.astype(centre.dtype), keys)).astype(np.float64)
        return logits[np.arange(len(logits)), own] - _others(logits, own).max(axis=1)

    rho, drops, chances, here = [], [], [], margin(centre)
    against = -np.sign(of_margin).reshape(centre.shape)
    for step in STEPS:
        with np.errstate(invalid="ignore"):
            ways = np.stack([[margin(centre + step * sign), margin(centre - step * sign)] for sign in signs])
            measured = ways[:, 0] - ways[:, 1]
            rho.append(_cosines(predicted - predicted.mean(axis=0), measured - measured.mean(axis=0)))
            drops.append(np.nan_to_num(here - margin(centre + step * against), nan=0.0))
            chances.append(np.nan_to_num(here - ways.min(axis=(0, 1)), nan=0.0).clip(0))
    # What half precision rounds away at the smaller step is there at the larger one.
    judged = int(narrow and np.median(rho[1]) > np.median(rho[0]))
    behind = np.any(np.less(drops, 0.5 * np.array(chances))[judged:], axis=0)
    # One that overshoots has fallen all the same.
    fell = np.max(drops, axis=0) > np.maximum(here, np.max(chances, axis=0))
    return Agreement(
        rho=(float(np.median(rho[0])), float(np.median(rho[1]))),
        zero=float((~(of_margin.any(axis=1) | of_loss.any(axis=1))).mean()),
        cosine=float(np.median(_cosines(-of_margin.T, of_loss.T))),
        images=count,
        lying=float((rho[judged] < _LEAST_RHO_OF_AN_IMAGE).mean()),
        judged=judged,
        lowest=float(rho[judged].min()),
        astray=float((behind & ~fell & of_margin.any(axis=1)).mean()),
    )


_AT_THE_BOUNDARY = (2, 6)  # of the rows that are otherwise clean images


def _with_some_at_the_boundary(target: Any, centre: np.ndarray, keys: Any, own: np.ndarray) -> np.ndarray:
    """Move some rows towards an image of another class, as far as their own class goes; where there is one."""
    rows, between = np.array(_AT_THE_BOUNDARY), ROWS // len(_AT_THE_BOUNDARY)

    def classes(points, of):
        points = points.reshape(centre.shape).astype(centre.dtype)
        return np.asarray(forward(target, points, None if keys is None else keys[of])).argmax(axis=1)

    others, theirs = centre, own
    if (own == own[0]).all():
        others = np.random.default_rng(1).uniform(STEPS[-1], 1 - STEPS[-1], centre.shape)
        others[::2] = 1 - centre[::2]
        theirs = classes(others, np.arange(ROWS))
    ends = [next((end for end in (row + np.arange(ROWS)) % ROWS if theirs[end] != own[row]), row) for row in rows]
    away = (others[ends] - centre[rows])[:, None]
    low, high = np.zeros((len(rows), 1)), np.ones((len(rows), 1))
    for _ in range(4):
        shares = low + (high - low) * np.arange(between + 2) / (between + 1)
        points = centre[rows][:, None] + shares[:, 1:-1, None, None, None] * away
        left = (classes(points, np.repeat(rows, between)) != np.repeat(own[rows], between)).reshape(len(rows), between)
        first = np.where(left.any(axis=1), left.argmax(axis=1), between)[:, None]
        low, high = np.take_along_axis(shares, first, 1), np.take_along_axis(shares, first + 1, 1)
    moved = centre.copy()
    moved[rows] += (low[:, :, None, None] * away[:, 0]).astype(centre.dtype)
    return moved


def _gradient(target: Any, images: np.ndarray, keys: Any, cotangents: Any) -> Any:
    try:
        return _pull(target, images, keys, cotangents)
    except (ValueError, TypeError, NotImplementedError):  # a callback, say, has no gradient
        return np.zeros_like(images)


def _pull_slopes(target: Any, images: Any, keys: Any, slopes: Any) -> Any:
    """Pull slopes of the outputs back to the images, as attacks do."""
    _, pull = jax.vjp(lambda points: target(points, keys), images)

    def weighted(scale):
        return pull((widened(slopes) * scale[:, None].astype(widened(slopes).dtype)).astype(slopes.dtype))[0]

    return pulled(weighted, jnp.ones(len(images), images.dtype), half=traced(target, images).half)


_pull = Program(_pull_slopes)


def _scaled_slopes(outputs: Any, own: Any) -> Any:
    """Return the gradient of the cross entropy to the outputs at the size at which attacks pull it back."""
    slopes = jax.grad(lambda logits: cross_entropy(logits, own).sum())(widened(outputs))
    return unit_scaled(slopes, axis=1).astype(outputs.dtype)


_loss_slopes = Program(_scaled_slopes)


def _others(logits: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.where(np.arange(logits.shape[1]) == own[:, None], -np.inf, logits)


def _flat(images: Any) -> np.ndarray:
    return np.asarray(images).astype(np.float64).reshape(len(images), -1)


def _direction(gradient: Any) -> np.ndarray:
    """Return each image's gradient scaled to a largest entry of one, zero where it is zero or not finite."""
    gradient = _flat(gradient)
    largest = np.abs(gradient).max(axis=1, keepdims=True)
    usable = np.isfinite(largest) & (largest > 0)
    return np.where(usable, gradient, 0.0) / np.where(usable, largest, 1.0)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of every two columns, zero where one of them is zero or not finite."""
    first, second = _direction(first.T), _direction(second.T)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)


_MEASURED = Remembered()
