import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpurify import networks
from jaxpurify.networks import registry, weights

EXTERNAL = [name for name in networks.names() if registry.architecture(name).shipped is None]


def random_state(name, seed=0):
    """A state dict of an architecture in its own names, small enough that logits stay finite."""
    architecture = registry.architecture(name)
    shapes = weights.expected_shapes(architecture.abstract(), architecture.table())
    random = np.random.default_rng(seed)
    return {key: random.uniform(0.01, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}


def test_names_are_those_of_the_design():
    resnets = {f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110)}
    assert set(networks.names()) == {"photos-cnn", "cifar-resnet4b"} | resnets


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


@pytest.mark.parametrize("name", EXTERNAL)
def test_every_table_names_every_weight_and_identifies_its_network(name):
    architecture = registry.architecture(name)
    shapes = weights.expected_shapes(architecture.abstract(), architecture.table())
    assert registry.identify(shapes) == name
    assert registry.identify({key: shape for key, shape in shapes.items() if not key.endswith("bias")}) is None


def test_weights_of_another_network_are_named(tmp_path):
    save_file(random_state("cifar-resnet32"), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"do not fit cifar-resnet20: surplus: .*; they fit cifar-resnet32"):
        networks.load_classifier("cifar-resnet20", weights=tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", EXTERNAL)
def test_networks_without_shipped_weights_ask_for_them(name):
    with pytest.raises(ValueError, match=f"{name} comes without weights: pass weights="):
        networks.load_classifier(name)


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
