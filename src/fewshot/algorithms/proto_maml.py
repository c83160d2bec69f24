"""Proto-MAML (Triantafillou et al. 2020, arXiv:1903.03096): MAML whose head starts as a prototypical network.

    (1)  c_k = mean of f_theta(x) over the support images of class k          prototypes of task i
    (2)  w_k = 2 c_k,  b_k = -|c_k|^2                                         for w_k z + b_k = -|z - c_k|^2 + |z|^2
    (3)  theta_i', w', b'  by MAML's inner steps from theta, w, b             (1) of maml.py; each a weight of its own
    (4)  min_theta  sum_i L_i^query                                           through (3), and through (1) and (2)

Shapes: c [T, N, D]; w [T, N, D], b [T, N]; support_x [T, N*K, C, H, W], logits [T, N*Q, N]. Serves any number of ways.
Transductive where `norm_statistics` is batch; with `support`, as the authors have it, each query is judged alone.

Differences from the paper: second order unless `first_order`, as the authors' runs are. They train on one episode a
step, of drawn ways and shots; here they can be drawn (`train_ways`, `train_shots`), the shots alike for all classes.
"""

from torch import Tensor

from fewshot.algorithms.heads import ZeroHead
from fewshot.algorithms.maml import MAML
from fewshot.errors import InputError
from fewshot.ops.similarities import class_means
from fewshot.ops.tasks import Params


class ProtoMAML(MAML):
    def theta(self, ways: int) -> Params:
        if not isinstance(self.head, ZeroHead):
            raise InputError("algorithm.head_init is not zero, but this head starts from prototypes; leave it at zero")
        return super().theta(ways)

    def start(self, support_x: Tensor, support_y: Tensor, ways: int) -> Params:
        theta = self.theta(ways)
        z = self.network.features(theta, support_x, adapting=True)  # [T, N*K, D]
        c = class_means(z, support_y, ways)  # (1)
        return theta | {"head.weight": 2 * c, "head.bias": -c.square().sum(-1)}  # (2)
