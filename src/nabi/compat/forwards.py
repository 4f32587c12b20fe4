"""A call of a version 4 model: padded tensors become packed rows, run through body and heads, and come out padded, with losses and what was looked at.

Unusual: nothing is handed out that was not computed, and rows that a mask leaves out are never computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nabi.batch import Batch
from nabi.compat import losses
from nabi.compat.looking import looking
from nabi.compat.outputs import ModelOutput
from nabi.compat.padding import Grid
from nabi.errors import InputError, OptionError
from nabi.layout import Packed
from nabi.nn.body import Run
from nabi.nn.heads import Head

if TYPE_CHECKING:
    from nabi.compat.models import PreTrainedModel


def output(model: PreTrainedModel, ids: Tensor, given: dict[str, Any]) -> ModelOutput:
    """What ``model`` answers to ids (N, L), of multiple choice (N, choices, L), under the arguments that are ``given``, which were checked."""
    masks, types, choices = given.get("attention_mask"), given.get("token_type_ids"), 1
    ids = ids.to(model.device)
    if model.kinds == ("choice",):
        if ids.dim() != 3:
            raise InputError("multiple choice reads (rows, choices, tokens)", value=tuple(ids.shape))
        choices = ids.shape[1]
        ids = ids.flatten(0, 1)
        masks, types = (None if x is None else x.reshape(-1, x.shape[-1]) for x in (masks, types))
    text = Grid.of(ids, masks, "input_ids")
    streams = {}
    if "segments" in model.body.needs["text"]:
        streams["segments"] = torch.zeros_like(ids) if types is None else types.to(ids.device)
        if streams["segments"].shape != ids.shape:
            raise InputError("token_type_ids has another shape than input_ids", value=tuple(streams["segments"].shape), expected=str(tuple(ids.shape)))
    parts = {"text": text.part(model.body, "text", ids, streams, given.get("position_ids"))}
    target, target_ids = text, ids
    writes = model.body.generates == "target" and "decoder" not in model.body.without
    if writes:
        target_ids = _target(model, ids, given)
        target = Grid.of(target_ids, given.get("decoder_attention_mask"), "decoder_input_ids")
        if len(target_ids) != len(ids):
            raise InputError("decoder_input_ids has other rows than input_ids", value=len(target_ids), expected=str(len(ids)))
        parts["target"] = target.part(model.body, "target", target_ids, {}, None)
    batch = Batch(parts)
    model.body.check(batch)
    with looking(model.body, given["output_attentions"], given["output_hidden_states"]) as seen:
        hidden = model.body(batch)
    fields = _answered(model, hidden, text, target, ids, target_ids, given, choices)
    past = None
    if given["use_cache"] and _has_past(model):
        past = sum(value is not None for value in fields.values())
    inner: dict[str, Any]
    layers = len(list(model.body.get_submodule("encoder").children())) if writes else 0
    if not writes:
        inner = _inner("", text, text, seen.entered, seen.attended, hidden["text"], given)
    else:
        own, cross = seen.attended[layers::2], seen.attended[layers + 1 :: 2]
        inner = _inner("decoder_", target, target, seen.entered[layers:], own, hidden["target"], given)
        inner["cross_attentions"] = tuple(target.pad_weights(w, text) for w in cross) if given["output_attentions"] else None
        inner["encoder_last_hidden_state"] = text.pad(hidden["text"].values)
        inner |= _inner("encoder_", text, text, seen.entered[:layers], seen.attended[:layers], hidden["text"], given)
    return ModelOutput({**fields, **inner}, past)


def _has_past(model: PreTrainedModel) -> bool:
    """Whether version 4 hands out ``past_key_values``."""
    if model.body.generates == "text":
        return model.model_type != "openai-gpt" and model.kinds in ((), ("row",), ("vocabulary",))
    return model.body.generates == "target" and "decoder" not in model.body.without


def _inner(
    name: str, at: Grid, of: Grid, entered: list[Tensor], attended: list[list[Tensor]], last: Packed, given: Mapping[str, Any]
) -> dict[str, Any]:
    states = tuple(at.pad(x) for x in (*entered, last.values)) if given["output_hidden_states"] else None
    weights = tuple(at.pad_weights(each, of) for each in attended) if given["output_attentions"] else None
    return {f"{name}hidden_states": states, f"{name}attentions": weights}


def _target(model: PreTrainedModel, ids: Tensor, given: Mapping[str, Any]) -> Tensor:
    """What the decoder reads: as given, else the labels shifted by one, else, where version 4 does so, the text shifted by one."""
    if (found := given.get("decoder_input_ids")) is not None:
        assert isinstance(found, Tensor)
        return found.to(model.device)
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    if model.kinds == ("vocabulary",) and given.get("labels") is not None:
        labels = given["labels"].to(model.device)
        if pad is None:
            raise OptionError("the configuration says no pad_token_id, which stands where a label is left out", fix="set model.config.pad_token_id")
        shifted = labels.masked_fill(labels == losses.IGNORED, pad)
    elif model.kinds in (("row",), ("span",)) or model.model_type == "bart":
        shifted = ids
    else:
        raise InputError("there are no decoder_input_ids", expected="decoder_input_ids, or labels to learn from", fix="to write, call generate()")
    if start is None:
        raise OptionError("the configuration does not say which token a decoder reads first", fix="set model.config.decoder_start_token_id")
    return torch.cat([torch.full_like(shifted[:, :1], start), shifted[:, :-1]], 1)


def _answered(
    model: PreTrainedModel, hidden: Mapping[str, Packed], text: Grid, target: Grid, ids: Tensor, target_ids: Tensor, given: Mapping[str, Any], choices: int
) -> dict[str, Any]:
    run, labels = Run(model.body), given.get("labels")
    if not model.kinds:
        part, grid = ("target", target) if "target" in hidden else ("text", text)
        x = hidden[part].values
        pooled = None if model.pooler is None else model.pooler(text.layout.first(x))
        return {"last_hidden_state": grid.pad(x), "pooler_output": pooled}
    if model.kinds == ("vocabulary", "next_sentence"):
        words = text.pad(model._head("vocabulary").logits(run, hidden["text"].values))
        order = model._head("next_sentence").logits(run, text.layout.first(hidden["text"].values))
        loss, following = None, given.get("next_sentence_label")
        if (labels is None) != (following is None):
            what = "labels and next_sentence_label go together: version 4 computes no loss from one of them"
            raise OptionError(what, value="labels" if following is None else "next_sentence_label", expected="both or none")
        if labels is not None and following is not None:
            loss = losses.by_token(words, labels, text.mask) + losses.by_row(order, following, "single_label_classification")[0]
        return {"loss": loss, "prediction_logits": words, "seq_relationship_logits": order}
    (kind,) = model.kinds
    head = model._head(kind)
    part, grid = ("target", target) if head.spec.reads == "target" else ("text", text)
    x = hidden[part].values
    if kind in ("token", "vocabulary"):
        logits = grid.pad(head.logits(run, x))
        shift = kind == "vocabulary" and model.body.generates == "text"
        return {"loss": None if labels is None else (losses.next_token if shift else losses.by_token)(logits, labels, grid.mask), "logits": logits}
    if kind == "span":
        both = grid.pad(head.logits(run, x))
        # the least number: a masked place is never the best one, and has no share of a softmax
        both = both.masked_fill(~grid.mask[..., None], torch.finfo(both.dtype).min)
        start, end = both[..., 0], both[..., 1]
        aims = given.get("start_positions"), given.get("end_positions")
        if (aims[0] is None) != (aims[1] is None):
            raise OptionError("start_positions and end_positions go together", expected="both or none")
        loss = None if aims[0] is None or aims[1] is None else losses.by_span(start, end, aims[0], aims[1], grid.mask)
        return {"loss": loss, "start_logits": start, "end_logits": end}
    logits = head.logits(run, _pooled(model, head, x, text, target, ids))
    if kind == "choice":
        logits = logits.view(-1, choices)
        return {"loss": None if labels is None else losses.by_row(logits, labels, "single_label_classification")[0], "logits": logits}
    if labels is None:
        return {"loss": None, "logits": logits}
    problem = "single_label_classification" if kind == "next_sentence" else model.config.problem_type
    loss, found = losses.by_row(logits, labels, problem)
    if kind == "row":
        model.config.problem_type = found  # as version 4, which keeps to it
    return {"loss": loss, "logits": logits}


def _pooled(model: PreTrainedModel, head: Head, x: Tensor, text: Grid, target: Grid, ids: Tensor) -> Tensor:
    """(T, W) -> (N, W): the token that version 4 takes for its row; the first one that is not masked, where it takes the first column."""
    if head.spec.pool != "last":
        return text.layout.first(x) if head.spec.pool == "first" else text.layout.mean(x)
    columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    wanted = model.config.pad_token_id if model.body.generates == "text" else model.config.eos_token_id
    if model.body.generates == "text":  # the last token that is no padding
        if wanted is None and len(ids) > 1:
            raise OptionError("several rows without a pad_token_id: their ends can't be told", fix="set model.config.pad_token_id")
        found = torch.ones_like(ids, dtype=torch.bool) if wanted is None else ids != wanted
        grid, what = text, "token that is no padding"
    else:
        found, grid, what = ids == wanted, target, "end token"
    at = columns.masked_fill(~found, -1).amax(1)
    rows = torch.arange(len(ids), device=ids.device)
    if bool((at < 0).any()) or at.max() >= grid.mask.shape[1] or bool((~grid.mask[rows, at]).any()):
        raise InputError(f"rows without a {what} that is read", value=f"token {wanted}", expected="one a row at least, and not masked")
    return grid.pad(x)[rows, at]
