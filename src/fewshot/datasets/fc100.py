"""FC100: CIFAR-100 split by superclasses, 60 classes of 12 to train, 20 of 4 to validate, 20 of 4 to test. Layer 1.

Source: Oreshkin, Rodriguez & Lacoste (2018), TADAM: task dependent adaptive metric for improved few-shot learning,
arXiv:1805.10123.
"""

from fewshot.datasets.cifar100 import Cifar100


class FC100(Cifar100):
    """The data set of `conf/dataset/fc100.yaml`."""

    name = "fc100"
