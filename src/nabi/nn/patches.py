"""Positions of patches on a grid (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_positions(table: Tensor, grid: Tensor, side: int) -> Tensor:
    """(T, W) the positions of the patches of each row, end to end; of a grid of another size by bicubic interpolation (section 3.2).

    Args:
        table: (side * side, W) those of a square grid, row by row.
        grid: (N, 2) int64, rows and columns of patches of each image.
        side: of the table's grid.
    """
    found: dict[tuple[int, int], Tensor] = {(side, side): table}
    pieces = []
    for height, width in grid.tolist():
        if (height, width) not in found:
            square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            found[height, width] = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).flatten(0, 1)
        pieces.append(found[height, width])
    return torch.cat(pieces)
