"""What an evaluation will do: its arguments, checked, and all that follows from them before any attack begins."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpurify import images as _images
from jaxpurify.attacks import PGD
from jaxpurify.attacks.attack import Attack
from jaxpurify.attacks.cascade import Cascade
from jaxpurify.attacks.tracing import check_same_count
from jaxpurify.checks import check_batch_size
from jaxpurify.classifiers import Function
from jaxpurify.datasets.classes import are_ordered, check_class_count
from jaxpurify.evaluation import arguments
from jaxpurify.evaluation.identity import describe, fingerprint, identify
from jaxpurify.evaluation.probes import decides, gradient_agreement, leaves_range
from jaxpurify.evaluation.scoring import Batch, Scorer, unusable
from jaxpurify.evaluation.threat_models import (
    Builtin,
    NotEvaluatedError,
    ThreatModel,
    exact_gradient_is_zero,
    name_attacks,
)
from jaxpurify.gradients import has_surrogate, substitute
from jaxpurify.independence import check_independence
from jaxpurify.models import Defended, as_target, attribute
from jaxpurify.models import classifier as as_classifier
from jaxpurify.parallel import placement
from jaxpurify.purifiers.identity import Identity

PROBED = 8  # images that the probes look at


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
        """Size of the attack; the mean where it has one for each image."""
        return float(np.mean(np.asarray(self.search.epsilon)))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the sizes of images.

        Args:
            rows: where they stand in the data, shape ``(batch,)``.

        Returns:
            float64 of shape ``(batch,)``.
        """
        sizes = np.asarray(self.search.epsilon, np.float64)
        return sizes[rows] if sizes.ndim else np.full(len(rows), sizes)

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
        skipped: why an attack is not tried where others of its threat model are, by (purifier, threat model, attack).
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
        self.data = arguments.match_classes(arguments.read_data(data), self.classifier)
        self.key = arguments.read_key(key)
        self.where = placement(devices)
        self.batch_size = min(check_batch_size(batch_size), -(-len(self.data.images) // self.where.count))
        self.threats = arguments.read_threat_models(threat_models, noise_draws=noise_draws)
        self.attacks = name_attacks(PGD() if attacks is None else attacks)
        sizes = arguments.read_sizes(epsilons)
        for tried in (self.attacks, *(threat.attacks_for(self.attacks) for threat in self.threats)):
            arguments.check_sizes(tried, len(self.data.images), sizes)
        self.cells = self._cells(sizes)
        self.scorer = Scorer(self.classifier, self.purifiers, self.where)
        self.answers = self._probe()
        self.targets, self.reasons = self._targets()
        self.skipped: dict[tuple[str, str, str], str] = {}
        self.upper_bounds: list[tuple[str, str, str]] = []
        self._skip_what_sees_nothing()
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

    def _probe(self) -> dict[str, list[float | None]]:
        """Run one batch through all defended models, so that bad arguments are met before anything is written."""
        batch, bare = self.batch(0), arguments.undefended(self.purifiers)
        answers, said = {}, hashlib.sha256()
        for name, purifier in self.purifiers.items():
            logits = self.scorer.logits(name, batch, batch.clean, draws=1)[0]
            if (wrong := unusable(logits)).any():
                image = np.flatnonzero(wrong.any(axis=-1))[0]
                what = "NaN" if np.isnan(logits[image].astype(np.float64)).any() else "plus infinity"
                remedy = "are its weights loaded?" if name == bare else "check the purifier"
                raise ValueError(
                    f"the classifier behind {name} returns NaN or infinity on clean images ({what} at image {image}): "
                    f"{remedy}"
                )
            answers[name] = [float(f"{float(x):.6g}") if np.isfinite(float(x)) else None for x in logits[0, :10]]
            said.update(np.ascontiguousarray(logits).tobytes())
            self.classes = logits.shape[1]
            _images.check_labels(self.data.labels, len(self.data.images), classes=self.classes)
            check_class_count(self.data.class_names, self.classes, data=self.data.name)
            if not isinstance(purifier, Identity):
                check_independence(purifier, batch.clean, self.key, name=f"purifier {name!r}")
            check_independence(self._defended(name), batch.clean, self.key, name=f"classifier behind {name!r}")
        self.said = said.hexdigest()
        probed = self.data.images[:PROBED]
        images = self.data.images
        self.agreement = {name: gradient_agreement(self._defended(name), images, self.key) for name in self.purifiers}
        blind = {name: p for name, p in self.purifiers.items() if self.agreement[name]["blind"]}
        self.zero_gradient = [n for n, p in blind.items() if exact_gradient_is_zero(p, probed, self.key)]
        self.stand_in = [name for name in self.zero_gradient if has_surrogate(self.purifiers[name])]
        self.out_of_range = [name for name, p in self.purifiers.items() if leaves_range(p, probed, self.key)]
        return answers

    def _defended(self, name: str) -> Any:
        """Return the defended model of a purifier, the classifier itself where there is none."""
        return self.classifier if isinstance(self.purifiers[name], Identity) else self.scorer.targets[name]

    def _targets(self) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
        """Return what is attacked, by purifier and threat model, and why the others are not evaluated."""
        targets: dict[tuple[str, str], Any] = {}
        reasons: dict[tuple[str, str], str] = {}
        shared: dict[str, Any] = {}
        for name, purifier in self.purifiers.items():
            for threat in self.threats:
                try:
                    known = threat.name if isinstance(threat, Builtin) else None
                    if known == "full" and name in self.stand_in:
                        known_already = targets.get((name, "substitute"))
                        stand_in = Defended(self.classifier, substitute(purifier))
                        targets[name, threat.name] = stand_in if known_already is None else known_already
                    elif isinstance(purifier, Identity) and known in ("noise", "bpda", "full", "blackbox", "adaptive"):
                        targets[name, threat.name] = self.classifier
                    elif threat.shared and threat.name in shared:
                        targets[name, threat.name] = shared[threat.name]
                    else:
                        target = as_target(threat.target(self.classifier, purifier))
                        if known is None:
                            what = f"the target of threat model {threat.name!r}"
                            check_independence(target, self.data.images[:PROBED], self.key, name=what)
                        if threat.shared and not any(a.success for a in threat.attacks_for(self.attacks).values()):
                            both = target, self.classifier
                            check_same_count(*both, self.data.images[:2], names=("the surrogates", "the classifier"))
                        targets[name, threat.name] = shared[threat.name] = target
                except NotEvaluatedError as reason:
                    reasons[name, threat.name] = str(reason)
        return targets, reasons

    def _skip_what_sees_nothing(self) -> None:
        """Leave out attacks that would follow a gradient that is zero everywhere, and note what works without."""
        for (name, threat_name), target in list(self.targets.items()):
            cells = {c.attack: c.search for c in self.cells if c.threat.name == threat_name and not c.curve}
            if not any(search.uses_gradient or isinstance(search, Cascade) for search in cells.values()):
                continue
            threat = next(threat for threat in self.threats if threat.name == threat_name)
            why = self._blind(name, threat, target)
            if why is None:
                continue
            follow = [a for a, search in cells.items() if search.uses_gradient or self._refuses(search, target)]
            self.upper_bounds += [
                (name, threat_name, a) for a, s in cells.items() if isinstance(s, Cascade) and a not in follow
            ]
            if len(follow) == len(cells):
                del self.targets[name, threat_name]
                self.reasons[name, threat_name] = why
            else:
                self.skipped |= {(name, threat_name, attack): why for attack in follow}

    def _blind(self, name: str, threat: ThreatModel, target: Any) -> str | None:
        """Return why a gradient says nothing of a target, or None where it may say something."""
        bare = arguments.undefended(self.purifiers)
        probed = self.data.images[:PROBED]
        if decides(target, probed, self.key):
            return "its outputs are integers or truth values, which have no gradient"
        if isinstance(threat, Builtin):
            zero = name in self.zero_gradient
            if zero and name not in self.stand_in and threat.name in ("full", "adaptive"):
                return "its exact gradient is zero and it declares no surrogate"
            # Measuring takes time: only where there is no gradient at one end of the purifier or at both.
            if not (self.agreement[bare]["blind"] or (self.agreement[name]["blind"] and not zero)):
                return None
        if not gradient_agreement(target, self.data.images, self.key)["blind"]:
            return None
        return "the gradient of what it attacks is zero or not finite on every image looked at"

    def _refuses(self, search: Attack, target: Any) -> bool:
        """Say whether a cascade holds parts that a target without gradients cannot be attacked by."""
        if not isinstance(search, Cascade):
            return False
        try:
            arguments.check_attack(search, target, self.data.images[:2], self.data.labels[:2], self.key)
        except ValueError:
            return True
        return False

    def _check_attacks(self) -> None:
        images, labels = self.data.images[:2], self.data.labels[:2]
        for cell in self.cells:
            of_cell = {id(self.targets[n, cell.threat.name]): n for n in self.purifiers if self.tries(cell, n)}
            for name in of_cell.values() if not cell.curve else ():
                arguments.check_attack(cell.search, self.targets[name, cell.threat.name], images, labels, self.key)

    def tries(self, cell: Cell, name: str) -> bool:
        """Say whether an attack is tried on a purifier.

        Args:
            cell: the attack.
            name: the purifier.

        Returns:
            Whether its threat model is evaluated, and the attack itself not skipped.
        """
        return (name, cell.threat.name) in self.targets and (name, cell.threat.name, cell.attack) not in self.skipped

    def _config(self, epsilons: tuple[float, ...], noise_draws: int) -> dict[str, Any]:
        weights, seen = identify(_unnamed(self.classifier))
        # Other machines round otherwise, and an accelerator may do so from one run to the next.
        exact = not all([seen, *(identify(p)[1] for p in self.purifiers.values())])
        exact &= self.where.devices[0].platform == "cpu"
        data, coupled = self.data, [name for name, p in self.purifiers.items() if attribute(p, "couples_images")]
        return {
            "data": {"name": data.name, "images": len(data.images), "sha256": fingerprint((data.images, data.labels))},
            "demonstration": data.demonstration,
            "class_names": list(data.class_names or ()),
            "ordered_classes": are_ordered(data.class_names, getattr(self.classifier, "class_names", None)),
            "classifier": {
                "name": getattr(self.classifier, "name", type(self.classifier).__name__),
                "weights": weights,
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
            "per_image_epsilon": self._per_image(),
            "noise_draws": noise_draws,
            "epsilons": list(epsilons),
            "key": [*np.asarray(jax.random.key_data(self.key)).tolist(), str(jax.random.key_impl(self.key))],
            "batch_size": self.batch_size,
            "buckets": [self.batch_size],
            "devices": self.where.count,
            "device_kind": self.where.devices[0].device_kind,
            "not_evaluated": [[*names, reason] for names, reason in self.reasons.items()],
            "out_of_range": self.out_of_range,
            "not_tried": [[*names, reason] for names, reason in self.skipped.items()],
            "upper_bounds": [list(names) for names in self.upper_bounds],
            "zero_gradient": self.zero_gradient,
            "stand_in": self.stand_in,
            "agreement": self.agreement,
            "couples_images": coupled,
            "answers": self.answers,
        } | ({"logits": self.said} if exact else {})

    def _per_image(self) -> dict[str, dict[str, float]]:
        """Return the mean size of each attack that has one for each image, by threat model and attack."""
        found: dict[str, dict[str, float]] = {}
        for cell in self.cells:
            if np.ndim(cell.search.epsilon):
                found.setdefault(cell.threat.name, {})[cell.attack] = float(f"{cell.epsilon:.6g}")
        return found

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
        calls = sum(self.calls_of(cell, name) for cell, name in evaluated if self.tries(cell, name))
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
            if self.targets.get((name, other.threat.name)) is target
            and self.tries(other, name)
            and other.known(target) == known
        ]


def _unnamed(classifier: Any) -> Any:
    """Return a classifier without the name that reports call it."""
    return dataclasses.replace(classifier, name="") if isinstance(classifier, Function) else classifier
