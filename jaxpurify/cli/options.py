"""Options that several commands share, and what they stand for."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Annotated, Any

from tyro import conf

from jaxpurify import specification
from jaxpurify.cli.start import start
from jaxpurify.files import expanded

Specification = Annotated[str, conf.arg(metavar="SPEC")]
Specifications = Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="SPEC", help_behavior_hint="")]
Names = Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="NAME", help_behavior_hint="")]
Sizes = Annotated[tuple[str, ...], conf.arg(metavar="SIZE")]
Flag = Annotated[bool, conf.arg(help_behavior_hint="")]
EMBEDDED, ITS_CLASSIFIER = "photos", "photos-cnn"


def joined(documented: Any) -> Any:
    """Join the lines of each entry under "Args:" of a docstring, since help breaks lines where the docstring does.

    Args:
        documented: a function or class.

    Returns:
        It, with another docstring.
    """
    documented.__doc__ = re.sub(r"\n {8}(?=\S)", " ", inspect.cleandoc(documented.__doc__))
    return documented


@joined
@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """Which images, and which classifier sees them.

    Args:
        data: Images with labels: photos (comes with jaxpurify), a .npz file, a folder, or the name of a data set of
            TensorFlow Datasets, such as cifar10.
        split: Which part of the data.
        limit: Number of images at most.
        size: Pixels to a side to which images of a folder or of TensorFlow Datasets are resized.
        classifier: A network that `jaxpurify list` shows (default: photos-cnn, which was trained on photos).
        weights: The classifier's weights where none come with it: a .safetensors file, which `jaxpurify convert` makes.
    """

    data: Annotated[str, conf.arg(metavar="NAME|PATH")] = EMBEDDED
    split: Annotated[str, conf.arg(metavar="NAME")] = "test"
    limit: int = 128
    size: Annotated[int | None, conf.arg(metavar="INT", help_behavior_hint="")] = None
    classifier: Annotated[str | None, conf.arg(metavar="NAME", help_behavior_hint="")] = None
    weights: Annotated[str | None, conf.arg(metavar="FILE", help_behavior_hint="")] = None

    def load(self) -> tuple[Any, Any]:
        """Load the images and the classifier.

        Returns:
            The data set, its labels numbered as the classifier's classes, and the classifier.

        Raises:
            ValueError: if either is unknown, no classifier was named for data that has none of its own, or their
                classes cannot be matched.
        """
        from jaxpurify import datasets, networks

        name = self.classifier
        if name is None:
            if self.data != EMBEDDED:
                known = ", ".join(networks.names())
                raise ValueError(f"--data {self.data} needs a --classifier, expected one of: {known}")
            name = ITS_CLASSIFIER
        classifier = networks.load_classifier(name, weights=self.weights)
        options = {} if self.size is None else {"size": self.size}
        data = datasets.load(self.data, split=self.split, limit=self.limit, **options)
        return data.matched(classifier.class_names, classifier=name), classifier

    def other(self, which: str) -> Any:
        """Load other images beside these: another split of the same data, or another file or folder.

        Args:
            which: the name of a split, or a path.

        Returns:
            The data set, of at most as many images.

        Raises:
            ValueError: if it cannot be loaded.
        """
        from jaxpurify import datasets

        options: dict[str, Any] = {} if self.size is None else {"size": self.size}
        if expanded(which).exists():
            return datasets.load(which, limit=self.limit, **options)
        if self.data != EMBEDDED and expanded(self.data).exists():
            raise ValueError(f"{self.data} has no split {which!r}, expected a file or folder with other images")
        return datasets.load(self.data, split=which, limit=self.limit, **options)


@joined
@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Where it is computed.

    Args:
        devices: How many devices to use: all (on a CPU, each core is one), or a number.
        no_cache: Do not keep compiled programs in ~/.cache/jaxpurify, from where a second run takes them.
        quiet: Show no progress bar.
    """

    devices: Annotated[str, conf.arg(metavar="all|INT")] = "all"
    no_cache: Flag = False
    quiet: Flag = False

    def start(self) -> str | int:
        """Start JAX.

        Returns:
            The devices, as ``jaxpurify.evaluate`` takes them.

        Raises:
            ValueError: if they are neither "all" nor a number.
        """
        if self.devices != "all" and not self.devices.isdecimal():
            raise ValueError(f"--devices must be all or a number, got {self.devices!r}")
        start(cache=not self.no_cache)
        return self.devices if self.devices == "all" else int(self.devices)

    @property
    def progress(self) -> bool | None:
        """Whether to show a progress bar; None leaves it to the terminal."""
        return False if self.quiet else None


@joined
@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine(Devices):
    """How it is computed; results do not depend on it.

    Args:
        batch_size: Images that one device works on at a time.
    """

    batch_size: int = 64

    def start(self) -> str | int:
        """Start JAX.

        Returns:
            The devices, as ``jaxpurify.evaluate`` takes them.

        Raises:
            ValueError: if they are neither "all" nor a number, or the batch is empty.
        """
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}")
        return super().start()


def purifiers(texts: Sequence[str]) -> dict[str, Any]:
    """Make purifiers by name of texts such as ``gaussian-smoothing:sigma=2`` or ``mine=gaussian-smoothing:sigma=2``.

    Args:
        texts: what was typed.

    Returns:
        Purifiers by the given name, or by their text.

    Raises:
        ValueError: if a purifier or field is unknown, or two have one name.
    """
    from jaxpurify.purifiers import make

    made: dict[str, Any] = {}
    for text in texts:
        name, equals, specified = text.partition("=")
        if not equals or ":" in name:
            name, specified = text, text
        if name in made:
            raise ValueError(f"--purifier {name} was given twice: tell them apart as NAME=SPEC")
        made[name] = make(specified)
    return made


def sizes(texts: Sequence[str]) -> tuple[float, ...]:
    """Read sizes of perturbations such as ``8/255``.

    Args:
        texts: what was typed.

    Returns:
        Numbers in units of [0, 1].

    Raises:
        ValueError: if one is no number.
    """
    return tuple(float(specification.number(text)) for text in texts)
