"""SimpleShot: scikit-learn's nearest class mean after the paper's three transformations."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from toy_data import Identity, clusters

from fewshot.algorithms.simpleshot import SimpleShot
from fewshot.episode import Minibatch, Minibatches
from fewshot.errors import InputError


def simpleshot(transform: str, distance: str = "squared_euclidean") -> SimpleShot:
    options = {"transform": transform, "distance": distance}
    return SimpleShot(Identity(6), train_classes=7, stream=Minibatches(batch_size=8), **options).double()


def transformed(z: np.ndarray, transform: str, mean: np.ndarray) -> np.ndarray:
    z = z - mean if transform == "cl2n" else z
    return z if transform == "un" else z / np.linalg.norm(z, axis=-1, keepdims=True)


@pytest.mark.parametrize("transform", ["un", "l2n", "cl2n"])
@pytest.mark.parametrize("shots", [2, 3])
def test_logits_are_minus_the_squared_distances_to_class_means(transform: str, shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model = simpleshot(transform)
    training = torch.rand(8, 6, dtype=torch.float64)
    model(Minibatch(training, torch.arange(8) % 7))
    found = model.eval().predict(model.adapt(x, y, ways=4), query)
    for t in range(len(x)):
        z, of_query = (transformed(part[t].numpy(), transform, training.mean(0).numpy()) for part in (x, query))
        nearest = NearestCentroid().fit(z, y[t].numpy())
        expected = -((of_query[:, None] - nearest.centroids_) ** 2).sum(-1)
        np.testing.assert_allclose(found[t], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found[t].argmax(-1), nearest.predict(of_query))


def test_the_mean_is_of_all_training_batches_and_goes_into_the_checkpoint() -> None:
    model, batches = simpleshot("cl2n"), torch.rand(3, 8, 6, dtype=torch.float64)
    with pytest.raises(InputError, match=r"SimpleShot subtracts the mean embedding .* come without one"):
        model.check_measured()
    for x in batches:
        model(Minibatch(x, torch.arange(8) % 7))
    model.eval()(Minibatch(batches[0] + 5, torch.arange(8) % 7))  # not training
    torch.testing.assert_close(model.state_dict()["mean"], batches.mean((0, 1)))
    assert model.protocol() == {
        "norm_statistics": "running",
        "transform": "cl2n",
        "distance": "squared_euclidean",
        "mean_over_batches": 3,
    }
    assert simpleshot("l2n").state_dict().keys() == model.state_dict().keys(), (
        "a run of one transform serves the others"
    )


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, 6, dtype=torch.float64), torch.tensor([[0, 2, 2, 1, 2, 0]])
    model = simpleshot("l2n").eval()
    found = model.predict(model.adapt(x, y, ways=3), x)[0]
    nearest = NearestCentroid().fit(transformed(x[0].numpy(), "l2n", np.zeros(6)), y[0].numpy())
    z = transformed(x[0].numpy(), "l2n", np.zeros(6))
    np.testing.assert_allclose(found, -((z[:, None] - nearest.centroids_) ** 2).sum(-1), rtol=1e-9, atol=1e-12)


def test_cosines_to_the_means_of_embeddings_as_they_are() -> None:
    x, y, query, _ = clusters(shots=3)
    model = simpleshot("un", "cosine").eval()
    found = model.predict(model.adapt(x, y, ways=4), query)[0]
    means = NearestCentroid().fit(x[0].numpy(), y[0].numpy()).centroids_
    means, of_query = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (means, query[0].numpy()))
    np.testing.assert_allclose(found, of_query @ means.T, rtol=1e-9, atol=1e-12)


def test_an_unknown_transform() -> None:
    with pytest.raises(InputError, match=r"algorithm\.transform=pca is unknown; choose un, l2n or cl2n"):
        simpleshot("pca")
