"""Threat models: what the attacker knows, each measured alone and printed as measured."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import gradients
from jaxpurify import keys as _keys
from jaxpurify.attacks import Adaptive, RandomNoise, Square, SurrogateEnsemble
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.checks import check_is_attack
from jaxpurify.attacks.naming import named
from jaxpurify.datasets.classes import check_same_classes
from jaxpurify.models import Defended, as_target, attribute


class NotEvaluatedError(Exception):
    """A threat model that does not apply to a purifier; the message is the reason that tables print."""


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """What an attacker knows, as the target that is handed to the attack.

    Args:
        name: what tables call it.
        target: ``f(classifier, purifier)`` to the target that is attacked; the images found are then scored on the
            true defended model. It may raise ``NotEvaluatedError`` with a reason.
        attacks: attacks of its own, or attacks by name, or None for the evaluation's.
        shared: whether the target is the same for every purifier, so that its images are computed once.

    Raises:
        TypeError: if the target is not callable, or one of the attacks is no attack.
        ValueError: if the name is empty or ``"clean"``, which records keep for unattacked images.

    Example:
        >>> import jaxpurify as jp
        >>> half = jp.ThreatModel("half", target=lambda classifier, purifier: jp.Defended(classifier, purifier))
        >>> half.name
        'half'
    """

    name: str
    target: Any
    attacks: Any = None
    shared: bool = False

    def __post_init__(self):
        if not isinstance(self.name, str) or self.name in ("", "clean"):
            raise ValueError(f'a threat model needs a name of its own other than "clean", got {self.name!r}')
        if not callable(self.target):
            raise TypeError(
                f"target of threat model {self.name!r} must be f(classifier, purifier), got {self.target!r}"
            )
        if self.attacks is not None:
            name_attacks(self.attacks)

    def attacks_for(self, attacks: dict[str, Attack]) -> dict[str, Attack]:
        """Return the attacks by name, given the evaluation's.

        Args:
            attacks: the evaluation's attacks by name.

        Returns:
            Its own where it has any.
        """
        return attacks if self.attacks is None else name_attacks(self.attacks)


@dataclasses.dataclass(frozen=True)
class Builtin(ThreatModel):
    """A threat model that ``builtin`` knows by name."""


@dataclasses.dataclass(frozen=True)
class _PerBall(Builtin):
    """A threat model with one attack of its own in each ball that the evaluation's attacks live in."""

    make: Callable[..., Attack] = RandomNoise

    def attacks_for(self, attacks):
        balls: dict[tuple[str, float, bytes], str] = {}
        for name, attack in attacks.items():
            sizes = np.asarray(attack.epsilon, np.float64)
            balls.setdefault((attack.norm, float(sizes.mean()), sizes.tobytes()), name)
        return name_attacks([self._in_the_ball_of(balls[ball], attacks[balls[ball]]) for ball in sorted(balls)])

    def _in_the_ball_of(self, name: str, attack: Attack) -> Attack:
        epsilon = attack.epsilon if np.ndim(attack.epsilon) else float(attack.epsilon)
        try:
            return self.make(norm=attack.norm, epsilon=epsilon)
        except ValueError as error:
            raise ValueError(
                f"threat model {self.name!r} has no attack in the ball of {name!r} ({attack.norm}): {error}; evaluate "
                "the two apart"
            ) from None


def noise(*, draws: int = 10_000) -> ThreatModel:
    """Return the floor: random noise of the size of each attack.

    Args:
        draws: number of draws an image.

    Returns:
        The threat model ``noise``.
    """
    return _PerBall(name="noise", target=Defended, make=functools.partial(RandomNoise, draws=draws))


def blackbox(*, queries: int = 5000) -> ThreatModel:
    """Return the attacker who only queries the defended model: the Square attack, in the size of each attack.

    Args:
        queries: queries an image.

    Returns:
        The threat model ``blackbox``.
    """
    return _PerBall(name="blackbox", target=Defended, make=functools.partial(Square, queries=queries))


def adaptive(*, steps: int = 100, queries: int = 5000, surrogates: Sequence[Any] = ()) -> ThreatModel:
    """Return the attacker who tries everything: ``jaxpurify.attacks.Adaptive``, in the size of each attack.

    Args:
        steps: iterations of its gradient attacks.
        queries: queries of each of its black-box attacks.
        surrogates: other classifiers, whose images are tried too: the way into a model whose outputs say little.

    Returns:
        The threat model ``adaptive``.
    """
    options: dict[str, Any] = {"surrogates": tuple(surrogates)} if surrogates else {}
    make = functools.partial(Adaptive, steps=steps, queries=queries, **options)
    return _PerBall(name="adaptive", target=Defended, make=make)


def transfer(*surrogates: Any, average: str = "logits") -> ThreatModel:
    """Return the attacker who has other classifiers than the defended one.

    Args:
        surrogates: one classifier or several.
        average: what is averaged over several: ``"logits"`` or ``"probabilities"``.

    Returns:
        The threat model ``transfer``.

    Raises:
        ValueError: if there is no surrogate, or losses are to be averaged; in an evaluation, if its classes are not the
            classifier's.
    """
    if not surrogates:
        raise ValueError("transfer needs at least one surrogate classifier")
    if average == "losses":
        raise ValueError(
            'average must be "logits" or "probabilities" here: images that raise the mean of losses come from '
            "jaxpurify.attacks.transfer"
        )
    ensemble = SurrogateEnsemble(models=surrogates, average=average)

    def target(classifier, purifier):
        check_same_classes(ensemble, classifier, names=("the surrogates", "the classifier"))
        return ensemble

    return ThreatModel("transfer", target=target, shared=True)


def _bpda(classifier, purifier):
    return Defended(classifier, gradients.straight_through(purifier))


def _substitute(classifier, purifier):
    if not gradients.has_surrogate(purifier):
        raise NotEvaluatedError("no stage declares a surrogate")
    return Defended(classifier, gradients.substitute(purifier))


def _full(classifier, purifier):
    return Defended(classifier, purifier)


LADDER = ("noise", "blind", "bpda", "substitute", "full")


def builtin(name: str, *, noise_draws: int = 10_000) -> ThreatModel:
    """Return a threat model by name.

    Args:
        name: ``"noise"``, ``"blind"`` (knows the classifier only), ``"bpda"`` (identity backward through the purifier),
            ``"substitute"`` (surrogates where a stage declares one), ``"full"`` (the exact gradient), ``"blackbox"``
            (queries only) or ``"adaptive"`` (all of it, per image the worst).
        noise_draws: draws of the noise.

    Returns:
        The threat model.

    Raises:
        ValueError: if the name is unknown.
    """
    known = {
        "noise": noise(draws=noise_draws),
        "blind": Builtin("blind", target=lambda classifier, purifier: classifier, shared=True),
        "bpda": Builtin("bpda", target=_bpda),
        "substitute": Builtin("substitute", target=_substitute),
        "full": Builtin("full", target=_full),
        "blackbox": blackbox(),
        "adaptive": adaptive(),
    }
    if name not in known:
        raise ValueError(f"unknown threat model {name!r}, expected one of {', '.join(known)}, or a ThreatModel")
    return known[name]


def name_attacks(attacks: Any) -> dict[str, Attack]:
    """Give attacks the names that tables and records use.

    Args:
        attacks: an attack, a sequence of attacks, or a mapping of names to attacks.

    Returns:
        Attacks by name, such as ``PGD-40``; a second one of the same name is ``PGD-40 (2)``.

    Raises:
        TypeError: if one is no attack, or a name no string.
        ValueError: if there is none, or one without an epsilon.
    """
    if isinstance(attacks, Mapping):
        found = dict(attacks)
    elif isinstance(attacks, Attack) or not isinstance(attacks, Iterable):
        found = named([attacks])
    else:
        found = named(list(attacks))
    if not found:
        raise ValueError("attacks must hold at least one attack, such as jaxpurify.attacks.PGD()")
    for name, attack in found.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of an attack must be a string, got {name!r}")
        check_is_attack(attack, name=f"attack {name!r}")
        if attack.epsilon is None:
            raise ValueError(f"attack {name!r} needs epsilon=..., the distance within which success is counted")
    return found


def exact_gradient_is_zero(purifier: Any, images: Any, key: Any) -> bool:
    """Say whether a purifier's exact gradient is zero on all of some images: an attack through it would see nothing.

    Args:
        purifier: images to images.
        images: a few images, shape ``(batch, height, width, channel)``.
        key: a typed key, for a random purifier.

    Returns:
        True where every entry is zero or not finite.
    """
    purifier = as_target(purifier)
    keys = _keys.per_image(key, images.shape[0]) if attribute(purifier, "random") else None
    outputs = jax.eval_shape(lambda p, x: p(x, keys), purifier, images)
    cotangent = np.random.default_rng(0).choice([-1.0, 1.0], outputs.shape).astype(outputs.dtype)
    gradient = np.asarray(_pull(purifier, jnp.asarray(images), keys, cotangent))
    return not np.any(np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))


@jax.jit
def _pull(purifier, images, keys, cotangent):
    return jax.vjp(lambda x: purifier(x, keys), images)[1](cotangent)[0]
