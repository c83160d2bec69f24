"""The three kernels of `fused_norm`, in Triton: a program per channel, over windows of SIDE x SIDE values. Layer 0.

x is [B, C, H, W] with strides xb, xc and xp from one image, channel and place within a plane to the next; so are the
others. Sums are taken in ACC. Values that a plane has beside its last whole window count for mean and deviation.
"""

# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def _windows(first, B, H, W, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Of BLOCK windows: image, place within its plane, whether it exists (all [BLOCK, SIDE**2] or [BLOCK, 1]),
    whether the window is whole, its place within the plane of outputs."""
    window = first + tl.arange(0, BLOCK)[:, None]
    k = tl.arange(0, SIDE * SIDE)[None, :]
    down, across = (H + SIDE - 1) // SIDE, (W + SIDE - 1) // SIDE
    image, row, column = window // (down * across), window // across % down, window % across
    y, x = row * SIDE + k // SIDE, column * SIDE + k % SIDE
    there = (image < B) & (y < H) & (x < W)
    whole = (image < B) & (row < H // SIDE) & (column < W // SIDE)
    return image, y * W + x, there, whole, row * (W // SIDE) + column


@triton.jit
def _unit(first, x, c, mean, inverse, B, H, W, xb, xc, xp, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """What `_windows` gives, and the normalised values [BLOCK, SIDE**2] there."""
    image, place, there, whole, out = _windows(first, B, H, W, SIDE, BLOCK)
    value = tl.load(x + c * xc + image * xb + place * xp, there, 0.0).to(mean.dtype)
    return image, place, there, whole, out, tl.where(there, (value - mean) * inverse, 0.0)


@triton.jit
def _largest(z, there, whole, slope, SIDE: tl.constexpr):
    """The largest of each window, where it is (the first of equal ones), the activation's slope there."""
    top = tl.where(whole, tl.max(tl.where(there, z, -float("inf")), axis=1, keep_dims=True), 0.0)
    k = tl.arange(0, SIDE * SIDE)[None, :]
    place = tl.min(tl.where(there & (z == top), k, SIDE * SIDE), axis=1, keep_dims=True)
    return top, (k == place) & whole, tl.where(top > 0, 1.0, slope)


@triton.jit
def _sum(t):
    return tl.sum(tl.sum(t, 1), 0)


@triton.jit
def forward(x, w, b, y, means, inverses, B, H, W, xb, xc, xp, yb, yc, yp, eps, slope,
             ACC: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    c, n = tl.program_id(0).to(tl.int64), B * H * W
    windows = B * ((H + SIDE - 1) // SIDE) * ((W + SIDE - 1) // SIDE)
    zero, one = tl.zeros([], ACC), tl.full([], 1.0, ACC)
    total = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    for first in range(0, windows, BLOCK):
        _, _, _, _, _, value = _unit(first, x, c, zero, one, B, H, W, xb, xc, xp, SIDE, BLOCK)
        total += value
    mean = _sum(total) / n
    total = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    for first in range(0, windows, BLOCK):
        _, _, _, _, _, value = _unit(first, x, c, mean, one, B, H, W, xb, xc, xp, SIDE, BLOCK)
        total += value * value
    inverse = 1 / tl.sqrt(_sum(total) / n + eps)
    tl.store(means + c, mean)
    tl.store(inverses + c, inverse)
    scale, shift = tl.load(w + c).to(ACC), tl.load(b + c).to(ACC)
    for first in range(0, windows, BLOCK):
        image, _, there, whole, out, unit = _unit(first, x, c, mean, inverse, B, H, W, xb, xc, xp, SIDE, BLOCK)
        top, _, gate = _largest(unit * scale + shift, there, whole, slope, SIDE)
        tl.store(y + c * yc + image * yb + out * yp, top * gate, whole)


@triton.jit
def _again(first, gy, x, c, scale, shift, mean, inverse, B, H, W, gb, gc, gp, xb, xc, xp, slope,
           SIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """What `_unit` gives, what was chosen of it, and g: gy at the chosen places, 0 elsewhere."""
    image, place, there, whole, out, unit = _unit(first, x, c, mean, inverse, B, H, W, xb, xc, xp, SIDE, BLOCK)
    _, chosen, gate = _largest(unit * scale + shift, there, whole, slope, SIDE)
    gate = tl.where(chosen, gate, 0.0)
    g = tl.load(gy + c * gc + image * gb + out * gp, whole, 0.0).to(mean.dtype) * gate
    return image, place, there, whole, out, unit, gate, g


@triton.jit
def backward(gy, x, w, b, means, inverses, by_x, by_w, by_b, B, H, W, gb, gc, gp, xb, xc, xp, ob, oc, op, slope,
              ACC: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """By x: w r (g - <g> - x' <g x'>), by w: n <g x'>, by b: n <g>, as batch_norm._BatchNormBackward has it."""
    c, n = tl.program_id(0).to(tl.int64), B * H * W
    windows = B * ((H + SIDE - 1) // SIDE) * ((W + SIDE - 1) // SIDE)
    scale, shift = tl.load(w + c).to(ACC), tl.load(b + c).to(ACC)
    mean, inverse = tl.load(means + c), tl.load(inverses + c)
    sum_g = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    sum_gx = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    for first in range(0, windows, BLOCK):
        _, _, _, _, _, unit, _, g = _again(first, gy, x, c, scale, shift, mean, inverse, B, H, W,
                                           gb, gc, gp, xb, xc, xp, slope, SIDE, BLOCK)  # fmt: skip
        sum_g += g
        sum_gx += g * unit
    g1, gx = _sum(sum_g), _sum(sum_gx)
    tl.store(by_w + c, gx)
    tl.store(by_b + c, g1)
    for first in range(0, windows, BLOCK):
        image, place, there, _, _, unit, _, g = _again(first, gy, x, c, scale, shift, mean, inverse, B, H, W,
                                                       gb, gc, gp, xb, xc, xp, slope, SIDE, BLOCK)  # fmt: skip
        found = scale * inverse * (g - g1 / n - unit * (gx / n))
        tl.store(by_x + c * oc + image * ob + place * op, found, there)


@triton.jit
def twice(v, us, ss, gy, x, w, b, means, inverses, gxs, g1s, by_gy, by_x, by_w, B, H, W,
           vb, vc, vp, gb, gc, gp, xb, xc, xp, hb, hc, hp, ob, oc, op, slope,
           ACC: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """v, u, s come in for (by x, by w, by b) of `backward`; the formulas: batch_norm._BatchNormBackward.backward."""
    c, n = tl.program_id(0).to(tl.int64), B * H * W
    windows = B * ((H + SIDE - 1) // SIDE) * ((W + SIDE - 1) // SIDE)
    scale, shift = tl.load(w + c).to(ACC), tl.load(b + c).to(ACC)
    mean, inverse, gx, g1 = tl.load(means + c), tl.load(inverses + c), tl.load(gxs + c), tl.load(g1s + c)
    u, s = tl.load(us + c).to(ACC), tl.load(ss + c).to(ACC)
    sum_v = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    sum_vx = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    sum_vg = tl.zeros([BLOCK, SIDE * SIDE], ACC)
    for first in range(0, windows, BLOCK):
        image, place, there, _, _, unit, _, g = _again(first, gy, x, c, scale, shift, mean, inverse, B, H, W,
                                                       gb, gc, gp, xb, xc, xp, slope, SIDE, BLOCK)  # fmt: skip
        own = tl.load(v + c * vc + image * vb + place * vp, there, 0.0).to(ACC)
        sum_v += own
        sum_vx += own * unit
        sum_vg += own * g
    v1, vx, vg = _sum(sum_v), _sum(sum_vx), _sum(sum_vg)
    scaled = scale * inverse
    by_weight = inverse * (vg - (v1 * g1 + vx * gx) / n)
    tl.store(by_w + c, by_weight)
    of_g, of_v = inverse * (u - scaled * vx / n), -inverse * scaled * gx / n
    of_unit, rest = -(of_g * gx + of_v * vx + scaled * by_weight) / n, -(of_g * g1 + of_v * v1) / n
    for first in range(0, windows, BLOCK):
        image, place, there, whole, out, unit, gate, g = _again(first, gy, x, c, scale, shift, mean, inverse, B, H, W,
                                                                gb, gc, gp, xb, xc, xp, slope, SIDE, BLOCK)  # fmt: skip
        own = tl.load(v + c * vc + image * vb + place * vp, there, 0.0).to(ACC)
        tl.store(by_x + c * oc + image * ob + place * op, of_g * g + of_v * own + of_unit * unit + rest, there)
        by_g = scaled * (own - v1 / n - unit * (vx / n)) + u * unit + s
        found = tl.sum(by_g * gate, axis=1, keep_dims=True)
        tl.store(by_gy + c * hc + image * hb + out * hp, found, whole)
