"""What the tasks whose model writes token by token have in common, whatever the part: the step function over a body, losses by token, decoding.

Unusual: rows that carry targets are measured (nats of each token) and rows without are answered, so that one ``read`` serves the evaluation of a model of
sequences, golden vectors and generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi import decoding
from nabi.batch import FILLER, Batch, Cache, Row, Target, batch_of
from nabi.decoding import Branches, Event, Generated
from nabi.errors import OptionError
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head
from nabi.nn.losses import linear_cross_entropy, token_nats
from nabi.tasks import Task

# of all rows that are written at a time: tokens of their past, of these tokens that were read and not written, and numbers of one step
TOKENS, READ, SCORES = 1 << 14, 1 << 12, 1 << 23
IGNORED = -100  # a place of a target that is not predicted


@dataclass(frozen=True)
class Asked:
    """What one row is written behind.

    Attributes:
        prompt: tokens of the part that is written.
        source: tokens that an encoder reads; None for a decoder alone.
        device: of the row.
        most: how many tokens its answer has, where the row says so.
    """

    prompt: list[int]
    source: list[int] | None
    device: torch.device
    most: int | None = None


class Writing(Task):
    """Base of the tasks whose model writes ``generates``; a task says what is asked of a row, and what becomes of what was written.

    Attributes:
        smoothing: share of the target of a loss spread over all that could be written.
    """

    heads = ("vocabulary",)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.targets = {"next": Target("token", part=str(self.generates))}
        self.smoothing, self._tokens, self._outputs = 0.0, 0, 0

    def chosen(self, options: Any) -> decoding.Settings:
        """The settings of decoding of one call."""
        raise NotImplementedError

    def _asked(self, batch: Batch) -> dict[int, Asked]:
        """Row number -> what is written behind."""
        raise NotImplementedError

    def _piece(self, run: Run, asked: Asked, result: Generated, options: Any) -> Any:
        """What was written as a reading."""
        raise NotImplementedError

    def build(self, body: Body) -> None:
        if body.generates != self.generates:
            kinds = {None: "writes nothing", "text": "goes on with a text", "target": "writes a text for a text", "image": "goes on with an image"}
            what = f"{self.name} can't be built on this family: {type(body).__name__} {kinds[body.generates]}"
            raise OptionError(what, expected=f"a family that {kinds[self.generates]}")
        self._tokens = body.tables["tokens"]
        self._outputs = body.colours or self._tokens
        super().build(body)

    def outputs(self) -> dict[str, int]:
        return {"vocabulary": self._outputs}

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"next": float((targets["next"] != IGNORED).sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        x, weight, bias, aims = self._predicted(run, batch)
        return {"next": linear_cross_entropy(x, weight, bias, aims, smoothing=self.smoothing)}

    def _predicted(self, run: Run, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What the output layer reads for each token that has a target (K, W), its weight and bias, the targets (K,)."""
        part, aims = str(self.generates), batch.targets["next"]
        kept = (aims != IGNORED).nonzero()[:, 0]
        head = self._head
        x = head.before(run(batch, keep={part: kept})[part].values)
        weight, bias = head.output(run)
        return x, weight, bias, aims[kept]

    @property
    def _head(self) -> Head:
        head = self.get_submodule("vocabulary")
        assert isinstance(head, Head)
        return head

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def read(self, run: Run, batches: Iterable[Batch], options: Any) -> Iterator[tuple[int, Any]]:
        """``{"nats", "tokens"}`` of a row with targets, else what :meth:`_piece` makes of each answer: beams best first, draws by their index."""
        asked: dict[int, Asked] = {}
        for batch in batches:
            if "next" in batch.targets:
                yield from self._measured(run, batch)
            else:
                asked |= self._asked(batch)
        found: dict[int, dict[int, Any]] = {}
        for result in self._generated(run, asked, options, events=False):
            if isinstance(result, Generated):
                row = list(asked)[result.row]
                found.setdefault(row, {})[result.index] = self._piece(run, asked[row], result, options)
        for row, pieces in found.items():
            yield row, [pieces[index] for index in sorted(pieces)]  # draws come as they end, which depends on the other rows

    def _measured(self, run: Run, batch: Batch) -> Iterator[tuple[int, dict[str, float]]]:
        part = batch.parts[str(self.generates)]
        x, weight, bias, aims = self._predicted(run, batch)
        assert part.layout.rows is not None
        of = part.layout.rows[batch.targets["next"] != IGNORED]
        nats = torch.zeros(len(part.layout), dtype=torch.float64).index_add_(0, of.cpu(), token_nats(x, weight, bias, aims).double().cpu())
        tokens = torch.bincount(of, minlength=len(part.layout))
        for row, example, a, b in zip(part.ids, part.example.tolist(), nats.tolist(), tokens.tolist(), strict=True):
            if example != FILLER:
                yield row, {"nats": a, "tokens": b}

    def _generated(
        self, run: Run, asked: Mapping[int, Asked], options: Any, *, events: bool, watch: bool = False
    ) -> Iterator[Event | Generated | Branches]:
        """Answers to these rows, and if they are asked for what comes before them; as ``nabi.decoding.generate`` gives them."""
        if not asked:
            return iter(())
        rows = list(asked.values())
        settings, part = self.chosen(options), str(self.generates)
        known = [row.most for row in rows if row.most is not None]
        if known:
            settings = dataclasses.replace(settings, max_new_tokens=max(known))  # whoever has less to write is cut in its answer
        sources = None if rows[0].source is None else [row.source or [] for row in rows]
        return decoding.generate(
            TaskSteps(run, self._head, part, rows, self._tokens),
            [row.prompt for row in rows],
            settings,
            decoder_only=sources is None,
            room=None if known else run.limit(part),
            sources=sources,
            text_of=run.text_of,
            numbers=list(asked),
            slots=self._slots(rows, settings),
            events=events,
            watch=watch,
        )

    def _slots(self, rows: Sequence[Asked], settings: decoding.Settings) -> int:
        """How many rows are written at a time: many make large products, as long as their past and the scores of a step stay small."""
        most = settings.max_new_tokens or settings.max_length or decoding.DEFAULT_LENGTH
        read = max(len(row.prompt) + len(row.source or ()) for row in rows)
        answer = min(most, 2 * read + 32) if rows[0].source is not None else most  # a text made of another is seldom twice as long
        sharing = max(settings.num_beams, settings.num_return_sequences)  # rows that read one text
        return max(8, min(128, TOKENS // (read + answer), READ // read * sharing, SCORES // max(self._outputs, 1)))


class TaskSteps:
    """A body and its vocabulary head as ``decoding.Steps``; ``vocab_size`` is how many tokens the body reads."""

    def __init__(self, run: Run, head: Head, part: str, asked: Sequence[Asked], vocab_size: int) -> None:
        self.run, self.head, self.part, self.asked, self.vocab_size = run, head, part, asked, vocab_size

    def begin(self, rows: Sequence[int], reserve: int) -> tuple[Cache, Tensor]:
        """Read sources and prompts."""
        asked = [self.asked[i] for i in rows]
        prompts = [row.prompt for row in asked]
        # room to begin with for a short answer; a longer one grows its slot by quarters
        need = max(map(len, prompts)) + min(reserve, 64)
        first = self._batch(prompts, asked[0].device)
        if asked[0].source is None:
            cache = self.run.begin(first, need)
        else:
            cache = self.run.begin(_batch("text", [row.source or [] for row in asked], asked[0].device), need)
        return cache, self._scores(first, cache)

    def next(self, tokens: Sequence[int], cache: Cache) -> Tensor:
        """One token more for each row."""
        return self._scores(self._batch([[token] for token in tokens], self.asked[0].device), cache)

    def _batch(self, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
        return _batch(self.part, rows, device)

    def _scores(self, batch: Batch, cache: Cache) -> Tensor:
        batch = batch.after(cache)
        layout = batch.parts[self.part].layout
        assert layout.cu_seqlens is not None
        last = layout.cu_seqlens[1:].long() - 1
        kept = None if layout.longest == 1 else last
        scores = self.head.logits(self.run, self.run(batch, cache, keep={self.part: kept})[self.part].values)
        only_read = self.vocab_size - scores.shape[1]  # tokens that the model has no output for, such as the one that images begin with
        return F.pad(scores, (0, only_read), value=-torch.inf) if only_read else scores


def _batch(part: str, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    return batch_of([Row({part: {"tokens": row}}, example=i) for i, row in enumerate(rows)], range(len(rows)), {}).to(device)
