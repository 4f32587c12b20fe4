"""A call of a version 4 model of images: ``pixel_values`` (N, C, H, W) become packed patches, and what comes out has the shapes of version 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nabi.batch import Batch, Part
from nabi.compat import losses
from nabi.compat.looking import looking
from nabi.compat.outputs import ModelOutput
from nabi.errors import InputError
from nabi.layout import Layout
from nabi.nn.body import Run

if TYPE_CHECKING:
    from nabi.compat.models import PreTrainedModel

ARGUMENTS = ("pixel_values", "interpolate_pos_encoding", "output_attentions", "output_hidden_states", "return_dict")


def output(model: PreTrainedModel, pixels: Tensor, given: Mapping[str, Any]) -> ModelOutput:
    """What ``model`` answers to pixels (N, C, H, W), under the arguments that are ``given``, which were checked."""
    body = model.body
    batch, rows = _packed(model, pixels.to(model.device), bool(given.get("interpolate_pos_encoding")))
    last: list[Tensor] = []
    hook = body.get_submodule("norm").register_forward_pre_hook(lambda _, args: last.append(args[0]))  # version 4 tells what enters it
    try:
        with looking(body, given["output_attentions"], given["output_hidden_states"]) as seen:
            hidden = body(batch)
    finally:
        hook.remove()

    def whole(first: Tensor, patches: Tensor) -> Tensor:
        """(N, 1 + P, W)."""
        return torch.cat([first.view(rows, 1, -1), patches.view(rows, -1, first.shape[-1])], 1)

    states = None
    if given["output_hidden_states"]:
        states = (*(x.view(rows, -1, x.shape[-1]) for x in seen.entered), whole(*last))
    attended = tuple(torch.stack(list(each)) for each in seen.attended) if given["output_attentions"] else None
    first, patches = hidden["whole"].values, hidden["image"]
    inner = {"hidden_states": states, "attentions": attended}
    if model.kinds in ((), ("pooled",)):
        pooled = model._head("pooled").logits(Run(body), first).tanh() if model.kinds else None
        return ModelOutput({"last_hidden_state": whole(first, patches.values), "pooler_output": pooled, **inner})
    (kind,) = model.kinds
    head, labels, loss = model._head(kind), given.get("labels"), None
    assert patches.layout is not None
    logits = head.logits(Run(body), first if head.spec.pool == "first" else patches.layout.mean(patches.values))
    if labels is not None:
        loss, model.config.problem_type = losses.by_row(logits, labels, model.config.problem_type)
    return ModelOutput({"loss": loss, "logits": logits, **inner})


def _packed(model: PreTrainedModel, pixels: Tensor, other_sizes: bool) -> tuple[Batch, int]:
    body = model.body
    side, channels, size = body.side, body.channels, model.config.image_size
    if pixels.dim() != 4 or pixels.shape[1] != channels or not pixels.is_floating_point():
        raise InputError("pixel_values has another shape", value=f"{pixels.dtype} {tuple(pixels.shape)}", expected=f"floats (N, {channels}, H, W)")
    rows, _, height, width = pixels.shape
    if not other_sizes and (height, width) != (size, size):
        fix = "resize the images, or give interpolate_pos_encoding=True"
        raise InputError("pixel_values has another size than the model's images", value=f"{height} x {width}", expected=f"{size} x {size}", fix=fix)
    if height % side or width % side:
        raise InputError("pixel_values does not divide into patches", value=f"{height} x {width}", expected=f"multiples of {side}")
    down, across = height // side, width // side
    cut = pixels.reshape(rows, channels, down, side, across, side).permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * side * side)
    grid = torch.tensor([[down, across]] * rows, device=pixels.device)
    layout = Layout.of([down * across] * rows, device=pixels.device)
    part = Part(layout, {"patches": cut.to(model.dtype)}, {"grid": grid}, torch.arange(rows, device=pixels.device), rows, tuple(range(rows)))
    return Batch({"image": part}), rows
