"""``jaxpurify convert``: a PyTorch checkpoint into a safetensors file."""

from typing import Annotated

from tyro import conf

from jaxpurify.cli.options import joined


@joined
def convert(
    source: Annotated[conf.Positional[str], conf.arg(metavar="SOURCE")],
    target: Annotated[conf.Positional[str], conf.arg(metavar="TARGET")],
    *,
    architecture: Annotated[str | None, conf.arg(metavar="NAME", help_behavior_hint="")] = None,
) -> int:
    """Convert a PyTorch checkpoint into a safetensors file that jaxpurify loads without PyTorch.

    Nothing in the checkpoint is run: one that asks for more than tensors is refused. It needs PyTorch, which
    `pip install 'jaxpurify[torch]'` brings.

        jaxpurify convert resnet20.th resnet20.safetensors

    Args:
        source: The checkpoint, such as resnet20.th.
        target: The file to write, such as resnet20.safetensors.
        architecture: The network that the weights are expected to fit; found out by default.

    Returns:
        The exit code.
    """
    from jaxpurify.networks import convert as conversion
    from jaxpurify.networks import names

    found = conversion(source, target, architecture=architecture)
    fits = f"fit {found.architecture}" if found.architecture else "fit no network that jaxpurify knows"
    print(f"wrote {target}: {found.entries} arrays, {found.parameters:,} parameters, which {fits}")
    if found.architecture in names(kind="images"):
        print(f'Next: jaxpurify.networks.load_network("{found.architecture}", weights="{target}")')
    elif found.architecture:
        data = "cifar10" if found.architecture.startswith("cifar") else "FOLDER"
        print(f"Next: jaxpurify evaluate --data {data} --classifier {found.architecture} --weights {target}")
    return 0
