"""Methods on fixed features: easyfsl's and ours on the same episodes, accuracy and time.

    python scripts/bench/easyfsl_methods.py [--quick] [--json docs/results/bench_easyfsl_methods.json] [--device cuda]

The features are those of the glyphs test split by a Conv4-32 classifier that is trained here for 300 steps of 128
images; episodes are 5-way with 15 queries per class. easyfsl takes the episodes one by one, as its API has it, ours
all together; each side in a process of its own.

Where easyfsl's equations differ from the paper's, ours are computed twice: as the paper has them (`ours %`) and with
easyfsl's (`same %`), in the classes below, each of which holds one difference. Columns: ratio of times per episode
(ours with easyfsl's equations); accuracies in percent; `equal` is the share of episodes, in percent, in which that
accuracy is easyfsl's to the last query.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from measuring import Load, Row, alone, arguments, missing, report, timed
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.base import Algorithm
from fewshot.algorithms.bd_cspn import BDCSPN
from fewshot.algorithms.feat import FEAT
from fewshot.algorithms.laplacianshot import LaplacianShot
from fewshot.algorithms.protonet import ProtoNet
from fewshot.algorithms.pt_map import PTMAP
from fewshot.algorithms.simpleshot import SimpleShot
from fewshot.algorithms.tim import TIM
from fewshot.episode import Episodes, Minibatches
from fewshot.metrics import episode_accuracy
from fewshot.ops.similarities import cosines

WAYS, QUERIES, TASKS = 5, 15, 50  # TASKS: episodes that our side takes at a time
EPISODES = Episodes(tasks=1, ways=WAYS, shots=1, queries=1)
HEAD: dict[str, Any] = {"train_classes": 2, "stream": Minibatches(batch_size=2)}
STEPS = {"tim": 50, "laplacianshot": 20, "pt_map": 20}  # of both sides


class CosineTIM(TIM):
    """easyfsl/methods/tim.py: posteriors are softmax(temperature cos(z, w)); the paper's -temperature/2 |z - w|^2."""

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        return self.temperature * cosines(z, w)


class ByBDCSPN(LaplacianShot):
    """easyfsl/methods/laplacian_shot.py: prototypes are BD-CSPN's, with every query and a factor of 1; not (1)."""

    def rectified(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        moved = query + support.mean(1, keepdim=True) - query.mean(1, keepdim=True)
        return bd_cspn(query.shape[-1], None, 1.0).rectified(support, onehot, moved)


class UnmovedQueries(BDCSPN):
    """easyfsl/methods/bd_cspn.py: (5) compares the queries as they were before (1)."""

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        moved = query + support.mean(1, keepdim=True) - query.mean(1, keepdim=True)
        return self.scale * cosines(query, self.rectified(support, onehot, moved))


class Underflowing(PTMAP):
    """easyfsl/methods/pt_map.py: the power transform alone, neither centred nor scaled to |v| = 1; then exp(-10 L) of
    such large L is 0 in float32, and a query whose row has nothing left belongs to class 0."""

    def transformed(self, z: Tensor) -> Tensor:
        return (z.relu() + 1e-6) ** self.power

    def transport(self, query: Tensor, centres: Tensor) -> Tensor:
        m = (-self.sinkhorn * torch.cdist(query, centres) ** 2).exp()  # [T, N*Q, N]
        m = m / m.sum((1, 2), keepdim=True)
        going_on = torch.ones_like(m[:, :1, :1], dtype=torch.bool)  # [T, 1, 1]
        for _ in range(1000):
            rows = m.sum(2, keepdim=True)
            next_m = m / (rows + 1e-10)
            next_m = next_m * (query.shape[1] // centres.shape[1] / (next_m.sum(1, keepdim=True) + 1e-10))
            m = torch.where(going_on, next_m, m)
            going_on = going_on & ((rows - m.sum(2, keepdim=True)).abs().amax((1, 2), keepdim=True) >= 1e-6)
            if not going_on.any():
                break
        return m.clamp_min(1e-30).log()


class Given(nn.Identity):
    """In the place of a backbone."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features


def protonet(features: int, distance: str = "euclidean") -> ProtoNet:
    return ProtoNet(Given(features), stream=EPISODES, distance=distance, temperature=10.0)


def bd_cspn(features: int, pseudo_labels: int | None = 8, scale: float = 10.0, kind: type[BDCSPN] = BDCSPN) -> BDCSPN:
    return kind(Given(features), **HEAD, scale=scale, pseudo_labels=pseudo_labels)


def tim(features: int, kind: type[TIM] = TIM) -> TIM:
    return kind(
        Given(features), **HEAD, solver="gradient", steps=STEPS["tim"], lr=1e-3, temperature=15.0, cross_entropy=0.1,
        marginal=1.0, conditional=0.1, alpha=1.0,
    )  # fmt: skip


def laplacianshot(features: int, kind: type[LaplacianShot] = LaplacianShot) -> LaplacianShot:
    return kind(
        Given(features), **HEAD, centre=False, scale=10.0, laplacian=0.7, neighbours=2, steps=STEPS["laplacianshot"]
    )


def pt_map(features: int, kind: type[PTMAP] = PTMAP) -> PTMAP:
    return kind(Given(features), **HEAD, power=0.5, sinkhorn=10.0, scalings=50, rate=0.2, steps=STEPS["pt_map"])


def simpleshot(features: int, distance: str = "squared_euclidean") -> SimpleShot:
    return SimpleShot(Given(features), **HEAD, transform="l2n", distance=distance)


def feat(features: int) -> FEAT:
    torch.manual_seed(0)  # both sides have these weights
    return FEAT(
        Given(features), stream=EPISODES, temperature=64.0, aux_temperature=64.0, balance=0.01, attention_dropout=0.1,
        dropout=0.5,
    )  # fmt: skip


def easyfsl(name: str, **options: Any) -> Callable[[int], nn.Module]:
    """A method of easyfsl on embeddings."""

    def make(features: int) -> nn.Module:
        import easyfsl.methods

        return getattr(easyfsl.methods, name)(nn.Identity(), **options)  # type: ignore[no-any-return]

    return make


def easyfsl_feat(features: int) -> nn.Module:
    """With the weights of our side."""
    from easyfsl.methods import FEAT as THEIRS
    from easyfsl.modules import MultiHeadAttention

    ours, attention = feat(features).transform, MultiHeadAttention(1, features, features, features)
    pairs = {"w_qs": ours.queries, "w_ks": ours.keys, "w_vs": ours.values, "fc": ours.output, "layer_norm": ours.norm}
    for layer, mine in pairs.items():
        getattr(attention, layer).load_state_dict(mine.state_dict())
    return THEIRS(nn.Identity(), attention_module=attention)  # type: ignore[no-any-return]


class Method(NamedTuple):
    name: str
    easyfsl: Callable[[int], nn.Module]  # theirs, for D features
    paper: Callable[[int], Algorithm]  # ours as the paper has it
    same: Callable[[int], Algorithm]  # ours with easyfsl's equations
    why: str  # they differ


UNIT: dict[str, Any] = {"feature_normalization": 2}
ADAPTED: dict[str, Any] = {"fine_tuning_steps": STEPS["tim"], "fine_tuning_lr": 1e-3, "temperature": 15.0}
METHODS = (
    Method("ProtoNet", easyfsl("PrototypicalNetworks"), lambda d: protonet(d, "squared_euclidean"), protonet,
           "distance not squared: other probabilities, the same class"),
    Method("SimpleShot", easyfsl("SimpleShot", **UNIT), simpleshot, lambda d: simpleshot(d, "cosine"),
           "cosine of the class mean, not the distance to it"),
    Method("FEAT", easyfsl_feat, feat, feat, "distance not squared"),
    Method("BD-CSPN", easyfsl("BDCSPN", **UNIT), bd_cspn, lambda d: bd_cspn(d, None, 1.0, UnmovedQueries),
           "every query, factor 1 (ours 8 a class, 10); queries as they were before (1)"),
    Method("TIM", easyfsl("TIM", **UNIT, **ADAPTED, cross_entropy_weight=0.1), tim, lambda d: tim(d, CosineTIM),
           "cosines in place of distances"),
    Method("LaplacianShot", easyfsl("LaplacianShot", **UNIT, inference_steps=STEPS["laplacianshot"]), laplacianshot,
           lambda d: laplacianshot(d, ByBDCSPN), "BD-CSPN's prototypes"),
    Method("PT-MAP", easyfsl("PTMAP", fine_tuning_steps=STEPS["pt_map"]), pt_map, lambda d: pt_map(d, Underflowing),
           "neither centred nor scaled to length 1; underflow"),
)  # fmt: skip


class Features(NamedTuple):
    """E episodes of embeddings, and what their queries are."""

    support: Tensor  # [E, N*K, D]
    support_y: Tensor  # [E, N*K]
    query: Tensor  # [E, N*Q, D]
    query_y: Tensor  # [E, N*Q]


def trained(quick: bool, device: str) -> Tensor:
    """Embeddings [classes, images, D] of a test split."""
    if quick:
        return torch.rand(12, 1, 8) + 0.3 * torch.rand(12, 20, 8)
    from ours import built

    from fewshot.algorithms.base import embed
    from fewshot.assemble import load_images
    from fewshot.streams import stream

    ours = built(["algorithm=tim", "backbone=conv4_32", f"device={device}"], classes=805)
    images = load_images(ours.config).on(ours.machine.device)
    batches = stream(ours.algorithm.stream, images, "train", seed=0, within_groups=False, device=ours.machine.device)
    for k in range(300):
        ours.step(batches.batch(k), step=k, rate=1.0)
    ours.algorithm.eval()
    offsets, test = images.offsets, list(images.split("test"))
    rows = torch.stack([torch.arange(int(offsets[c]), int(offsets[c + 1])) for c in test])  # [classes, 20]
    with torch.no_grad():
        pixels = images.images[rows.flatten().to(images.images.device)].to(ours.machine.device).float() / 255
        z = [embed(ours.algorithm.backbone, part[None])[0] for part in pixels.split(500)]  # type: ignore[arg-type]
    return torch.cat(z).unflatten(0, rows.shape).float().cpu()


def drawn(z: Tensor, shots: int, episodes: int) -> Features:
    """Episodes of the embeddings, drawn with a seed of their own."""
    draw = torch.Generator().manual_seed(shots)
    classes = torch.stack([torch.randperm(len(z), generator=draw)[:WAYS] for _ in range(episodes)])  # [E, N]
    images = torch.rand(episodes, WAYS, z.shape[1], generator=draw).argsort(-1)[..., : shots + QUERIES]
    x = z[classes[..., None], images]  # [E, N, K+Q, D]
    y = [torch.arange(WAYS).repeat_interleave(k).repeat(episodes, 1) for k in (shots, QUERIES)]
    return Features(x[:, :, :shots].flatten(1, 2), y[0], x[:, :, shots:].flatten(1, 2), y[1])


class Side(NamedTuple):
    accuracy: list[float]  # percent, of each episode
    ms: float  # per episode
    others: float  # percent of the cores that other processes had


def our_side(make: Callable[[int], Algorithm], data: Features, device: str) -> Side:
    algorithm = make(data.query.shape[-1]).to(device).eval()
    parts = [Features(*part) for part in zip(*[t.to(device).split(TASKS) for t in data], strict=True)]

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [algorithm.predict(algorithm.adapt(p.support, p.support_y, ways=WAYS), p.query) for p in parts]

    return side(lambda: torch.cat(run()), data, device)


def their_side(make: Callable[[int], nn.Module], data: Features, device: str) -> Side:
    classifier = make(data.query.shape[-1]).to(device).eval()
    placed = Features(*[t.to(device) for t in data])

    def one(support: Tensor, support_y: Tensor, query: Tensor) -> Tensor:
        classifier.process_support_set(support, support_y)
        return classifier(query).detach()

    return side(lambda: torch.stack([one(*task[:3]) for task in zip(*placed, strict=True)]), data, device)


def side(run: Callable[[], Tensor], data: Features, device: str) -> Side:
    """Once for the accuracy and to warm up, then the quicker of two."""
    accuracy = episode_accuracy(run().cpu(), data.query_y)
    load = Load()
    seconds = min(timed(run, device) for _ in range(2))
    return Side(accuracy.tolist(), 1e3 * seconds / len(accuracy), load.others())


def row(number: int, shots: int, z: Tensor, episodes: int, quick: bool, device: str) -> Row:
    method, data = METHODS[number], drawn(z, shots, episodes)
    paper, same, theirs = (alone(quick, of_method, kind, number, data, device) for kind in ("paper", "same", "theirs"))
    equal = [abs(a - b) < 1e-9 for a, b in zip(same.accuracy, theirs.accuracy, strict=True)]

    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / len(values), 2)

    return {
        "easyfsl / ours": theirs.ms / same.ms, "method": method.name, "shots": shots, "ours %": mean(paper.accuracy),
        "same %": mean(same.accuracy), "easyfsl %": mean(theirs.accuracy), "equal": 100 * mean(equal),
        "ours ms": same.ms, "easyfsl ms": theirs.ms, "others %": max(paper.others, same.others, theirs.others),
        "easyfsl has": method.why,
    }  # fmt: skip


def of_method(kind: str, number: int, data: Features, device: str) -> Side:
    """One side; by number, as lambdas do not travel between processes."""
    method = METHODS[number]
    if kind == "theirs":
        return their_side(method.easyfsl, data, device)
    return our_side(method.paper if kind == "paper" else method.same, data, device)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    if missing("easyfsl"):
        return report("easyfsl_methods", args, [])
    z, episodes = alone(args.quick, trained, args.quick, args.device), 4 if args.quick else 200
    rows: list[Row] = []
    for shots in (1, 5):
        for number in range(len(METHODS)):
            rows.append(row(number, shots, z, episodes, args.quick, args.device))
            print(rows[-1], flush=True)
    return report("easyfsl_methods", args, rows, episodes=episodes)


if __name__ == "__main__":
    main()
