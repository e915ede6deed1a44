"""The set of kernels for GPUs: memory for results, tiles, launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.attention.ops.gpu import context, cross, group_gate, place, plane, plane_gate, tiles
from regard.attention.ops.gpu.tiles import (
    TILE,
    Tile,
    box,
    box_warps,
    column_tile,
    common,
    group_tile,
    map_tile,
    power,
    tile,
    whole_tile,
)


class TritonKernels:
    """The kernels in Triton; see `Kernels` for what each does."""

    name = "triton"
    dtypes = frozenset({torch.float16, torch.bfloat16, torch.float32})

    def plane_gate_forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd = torch.empty_like(x), _small(x, *x.shape[:2]), _small(x, *x.shape[:2])
        sides, whole = _of(whole_tile, x)
        _planes(
            plane_gate.plane_gate_forward,
            x,
            sides,
            *(x, y, scale, shift, local.view(torch.uint8), w, b, mean, rstd),
            eps=eps,
            ORDER=len(w),
            SHUFFLE=bool(shuffle),
            WHOLE=whole,
        )
        return y, mean, rstd

    def plane_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        scale: Tensor,
        shift: Tensor,
        local: Tensor,
        w: Tensor,
        b: Tensor,
        shuffle: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        (n, c), k = x.shape[:2], len(w)
        dx, dscale, dshift = torch.empty_like(x), _small(x, n, c), _small(x, n, c)
        dw, db = _small(x, n, k, c), _small(x, n, k, c)
        sides, whole = _of(whole_tile, x)
        _planes(
            plane_gate.plane_gate_backward,
            x,
            sides,
            *(g, x, mean, rstd, scale, shift, local.view(torch.uint8), w, b),
            *(dx, dscale, dshift, dw, db),
            ORDER=k,
            K=power(k),
            SHUFFLE=bool(shuffle),
            WHOLE=whole,
        )
        return dx, dscale, dshift, dw, db

    def plane_statistics(
        self, x: Tensor, variance: bool, largest: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        n, c = x.shape[:2]
        mean, var = _small(x, n, c), _small(x, n, c) if variance else None
        top, where = (_small(x, n, c), _positions(x, n, c)) if largest else (None, None)
        sides = _of(tile, x)
        _planes(
            plane.plane_statistics,
            x,
            sides,
            *(x, mean, var, top, where),
            VARIANCE=variance,
            LARGEST=largest,
            WHOLE=_places(x) <= sides.places,
        )
        return mean, var, top, where

    def plane_scale(self, x: Tensor, f: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _everywhere(plane.plane_scale, x, _of(tile, x), x, f, y)
        return y

    def plane_dot(self, g: Tensor, x: Tensor) -> Tensor:
        dots = _small(x, *x.shape[:2])
        _planes(plane.plane_dot, x, _of(tile, x), g, x, dots)
        return dots

    def plane_combine(
        self,
        g: Tensor,
        f: Tensor,
        rest: Tensor,
        x: Tensor | None,
        slope: Tensor | None,
        peak: Tensor | None,
        where: Tensor | None,
    ) -> Tensor:
        dx = torch.empty_like(g)
        tensors = (g, f, rest, x, slope, peak, where, dx)
        _everywhere(plane.plane_combine, g, _of(tile, g), *tensors, SLOPE=slope is not None, PEAK=peak is not None)
        return dx

    def cross_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        rows, columns = _small(x, n, c, h), _small(x, n, c, w)
        _boxes(cross.cross_statistics, x, x, rows, columns)
        return rows, columns

    def cross_scale(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _boxes(cross.cross_combine, x, x, rows, columns, None, None, y, REST=False)
        return y

    def cross_dot(self, g: Tensor, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        drows, dcolumns = torch.empty_like(rows), torch.empty_like(columns)
        _boxes(cross.cross_dot, x, g, x, rows, columns, drows, dcolumns)
        return drows, dcolumns

    def cross_combine(self, g: Tensor, rows: Tensor, columns: Tensor, row_rest: Tensor, column_rest: Tensor) -> Tensor:
        dx = torch.empty_like(g)
        _boxes(cross.cross_combine, g, g, rows, columns, row_rest, column_rest, dx, REST=True)
        return dx

    def group_gate_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (n, c), groups, p = x.shape[:2], len(weight), _places(x)
        y, centre, spread = torch.empty_like(x), _small(x, n, groups), _small(x, n, groups)
        sides, whole = group_tile(c // groups, p)
        gate: dict[str, Any] = {"G": groups, "eps": eps, "ORDER": len(w)}
        if whole:
            mean = _small(x, n, c)
            tensors = (x, y, weight, bias, w, b, mean, centre, spread)
            _run(group_gate.group_gate_forward, x, sides, n * groups, *tensors, **gate)
            return y, mean, centre, spread
        mean, _, _, _ = self.plane_statistics(x, False, False)
        maps, f = _small(x, n, groups, p), _small(x, n, groups, p)
        parts = n * groups * -(-p // sides.places)
        _run(group_gate.group_maps, x, sides, parts, None, x, mean, maps, None, G=groups, GRADIENT=False)
        _rows(group_gate.map_factors, maps, weight, bias, w, b, f, centre, spread, **gate)
        _everywhere(group_gate.map_combine, x, _of(map_tile, x), x, f, None, None, None, y, G=groups, REST=False)
        return y, mean, centre, spread

    def group_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        centre: Tensor,
        spread: Tensor,
        weight: Tensor,
        bias: Tensor,
        w: Tensor,
        b: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        (n, c), groups, p, k = x.shape[:2], len(weight), _places(x), len(w)
        dx, dweight, dbias = torch.empty_like(x), _small(x, n, groups), _small(x, n, groups)
        dw, db = _small(x, n, k, groups), _small(x, n, k, groups)
        sides, whole = group_tile(c // groups, p)
        gate: dict[str, Any] = {"G": groups, "eps": eps, "ORDER": k, "K": power(k)}
        if whole:
            tensors = (g, x, mean, centre, spread, weight, bias, w, b, dx, dweight, dbias, dw, db)
            _run(group_gate.group_gate_backward, x, sides, n * groups, *tensors, **gate)
            return dx, dweight, dbias, dw, db
        maps, dots, f, dmaps = (_small(x, n, groups, p) for _ in range(4))
        parts = n * groups * -(-p // sides.places)
        _run(group_gate.group_maps, x, sides, parts, g, x, mean, maps, dots, G=groups, GRADIENT=True)
        tensors = (maps, dots, centre, spread, weight, bias, w, b, f, dmaps, dweight, dbias, dw, db)
        _rows(group_gate.map_slopes, *tensors, **gate)
        rest = _small(x, n, c)
        _planes(group_gate.map_dot, x, _of(map_tile, x), x, dmaps, rest, G=groups)
        _everywhere(group_gate.map_combine, x, _of(map_tile, x), g, f, dmaps, mean, rest, dx, G=groups, REST=True)
        return dx, dweight, dbias, dw, db

    def place_statistics(self, x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, p = len(x), _places(x)
        mean, top, where = _small(x, n, p), _small(x, n, p), _positions(x, n, p)
        _columns(place.place_statistics, x, x, f, mean, top, where)
        return mean, top, where

    def place_scale(self, x: Tensor, f: Tensor, m: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _everywhere(place.place_scale, x, _of(map_tile, x), x, f, m, y)
        return y

    def place_dot(self, g: Tensor, x: Tensor, f: Tensor) -> Tensor:
        dots = _small(x, len(x), _places(x))
        _columns(place.place_dot, x, g, x, f, dots, GRADIENT=True)
        return dots

    def place_plane_dot(self, g: Tensor, x: Tensor, m: Tensor, rest: Tensor, peak: Tensor, where: Tensor) -> Tensor:
        dots = _small(x, *x.shape[:2])
        _planes(place.place_plane_dot, x, _of(map_tile, x), g, x, m, rest, peak, where, dots)
        return dots

    def place_combine(
        self,
        g: Tensor,
        f: Tensor,
        m: Tensor,
        rest: Tensor,
        peak: Tensor,
        where: Tensor,
        plane_rest: Tensor,
        plane_peak: Tensor,
        plane_where: Tensor,
    ) -> Tensor:
        dx = torch.empty_like(g)
        _everywhere(
            place.place_combine,
            g,
            _of(map_tile, g),
            g,
            f,
            m,
            rest,
            peak,
            where,
            plane_rest,
            plane_peak,
            plane_where,
            dx,
        )
        return dx

    def over_channels(self, x: Tensor, k: Tensor) -> Tensor:
        sums = _small(x, len(x), _places(x))
        _columns(place.place_dot, x, None, x, k, sums, GRADIENT=False)
        return sums

    def over_places(self, x: Tensor, a: Tensor) -> Tensor:
        sums = _small(x, *x.shape[:2])
        _planes(context.over_places, x, _of(map_tile, x), x, a, sums)
        return sums

    def context_combine(self, g: Tensor, f: Tensor, u: Tensor, a: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dx = torch.empty_like(g)
        _everywhere(context.context_combine, g, _of(map_tile, g), g, f, u, a, k, v, dx)
        return dx


def _small(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _positions(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device=like.device)


def _places(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def _of(choice: Any, x: Tensor) -> Any:
    """The tile that a function of `tiles` chooses for features."""
    return choice(x.shape[1], _places(x), x.element_size(), not x.is_contiguous())


def _run(kernel: Any, x: Tensor, sides: Tile, programs: int, *tensors: Tensor | None, **more: Any) -> None:
    """Launches a kernel over tiles of features x."""
    c, p, last = x.shape[1], _places(x), not x.is_contiguous()
    with torch.cuda.device_of(x):
        kernel[(programs,)](
            *tensors,
            C=c,
            P=p,
            V=common(c // more.get("G", 1) if last else p),
            LAST=last,
            WIDE=x[0].numel() > tiles.NARROW,
            TC=sides.channels,
            TP=sides.places,
            num_warps=sides.warps,
            **more,
        )


def _planes(kernel: Any, x: Tensor, sides: Tile, *tensors: Tensor | None, **more: Any) -> None:
    """Launches a kernel whose programs go through all places of some planes."""
    _run(kernel, x, sides, sides.programs(len(x), x.shape[1]), *tensors, **more)


def _columns(kernel: Any, x: Tensor, *tensors: Tensor | None, **more: Any) -> None:
    """Launches a kernel whose programs go through all channels at some places."""
    sides = _of(column_tile, x)
    _run(kernel, x, sides, sides.programs(len(x), 1, _places(x)), *tensors, **more)


def _everywhere(kernel: Any, x: Tensor, sides: Tile, *tensors: Tensor | None, **more: Any) -> None:
    """Launches a kernel whose programs have one tile each."""
    _run(kernel, x, sides, sides.programs(len(x), x.shape[1], _places(x)), *tensors, **more)


def _boxes(kernel: Any, x: Tensor, *tensors: Tensor | None, **more: Any) -> None:
    """Launches a kernel for rows and columns; each program has one box if it combines, else all rows in turn."""
    (n, c, h, w), last = x.shape, not x.is_contiguous()
    sides, rows = box(c, h, w, x.element_size(), last)
    programs = sides.programs(n, c) * (-(-h // rows) if "REST" in more else 1)
    with torch.cuda.device_of(x):
        kernel[(programs,)](
            *tensors,
            C=c,
            H=h,
            W=w,
            V=common(c if last else w),
            LAST=last,
            WIDE=x[0].numel() > tiles.NARROW,
            TC=sides.channels,
            TH=rows,
            TW=sides.places,
            num_warps=box_warps(sides, rows),
            **more,
        )


def _rows(kernel: Any, maps: Tensor, *tensors: Tensor, **more: Any) -> None:
    """Launches a kernel whose programs have one map (N, G, P) each."""
    n, groups, p = maps.shape
    sides = Tile(1, min(power(p), TILE))
    with torch.cuda.device_of(maps):
        kernel[(n * groups,)](maps, *tensors, P=p, TP=sides.places, num_warps=sides.warps, **more)
