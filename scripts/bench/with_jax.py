"""MAML's step in JAX: jit around a vmap over the tasks, gradients through gradients. Only where JAX is installed.

The same net, weights, tasks and Adam as the other sides (maml.py); images are NHWC, which XLA likes best.
"""

import os
from collections.abc import Callable
from typing import Any

from plain import conv4, placed, random_tasks, with_head

ADAM = {"rate": 1e-3, "first": 0.9, "second": 0.999, "eps": 1e-8}


def jax_step(case: Any, inner_lr: float) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
    """The step, and the gradients of the first one in the order and shapes of the plain net's parameters."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.shape.dtype == "float64")
    shape = case.shape._replace(device="cpu")
    net = placed(with_head(conv4(shape, running=False), shape), shape)
    names, values = zip(*[(n, p.detach().numpy()) for n, p in net.named_parameters()], strict=True)
    theta = [jnp.asarray(v.transpose(2, 3, 1, 0) if v.ndim == 4 else v) for v in values]
    support_x, support_y, query_x, query_y = (jnp.asarray(t.numpy()) for t in random_tasks(shape))
    support_x, query_x = (x.transpose(0, 1, 3, 4, 2) for x in (support_x, query_x))
    stride = 2 if shape.downsampling == "stride" else 1

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        for kernel, bias, scale, shift in zip(*[iter(weights[:-2])] * 4, strict=True):
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout)
            x = x + bias
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            x = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + shift)
            if stride == 1:
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = x.mean((1, 2)) if stride == 2 else x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        log_p = jax.nn.log_softmax(x @ weights[-2].T + weights[-1])
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

    def outer(theta: list[Any]) -> Any:
        def one_task(sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
            fast = theta
            for _ in range(case.inner_steps):
                grads = jax.grad(loss)(fast, sx, sy)
                grads = jax.lax.stop_gradient(grads) if case.first_order else grads
                fast = [w - inner_lr * g for w, g in zip(fast, grads, strict=True)]
            return loss(fast, qx, qy)

        return jax.vmap(one_task)(support_x, support_y, query_x, query_y).mean()

    @jax.jit
    def update(theta: list[Any], first: list[Any], second: list[Any], k: Any) -> Any:
        grads = jax.grad(outer)(theta)
        a, b = ADAM["first"], ADAM["second"]
        first = [a * m + (1 - a) * g for m, g in zip(first, grads, strict=True)]
        second = [b * v + (1 - b) * g * g for v, g in zip(second, grads, strict=True)]
        steps = [
            (m / (1 - a**k)) / (jnp.sqrt(v / (1 - b**k)) + ADAM["eps"]) for m, v in zip(first, second, strict=True)
        ]
        return [w - ADAM["rate"] * s for w, s in zip(theta, steps, strict=True)], first, second, k + 1, grads

    state = [theta, [jnp.zeros_like(t) for t in theta], [jnp.zeros_like(t) for t in theta], jnp.ones(())]
    kept: list[Any] = []

    def step() -> None:
        *now, grads = update(*state)
        state[:] = now
        kept[:] = kept or grads
        jax.block_until_ready(state)

    def gradients() -> list[Any]:
        as_torch = [g.transpose(3, 2, 0, 1) if g.ndim == 4 else g for g in kept]
        idle = {f"{name.removesuffix('.weight')}.bias" for name, v in zip(names, values, strict=True) if v.ndim == 4}
        return [jax.device_get(g) for name, g in zip(names, as_torch, strict=True) if name not in idle]

    return step, gradients
