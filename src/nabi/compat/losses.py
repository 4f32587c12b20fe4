"""The losses that version 4 computes from ``labels``, over padded logits.

Unusual: a label at a place where there are no logits (it is masked, or the token before it is) is refused; version 4 learns from what a masked place says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.errors import InputError, OptionError

IGNORED = -100


def _labels(labels: Tensor, shape: tuple[int, ...], classes: int, name: str) -> Tensor:
    if tuple(labels.shape) != shape:
        raise InputError(f"{name} has another shape than what it is compared with", value=tuple(labels.shape), expected=str(shape))
    read = labels[labels != IGNORED]
    if labels.is_floating_point() or (len(read) and (int(read.max()) >= classes or int(read.min()) < 0)):
        value = labels.dtype if labels.is_floating_point() else [int(read.min()), int(read.max())]
        raise InputError(f"{name} holds what is no class", value=value, expected=f"int64 from 0 to {classes - 1}, or {IGNORED} where nothing is learnt")
    return labels


def by_token(logits: Tensor, labels: Tensor, mask: Tensor, name: str = "labels") -> Tensor:
    """The mean cross-entropy over the tokens that have a label.

    Args:
        logits: (N, L, C).
        labels: (N, L) int64; -100 where nothing is learnt.
        mask: (N, L) bool, where there are logits.
        name: of the labels, for an error.
    """
    labels = _labels(labels.to(logits.device), tuple(logits.shape[:2]), logits.shape[-1], name)
    lost = (labels != IGNORED) & ~mask
    if bool(lost.any()):
        rows = sorted(set(lost.nonzero()[:, 0].tolist()))[:8]
        fix = f"set {name} to {IGNORED} where attention_mask is 0; before the first token of a row there is nothing to predict it from"
        raise InputError(f"{name} at places where the model reads nothing", value=f"rows {rows}", fix=fix)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def next_token(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The mean cross-entropy of each token given those before it; arguments as of :func:`by_token`, labels not shifted."""
    _labels(labels.to(logits.device), tuple(logits.shape[:2]), logits.shape[-1], "labels")
    if labels.shape[1] < 2:
        raise InputError("rows of one token have nothing to predict", value=tuple(labels.shape))
    return by_token(logits[:, :-1], labels.to(logits.device)[:, 1:], mask[:, :-1])


def by_row(logits: Tensor, labels: Tensor, problem: str | None) -> tuple[Tensor, str]:
    """The loss of a classifier of rows and the kind of problem that it took.

    Args:
        logits: (N, C).
        labels: (N,) int64 classes; (N, C) floats for several labels or numbers, (N,) floats for one number.
        problem: ``regression``, ``single_label_classification``, ``multi_label_classification``; by the labels if None, as version 4.
    """
    count, labels = logits.shape[-1], labels.to(logits.device)
    if problem is None:
        whole = labels.dtype in (torch.int64, torch.int32)
        problem = "regression" if count == 1 else "single_label_classification" if whole else "multi_label_classification"
    if problem == "regression":
        if labels.numel() != logits.numel():
            raise InputError("labels has another shape than what it is compared with", value=tuple(labels.shape), expected=str(tuple(logits.shape)))
        return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype)), problem
    if problem == "single_label_classification":
        return F.cross_entropy(logits, _labels(labels.flatten(), (len(logits),), count, "labels"), ignore_index=IGNORED), problem
    if problem == "multi_label_classification":
        if labels.shape != logits.shape:
            raise InputError("labels has another shape than what it is compared with", value=tuple(labels.shape), expected=str(tuple(logits.shape)))
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)), problem
    raise OptionError("unknown problem_type", value=problem, expected="regression, single_label_classification or multi_label_classification")


def by_span(start: Tensor, end: Tensor, starts: Tensor, ends: Tensor, mask: Tensor) -> Tensor:
    """The mean of the two cross-entropies over places.

    Args:
        start, end: (N, L) logits.
        starts, ends: (N,) the right places; one outside of the row is left out, as in version 4.
        mask: (N, L) bool, where there are logits; elsewhere they hold the least number, so masked places have no share (version 4 gives them one).
    """
    length = start.shape[1]
    aims = [x.to(start.device).reshape(-1).clamp(0, length) for x in (starts, ends)]
    for name, aim in zip(("start_positions", "end_positions"), aims, strict=True):
        if len(aim) != len(start):
            raise InputError(f"{name} has to name one place a row", value=len(aim), expected=str(len(start)))
        inside = aim < length
        if bool((~mask[inside.nonzero()[:, 0], aim[inside]]).any()):
            raise InputError(f"{name} at places where the model reads nothing", expected="places of tokens", fix="name a token that is not masked")
    return (F.cross_entropy(start, aims[0], ignore_index=length) + F.cross_entropy(end, aims[1], ignore_index=length)) / 2
