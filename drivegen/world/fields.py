"""The plan as distance fields on a grid: how the renderer finds the class of the ground at a point.

Signed distances (positive inside) at the nodes of a 0.25 m grid, interpolated bilinearly, give straight edges at any zoom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import shapely
from numpy.typing import NDArray

from drivegen.scene.geometry import Array
from drivegen.world.streets import HALF_M, Plan

CELL_M = 0.25
NODES = int(2 * HALF_M / CELL_M) + 1
BAND_M = 1.0

SURFACE, LOTS, WALKWAY, CROSSINGS, STOPS = range(5)

DASH_M = (3.0, 9.0)
"""Painted length and period of a dashed line."""

LINE_WIDTH_M = np.array([0.2, 0.2, 0.46, 0.2])
"""Full width of a painted line by kind; a double line has a bare middle (`DOUBLE_M`)."""

DOUBLE_M = 0.1


@dataclass(frozen=True, eq=False)
class Fields:
    """areas (5, n, n) signed distances; line (n, n) signed distance and along (n, n) arc length of the nearest divider;
    ident (2, n, n) number + 1 of the nearest divider and crossing; frames of crossings and car parks.
    """  # fmt: skip

    areas: NDArray[np.float32]
    line: NDArray[np.float32]
    along: NDArray[np.float32]
    ident: NDArray[np.uint8]
    line_kind: NDArray[np.int32]
    line_length_m: Array
    crossing: Array
    lot: Array


@nb.njit(cache=True)
def _area(edges, ident, band, out, near):  # type: ignore[no-untyped-def]
    """Fill `out` with clamped signed distances to closed rings, and `near` with the number + 1 of the nearest ring."""
    n = out.shape[0]
    inside = np.zeros((n, n), dtype=np.bool_)
    for e in range(edges.shape[0]):
        x0, y0, x1, y1 = edges[e]
        length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2 + 1e-12
        i0 = max(0, int((min(x0, x1) - band + HALF_M) / CELL_M))
        i1 = min(n - 1, int((max(x0, x1) + band + HALF_M) / CELL_M) + 1)
        j0 = max(0, int((min(y0, y1) - band + HALF_M) / CELL_M))
        j1 = min(n - 1, int((max(y0, y1) + band + HALF_M) / CELL_M) + 1)
        for j in range(j0, j1 + 1):
            y = j * CELL_M - HALF_M
            for i in range(i0, i1 + 1):
                x = i * CELL_M - HALF_M
                f = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length2
                f = min(1.0, max(0.0, f))
                d = ((x - x0 - f * (x1 - x0)) ** 2 + (y - y0 - f * (y1 - y0)) ** 2) ** 0.5
                if d < out[j, i]:
                    out[j, i] = d
                    near[j, i] = ident[e] + 1
        # crossings of the grid's rows with the edge: everything to the right changes sides
        for j in range(j0, j1 + 1):
            y = j * CELL_M - HALF_M
            if (y0 <= y) != (y1 <= y):
                x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
                i = int(np.ceil((x + HALF_M) / CELL_M))
                if i < n:
                    i = max(i, 0)
                    inside[j, i] = not inside[j, i]
    for j in range(n):
        flag = False
        for i in range(n):
            flag = flag != inside[j, i]
            if not flag:
                out[j, i] = -out[j, i]


@nb.njit(cache=True)
def _lines(edges, starts, ident, line, along, near):  # type: ignore[no-untyped-def]
    """Fill signed distance to, and arc length along, the nearest divider within the band."""
    n = line.shape[0]
    best = np.full((n, n), 0.75, dtype=np.float32)
    for e in range(edges.shape[0]):
        x0, y0, x1, y1 = edges[e]
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 + 1e-12
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        i0 = max(0, int((min(x0, x1) - 0.75 + HALF_M) / CELL_M))
        i1 = min(n - 1, int((max(x0, x1) + 0.75 + HALF_M) / CELL_M) + 1)
        j0 = max(0, int((min(y0, y1) - 0.75 + HALF_M) / CELL_M))
        j1 = min(n - 1, int((max(y0, y1) + 0.75 + HALF_M) / CELL_M) + 1)
        for j in range(j0, j1 + 1):
            y = j * CELL_M - HALF_M
            for i in range(i0, i1 + 1):
                x = i * CELL_M - HALF_M
                f = (x - x0) * ux + (y - y0) * uy
                side = (y - y0) * ux - (x - x0) * uy
                over = max(0.0, max(-f, f - length))
                d = (side * side + over * over) ** 0.5
                if d < best[j, i]:
                    best[j, i] = d
                    line[j, i] = side
                    along[j, i] = starts[e] + f
                    near[j, i] = ident[e] + 1


def _edges(shapes: list[shapely.Geometry]) -> tuple[Array, NDArray[np.int32]]:
    """Edges (E, 4) of all rings, and the number of the shape that each belongs to."""
    rows, numbers = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int32)]
    for number, shape in enumerate(shapes):
        for part in getattr(shape, "geoms", [shape]):
            if part.geom_type != "Polygon":
                continue
            for ring in (part.exterior, *part.interiors):
                points = np.array(ring.coords)
                rows.append(np.concatenate([points[:-1], points[1:]], axis=1))
                numbers.append(np.full(len(points) - 1, number, dtype=np.int32))
    return np.concatenate(rows), np.concatenate(numbers)


def draw_fields(plan: Plan) -> Fields:
    """Rasterise the plan."""
    areas = np.empty((5, NODES, NODES), dtype=np.float32)
    ident = np.zeros((2, NODES, NODES), dtype=np.uint8)
    scrap = np.zeros((NODES, NODES), dtype=np.uint8)
    lots = [lot.area for lot in plan.carparks]
    layers: list[list[shapely.Geometry]] = [
        [plan.surface], lots, [plan.walkway], [c.area for c in plan.crossings], list(plan.stop_lines)
    ]  # fmt: skip
    for number, shapes in enumerate(layers):
        edges, numbers = _edges(shapes)
        band = 2.5 if number == CROSSINGS else BAND_M  # its number must be known in a crossing's middle as well
        areas[number] = band
        _area(edges, numbers, band, areas[number], ident[1] if number == CROSSINGS else scrap)
    line = np.full((NODES, NODES), 9.0, dtype=np.float32)
    along = np.zeros((NODES, NODES), dtype=np.float32)
    rows, starts, owners, lengths = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, dtype=np.int32)], [0.0]
    for i, painted in enumerate(plan.lines):
        points = painted.points
        steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        rows.append(np.concatenate([points[:-1], points[1:]], axis=1))
        starts.append(steps[:-1])
        owners.append(np.full(len(points) - 1, i, dtype=np.int32))
        lengths.append(float(steps[-1]))
    _lines(np.concatenate(rows), np.concatenate(starts), np.concatenate(owners), line, along, ident[0])
    crossing = np.array([[*c.origin, np.cos(c.heading_rad), np.sin(c.heading_rad)] for c in plan.crossings]).reshape(-1, 4)
    lot = np.array(
        [[*p.centre, np.cos(p.heading_rad), np.sin(p.heading_rad), p.length_m / 2, p.depth_m / 2] for p in plan.carparks]
    ).reshape(-1, 6)
    kinds = np.array([0, *(p.kind for p in plan.lines)], dtype=np.int32)
    return Fields(areas, line, along, ident, kinds, np.array(lengths), crossing, lot)
