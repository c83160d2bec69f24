"""Pictures of episodes. Layer 4."""

from collections.abc import Sequence
from typing import Any

from fewshot.episode import Episode


def draw_episodes(batch: Episode, class_names: Sequence[str], title: str) -> Any:
    """A matplotlib Figure: one block per episode, a row per class, its support images left of its queries."""
    from matplotlib.figure import Figure  # late: half a second

    tasks, ways = batch.classes.shape
    shots = batch.support_x.shape[1] // ways
    queries = batch.query_x.shape[1] // ways
    columns = shots + queries + 1  # one empty column between support and query
    size = 0.62
    figure = Figure(figsize=(2.6 + size * columns, 0.7 + tasks * (0.5 + size * ways)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for block, task in zip(figure.subfigures(tasks, 1, squeeze=False)[:, 0], range(tasks), strict=True):
        axes = block.subplots(ways, columns, squeeze=False)
        block.suptitle(f"episode {task}", fontsize=8, x=0.01, ha="left", color="0.4")
        for n in range(ways):
            rows = [*batch.support_x[task, n * shots : (n + 1) * shots], None]
            rows += [*batch.query_x[task, n * queries : (n + 1) * queries]]
            for axis, image in zip(axes[n], rows, strict=True):
                axis.set_axis_off()
                if image is not None:
                    picture = image.cpu().permute(1, 2, 0).numpy()
                    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            name = class_names[int(batch.classes[task, n])]
            axes[n][0].text(-0.15, 0.5, name, transform=axes[n][0].transAxes, ha="right", va="center", fontsize=7)
        axes[0][0].set_title("support", fontsize=8, loc="left")
        axes[0][shots + 1].set_title("query", fontsize=8, loc="left")
    return figure
