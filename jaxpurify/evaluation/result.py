"""What an evaluation found: figures by purifier and threat model, the worst case, and flags."""

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify.evaluation import run_folder
from jaxpurify.evaluation.run_folder import Record
from jaxpurify.files import write_json
from jaxpurify.metrics.accuracy import Interval, attack_success_rate, destruction_rate, robust_accuracy, wilson

PRIMARY = ("single", "mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The records of an evaluation and the figures that follow from them.

    Args:
        records: a row an image × purifier × threat model × attack × scoring.
        config: the evaluation's arguments.
        run: its folder, or None.
    """

    records: list[Record]
    config: dict[str, Any]
    run: Path | None = None

    @classmethod
    def load(cls, run: str | os.PathLike) -> "Evaluation":
        """Read an evaluation from its folder.

        Args:
            run: the folder.

        Returns:
            The evaluation.

        Raises:
            ValueError: if the folder holds none, or one of which no batch is finished.
        """
        path = Path(run)
        config = run_folder.read_config(path)["arguments"]
        records = run_folder.read_csv(path / "records.csv")
        if not records:
            raise ValueError(f"{path} holds no record yet: start the same evaluation again to finish it")
        return cls(records=records, config=config, run=path)

    @property
    def purifiers(self) -> list[str]:
        """Names of the purifiers, the undefended classifier among them."""
        return list(self.config["purifiers"])

    @property
    def threat_models(self) -> list[str]:
        """Names of the threat models, in order."""
        return list(self.config["threat_models"])

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """Why a purifier was not evaluated under a threat model, by (purifier, threat model)."""
        return {(purifier, threat): reason for purifier, threat, reason in self.config["not_evaluated"]}

    @functools.cached_property
    def images(self) -> int:
        """Number of images evaluated: fewer than in the data where the run is not finished."""
        return len({record["image"] for record in self.records})

    @property
    def undefended(self) -> str:
        """Name of the undefended classifier among the purifiers."""
        return self.config["undefended"]

    @functools.cached_property
    def _scores(self) -> dict[tuple[str, str, str, float, str], tuple[np.ndarray, np.ndarray]]:
        """Correct and selection by (purifier, threat model, attack, epsilon, scoring), in the order of images."""
        found: dict[Any, list[tuple[int, float, float]]] = {}
        for r in self.records:
            cell = (r["purifier"], r["threat_model"], r["attack"], r["epsilon"], r["scoring"])
            found.setdefault(cell, []).append((r["image"], r["correct"], r["selection"]))
        arrays = {cell: np.array(sorted(rows), float) for cell, rows in found.items()}
        return {cell: (array[:, 1], array[:, 2]) for cell, array in arrays.items()}

    @functools.cached_property
    def _sizes(self) -> list[float]:
        return sorted({cell[3] for cell in self._scores})

    def cells(self, purifier: str, threat_model: str, *, curve: bool = False) -> list[tuple[str, float]]:
        """Return the (attack, epsilon) pairs evaluated.

        Args:
            purifier: its name.
            threat_model: its name.
            curve: whether to include the further sizes that only the ε figure shows.

        Returns:
            Pairs in the order of the records.
        """
        pairs = [cell[2:4] for cell in self._scores if cell[:2] == (purifier, threat_model) and cell[4] in PRIMARY]
        if curve:
            return pairs
        first: dict[str, float] = {}
        for attack, epsilon in pairs:
            first.setdefault(attack, epsilon)
        return list(first.items())

    def correct(
        self, purifier: str, threat_model: str, attack: str, epsilon: float, *, scoring: str | None = None
    ) -> np.ndarray:
        """Return how often each image is classified correctly.

        Args:
            purifier: its name.
            threat_model: its name, or ``"clean"`` (attack ``"none"``, epsilon 0).
            attack: its name.
            epsilon: its size; five digits count.
            scoring: ``"single"``, ``"mean"``, ``"worst"`` or ``"majority"``; the primary one by default.

        Returns:
            Shares in [0, 1] of shape ``(images,)``.

        Raises:
            KeyError: if it was not evaluated.
        """
        sizes = [size for size in self._sizes if np.isclose(size, float(epsilon), rtol=1e-5, atol=0)]
        for way in PRIMARY if scoring is None else (scoring,):
            for size in sizes:
                if (purifier, threat_model, attack, size, way) in self._scores:
                    return self._scores[purifier, threat_model, attack, size, way][0]
        raise KeyError(f"{purifier} was not evaluated under {threat_model} with {attack} at {epsilon} scored {scoring}")

    def clean(self, purifier: str, *, scoring: str | None = None) -> Interval:
        """Return the accuracy on clean images.

        Args:
            purifier: its name.
            scoring: as for ``correct``.

        Returns:
            The accuracy with its 95 % interval.
        """
        correct = self.correct(purifier, "clean", "none", 0.0, scoring=scoring)
        return wilson(correct.mean(), len(correct))

    def robust(
        self, purifier: str, threat_model: str, attack: str, epsilon: float, *, scoring: str | None = None
    ) -> Interval:
        """Return the robust accuracy against one attack.

        Args:
            purifier: its name.
            threat_model: its name.
            attack: its name.
            epsilon: its size.
            scoring: as for ``correct``.

        Returns:
            The accuracy with its 95 % interval.
        """
        attacked = self.correct(purifier, threat_model, attack, epsilon, scoring=scoring)
        shares = robust_accuracy(self.correct(purifier, "clean", "none", 0.0, scoring=scoring), attacked)
        return wilson(shares.mean(), len(shares))

    def worst(self, purifier: str, threat_models: Iterable[str] | None = None) -> np.ndarray | None:
        """Return each image's score under the attack that is worst for it, chosen on other keys than it is scored on.

        Args:
            purifier: its name.
            threat_models: those to choose among; all that were evaluated by default.

        Returns:
            Shares of shape ``(images,)``, never above clean; None where nothing was evaluated. If by chance one
            threat model or attack alone leaves less of a random model standing, these are its shares.
        """
        names = self.threat_models if threat_models is None else list(threat_models)
        found = [
            self._scores[purifier, threat, attack, epsilon, way]
            for threat in names
            for attack, epsilon in self.cells(purifier, threat)
            for way in PRIMARY
            if (purifier, threat, attack, epsilon, way) in self._scores
        ]
        if not found:
            return None
        correct, selection = (np.stack(arrays) for arrays in zip(*found, strict=True))
        chosen = np.take_along_axis(correct, selection.argmin(axis=0)[None], axis=0)
        clean = self.correct(purifier, "clean", "none", 0.0)
        candidates = list(robust_accuracy(clean, np.concatenate([chosen, correct])))
        if len(names) > 1:
            candidates += [shares for name in names if (shares := self.worst(purifier, [name])) is not None]
        return min(candidates, key=np.mean)

    def worst_case(self, purifier: str) -> Interval:
        """Return the headline: the share of images that survive every attack tried.

        Args:
            purifier: its name.

        Returns:
            The share with its 95 % interval, in which n is the number of images.

        Raises:
            ValueError: if the purifier is unknown or no attack was tried on it.
        """
        if purifier not in self.purifiers:
            raise ValueError(f"unknown purifier {purifier!r}, expected one of {', '.join(self.purifiers)}")
        shares = self.worst(purifier)
        if shares is None:
            raise ValueError(f"no attack was tried on {purifier}: ask for more threat models")
        return wilson(shares.mean(), len(shares))

    def destruction(self, purifier: str, attack: str, epsilon: float) -> float:
        """Return the destruction rate on blind images: of the successes on the bare classifier, the share undone.

        Args:
            purifier: its name.
            attack: its name.
            epsilon: its size.

        Returns:
            The share, NaN where no attack on the bare classifier succeeded.

        Raises:
            KeyError: if ``blind`` was not evaluated.
        """
        bare = self.undefended
        clean = self.correct(bare, "clean", "none", 0.0)
        return destruction_rate(
            clean > 0.5,
            self.correct(bare, "blind", attack, epsilon) > 0.5,
            self.correct(purifier, "blind", attack, epsilon),
        )

    def success_rate(self, purifier: str, threat_model: str, attack: str, epsilon: float) -> float:
        """Return the attack success rate: of the images that the attacked model gets right clean, the share it loses.

        Args:
            purifier: its name.
            threat_model: its name; under ``blind`` the attacked model is the bare classifier, else the defended one.
            attack: its name.
            epsilon: its size.

        Returns:
            The share; a random model gets an image right where most draws do. NaN if no image is right clean.

        Raises:
            KeyError: if it was not evaluated.
        """
        model = self.undefended if threat_model == "blind" else purifier
        clean = self.correct(model, "clean", "none", 0.0)
        return attack_success_rate(clean > 0.5, self.correct(model, threat_model, attack, epsilon) > 0.5)

    @functools.cached_property
    def flags(self) -> list[str]:
        """Sentences that a reader of the table must see."""
        from jaxpurify.evaluation.flags import flags

        return flags(self)

    def summary(self) -> dict[str, Any]:
        """Return all figures as JSON can hold them.

        Returns:
            By purifier: clean accuracy, each threat model's attacks, and the worst case; and the flags.
        """
        purifiers = {}
        for name in self.purifiers:
            threats: dict[str, Any] = {}
            for threat in self.threat_models:
                if (name, threat) in self.reasons:
                    threats[threat] = {"not evaluated": self.reasons[name, threat]}
                    continue
                threats[threat] = [
                    self._summary_of(name, threat, attack, epsilon)
                    for attack, epsilon in self.cells(name, threat, curve=True)
                ]
            worst = self.worst(name)
            purifiers[name] = {
                "clean": self.clean(name)._asdict(),
                "threat_models": threats,
                "worst_case": None if worst is None else wilson(worst.mean(), len(worst))._asdict(),
            }
        return {"images": self.images, "purifiers": purifiers, "flags": self.flags}

    def _summary_of(self, name: str, threat: str, attack: str, epsilon: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            "attack": attack,
            "epsilon": epsilon,
            "robust_accuracy": self.robust(name, threat, attack, epsilon)._asdict(),
        }
        for way in ("worst", "majority"):
            if (name, threat, attack, epsilon, way) in self._scores:
                found[f"{way} of draws"] = {
                    "robust_accuracy": self.robust(name, threat, attack, epsilon, scoring=way)._asdict(),
                    "clean": self.clean(name, scoring=way)._asdict(),
                }
        rate = self.success_rate(name, threat, attack, epsilon)
        found["attack_success_rate"] = None if np.isnan(rate) else rate
        if threat == "blind":
            rate = self.destruction(name, attack, epsilon)
            found["destruction_rate"] = None if np.isnan(rate) else rate
        return found

    def table(self, *, width: int = 120) -> str:
        """Return the table for a terminal.

        Args:
            width: columns of the terminal.

        Returns:
            Text with one row a purifier and one column a threat model.
        """
        from jaxpurify.evaluation.table import render

        return render(self, width=width)

    def write(self) -> None:
        """Write ``summary.json``, the figures and ``report.html`` into the run folder.

        Raises:
            ValueError: if the evaluation has no folder.
        """
        from jaxpurify.evaluation import report

        if self.run is None:
            raise ValueError("this evaluation has no folder, expected evaluate(..., run='folder')")
        write_json(self.run / "summary.json", self.summary())
        report.write(self)
