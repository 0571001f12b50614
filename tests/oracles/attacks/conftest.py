"""The models on which attacks are compared, each in both frameworks; what tests call is in pairs.py."""

import pytest


@pytest.fixture(scope="session")
def perceptron(torch):
    from pairs import random_perceptron

    return random_perceptron()


@pytest.fixture(scope="session")
def resnet20(torch, real_data, tmp_path_factory):
    from pairs import cifar
    from torch_networks import CifarResNet

    folder = tmp_path_factory.mktemp("resnet20")
    return cifar(real_data, folder, "cifar-resnet20", "resnet20.th", CifarResNet(20), 128)


@pytest.fixture(scope="session")
def robust(torch, real_data, tmp_path_factory):
    from pairs import cifar
    from torch_networks import CifarResNet4b

    folder = tmp_path_factory.mktemp("robust")
    return cifar(real_data, folder, "cifar-resnet4b", "robust_resnet4b.pth", CifarResNet4b(), 256)
