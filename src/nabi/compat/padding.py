"""Padded tensors in, packed rows inside, padded tensors out: the only place of nabi where the two meet.

Positions are version 4's: the columns of the padded tensor, whatever is masked (RoBERTa counts the tokens that are no padding). What comes back is zero at
masked places, where version 4 has numbers that nothing may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nabi.batch import Part
from nabi.errors import InputError
from nabi.layout import Layout
from nabi.nn.body import Body


@dataclass(frozen=True)
class Grid:
    """Where the T tokens of packed rows lie in a padded (N, L) tensor.

    Attributes:
        mask: (N, L) bool, True for tokens.
        index: (T,) int64, their places in the flattened tensor, row by row.
        layout: the same rows, packed.
    """

    mask: Tensor
    index: Tensor
    layout: Layout

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor | None, name: str) -> Grid:
        """The grid of token ids (N, L) and their mask (N, L), all tokens if None.

        Raises:
            InputError: not two dimensions, another shape of the mask, masks with other values than 0 and 1, or a row without a token.
        """
        if ids.dim() != 2 or ids.is_floating_point():
            raise InputError(f"{name} has to hold token ids, row by row", value=f"{ids.dtype} {tuple(ids.shape)}", expected="int64 (rows, tokens)")
        if mask is None:
            mask = torch.ones_like(ids)
        if mask.shape != ids.shape:
            fix = "masks of who may see whom are not read here" if mask.dim() > 2 else ""
            raise InputError(f"the mask of {name} has another shape", value=tuple(mask.shape), expected=str(tuple(ids.shape)), fix=fix)
        seen = mask.to(ids.device) != 0
        if bool((seen != (mask.to(ids.device) == 1)).any()):
            raise InputError(f"the mask of {name} holds other values than 0 and 1", value=sorted(set(mask.flatten().tolist()))[:8])
        lengths = seen.sum(1).tolist()
        if 0 in lengths:
            empty = [i for i, n in enumerate(lengths) if n == 0]
            raise InputError(f"rows of {name} without a token: their mask is 0 everywhere", value=empty, fix="leave these rows out")
        return cls(seen, seen.flatten().nonzero()[:, 0], Layout.of(lengths, device=ids.device))

    def take(self, x: Tensor) -> Tensor:
        """(N, L, ...) -> (T, ...)."""
        return x.reshape(-1, *x.shape[2:])[self.index]

    def pad(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N, L, ...), zero where there is no token."""
        return x.new_zeros(self.mask.numel(), *x.shape[1:]).index_copy(0, self.index, x).view(*self.mask.shape, *x.shape[1:])

    def pad_weights(self, weights: Sequence[Tensor], keys: Grid) -> Tensor:
        """A row's attention weights (H, Lq, Lk) each -> (N, H, L, L of the keys), zero where either is no token."""
        heads = weights[0].shape[0]
        found = weights[0].new_zeros(len(weights), self.mask.shape[1], keys.mask.shape[1], heads)
        rows = []
        for row, each in enumerate(weights):
            at, of = self.mask[row].nonzero()[:, 0], keys.mask[row].nonzero()[:, 0]
            rows.append(found[row].index_put((at[:, None], of[None]), each.movedim(0, -1)))
        return torch.stack(rows).movedim(-1, 1)

    def part(self, body: Body, role: str, ids: Tensor, streams: dict[str, Tensor], position_ids: Tensor | None) -> Part:
        """The packed part of a body for this role.

        Raises:
            InputError: an id that the body has no vector for, a place that its positions do not reach, or a hole in a row where distances count.
        """
        packed = {"tokens": self.take(ids), **{name: self.take(x) for name, x in streams.items()}}
        for name, values in packed.items():
            size = body.tables.get(name)
            if size is not None and (int(values.max()) >= size or int(values.min()) < 0):
                value = int(values.max()) if int(values.max()) >= size else int(values.min())
                fix = "the tokenizer is another model's, or has tokens that the model was not resized for"
                raise InputError(f"{name} that the model has no vectors for", value=value, expected=f"0 to {size - 1}", fix=fix)
        n = len(self.layout)
        example = torch.arange(n, device=ids.device)
        return Part(self._placed(body, role, ids, position_ids), packed, {}, example, n, tuple(range(n)))

    def _placed(self, body: Body, role: str, ids: Tensor, position_ids: Tensor | None) -> Layout:
        embeddings = getattr(body, "embeddings", None)
        columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        if hasattr(embeddings, "encoder_distances"):
            if position_ids is not None:
                raise InputError("this family has no positions, only distances", value="position_ids", fix="leave them out")
            first = self.mask.int().argmax(1)
            if bool((columns.masked_fill(~self.mask, -1).amax(1) - first + 1 != self.mask.sum(1)).any()):
                fix = "take the masked tokens out of the row"
                raise InputError("a mask with a hole inside a row", value=role, expected="tokens that lie together", fix=fix)
            return self.layout
        pad = getattr(embeddings, "pad_id", None)
        if pad is not None and hasattr(embeddings, "places"):  # RoBERTa counts from its padding token; masked tokens that are none count too
            if position_ids is not None:
                raise InputError("this family counts positions from its padding token", value="position_ids", fix="leave them out")
            kept = torch.arange(len(self.index), device=ids.device) - (self.layout.begins.to(ids.device))[self.layout.rows]
            positions = kept + self.take(((ids != pad) & ~self.mask).long().cumsum(1))
        else:
            positions = self.take((columns if position_ids is None else position_ids.to(ids.device).expand(ids.shape)).contiguous()).long()
        limit = body.limits.get(role)
        if limit is not None and int(positions.max()) >= limit:
            fix = "cut the texts: truncation=True"
            raise InputError("the model has no such position", value=int(positions.max()), expected=f"0 to {limit - 1}", fix=fix)
        return replace(self.layout, positions=positions)
