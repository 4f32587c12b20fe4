"""A model = body + task + inputs. It encodes examples, packs rows, gives losses to the loop and answers to people.

``Model`` is the only module that is ever wrapped (compiled, sharded); ``Model.forward(batch)`` is the task's loss. Reading and writing folders is
``nabi.checkpoint``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nabi.batch import Batch, Row, pack
from nabi.config import from_dict
from nabi.data.ahead import ahead
from nabi.errors import InputError, OptionError, UserError
from nabi.families import Family
from nabi.inputs import Inputs
from nabi.memory import trimmed
from nabi.nn.body import Body, Run
from nabi.nn.convolution import ConvNorm
from nabi.nn.linear import Embedding, Linear
from nabi.nn.lora import Adaptation
from nabi.tasks import Again, Example, Task, Use

TRIMMED = 8192  # tokens that are read on a CPU before free memory is given back: a few batches
CHUNK = 2048  # examples that are encoded, sorted and answered at a time: bounds memory, long enough to sort well
KNOWN = 1 << 14  # readings of shared rows that are kept
HELD = 1 << 26  # bytes of images from which it is fewer
AHEAD = 64  # examples with an image: while so many are answered, so many are read


@dataclass
class Origin:
    """Where a model comes from and what must be written back with it.

    Attributes:
        family_name: as in the folder of families.
        family, config: the architecture and its sizes.
        hf_config: the config.json as it was found, kept verbatim for saving.
        notes: sentences for the user: heads that start fresh, tensors left out.
        golden: (example, reading) pairs found in the folder.
        tied: second names of tensors that the checkpoint wrote out, to be written again.
        adapter: what the adapters in the body belong to; None if it has none. With one, a model is saved without its base.
    """

    family_name: str
    family: Family
    config: Any
    hf_config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    golden: list[dict[str, Any]] = field(default_factory=list)
    tied: tuple[str, ...] = ()
    adapter: Adaptation | None = None


class Model(nn.Module):
    """Body, task and inputs together.

    Args:
        body, task, inputs: its parts; the task's heads are built.
        origin: the family and where the weights come from.
    """

    def __init__(self, body: Body, task: Task, inputs: Inputs, origin: Origin) -> None:
        super().__init__()
        self.body, self.task = body, task
        self.inputs, self.origin = inputs, origin
        self._source: tuple[Model, ...] = ()  # a tuple, so that it is no submodule
        self._weights: tuple[tuple[int, int], ...] = ()  # when these were read: each parameter, and how often it had been changed
        self._known: dict[Hashable, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a prepared copy without any."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def original(self) -> Model:
        """The model that this prepared copy was made from, which holds all weights and is what is saved; itself if it is no copy."""
        return self._source[0] if self._source else self

    def train(self, mode: bool = True) -> Model:
        """Set the mode.

        Raises:
            OptionError: this is a prepared copy, whose packed layers can't learn.
        """
        if mode and self._source:
            raise OptionError("a prepared copy can't be trained: its linear layers are packed", fix="train model.original, then prepare that")
        if mode:  # the weights are about to change, and torch does not count the updates of a fused optimizer
            self._known = {}
        return super().train(mode)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The task's losses, as sums by name."""
        return self.task.loss(Run(self.body), batch)

    def groups(self) -> list[nn.Module]:
        """The body's groups from bottom to top, then the task's heads; each parameter in exactly one."""
        return [*self.body.groups(), self.task]

    def options(self, given: Mapping[str, Any] | None = None) -> Any:
        """The task's ``Options`` with these values.

        Raises:
            OptionError: an unknown name or a value of the wrong type.
        """
        options = from_dict(self.task.Options, dict(given or {}), f"the options of {self.task.name}")
        longest = getattr(options, "max_length", None)
        if self.task.generates is None and longest is not None and not 0 < longest <= self.inputs.max_length:  # of an answer it means another thing
            raise OptionError("max_length is out of range", value=longest, expected=f"1 to {self.inputs.max_length}, this model's own limit")
        return options

    def encode(self, example: Example, options: Any, use: Use = "predict", where: str = "", number: int = 0) -> list[Row]:
        """The rows of one example, with the streams that this body reads.

        Raises:
            InputError: the example can't be read, or the tokenizer gives a number that the body has no vector for.
        """
        return self.fitting(self.task.encode(example, self.inputs, options, use, where), where, number)

    def fitting(self, rows: list[Row], where: str, number: int) -> list[Row]:
        """Rows that the task made of one example, with the streams that this body reads and no others.

        Args:
            rows: they are changed in place.
            where: what to call the example in an error.
            number: of the example.

        Raises:
            InputError: a row is empty, or has a number that the body has no vector for.
        """
        for row in rows:
            row.example = number
            for streams in row.parts.values():
                for name in self.body.tables.keys() & streams.keys():
                    if not streams[name]:
                        fix = "give it some text: this tokenizer puts no special tokens around one"
                        raise InputError(f"{where or 'an input'} has no tokens", expected="one at least", fix=fix)
                    if max(streams[name]) >= self.body.tables[name]:
                        what = f"{where or 'an input'} has {name} that the model has no vectors for"
                        fix = "the tokenizer is another model's" + (", or the model can't read pairs" if name == "segments" else "")
                        raise InputError(what, value=max(streams[name]), expected=f"0 to {self.body.tables[name] - 1}", fix=fix)
            row.parts = {part: {s: x for s, x in row.parts[part].items() if s in needs} for part, needs in self.body.needs.items() if part in row.parts}
        return rows

    def pack(self, rows: Sequence[Row], tokens: int | None = None) -> Iterator[Batch]:
        """Batches of rows on this model's device, of at most ``tokens`` tokens; as many as suit the device if None."""
        # what lies between two layers should stay in a CPU's cache
        tokens = tokens or (2048 if self.device.type == "cpu" else 8192)
        for batch in pack(rows, tokens=tokens, targets=self.task.targets, together=self.task.together is True, grain=self.body.grain):
            yield batch.to(self.device)

    def answers(
        self,
        examples: Iterable[Any],
        options: Any = None,
        *,
        tokens: int | None = None,
        where: Sequence[str] | None = None,
        use: Use = "predict",
        rows: Sequence[Sequence[Row]] | None = None,
    ) -> Iterator[Any]:
        """One answer an example, in order, in constant memory.

        Args:
            examples: what the task reads; they are taken ``CHUNK`` at a time.
            options: the task's ``Options`` or None for the usual ones.
            tokens: in a batch at most; by the device if None.
            where: what to call each example in an error.
            rows: of each example, if they are encoded already for this ``use``.

        Raises:
            InputError: an example can't be read; it is named by its number.
        """
        options = self.options() if options is None else options

        def read(numbered: tuple[int, Any]) -> tuple[Example, list[Row]]:
            number, item = numbered
            name = where[number] if where else f"input {number + 1}"
            example = self.task.example_of(item, name)
            return example, self.encode(example, options, use, name) if rows is None else [replace(row) for row in rows[number]]

        seen = rows is None and self.inputs.pictures is not None
        found = ahead(read, enumerate(examples), AHEAD, meanwhile=self.device.type != "cpu") if seen else map(read, enumerate(examples))
        chunk: list[Example] = []
        encoded: list[list[Row]] = []
        held = 0
        for example, of_example in found:
            for row in of_example:
                row.example = len(chunk)
            chunk.append(example)
            encoded.append(of_example)
            held += sum(row.nbytes for row in of_example) + sum(len(x) for x in example.values() if isinstance(x, bytes))
            if len(chunk) == (AHEAD if seen else CHUNK) or held >= HELD:
                yield from self.answered(chunk, encoded, options, tokens)
                chunk, encoded, held = [], [], 0
        if chunk:
            yield from self.answered(chunk, encoded, options, tokens)

    def answered(self, examples: Sequence[Example], rows: list[list[Row]], options: Any, tokens: int | None = None) -> Iterator[Any]:
        """One answer an example from its encoded rows, in order; all of them are read at once.

        Args:
            examples: what the task reads.
            rows: of each example, as :meth:`encode` gives them.
            options: the task's ``Options``.
            tokens: in a batch at most; by the device if None.
        """
        answers: list[Any] = [None] * len(examples)
        open_ = list(range(len(examples)))
        while open_:
            readings = self._once([row for i in open_ for row in rows[i]], options, tokens)
            again = []
            for i in open_:
                answer = self.task.answer([next(readings) for _ in rows[i]], rows[i], examples[i], options)
                if isinstance(answer, Again):
                    rows[i] = answer.rows
                    again.append(i)
                answers[i] = answer
            open_ = again
        yield from answers

    def _once(self, rows: Sequence[Row], options: Any, tokens: int | None) -> Iterator[Any]:
        """As :meth:`readings`, of rows that share theirs only one, and none whose reading is known since the weights last changed."""
        keys = [row.key for row in rows]
        if not any(keys):
            return self.readings(rows, options, tokens)
        weights = tuple((id(p), p._version) for p in self.parameters())
        if weights != self._weights or len(self._known) > KNOWN:
            self._weights, self._known = weights, {}
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key is not None and key not in self._known}
        wanted = [i for i, key in enumerate(keys) if key is None or first.get(key) == i]
        found = dict(zip(wanted, self.readings([rows[i] for i in wanted], options, tokens), strict=True))
        known = self._known | {key: found[i] for key, i in first.items()}
        self._known = known
        return (found[i] if key is None else known[key] for i, key in enumerate(keys))

    def readings(self, rows: Sequence[Row], options: Any, tokens: int | None = None) -> Iterator[Any]:
        """What the task reads from each row, in the rows' order; the mode of the model is left as it was."""
        found: dict[int, Any] = {}
        training = self.training
        self.eval()
        try:
            with torch.no_grad():  # not inference_mode: a sharded model could not train on afterwards
                batches = self.pack(rows, tokens)
                if self.device.type == "cpu":
                    batches = trimmed(batches, lambda batch: batch.tokens, TRIMMED)
                found.update(self.task.read(self.run(), batches, options))
        finally:
            self.train(training)
        return (found[i] for i in range(len(rows)))

    def run(self) -> Run:
        """The body as a task sees it."""
        return Run(self.body, self.text_of)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of token ids that this model wrote."""
        return self.inputs.tokenizer.target.decode(tokens)

    def predict(self, examples: Any, **options: Any) -> Any:
        """Answers for one example or a list of them; keyword arguments are the task's options.

        Raises:
            OptionError: an unknown option.
            InputError: an example can't be read.
        """
        alone = self.task.single(examples)
        if not alone and not isinstance(examples, Iterable):
            raise InputError("this is no example", value=examples, expected="one example, such as a text, or a list of them")
        answers = list(self.answers([examples] if alone else examples, self.options(options)))
        return answers[0] if alone else answers

    def stream(self, example: Any, *, watch: bool = False, where: str = "the input", **options: Any) -> Iterator[dict[str, Any]]:
        """The answer to one example as it is written, for the tasks that write; meanwhile the model is in eval mode.

        A record is a dict. Of each token: ``piece`` (of a text that is read in pieces), ``index`` (which of several answers), ``token`` (its id), ``name``
        (what to show of it), ``text`` (what is new: "" while a character is not complete), ``logprob``, ``alternatives`` ((name, id, logprob), best
        first, as many as ``top_alternatives`` asks for). Where an answer to a piece ends: ``piece, index, text, finish_reason``. The last one holds the
        ``answer``, as :meth:`predict` gives it. The ``text`` of all records of an ``index`` joined is that answer's text. A document that is summarised by
        parts is streamed from the summary of its summaries on.

        Args:
            example: as for :meth:`predict`.
            watch: of a beam search, which has no tokens until it is over, tell each step: ``piece, step, beams, ended``, each of these two a list of
                ``{"parent", "token", "name", "text", "score"}`` with the place of its parent among the beams of the step before. A beam's score is the sum
                of its log-probabilities, an ended one's what the search ranks it by.
            where: what to call the example in an error.
            options: the task's.

        Raises:
            OptionError: the task does not write, an unknown option, or beams without ``watch``.
            InputError: the example can't be read, or leaves no room for an answer.
        """
        opts = self.options(options)
        example = self.task.example_of(example, where)
        rows = self.encode(example, opts, where=where)
        while not self.task.final(rows):
            again = self.task.answer(list(self.readings(rows, opts)), rows, example, opts)
            assert isinstance(again, Again)
            rows = again.rows
        return self._streamed(self.task.stream(self.run(), self.inputs, rows, example, opts, watch))

    def _streamed(self, records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        training = self.training
        self.eval()
        try:
            yield from records
        finally:
            self.train(training)

    def prepare(self, precision: str = "fp32") -> Model:
        """A copy for inference whose linear layers are packed for this CPU; its other tensors are shared with this model.

        Args:
            precision: ``fp32``, equal to this model within rounding, or ``bf16``.

        Raises:
            OptionError: an unknown precision.
        """
        if self._source:
            return self.original.prepare(precision)
        shared: dict[int, Any] = {id(p): p for p in (*self.parameters(), *self.buffers())}
        shared |= {id(self.inputs): self.inputs, id(self.origin): self.origin}
        for module in self.modules():
            if isinstance(module, Linear | ConvNorm) or (isinstance(module, Embedding) and module.scored):
                shared[id(module)] = module.prepared(precision)
        made = copy.deepcopy(self, shared).eval()
        made._source, made._known = (self,), {}
        for module in made.modules():
            vars(module).pop("forward", None)  # of training, such as one that computes again what it did not keep: it would call this model's layers
        return made

    def reader(self) -> Model:
        """What to read many rows with in this model's own precision: a packed copy on a CPU; itself elsewhere, or if it is a copy already."""
        return self if self._source or self.device.type != "cpu" else self.prepare()

    def golden(self) -> list[dict[str, Any]]:
        """A few examples with this model's readings, saved with it so that a damaged or wrongly read checkpoint shows itself."""
        options, found = self.options(), []
        for example in self.task.golden_examples():
            try:
                rows = self._golden_rows(example, options)
            except InputError:  # nothing between special tokens that this tokenizer does not have
                continue
            found.append({"example": dict(example), "tokens": [_ids(row) for row in rows], "readings": [plain(x) for x in self.readings(rows, options)]})
        return found

    def check_golden(self, tolerance: float = 1e-4) -> list[str]:
        """What differs from the golden vectors of the folder that this model was loaded from; empty if nothing does.

        Args:
            tolerance: the largest difference of a number that is no difference.
        """
        problems, options = [], self.options()
        for i, saved in enumerate(self.origin.golden):
            try:
                rows = self._golden_rows(saved["example"], options)
                if [_ids(row) for row in rows] != saved["tokens"]:
                    problems.append(f"golden example {i + 1}: other tokens than when the model was saved")
                    continue
                gap = largest_gap(list(self.readings(rows, options)), saved["readings"])
            except UserError as error:
                problems.append(f"golden example {i + 1}: {error}")
                continue
            if not gap <= tolerance:
                problems.append(f"golden example {i + 1}: readings differ by {gap:.2g}, at most {tolerance:g} is rounding")
        return problems

    def _golden_rows(self, example: Example, options: Any) -> list[Row]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a vector of a language that the tokenizer does not know is as good as any other
            return self.encode(example, options, self.task.golden_use)


def _ids(row: Row) -> dict[str, list[int]]:
    return {part: list(streams["tokens"]) for part, streams in row.parts.items() if "tokens" in streams}


def plain(reading: Any) -> Any:
    """A reading as JSON takes it: an array is nested lists."""
    return reading.tolist() if isinstance(reading, np.ndarray) else reading


def largest_gap(a: Any, b: Any) -> float:
    """The largest difference between two nested lists of numbers, or arrays; infinite where their shapes differ."""
    a, b = plain(a), plain(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return max((largest_gap(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return max((largest_gap(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b)
    return 0.0 if a == b else float("inf")
