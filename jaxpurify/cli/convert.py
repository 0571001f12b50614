"""``jaxpurify convert``: a PyTorch checkpoint into a safetensors file."""

from typing import Annotated

from tyro import conf

from jaxpurify.cli.options import joined
from jaxpurify.files import printable


@joined
def convert(
    source: Annotated[conf.Positional[str], conf.arg(metavar="SOURCE")],
    target: Annotated[conf.Positional[str], conf.arg(metavar="TARGET")],
    *,
    architecture: Annotated[str | None, conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    key: Annotated[str | None, conf.arg(metavar="KEY", help_behavior_hint="")] = None,
) -> int:
    """Convert a PyTorch checkpoint into a safetensors file that jaxpurify loads without PyTorch.

    Nothing in the checkpoint is run: one that asks for more than tensors and plain values is refused. Weights are found
    at any depth, and what all their names begin with (such as module.) goes where the rest is a known network.
    Safetensors files with such names are converted too, and shards by their .index.json. PyTorch checkpoints need
    PyTorch, which `pip install 'jaxpurify[torch]'` brings.

        jaxpurify convert resnet20.th resnet20.safetensors

    Args:
        source: The checkpoint, such as resnet20.th.
        target: The file to write, such as resnet20.safetensors.
        architecture: The network that the weights are expected to fit; found out by default.
        key: Where in the checkpoint the weights lie, such as state_dict_ema, or what the names of those that are wanted
            begin with; needed only where there are several.

    Returns:
        The exit code.
    """
    from jaxpurify.networks import convert as conversion
    from jaxpurify.networks import names

    found = conversion(source, target, architecture=architecture, key=key)
    fits = f"fit {found.architecture}" if found.architecture else "fit no network that jaxpurify knows"
    taken = f" of {printable(found.key)}" if found.key else ""
    taken += f" ({printable(found.prefix)} taken off their names)" if found.prefix else ""
    target = printable(target)
    advice = f"; {found.advice}" if found.advice else ""
    print(f"wrote {target}: {found.entries} arrays{taken}, {found.parameters:,} parameters, which {fits}{advice}")
    if found.others:
        print(f"not taken: the weights of {printable(', '.join(found.others))}")
    if found.architecture in names(kind="images"):
        print(f'Next: jaxpurify.networks.load_network("{found.architecture}", weights="{target}")')
    elif found.architecture:
        data = "cifar10" if found.architecture.startswith("cifar") else "FOLDER"
        print(f"Next: jaxpurify evaluate --data {data} --classifier {found.architecture} --weights {target}")
    return 0
