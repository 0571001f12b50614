"""What an evaluation will do: its arguments, checked, and all that follows from them before any attack begins."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.attacks import PGD
from jaxpurify.attacks.attack import Attack
from jaxpurify.evaluation import arguments
from jaxpurify.evaluation.identity import describe, fingerprint
from jaxpurify.evaluation.scoring import Batch, Scorer
from jaxpurify.evaluation.threat_models import (
    Builtin,
    NotEvaluatedError,
    ThreatModel,
    exact_gradient_is_zero,
    name_attacks,
)
from jaxpurify.gradients import has_surrogate, substitute
from jaxpurify.models import Defended, as_target, attribute
from jaxpurify.models import classifier as as_classifier
from jaxpurify.parallel import placement
from jaxpurify.purifiers.identity import Identity

PROBED = 4


class Cell(NamedTuple):
    """One attack of one threat model, at one size.

    Attributes:
        threat: the threat model.
        attack: the attack's name.
        search: the attack.
        curve: whether it is a further size, for the figure against ε alone.
    """

    threat: ThreatModel
    attack: str
    search: Attack
    curve: bool

    @property
    def epsilon(self) -> float:
        """Size of the attack."""
        return float(self.search.epsilon)

    def known(self, target: Any) -> tuple:
        """Return what makes a search the same as another: target, attack and size, whatever they are called.

        Args:
            target: what is attacked; the plan keeps it, so that it can be told by its address.

        Returns:
            A key for a dictionary.
        """
        leaves, structure = jax.tree.flatten(self.search)
        return id(target), structure, *(np.asarray(leaf).tobytes() for leaf in leaves)


class Plan:
    """The arguments of ``evaluate`` (but for the folder and the progress bar), checked, and what follows from them.

    Attributes:
        classifier: the classifier.
        purifiers: purifiers by name, the undefended classifier among them.
        cells: what is tried, in the order of the records.
        targets: what is attacked, by (purifier, threat model).
        reasons: why the others are not evaluated.
        scorer: what scores the images found.
        config: every argument, as JSON can hold it.

    Raises:
        TypeError: on wrong types.
        ValueError: on bad arguments.
    """

    def __init__(
        self,
        classifier,
        purifiers,
        data,
        *,
        attacks,
        threat_models,
        key,
        batch_size,
        devices,
        epsilons,
        noise_draws,
    ):
        self.classifier = classifier if isinstance(classifier, Defended) else as_classifier(classifier)
        self.purifiers = arguments.name_purifiers(purifiers)
        self.data = arguments.read_data(data)
        self.key = arguments.read_key(key)
        self.where = placement(devices)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size}")
        self.batch_size = min(batch_size, -(-len(self.data.images) // self.where.count))
        self.threats = arguments.read_threat_models(threat_models, noise_draws=noise_draws)
        self.attacks = name_attacks(PGD() if attacks is None else attacks)
        sizes = arguments.read_sizes(epsilons)
        self.cells = self._cells(sizes)
        self.scorer = Scorer(self.classifier, self.purifiers, self.where)
        self.answers = self._probe()
        self.targets, self.reasons = self._targets()
        self._check_attacks()
        self.config = self._config(sizes, noise_draws)

    def _cells(self, epsilons: tuple[float, ...]) -> list[Cell]:
        cells = []
        for threat in self.threats:
            for name, attack in threat.attacks_for(self.attacks).items():
                cells.append(Cell(threat, name, attack, False))
                noise = isinstance(threat, Builtin) and threat.name == "noise"  # no search that could find more
                for size in () if noise else epsilons:
                    if not np.isclose(size, float(attack.epsilon), rtol=1e-5, atol=0):
                        other = dataclasses.replace(attack, epsilon=size)  # type: ignore[type-var]
                        cells.append(Cell(threat, name, other, True))
        return cells

    def _probe(self) -> dict[str, list[float]]:
        """Run one batch through all defended models, so that bad arguments are met before anything is written."""
        batch, bare = self.batch(0), arguments.undefended(self.purifiers)
        answers = {}
        for name in self.purifiers:
            logits = self.scorer.logits(name, batch, batch.clean, draws=1)[0]
            if not np.isfinite(logits).all():
                remedy = "are its weights loaded?" if name == bare else "check the purifier"
                raise ValueError(f"the classifier behind {name} returns NaN or infinity on clean images: {remedy}")
            answers[name] = [float(f"{logit:.6g}") for logit in logits[0, :10]]
            self.classes = logits.shape[1]
            _images.check_labels(self.data.labels, len(self.data.images), classes=self.classes)
        probed = batch.clean[:PROBED]
        self.zero_gradient = {name: exact_gradient_is_zero(p, probed, self.key) for name, p in self.purifiers.items()}
        self.out_of_range = [name for name, p in self.purifiers.items() if _leaves_range(p, probed, self.key)]
        return answers

    def _targets(self) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
        """Return what is attacked, by purifier and threat model, and why the others are not evaluated."""
        targets: dict[tuple[str, str], Any] = {}
        reasons: dict[tuple[str, str], str] = {}
        shared: dict[str, Any] = {}
        for name, purifier in self.purifiers.items():
            for threat in self.threats:
                try:
                    known = threat.name if isinstance(threat, Builtin) else None
                    masked = known in ("full", "adaptive") and self.zero_gradient[name]
                    if masked and not has_surrogate(purifier):
                        raise NotEvaluatedError("its exact gradient is zero and it declares no surrogate")
                    if masked and known == "full":
                        known_already = targets.get((name, "substitute"))
                        stand_in = Defended(self.classifier, substitute(purifier))
                        targets[name, threat.name] = stand_in if known_already is None else known_already
                    elif isinstance(purifier, Identity) and known in ("noise", "bpda", "full", "blackbox", "adaptive"):
                        targets[name, threat.name] = self.classifier
                    elif threat.shared and threat.name in shared:
                        targets[name, threat.name] = shared[threat.name]
                    else:
                        targets[name, threat.name] = as_target(threat.target(self.classifier, purifier))
                        shared[threat.name] = targets[name, threat.name]
                except NotEvaluatedError as reason:
                    reasons[name, threat.name] = str(reason)
        return targets, reasons

    def _check_attacks(self) -> None:
        images, labels = self.data.images[:2], self.data.labels[:2]
        for cell in self.cells:
            of_cell = [target for (_, threat), target in self.targets.items() if threat == cell.threat.name]
            for target in of_cell if not cell.curve else ():
                arguments.check_attack(cell.search, target, images, labels, self.key)

    def _config(self, epsilons: tuple[float, ...], noise_draws: int) -> dict[str, Any]:
        data, coupled = self.data, [name for name, p in self.purifiers.items() if attribute(p, "couples_images")]
        class_names = data.class_names or getattr(self.classifier, "class_names", None) or ()
        return {
            "data": {"name": data.name, "images": len(data.images), "sha256": fingerprint((data.images, data.labels))},
            "demonstration": data.demonstration,
            "class_names": list(class_names),
            "classifier": {
                "name": getattr(self.classifier, "name", type(self.classifier).__name__),
                "weights": fingerprint(self.classifier),
            },
            "purifiers": {name: describe(purifier) for name, purifier in self.purifiers.items()},
            "undefended": arguments.undefended(self.purifiers),
            "attacks": {name: describe(attack) for name, attack in self.attacks.items()},
            "threat_models": [threat.name for threat in self.threats],
            "own_threat_models": {t.name: describe(t.target) for t in self.threats if not isinstance(t, Builtin)},
            "own_attacks": {
                threat.name: {name: describe(attack) for name, attack in threat.attacks_for({}).items()}
                for threat in self.threats
                if threat.attacks is not None
            },
            "minimal_norm": [name for name, attack in self.attacks.items() if attack.minimal_norm],
            "noise_draws": noise_draws,
            "epsilons": list(epsilons),
            "key": [*np.asarray(jax.random.key_data(self.key)).tolist(), str(jax.random.key_impl(self.key))],
            "batch_size": self.batch_size,
            "buckets": [self.batch_size],
            "devices": self.where.count,
            "device_kind": self.where.devices[0].device_kind,
            "not_evaluated": [[*names, reason] for names, reason in self.reasons.items()],
            "out_of_range": self.out_of_range,
            "zero_gradient": [name for name, zero in self.zero_gradient.items() if zero],
            "couples_images": coupled,
            "answers": self.answers,
        }

    @property
    def _size(self) -> int:
        return self.batch_size * self.where.count

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.data.images) // self._size)

    def batch(self, number: int) -> Batch:
        """Return a batch of the data.

        Args:
            number: which.

        Returns:
            The batch, filled up to the compiled size.
        """
        rows = np.arange(number * self._size, min((number + 1) * self._size, len(self.data.images)))
        return Batch(number, rows, self.data.images, self.data.labels, self.key, self._size, self.where)

    def calls(self) -> int:
        """Return the number of compiled calls of all searches, for the progress bar."""
        evaluated = [(cell, name) for cell in self.cells for name in self.purifiers]
        calls = sum(self.calls_of(cell, name) for cell, name in evaluated if (name, cell.threat.name) in self.targets)
        return self.batches * calls

    def calls_of(self, cell: Cell, name: str) -> int:
        """Return the number of compiled calls of one batch's search.

        Args:
            cell: the attack.
            name: the purifier.

        Returns:
            Their number.
        """
        return cell.search.calls(self.targets[name, cell.threat.name], self.classes)

    def users(self, cell: Cell, target: Any) -> list[tuple[str, str, str]]:
        """Return who shares what one search finds.

        Args:
            cell: whose search it is.
            target: its target.

        Returns:
            (Purifier, threat model, attack) of every cell with the same target, attack and size, in order.
        """
        known = cell.known(target)
        return [
            (name, other.threat.name, other.attack)
            for other in self.cells
            for name in self.purifiers
            if self.targets.get((name, other.threat.name)) is target and other.known(target) == known
        ]


def _leaves_range(purifier: Any, images: Any, key: Any) -> bool:
    """Say whether a purifier returns values outside [0, 1], which no classifier here was trained on."""
    keys = _keys.per_image(key, len(images)) if attribute(purifier, "random") else None
    purified = np.asarray(purifier(jnp.asarray(images), keys))
    return bool(purified.min() < -_images.TOLERANCE or purified.max() > 1 + _images.TOLERANCE)
