"""CIFAR-FS: CIFAR-100's classes, 64 to train, 16 to validate, 20 to test, drawn at random by its authors. Layer 1.

Source: Bertinetto, Henriques, Torr & Vedaldi (2019), Meta-learning with differentiable closed-form solvers,
arXiv:1805.08136.
"""

from fewshot.datasets.cifar100 import Cifar100


class CifarFS(Cifar100):
    """The data set of `conf/dataset/cifar_fs.yaml`."""

    name = "cifar_fs"
