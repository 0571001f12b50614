"""``jaxpurify attack``: write images attacked with the full budget, fit to be shown to any model."""

import csv
import hashlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro import conf

from jaxpurify.cli.options import Input, Machine, Specification, joined
from jaxpurify.files import expanded, partial_beside, printable, write_whole
from jaxpurify.progress import Progress
from jaxpurify.runs import Lock


@joined
def attack(
    target: Annotated[conf.Positional[str], conf.arg(metavar="TARGET")],
    *,
    input: conf.OmitArgPrefixes[Input],
    attack: Specification = "pgd:steps=40,epsilon=8/255",
    purifier: Specification = "none",
    gradient: Literal["exact", "bpda", "substitute"] = "exact",
    seed: int = 0,
    machine: conf.OmitArgPrefixes[Machine],
) -> int:
    """Attack images and write them, each with the attack's full budget: they may be shown to any other model.

        jaxpurify attack adversarial.npz --limit 64
        jaxpurify attack adversarial/ --purifier bit-depth:bits=3 --gradient bpda

    Args:
        target: A file that ends in .npz (exact), or a new folder of PNG images with a labels.csv (rounded to 8 bits
            without leaving the attack's ball, and what that undoes is printed). `jaxpurify evaluate --data` reads both.
        input: Which images, and which classifier sees them.
        attack: The attack, such as pgd:steps=100,epsilon=4/255.
        purifier: The purifier that stands before the classifier and is attacked with it.
        gradient: How the attack goes backward through the purifier: exact, bpda (takes it for the identity) or
            substitute (puts its surrogate in its place).
        seed: Number from which all randomness follows.
        machine: How it is computed.

    Returns:
        The exit code.
    """
    devices, path = machine.start(), expanded(target)
    if path.exists():
        raise ValueError(f"{path} is there already: choose another name")
    import jax

    from jaxpurify import attacks, gradients, purifiers
    from jaxpurify.attacks.agreement import measure
    from jaxpurify.attacks.tracing import classes_of
    from jaxpurify.evaluation.threat_models import exact_gradient_is_zero
    from jaxpurify.metrics.norms import check_perturbations
    from jaxpurify.models import Defended
    from jaxpurify.parallel import placement
    from jaxpurify.quantise import quantised

    search, stage = attacks.make(attack), purifiers.make(purifier)
    wrap = {"exact": lambda p: p, "bpda": gradients.straight_through, "substitute": gradients.substitute}[gradient]
    attacked = wrap(stage)
    data, classifier = input.load()
    _check_writable(path)
    _claimed = _claim(path)
    images, labels, count = data.images, data.labels, len(data)
    exact, ball = path.suffix.lower() == ".npz", {"norm": search.norm, "epsilon": search.epsilon}
    if not exact:
        quantised(images, images, **ball)  # refuses what could not be written
    if search.uses_gradient and exact_gradient_is_zero(attacked, images[:4], jax.random.key(seed)):
        raise ValueError(
            f"the {gradient} gradient of {purifier} is zero, so the attack would see nothing: try --gradient bpda"
        )
    model, where = Defended(classifier, attacked), placement(devices)
    classes = classes_of(model, images[:1], jax.random.key(seed))
    batch = min(machine.batch_size, -(-count // where.count))
    calls = -(-count // (batch * where.count)) * search.calls(model, classes)
    with Progress("attacking", calls, enabled=machine.progress) as bar:
        found = attacks.run(
            search,
            model,
            images,
            labels,
            jax.random.key(seed),
            batch_size=batch,
            devices=devices,
            progress=bar.advance,
        )
    # Another gradient than the exact one is not meant to say what the model does.
    agreement = measure(model, images, jax.random.key(seed)) if gradient == "exact" else None
    if agreement is not None and not agreement.reliable:
        print(f"note: of the attacked model, {agreement.sentence}", file=sys.stderr)
    score = _Score(search, Defended(classifier, stage), images, labels, jax.random.key(seed), where, batch)
    behind = f" behind {printable(purifier)}" if purifier != "none" else ""
    print(f"share of {count} images of {printable(data.name)} that {classifier.name}{behind} classifies correctly:")
    print(f"  clean               {score(images):.1%}")
    print(f"  attacked            {score(found.images):.1%}")
    if exact:
        _write_npz(path, found, data)
    else:
        rounded = quantised(found.images, images, **ball)
        read = rounded.astype(np.float32) / np.float32(255)
        check_perturbations(images, read, **ball)
        print(f"  rounded to 8 bits   {score(read):.1%}")
        _write_folder(path, rounded, data)
    print(f"wrote {printable(path)}")
    return 0


class _Score:
    """Share of images that a model classifies correctly; a random one on draws that the attack has not seen."""

    def __init__(self, search: Any, model: Any, images: Any, labels: Any, key: Any, where: Any, batch: int):
        self.search, self.model, self.where, self.size = search, model, where, batch * where.count
        self.problem = search.prepare(model, images, labels, key, None)

    def __call__(self, images: Any) -> float:
        import jax

        from jaxpurify.attacks.scoring import judged

        count, stood = len(images), []
        for first in range(0, count, self.size):
            rows = np.resize(np.arange(first, min(first + self.size, count)), self.size)
            part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.problem)
            draws = judged(self.search, self.model, part, images[rows], where=self.where).stood
            stood.append(draws[:, : min(self.size, count - first)].mean(axis=0))
        return float(np.concatenate(stood).mean())


def _check_writable(path: Path) -> None:
    """Refuse, before anything is computed, a path that cannot be written."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        reason = "is not writable" if parent.is_dir() else "is a file, not a folder"
        raise ValueError(f"{path} cannot be written: {parent} {reason}")


def _claim(path: Path) -> Lock:
    """Refuse a target that another process is writing; the lock lies in the folder that is there already."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    name = hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = Lock(parent / f".{name}.lock", what=str(path))
    if path.exists():
        lock.close()
        raise ValueError(f"{path} is there already: choose another name")
    return lock


def _write_npz(path: Path, found: Any, data: Any) -> None:
    arrays = {"images": found.images, "labels": data.labels, "class_names": np.array(data.class_names)}
    arrays |= {"clean": data.images, "success": found.success}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def _write_folder(path: Path, images: np.ndarray, data: Any) -> None:
    """Write a folder of images, whole or not at all."""
    from jaxpurify import images as _images

    path = Path(os.path.realpath(path))
    partial, labels = partial_beside(path), io.StringIO(newline="")
    partial.mkdir(parents=True)
    try:
        writer = csv.writer(labels)
        writer.writerow(["file", "label", "class"])
        for number, (image, label) in enumerate(zip(images, data.labels, strict=True)):
            name = f"{number:05d}.png"
            # The number, since the names of a few images need not be those of all classes.
            writer.writerow([name, int(label), data.class_names[label]])
            _images.write(partial / name, image)
        text = labels.getvalue().encode(errors="backslashreplace")
        write_whole(partial / "labels.csv", lambda file: file.write(text))
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
