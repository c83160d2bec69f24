"""SimpleShot, nearest class mean on a trained classifier's embeddings (Wang, Chao, Weinberger & van der Maaten 2019,
arXiv:1911.04623).

    z    embedding of the classifier's backbone, mean its mean over the training images
    (1)  UN: z      L2N: z / |z|      CL2N: (z - mean) / |z - mean|
    (2)  c_k = mean of (1) over the support images of class k
    (3)  logits = -|(1) of the query - c_k|^2         distance: cosine instead, as Classifier-Baseline (Chen et al.
                                                      2021, arXiv:2003.04390) has it, with UN

Shapes: embeddings [T, M, D], mean [D], class means [T, N, D], logits [T, N*Q, N]. Inductive. Classes may have unequal
shots; nothing in it depends on the number of ways.

Differences from the paper: `mean` is a moving average that training keeps, of its last mini-batches in batch norm's
training mode, the paper's one more pass over all training images.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import check_choice
from fewshot.ops.similarities import cosines, squared_distances


class SimpleShot(EmbeddingHead):
    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, transform: str,
        distance: str = "squared_euclidean", label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        check_choice("algorithm.transform", transform, ("un", "l2n", "cl2n"))
        check_choice("algorithm.distance", distance, ("squared_euclidean", "cosine"))
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        self.transform, self.distance = transform, distance
        self.subtracts_mean = transform == "cl2n"

    def transformed(self, z: Tensor) -> Tensor:
        """(1): [T, M, D] -> [T, M, D]."""
        z = z - self.mean if self.transform == "cl2n" else z
        return z if self.transform == "un" else normalize(z, dim=-1)

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        means, z = prototypes(self.transformed(support), onehot), self.transformed(query)  # (2)
        return cosines(z, means) if self.distance == "cosine" else -squared_distances(z, means)  # (3)

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"transform": self.transform, "distance": self.distance}
