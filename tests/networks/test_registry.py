import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpurify import networks
from jaxpurify.networks import registry, weights

# What the others of their family do not tell already.
SLOW = {"cifar-resnet44", "cifar-resnet56", "cifar-resnet110", "imagenet-resnet34", "imagenet-resnet50"}
SLOW |= {"edsr-large-x2", "edsr-large-x3", "edsr-large-x4"}
EXTERNAL = [name for name in networks.names(kind=None) if registry.architecture(name).shipped is None]


def random_state(name, seed=0):
    """A state dict of an architecture in its own names, small enough that logits stay finite."""
    architecture = registry.architecture(name)
    module = architecture.abstract()
    shapes = weights.expected_shapes(module, architecture.names_of(module))
    random = np.random.default_rng(seed)
    return {key: random.uniform(0.01, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}


def test_names_are_those_of_the_design():
    resnets = {f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110)}
    resnets |= {f"imagenet-resnet{depth}" for depth in (18, 34, 50)}
    assert set(networks.names()) == {"photos-cnn", "cifar-resnet4b"} | resnets
    upscalers = {f"edsr-{size}-x{scale}" for size in ("baseline", "large") for scale in (2, 3, 4)}
    upscalers |= {f"sesr-x{scale}" for scale in (2, 3, 4)}
    others = {"blind-spot", "blind-spot-8x64", "blind-spot-17x64", "imitation"}
    assert set(networks.names(kind="images")) == others | upscalers
    assert set(networks.names(kind=None)) == {*networks.names(), *networks.names(kind="images")}
    with pytest.raises(ValueError, match='kind must be "classifier", "images" or None, got \'detector\''):
        networks.names(kind="detector")


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet4b"])
def test_a_classifier_is_loaded_from_a_file(tmp_path, name):
    save_file(random_state(name), tmp_path / "a.safetensors")
    classifier = networks.load_classifier(name, weights=tmp_path / "a.safetensors")
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    logits = jax.jit(lambda classifier, images: classifier(images))(classifier, images)
    assert logits.shape == (2, 10)
    assert classifier.name == name
    assert len(classifier.class_names) == 10
    assert classifier.image_shape == ((32, 32, 3) if name == "cifar-resnet4b" else None)


def test_new_weights_do_not_compile_anew(tmp_path):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(1)
        return classifier(images)

    for seed in range(2):
        save_file(random_state("cifar-resnet4b", seed), tmp_path / "a.safetensors")
        classifier = networks.load_classifier("cifar-resnet4b", weights=tmp_path / "a.safetensors")
        logits(classifier, jnp.zeros((1, 32, 32, 3)))
    assert len(traces) == 1


def test_a_network_of_fixed_size_refuses_another(tmp_path):
    save_file(random_state("cifar-resnet4b"), tmp_path / "a.safetensors")
    classifier = networks.load_classifier("cifar-resnet4b", weights=tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"\(32, 32, 3\)"):
        classifier(jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXTERNAL]
)
def test_every_table_names_every_weight_and_identifies_its_network(name):
    architecture = registry.architecture(name)
    module = architecture.abstract()
    for table in (architecture.names_of(module), weights.own_table(module)):
        shapes = weights.expected_shapes(module, table)
        assert registry.identify(shapes) == name
        assert registry.identify({key: shape for key, shape in shapes.items() if not key.endswith("bias")}) is None


def test_weights_of_another_network_are_named(tmp_path):
    save_file(random_state("cifar-resnet32"), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"do not fit cifar-resnet20: surplus: .*; they fit cifar-resnet32"):
        networks.load_classifier("cifar-resnet20", weights=tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", EXTERNAL)
def test_networks_without_shipped_weights_ask_for_them(name):
    load = networks.load_classifier if name in networks.names() else networks.load_network
    with pytest.raises(ValueError, match=f"{name} comes without weights: pass weights="):
        load(name)


def test_an_image_network_is_loaded_from_a_file(tmp_path):
    save_file(random_state("blind-spot"), tmp_path / "a.safetensors")
    network = networks.load_network("blind-spot", weights=tmp_path / "a.safetensors")
    module = networks.load_module("blind-spot", weights_file=tmp_path / "a.safetensors")
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    purified = jax.jit(lambda network, images: network(images))(network, images)
    assert network.name == "blind-spot"
    np.testing.assert_allclose(purified, jax.jit(lambda images: module(images))(images), rtol=1e-5)


def test_networks_of_one_kind_are_not_loaded_as_the_other():
    with pytest.raises(ValueError, match=r"sesr-x2 makes images of images .* load it with networks\.load_network"):
        networks.load_classifier("sesr-x2")
    with pytest.raises(ValueError, match=r"photos-cnn is a classifier .* load it with networks\.load_classifier"):
        networks.load_network("photos-cnn")


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no network 'resnet': the known ones are photos-cnn, cifar-resnet20"):
        networks.load_classifier("resnet")


def test_shipped_weights_load():
    classifier = networks.load_classifier("photos-cnn")
    logits = classifier(jnp.zeros((2, 32, 32, 3)))
    assert logits.shape == (2, len(classifier.class_names)) == (2, 8)


def test_shipped_weights_that_were_changed_are_refused(monkeypatch):
    known = registry.architecture("photos-cnn")
    changed = known._replace(shipped=known.shipped._replace(sha256="0" * 64))
    monkeypatch.setattr(registry, "ARCHITECTURES", {"photos-cnn": changed})
    with pytest.raises(ValueError, match="were changed"):
        networks.load_classifier("photos-cnn")
