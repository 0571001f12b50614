"""What every public name of the package has in common, checked by reading the package itself."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import pytest

import jaxpurify
from jaxpurify.keys import check_key

ROOT = Path(jaxpurify.__file__).parent
NAMES = [
    name
    for _, name, _ in pkgutil.walk_packages([str(ROOT)], "jaxpurify.")
    if not any(part.startswith("_") for part in name.split("."))
]
# The command's package holds its entry point; the others are faces: names and nothing else.
FACES = [face for face in sorted(ROOT.glob("*/__init__.py")) if face.parent.name != "cli"]
# What a call is about comes first and may be given by position; options are given by name.
POSITIONAL = 6
# What a call is about, though it may be left out.
SUBJECTS = {"image", "key", "targets", "variables", "surrogate", "default", "devices", "argv"}


def public_members(module, *, methods=False):
    """Yield names and objects of the public functions and classes that a module defines itself."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if callable(member) and hasattr(member, "__name__"):
            yield name, member
        if methods and inspect.isclass(member):
            for label, attribute in vars(member).items():
                function = getattr(attribute, "__func__", attribute)
                if not label.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{label}", function


def public_functions(module):
    return [(name, member) for name, member in public_members(module) if not inspect.isclass(member)]


def section(text, title):
    """Return one section of a docstring, or an empty string."""
    found = re.search(rf"^{title}:\n(.*?)(?=^[A-Z]\w*:|\Z)", inspect.cleandoc(text or ""), re.M | re.S)
    return found[1] if found else ""


def parameters(function):
    various = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p for p in inspect.signature(function).parameters.values() if p.kind not in various]


@pytest.fixture(scope="module", params=NAMES)
def module(request):
    return importlib.import_module(request.param)


def test_everything_public_says_what_it_does_in_one_sentence(module):
    assert (module.__doc__ or "").strip(), f"{module.__name__} has no docstring"
    for name, member in public_members(module, methods=True):
        first = (inspect.getdoc(member) or "").split("\n")[0]
        assert first.endswith((".", ":")), f"{module.__name__}.{name} has no one-sentence summary, got {first!r}"


def test_every_argument_of_a_function_is_described(module):
    for name, function in public_functions(module):
        text = section(function.__doc__, "Args")
        missing = [p.name for p in parameters(function) if not re.search(rf"^ *{p.name}: ", text, re.M)]
        assert not missing, f"{module.__name__}.{name} does not describe {missing}"


def test_every_result_of_a_function_is_described(module):
    for name, function in public_functions(module):
        returned = inspect.signature(function).return_annotation
        assert returned is not inspect.Signature.empty, f"{module.__name__}.{name} does not say what type it returns"
        described = section(function.__doc__, "Returns") or section(function.__doc__, "Yields")
        assert described or returned is None, f"{module.__name__}.{name} does not describe what it returns"


def test_every_field_of_a_dataclass_is_mentioned(module):
    for name, member in public_members(module):
        text = " ".join(inspect.cleandoc(cls.__doc__ or "") for cls in getattr(member, "__mro__", ()))
        fields = [field for field in getattr(member, "__dataclass_fields__", ()) if not field.startswith("_")]
        missing = [field for field in fields if not re.search(rf"\b{field}\b", text)]
        assert not missing, f"{module.__name__}.{name} does not describe its fields {missing}"


def test_options_of_a_function_are_given_by_name(module):
    for name, function in public_functions(module):
        by_position = [p for p in parameters(function) if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        where = f"{module.__name__}.{name}"
        assert len(by_position) <= POSITIONAL, f"{where} takes {len(by_position)} arguments by position"
        options = [p.name for p in by_position if p.default is not inspect.Parameter.empty and p.name not in SUBJECTS]
        assert not options, f"{where} takes options by position: {options}"


def test_a_function_of_images_alone_takes_them_first(module):
    if not module.__name__.startswith(("jaxpurify.transforms", "jaxpurify.images")):
        return
    for name, function in public_functions(module):
        names = [parameter.name for parameter in parameters(function)]
        assert "images" not in names[1:], f"{module.__name__}.{name} takes images after {names[0]}"


def test_the_package_is_its_public_names_one_a_line():
    _, *body = ast.parse((ROOT / "__init__.py").read_text()).body
    for node in body:
        if isinstance(node, ast.Assign):
            assert node.targets[0].id == "__version__"
            continue
        assert isinstance(node, ast.ImportFrom), f"line {node.lineno} is no import of a public name"
        (alias,) = node.names
        assert alias.asname == alias.name, f"line {node.lineno} does not export its name with `as {alias.name}`"
        assert node.lineno == node.end_lineno


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.parent.name)
def test_a_subpackages_face_imports_names_to_export_them_and_does_nothing_else(face):
    _, *body = ast.parse(face.read_text()).body
    listed = {name for node in body if isinstance(node, ast.Assign) for name in ast.literal_eval(node.value)}
    for node in body:
        if isinstance(node, ast.Assign):
            assert node.targets[0].id == "__all__"
            continue
        assert isinstance(node, ast.ImportFrom), f"line {node.lineno} is no import of a public name"
        for alias in node.names:
            exported = alias.asname == alias.name or alias.name in listed
            assert exported, f"line {node.lineno} imports {alias.name} without exporting it"


PUBLIC = [
    "Defended",
    "Ensemble",
    "Expectation",
    "FeatureSqueezing",
    "Repeat",
    "Sequential",
    "ThreatModel",
    "attacks.FGSM",
    "attacks.PGD",
    "attacks.verdict",
    "classifier",
    "datasets.load",
    "evaluate",
    "evaluation.analyse_noise",
    "gradients.rematerialised",
    "gradients.straight_through",
    "gradients.substitute",
    "images.saturate",
    "metrics.luma_psnr",
    "metrics.psnr",
    "metrics.ssim",
    "networks.BlindSpotNetwork",
    "networks.CollapsedSESR",
    "networks.EDSR",
    "networks.ImageNetResNet",
    "networks.SESR",
    "networks.convert",
    "networks.load_classifier",
    "networks.load_module",
    "networks.load_network",
    "networks.names",
    "purifier",
    "purifiers.BitDepth",
    "purifiers.BlindSpot",
    "purifiers.GaussianNoise",
    "purifiers.GaussianSmoothing",
    "purifiers.Identity",
    "purifiers.JPEG",
    "purifiers.LowPass",
    "purifiers.Median",
    "purifiers.NCIS",
    "purifiers.NCIS.pretrained",
    "purifiers.NonLocalMeans",
    "purifiers.PixelDeflection",
    "purifiers.Quilting",
    "purifiers.RandomFrequencyMask",
    "purifiers.RandomPixelTotalVariation",
    "purifiers.RandomResizing",
    "purifiers.Resizing",
    "purifiers.SuperResolution",
    "purifiers.SuperResolution.pretrained",
    "purifiers.TotalVariation",
    "purifiers.WaveletDenoising",
    "purify",
    "static",
    "sweep",
    "testing.check_purifier",
    "training.BlindSpot",
    "training.SuperResolution",
    "training.fit",
    "transforms.random_frequency_mask",
]


def test_annotations_are_checked_while_testing():
    with pytest.raises(jaxtyping.TypeCheckError):
        check_key(jax.random.key(0), name=3)


@pytest.mark.parametrize("path", PUBLIC)
def test_names_that_other_peoples_scripts_count_on_are_there(path):
    found = jaxpurify
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)


IMPORTING = """
import sys, time
import jax
start = time.process_time()  # a busy machine does not count
import jaxpurify
print(time.process_time() - start)
heavy = {"PIL", "matplotlib", "scipy.ndimage", "skimage", "tensorflow", "tensorflow_datasets", "torch", "tyro"}
print(*sorted(heavy & sys.modules.keys()))
jax.config.update("jax_num_cpu_devices", 3)  # refused once the backend has started
print(len(jax.devices("cpu")))
"""


@pytest.fixture(scope="module")
def imported():
    """What three fresh interpreters say: seconds more than JAX, heavy packages, and devices asked for afterwards."""
    if not hasattr(jaxpurify, "evaluate"):
        pytest.skip("jaxpurify's face is not complete in this checkout")
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", IMPORTING]
        ran = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=True, timeout=120)
        seconds, heavy, devices = ran.stdout.splitlines()
        runs.append((float(seconds), heavy, int(devices)))
        if runs[-1][0] < 1.5:
            break
    return runs


def test_importing_costs_little_more_than_jax(imported):
    assert min(seconds for seconds, _, _ in imported) < 1.5


def test_importing_loads_nothing_heavy(imported):
    assert imported[0][1] == ""


def test_importing_does_not_start_the_backend(imported):
    assert imported[0][2] == 3
