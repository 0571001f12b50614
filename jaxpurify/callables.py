"""What is given as a model, judged before it is called: classes, modules without weights, other libraries' models."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxpurify.checks import is_from, kind


def check_model(model: Any, variables: Any = None, *, name: str) -> None:
    """Refuse what cannot be called with images: a class, a PyTorch module, a Linen module without its variables.

    Args:
        model: what the caller gave.
        variables: its weights, where they were given too.
        name: what the message calls it.

    Raises:
        TypeError: saying what to give instead.
    """
    if isinstance(model, type):
        try:
            inspect.signature(model.__init__).bind(None)  # type: ignore[misc]
            arguments = ""
        except (TypeError, ValueError):
            arguments = "..."
        made = f"{model.__name__}({arguments})"
        raise TypeError(f"{name} must be an instance, got the class {model.__name__}: write {made}")
    if is_from(model, "torch", "Module"):
        remedy = "wrap a classifier with jaxpurify.interop.torch_classifier(module)"
        remedy = "write it in JAX, with Flax for example" if "purifier" in name else remedy
        raise TypeError(f"{name} must be a model in JAX, got the PyTorch module {type(model).__name__}: {remedy}")
    linen = getattr(model, "__self__", model)  # a module, or a method of it
    if is_from(linen, "flax.linen", "Module") and variables is None and linen.scope is None:
        raise TypeError(
            f"{name} must be a model with its weights, got the Flax Linen module {type(linen).__name__} without its "
            "variables: write jaxpurify.classifier(module, variables)"
        )
    remedy = ""
    if is_from(model, "haiku", type(model).__name__):
        remedy = ": give jaxpurify.classifier its apply function, without a random key, and its parameters, e.g. "
        remedy += "(haiku.without_apply_rng(transformed).apply, parameters)"
    elif hasattr(model, "apply_fn"):
        remedy = ': give jaxpurify.classifier its function and weights, e.g. (state.apply_fn, {"params": state.params})'
    if not callable(model):
        wanted = "callable (a module or a function)" if name == "classifier" else "callable"
        raise TypeError(f"{name} must be {wanted}, got {kind(model)}{remedy}")


def is_nnx(model: Any) -> bool:
    """Say whether an object is a Flax NNX module, without importing Flax.

    Args:
        model: any object.

    Returns:
        True for modules.
    """
    return is_from(model, "flax.nnx", "Module")


def check_variables(model: Any, variables: Any) -> None:
    """Refuse variables that are not a model's weights.

    Args:
        model: the module or its function.
        variables: what the caller gave with it.

    Raises:
        TypeError: if they are not weights, or the model holds its own.
        ValueError: if those of a Linen module are not under ``"params"``.
    """
    if hasattr(variables, "apply_fn") and hasattr(variables, "params"):
        raise TypeError(
            f"variables must be the weights of the model, got a {kind(variables)}: pass "
            '{"params": state.params}, and batch_stats beside it where there are some'
        )
    if is_nnx(model):
        raise TypeError(
            f"variables must be left out for a Flax NNX module, which holds its own, got {kind(variables)} beside "
            f"{type(model).__name__}"
        )
    linen = is_from(getattr(model, "__self__", None), "flax.linen", "Module")
    if linen and isinstance(variables, Mapping) and variables and "params" not in variables:
        keys = ", ".join(map(str, list(variables)[:4]))
        raise ValueError(f'variables must hold the weights under "params", got {keys}: pass {{"params": variables}}')


def check_arguments(function: Callable, *given: str, random: bool | None, name: str) -> None:
    """Refuse a function that needs other arguments than it will be given.

    Args:
        function: what will be called.
        *given: names of the arguments that it will be given by position.
        random: whether a key comes after them.
        name: what the message calls it.

    Raises:
        TypeError: naming what it takes, and the remedy.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    keyword = {"key": None} if random and takes_key(function) else {}
    positional = (*given, "key") if random and not keyword else given
    try:
        signature.bind(*positional, **keyword)
    except TypeError as error:
        needed = [part.name for part in signature.parameters.values() if part.default is part.empty]
        remedy = "give the rest beforehand, e.g. functools.partial(model, train=False)"
        if "rng" in needed[:-1]:
            remedy = "a Haiku function that wants a random key? use haiku.without_apply_rng(transformed).apply"
        elif "key" in needed:
            remedy = "does it draw random numbers? pass random=True, or put it into inference mode"
        elif "state" in needed:
            remedy = "give a function that passes the state and drops the new one, and both as variables, e.g. "
            remedy += "jaxpurify.classifier(lambda both, images: both[0](images, both[1])[0], (model, state))"
        wanted = f"{signature}".split(" ->")[0] if len(str(signature)) < 80 else f"({', '.join(needed)})"
        raise TypeError(
            f"{name} must be callable with ({', '.join(positional)}), but it takes {wanted}, {error}: {remedy}"
        ) from None


def takes_key(function: Callable) -> bool:
    """Say whether a function has a parameter ``key``.

    Args:
        function: any callable.

    Returns:
        False where its parameters are not known.
    """
    try:
        return "key" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
