"""``jaxpurify train``: train a network, from photographs or labelled images to a file of weights."""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from jaxpurify import training
from jaxpurify.cli.evaluate import default_folder
from jaxpurify.cli.options import EMBEDDED, Devices, Specification, joined
from jaxpurify.files import expanded, printable

OVERVIEW = """\
usage: jaxpurify train KIND [OPTIONS]

Train a network. The same command goes on where it was stopped, and gives the same weights.

{kinds}

Start with
  jaxpurify train super-resolution    a small one on photographs that come with it, in minutes
  jaxpurify train KIND --help         the options of a kind
"""


@joined
@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """What it is trained on, and where it is written.

    Args:
        data: What to train on: photos (come with jaxpurify), a folder of images, a .npz file, or the name of a data set
            of TensorFlow Datasets, such as cifar10.
        score_on: Other data to score on (default: the share --held-out of the same data).
        steps: Steps of the optimiser.
        seed: Number from which all randomness follows.
        run: Folder for weights, checkpoints, measures and figures (default: in runs/, one for each set of options).
    """

    data: Annotated[str, conf.arg(metavar="NAME|PATH")] = EMBEDDED
    score_on: Annotated[str | None, conf.arg(metavar="NAME|PATH", help_behavior_hint="")] = None
    steps: int = 500
    seed: int = 0
    run: Annotated[str | None, conf.arg(metavar="FOLDER", help_behavior_hint="")] = None


ENLARGING, RESTORING, NAMING = training.SuperResolution(), training.BlindSpot(width=32), training.Classifier()
SHORT = training.Recipe(batch_size=8, average=0.99, held_out=0.125, score_every=100, save_every=100)
CLASSIFYING = training.Recipe(batch_size=64, learning_rate=2e-3, score_every=100, save_every=100)


@joined
def super_resolution(
    *,
    task: conf.OmitArgPrefixes[training.SuperResolution] = ENLARGING,
    recipe: conf.OmitArgPrefixes[training.Recipe] = SHORT,
    where: conf.OmitArgPrefixes[Where],
    machine: conf.OmitArgPrefixes[Devices],
) -> int:
    """Train a network that enlarges images.

        jaxpurify train super-resolution
        jaxpurify train super-resolution --data photographs/ --network-name edsr-baseline --steps 100000

    Args:
        task: What it is.
        recipe: How it is trained.
        where: What it is trained on, and where it is written.
        machine: Where it is computed.

    Returns:
        The exit code.
    """
    return _train("super-resolution", task, recipe, where, machine)


@joined
def blind_spot(
    *,
    task: conf.OmitArgPrefixes[training.BlindSpot] = RESTORING,
    recipe: conf.OmitArgPrefixes[training.Recipe] = SHORT,
    where: conf.OmitArgPrefixes[Where],
    machine: conf.OmitArgPrefixes[Devices],
) -> int:
    """Train a blind-spot network, the restoring half of NCIS (neural contextual iterative smoothing).

        jaxpurify train blind-spot
        jaxpurify train blind-spot --data photographs/ --width 32 --steps 20000

    Args:
        task: What it is.
        recipe: How it is trained.
        where: What it is trained on, and where it is written.
        machine: Where it is computed.

    Returns:
        The exit code.
    """
    return _train("blind-spot", task, recipe, where, machine)


@joined
def classifier(
    *,
    task: conf.OmitArgPrefixes[training.Classifier] = NAMING,
    recipe: conf.OmitArgPrefixes[training.Recipe] = CLASSIFYING,
    where: conf.OmitArgPrefixes[Where],
    machine: conf.OmitArgPrefixes[Devices],
) -> int:
    """Train a classifier that `jaxpurify list` shows.

        jaxpurify train classifier
        jaxpurify train classifier --network-name cifar-resnet20 --data cifar10 --steps 40000

    Args:
        task: What it is.
        recipe: How it is trained.
        where: What it is trained on, and where it is written.
        machine: Where it is computed.

    Returns:
        The exit code.
    """
    return _train("classifier", task, recipe, where, machine)


@joined
@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitation:
    """What a surrogate imitates, and how.

    Args:
        of: The purifier to imitate, such as jpeg:quality=50.
        width: channels of the network.
        blocks: residual blocks of the network.
        epsilon: largest perturbation of a pixel, in units of 1; uniform within it, and clipped to [0, 1].
        patch: rows and columns of a patch.
        reductions: whole factors by which the photographs are shrunk; each makes further pictures.
    """

    of: Specification = "jpeg:quality=75"
    width: int = 32
    blocks: int = 4
    epsilon: float = 0.1
    patch: int = 32
    reductions: tuple[int, ...] = (1, 2)


@joined
def surrogate(
    *,
    task: conf.OmitArgPrefixes[Imitation],
    recipe: conf.OmitArgPrefixes[training.Recipe] = SHORT,
    where: conf.OmitArgPrefixes[Where],
    machine: conf.OmitArgPrefixes[Devices],
) -> int:
    """Train a differentiable stand-in for a purifier, to attack through it.

        jaxpurify train surrogate
        jaxpurify train surrogate --of bit-depth:bits=3 --data photographs/ --steps 20000

    Args:
        task: What it is.
        recipe: How it is trained.
        where: What it is trained on, and where it is written.
        machine: Where it is computed.

    Returns:
        The exit code.
    """
    from jaxpurify.purifiers import make

    machine.start()  # before a purifier makes an array: that starts the backend
    options = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    made = training.Surrogate(**options | {"of": make(task.of)})
    return _train("surrogate", made, recipe, where, machine, told=task)


KINDS: dict[str, Callable[..., int]] = {
    "super-resolution": super_resolution,
    "blind-spot": blind_spot,
    "classifier": classifier,
    "surrogate": surrogate,
}


def overview() -> str:
    """Return what ``jaxpurify train`` says of itself.

    Returns:
        A few lines.
    """
    lines = (f"  {name:<18}{re.split('[.(]', made.__doc__ or '')[0].strip()}" for name, made in KINDS.items())
    return OVERVIEW.format(kinds="\n".join(lines)).rstrip("\n")


def kind(name: str) -> Callable[..., int]:
    """Return the command of one kind.

    Args:
        name: the kind.

    Returns:
        A function of options.

    Raises:
        ValueError: if there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r} of training, expected one of: {', '.join(KINDS)}")
    return KINDS[name]


def _train(kind: str, task: Any, recipe: Any, where: Where, machine: Devices, *, told: Any = None) -> int:
    devices, start, told = machine.start(), time.perf_counter(), told or task
    import jax

    from jaxpurify.training.loop import Run, shown

    options = [kind, told, recipe, where.data, where.score_on, where.steps, where.seed]
    folder = expanded(where.run) if where.run is not None else default_folder(kind, options)
    begun = (folder / "config.json").exists()
    run = Run(
        task,
        where.data,
        steps=where.steps,
        run=folder,
        key=jax.random.key(where.seed),
        recipe=recipe,
        held_out=where.score_on,
        devices=_sharing(recipe) if devices == "all" else devices,
        progress=machine.progress,
    )
    sizes = f"{len(run.examples)} examples of {printable(where.data)}, scored on {len(run.scored)} more"
    print(f"{'Going on with' if begun else 'Training'} {_described(kind, told)}: {where.steps} steps on {sizes}")
    print(f"Measures, curve and samples as it goes: {printable(folder)}", flush=True)
    trained = run.finish()
    reached = [record for record in trained.records if record["kind"] == "held out"] or trained.records
    said = f"{reached[-1]['kind']}: {shown(reached[-1])}" if reached else "done"
    print(f"{said}, after {time.perf_counter() - start:.0f} s")
    print(f"The weights: {printable(folder / 'weights.safetensors')}")
    print(f"Next: {printable(_next(kind, told, where, folder / 'weights.safetensors'))}")
    return 0


def _sharing(recipe: training.Recipe) -> int:
    """Return how many of the devices can share a part of a batch evenly."""
    import jax

    part, count = recipe.batch_size // recipe.accumulate, len(jax.local_devices())
    return max(number for number in range(1, min(part, count) + 1) if part % number == 0)


def _described(kind: str, task: Any) -> str:
    name = getattr(task, "network_name", None) or getattr(task, "of", None)
    return f"a {kind} network" + (f" ({name})" if name else "")


def _next(kind: str, task: Any, where: Where, weights: Path) -> str:
    """Return a command that uses the weights, if there is one."""
    if kind == "classifier":
        return f"jaxpurify evaluate --data {where.data} --classifier {task.network_name} --weights {weights}"
    sizes = {(8, 32): "", (8, 64): "network=blind-spot-8x64,", (17, 64): "network=blind-spot-17x64,"}
    if kind == "blind-spot" and (task.layers, task.width) in sizes:
        named = sizes[task.layers, task.width]
        return f"jaxpurify purify photo.png clean.png --purifier ncis:{named}weights={weights}"
    if kind == "surrogate" and (task.width, task.blocks) == (32, 4):
        return f'jaxpurify.networks.load_network("imitation", weights="{weights}") in Python (docs/surrogates.md)'
    if kind == "super-resolution" and task.features is None and task.blocks is None:
        network = "small" if task.network_name == "sesr" else task.network_name
        scale = "" if task.scale == 2 else f",scale={task.scale}"
        purifier = f"super-resolution:network={network}{scale},weights={weights}"
        return f"jaxpurify purify photo.png large.png --purifier {purifier}"
    return "jaxpurify.networks.weights.load, into a network of this size made in Python (docs/training.md)"
