"""``jaxpurify evaluate``: attack a classifier behind purifiers and report what is left standing."""

import dataclasses
import hashlib
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from jaxpurify.cli.options import Input, Machine, Names, Sizes, Specifications, joined, purifiers, sizes
from jaxpurify.files import expanded, printable

PURIFIERS = ("gaussian-smoothing",)
ATTACKS = ("pgd:steps=40,epsilon=8/255",)
CHUNK = 5  # draws computed at once: a batch of small images five times over still fits a processor's cache


@joined
def evaluate(
    *,
    input: conf.OmitArgPrefixes[Input],
    purifier: Specifications = (),
    attack: Specifications = (),
    threat_model: Names = (),
    epsilons: Sizes = ("2/255", "4/255", "16/255"),
    noise_draws: int = 1_000,
    eot_samples: int = 20,
    seed: int = 0,
    run: Annotated[str | None, conf.arg(metavar="FOLDER", help_behavior_hint="")] = None,
    machine: conf.OmitArgPrefixes[Machine],
) -> int:
    """Attack a classifier behind purifiers, and report what is left standing.

    Without options: Gaussian smoothing as the defence, on photographs that come with jaxpurify, against attackers who
    know it and attackers who do not; about a minute. A run that was stopped goes on when the same command is typed
    again.

        jaxpurify evaluate
        jaxpurify evaluate --purifier bit-depth:bits=3 --purifier twice=bit-depth+gaussian-smoothing:sigma=0.7
        jaxpurify evaluate --data cifar10 --classifier cifar-resnet20 --weights resnet20.safetensors

    Args:
        input: Which images, and which classifier sees them.
        purifier: A defence to evaluate beside none at all, such as gaussian-smoothing:sigma=1,iterations=10, or several
            in turn, with + between them; NAME=SPEC names it in tables. Repeat for more (default:
            gaussian-smoothing).
        attack: An attack, such as pgd:steps=100,epsilon=4/255. Repeat for more (default: pgd:steps=40,epsilon=8/255).
        threat_model: What the attacker knows: noise (nothing), blind (the classifier only), bpda (both, but takes the
            purifier for the identity going backward), substitute (both, and puts the purifier's surrogate in its
            place going backward), full (everything). Repeat for more (default: all five).
        epsilons: Further sizes of every attack, for the figure of robust accuracy against size.
        noise_draws: Random perturbations tried an image under "noise"; 10000 where figures are meant to last.
        eot_samples: Draws over which an attack averages at each step against a random purifier.
        seed: Number from which all randomness follows.
        run: Folder for the report and all records (default: in runs/, one for each set of options).
        machine: How it is computed.

    Returns:
        The exit code.
    """
    devices = machine.start()
    import jax

    from jaxpurify import attacks, evaluation
    from jaxpurify.evaluation.threat_models import LADDER
    from jaxpurify.gradients import Expectation

    start = time.perf_counter()
    defences = purifiers(purifier or PURIFIERS)
    expectation = Expectation(samples=eot_samples, chunk=min(eot_samples, CHUNK))
    tried = [averaged(attacks.make(text), expectation) for text in attack or ATTACKS]
    further = sizes(epsilons)
    data, classifier = input.load()
    options = [dataclasses.asdict(input), purifier, attack, threat_model, epsilons, noise_draws, eot_samples, seed]
    folder = expanded(run) if run is not None else default_folder(input.data, [*options, machine.batch_size])
    begun = (folder / "config.json").exists()
    found = evaluation.evaluate(
        classifier,
        defences,
        data,
        attacks=tried,
        threat_models=threat_model or LADDER,
        key=jax.random.key(seed),
        run=folder,
        batch_size=machine.batch_size,
        devices=devices,
        epsilons=further,
        noise_draws=noise_draws,
        progress=machine.progress,
    )
    print(found.table(width=shutil.get_terminal_size((120, 24)).columns))
    how = ", taken up where it was left," if begun else ""
    print(f"The report{how} after {time.perf_counter() - start:.0f} s: {printable(folder / 'report.html')}")
    return 0


def averaged(attack: Any, expectation: Any) -> Any:
    """Return an attack that averages over the randomness of a random purifier.

    Args:
        attack: any attack.
        expectation: over which draws.

    Returns:
        The attack with it, if it follows gradients; any other as it is.
    """
    return dataclasses.replace(attack, eot=expectation) if hasattr(attack, "eot") else attack


def default_folder(data: str, options: object) -> Path:
    """Return the run folder of some options: the same for the same, so that they take a stopped run up again.

    Args:
        data: the data's name or path.
        options: everything that decides the records.

    Returns:
        A path in ``runs/``.
    """
    from jaxpurify.evaluation.run_folder import slug

    return Path("runs") / f"{slug(Path(data).stem or data)}-{hashlib.sha256(repr(options).encode()).hexdigest()[:6]}"
