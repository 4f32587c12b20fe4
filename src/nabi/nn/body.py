"""What every architecture is to the rest of nabi: a body that turns a packed batch into hidden values, part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed.nn.functional as collective
from torch import Tensor, nn

from nabi.batch import Batch, Cache, Part
from nabi.errors import InputError
from nabi.layout import Layout, Packed
from nabi.nn.linear import Embedding

if TYPE_CHECKING:
    from nabi.nn.heads import HeadSpec


class Body(nn.Module):
    """Base of all architectures.

    Class attributes:
        needs: part name -> the streams that it reads.
        heads: head kind -> how it looks in this family.
        sources: part -> the other parts that its hidden values are computed from.
        generates: the part that grows token by token when the body writes; None if it only reads.
        makes: part -> the part that it is made from, token for token, when the batch has none (a decoder that is fed the shifted text).

    Attributes:
        hidden_size: W of what :meth:`forward` returns.
        limits: part name -> the longest row that it takes.
        tables: stream -> the vectors of its embedding: a row may hold no number from there on.
        head_dropout: head kind -> dropout before its output layer; none if it is missing.
        init_std: of the heads' initial weights.
        without: paths of what a whole body of this family has and this one was built without.
        side, channels: of the patches that it reads from an image, in pixels (1: pixels themselves), if it reads images.
        colours: how many colours it tells apart, where a pixel is the number of one; 0 where it reads patches.
        grain: part -> how many of its tokens are as much work as one of text; 1 if it is missing.
    """

    needs: ClassVar[Mapping[str, frozenset[str]]]
    heads: ClassVar[Mapping[str, HeadSpec]] = {}
    sources: ClassVar[Mapping[str, frozenset[str]]] = {}
    makes: ClassVar[Mapping[str, str]] = {}
    generates: ClassVar[str | None] = None
    hidden_size: int
    limits: Mapping[str, int] = {}
    tables: Mapping[str, int] = {}
    head_dropout: Mapping[str, float] = {}
    init_std: float = 0.02
    without: tuple[str, ...] = ()
    side: int = 1
    channels: int = 3
    colours: int = 0
    grain: Mapping[str, int] = {}

    @classmethod
    def cut(cls, config: Any, kinds: Collection[str]) -> Any:
        """The configuration of a body for these heads, less what none of them reads (T5 tags by its encoder alone); no heads: all of it."""
        return config

    def begin(self, batch: Batch, reserve: int) -> Cache:
        """Run what is run once (an encoder) and make the cache: a slot of ``reserve`` tokens for each row.

        Raises:
            InputError: this family keeps no past.
        """
        raise InputError("this family keeps no past: it can't continue a text", value=type(self).__name__)

    def embed(self, batch: Batch) -> dict[str, Packed]:
        """The vectors (T, W) that enter the first layer, by part: for attributions and for callers with vectors of their own."""
        raise InputError("this family can't return its embeddings", value=type(self).__name__)

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        """Hidden values by part.

        Args:
            batch: the parts that ``needs`` names; with a begun cache the source part is not needed.
            cache: a past to continue.
            embedded: vectors to use in place of :meth:`embed`'s.
            keep: the parts that are wanted, each with the (K,) tokens that are wanted or None for all; all parts if None.

        Returns:
            by part (T, W) aligned token for token with the part, or (K, W) in ``keep``'s order.
        """
        raise NotImplementedError

    def layout(self, batch: Batch, part: str) -> Layout:
        """Where the rows of what :meth:`forward` returns for ``part`` lie; a body that shortens or lengthens rows overrides it."""
        return batch.parts[part if part in batch.parts else self.makes[part]].layout

    def groups(self) -> list[nn.Module]:
        """The modules from bottom to top, each parameter in exactly one: for freezing, layer-wise rates, checkpointing, sharding."""
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the parameters for training from scratch; each family's docstring is the table of its inits."""
        raise NotImplementedError

    def check(self, batch: Batch, parts: frozenset[str] | None = None) -> None:
        """Whether the batch has what this body reads.

        Raises:
            InputError: missing or unknown streams, or a row that is too long; all of them in one error.
        """
        problems = []
        for part, streams in self.needs.items():
            if parts is not None and part not in parts:
                continue
            if part not in batch.parts:
                if part in self.makes:
                    continue
                problems.append(f"part '{part}' is missing")
                continue
            have = set(batch.parts[part].streams)
            problems += [f"part '{part}' lacks the stream '{s}'" for s in sorted(streams - have)]
            problems += [f"part '{part}' has a stream '{s}' that is not read" for s in sorted(have - streams)]
            limit = self.limits.get(part)
            if limit is not None and batch.parts[part].layout.longest > limit:
                problems.append(f"part '{part}' has a row of {batch.parts[part].layout.longest} tokens, at most {limit} fit")
        if problems:
            raise InputError(f"{type(self).__name__} can't read this batch", value="; ".join(problems), fix="encode it with this model's own inputs")


class Run:
    """The body behind a small door: what a task may do with it.

    Args:
        body: a body, or a wrapped one.
        text_of: the text of token ids that were written, for tasks whose readings depend on it (stop strings).
    """

    def __init__(self, body: Body, text_of: Callable[[Sequence[int]], str] | None = None) -> None:
        self._body, self.text_of = body, text_of

    def __call__(self, batch: Batch, cache: Cache | None = None, keep: Mapping[str, Tensor | None] | None = None) -> dict[str, Packed]:
        """Hidden values by part, as ``Body.forward`` returns them."""
        if cache is None and not torch.compiler.is_compiling():
            self._body.check(batch, None if keep is None else frozenset(self.reads(keep)))
        hidden: dict[str, Packed] = self._body(batch, cache, keep=keep)
        return hidden

    def reads(self, keep: Mapping[str, Any]) -> set[str]:
        """The parts that the body must see to give the kept ones."""
        return set(keep).union(*(self._body.sources.get(part, frozenset()) for part in keep))

    def layout(self, batch: Batch, part: str) -> Layout:
        """Where the rows of the hidden values of ``part`` lie."""
        return self._body.layout(batch, part)

    def part(self, batch: Batch, part: str) -> Part:
        """The rows of a part, or of the one that the body makes it from."""
        return batch.parts[part if part in batch.parts else self._body.makes[part]]

    def has(self, batch: Batch, part: str) -> bool:
        """Whether the batch has a part, or the one that the body makes it from."""
        return part in batch.parts or self._body.makes.get(part) in batch.parts

    def begin(self, batch: Batch, reserve: int) -> Cache:
        """A cache for the rows of ``batch``, as ``Body.begin`` makes it."""
        return self._body.begin(batch, reserve)

    def limit(self, part: str) -> int | None:
        """The longest row of a part that the body takes; None for any."""
        return self._body.limits.get(part)

    @property
    def device(self) -> torch.device:
        """Where the body's parameters are."""
        return next((p.device for p in self._body.parameters()), torch.device("cpu"))

    def table(self, path: str) -> Embedding:
        """The body's table at ``path``, which a head is tied to."""
        found = self._body.get_submodule(path)
        assert isinstance(found, Embedding)
        return found

    @property
    def world(self) -> int:
        """How many processes there are."""
        return torch.distributed.get_world_size() if torch.distributed.is_available() and torch.distributed.is_initialized() else 1

    def gather(self, x: Tensor) -> Tensor:
        """(N, ...) of every rank, whose N may differ, end to end, with gradient; ``x`` itself in a single process."""
        if self.world == 1:
            return x
        sizes = torch.zeros(self.world, dtype=torch.int64, device=x.device)
        sizes[torch.distributed.get_rank()] = len(x)
        torch.distributed.all_reduce(sizes)
        filled = torch.cat([x, x.new_zeros(int(sizes.max()) - len(x), *x.shape[1:])])  # an exchange is of equal shapes
        found = collective.all_gather(filled)  # type: ignore[no-untyped-call]
        return torch.cat([piece[:size] for piece, size in zip(found, sizes.tolist(), strict=True)])
