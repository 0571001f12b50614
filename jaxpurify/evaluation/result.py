"""What an evaluation found: figures by purifier and threat model, the worst case, and flags."""

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify.evaluation import run_folder
from jaxpurify.evaluation.knowledge import at_most, masked
from jaxpurify.evaluation.records import ANEW, Record, check_arguments, check_records
from jaxpurify.files import expanded, write_json
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
        path = expanded(run)
        config = run_folder.read_config(path)["arguments"]
        try:
            check_arguments(config)
        except ValueError as error:
            raise ValueError(
                f"{path / 'config.json'} is not what an evaluation wrote ({error}): put it back, or move it away and "
                f"{ANEW}"
            ) from None
        records = run_folder.read_csv(path / "records.csv")
        if not records:
            raise ValueError(f"{path} holds no record yet: start the same evaluation again to finish it")
        check_records(records, config, path / "records.csv")
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

    @property
    def skipped(self) -> dict[tuple[str, str, str], str]:
        """Why an attack was not tried where others of its threat model were, by (purifier, threat model, attack)."""
        return {(name, threat, attack): why for name, threat, attack, why in self.config.get("not_tried", ())}

    def agreement(self, purifier: str) -> dict[str, Any] | None:
        """Return how well the exact gradient of a defended model says how the model changes.

        Args:
            purifier: its name.

        Returns:
            ``rho`` at 1/255 and 4/255 and what else was measured, or None where it was not.
        """
        return self.config.get("agreement", {}).get(purifier)

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
            cell = (r["purifier"], r["threat_model"], r["attack"], self.size(r), r["scoring"])
            found.setdefault(cell, []).append((r["image"], r["correct"], r["selection"]))
        arrays = {cell: np.array(sorted(rows), float) for cell, rows in found.items()}
        return {cell: (array[:, 1], array[:, 2]) for cell, array in arrays.items()}

    @functools.cached_property
    def norms(self) -> dict[tuple[str, str, float], str]:
        """The norm of each attack by (threat model, attack, epsilon)."""
        return {(r["threat_model"], r["attack"], self.size(r)): r["norm"] for r in self.records}

    def size(self, record: Record) -> float:
        """Return the size under which a record stands in tables.

        Args:
            record: one row.

        Returns:
            Its epsilon; of an attack with one size per image, their mean.
        """
        own = self.config.get("per_image_epsilon", {}).get(record["threat_model"], {})
        return own.get(record["attack"], record["epsilon"])

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
        clean = self.correct(purifier, "clean", "none", 0.0, scoring=scoring)
        shares = robust_accuracy(clean, attacked, random=self.random(purifier))
        return wilson(shares.mean(), len(shares))

    def random(self, purifier: str) -> bool:
        """Say whether a defended model is random, so that its scores are shares of draws.

        Args:
            purifier: its name.

        Returns:
            Whether it is.
        """
        return (purifier, "clean", "none", 0.0, "mean") in self._scores

    def worst(self, purifier: str, threat_models: Iterable[str] | None = None) -> np.ndarray | None:
        """Return each image's score under the attack that is worst for it.

        Args:
            purifier: its name.
            threat_models: those to choose among; all that were evaluated by default.

        Returns:
            Shares of shape ``(images,)``, or None where nothing was evaluated. Of a deterministic model an image's
            score is the lowest of all attacks and of the clean image. Of a random one it is the share of draws under
            the attack that leaves the fewest of *other* draws standing, the last of equals, so that choosing among
            many attacks costs nothing; the mean is not above the clean one.
        """
        names = self.threat_models if threat_models is None else list(threat_models)
        return self.worst_of(purifier, [(threat, *cell) for threat in names for cell in self.cells(purifier, threat)])

    def worst_of(self, purifier: str, cells: Iterable[tuple[str, str, float]]) -> np.ndarray | None:
        """Return each image's score under the worst of some attacks, as ``worst`` does.

        Args:
            purifier: its name.
            cells: (threat model, attack, epsilon) of each attack.

        Returns:
            Shares of shape ``(images,)``, or None where there is no attack.
        """
        random = self.random(purifier)
        found = [self._scores[purifier, *cell, "mean" if random else "single"] for cell in cells]
        if not found:
            return None
        correct, selection = (np.stack(arrays) for arrays in zip(*found, strict=True))
        # Of attacks that leave equally few of the draws to choose by, the last knows most and is the likelier worst.
        last = len(selection) - 1 - selection[::-1].argmin(axis=0)
        chosen = np.take_along_axis(correct, last[None], axis=0)[0] if random else correct.min(0)
        return robust_accuracy(self.correct(purifier, "clean", "none", 0.0), chosen, random=random)

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
            By purifier: clean accuracy, each threat model's attacks, the worst case, whether that is an upper bound
            alone, and how far the exact gradient can be trusted; and the flags.
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
                ] + [
                    {"attack": attack, "not evaluated": reason}
                    for (*cell, attack), reason in self.skipped.items()
                    if cell == [name, threat]
                ]
            worst = self.worst(name)
            purifiers[name] = {
                "clean": self.clean(name)._asdict(),
                "threat_models": threats,
                "worst_case": None if worst is None else wilson(worst.mean(), len(worst))._asdict(),
                "at_most": at_most(self, name),
                "masked": masked(self, name),
                "agreement": self.agreement(name),
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
