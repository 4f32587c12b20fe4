"""The tasks, ONE file each; this folder's listing is the registry.

A task file ends with ``TASK = TheClass``. A task is everything about itself in training and in use, so that the two can't drift apart: columns, encoding,
heads, loss, answers, score. Tasks import no family.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from nabi import plugins
from nabi.batch import FILLER, Batch, Row, Target
from nabi.data import Finding, Table
from nabi.data.shards import Window
from nabi.errors import DataError, InputError, OptionError, unknown
from nabi.inputs import Inputs
from nabi.nn.body import Body, Run
from nabi.nn.heads import head_of
from nabi.text import Tokenizer

Example = Mapping[str, Any]
Use = Literal["train", "evaluate", "predict"]
Form = Literal["text", "mapping", "list", "stream"]  # what a pipeline is called with; a stream is an iterator or a data set


@dataclass(frozen=True)
class Again:
    """What ``Task.answer`` returns to ask for another round over new rows (the summary of summaries)."""

    rows: list[Row]


@dataclass(frozen=True)
class NoSettings:
    """The settings of a task that has none."""


class Cut(UserWarning):
    """Text of training that was cut, because it has to stay in one row; those of a data set are summed up in one.

    Args:
        what: what was cut, ``source``.
        first: the first row.
        tokens, limit: how many that has and how many fit.
        lost: tokens that are cut in all rows.
        rows, of: how many rows are cut, of how many; of one that stands alone None.
    """

    def __init__(self, what: str, first: str, tokens: int, limit: int, lost: int, rows: int = 1, of: int | None = None) -> None:
        self.what, self.first, self.tokens, self.limit, self.lost, self.rows = what, first, tokens, limit, lost, rows
        counted = f"{rows:,} of {of:,} rows" if of is not None else "one row"
        super().__init__(
            f"{what}s of training that are too long are cut, first {first} ({tokens} tokens, at most {limit} fit); cut off: {lost:,} tokens of {counted}. "
            "There is one target to a whole source, so they can't be read in windows: part long pairs into shorter ones, leave them out, "
            "or take a base that reads more; with long='error' they are refused"
        )

    def with_more(self, other: Cut) -> Cut:
        """Both together; the first row stays."""
        return Cut(self.what, self.first, self.tokens, self.limit, self.lost + other.lost, self.rows + other.rows)

    def among(self, rows: int) -> Cut:
        """The same, told as a part of so many rows."""
        return Cut(self.what, self.first, self.tokens, self.limit, self.lost, self.rows, rows)


class Score(Protocol):
    """Accumulates answers against the truth; never keeps logits."""

    def add(self, answer: Any, truth: Any) -> None: ...
    def result(self) -> dict[str, float]: ...


class Task(nn.Module):
    """Base of all tasks.

    Class attributes:
        name, aliases: as the command line and ``pipeline`` spell them.
        defaults: ids that v4 takes for the task when no model is given, the newest spelling first.
        parts: what a body must read for the task: ``text``, ``image``.
        columns: what a labelled row must have; optional_columns: what it may have.
        heads: the head kinds that it builds on a body whatever its settings; of an instance, all that it builds.
        optional_heads: those that some settings add; see :meth:`builds`.
        generates: the part that it lets the body write; None if the body only reads. A body that generates another part does not fit.
        Options: a frozen dataclass of what a call may set; given to encode, read and answer, the module is never changed by a call.
        Settings: a frozen dataclass of what belongs to the model: labels, kind of problem, loss; saved with it.
        targets: how the targets of rows become tensors.
        main_metric: the figure by which the best checkpoint is chosen; larger is better unless ``lower_is_better``.
        golden_use: how golden examples are encoded.
        together: keep the rows of an example in one batch; ``training``: where the loss compares them, and not when they are read.
        whole_batch: the loss compares examples of a batch with each other, so micro-batches can't split it.
        told_by: sets of columns, each of which tells that a table is for this task where nobody says it.
        classed: whether :meth:`said` is one of a few classes, which may be missing or far more frequent than the others.
        reads_shards: it learns from token shards too; see :meth:`encode_window`.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[frozenset[str]] = frozenset({"text"})
    columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]]
    optional_heads: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[str | None] = None
    Options: ClassVar[type[Any]] = NoSettings
    Settings: ClassVar[type[Any]] = NoSettings
    targets: Mapping[str, Target] = {}
    main_metric: str
    lower_is_better: ClassVar[bool] = False
    golden_use: ClassVar[Use] = "predict"
    together: ClassVar[bool | Literal["training"]] = False
    whole_batch: ClassVar[bool] = False
    told_by: ClassVar[tuple[tuple[str, ...], ...]] = ()
    classed: ClassVar[bool] = False
    reads_shards: ClassVar[bool] = False

    def __init__(self, settings: Any) -> None:
        super().__init__()
        if not isinstance(settings, self.Settings):
            raise OptionError(f"{self.name} needs settings of its own", value=type(settings).__name__, expected=self.Settings.__name__)
        self.settings = settings
        if self.optional_heads:
            self.heads = self.builds(settings)  # type: ignore[misc]  # this instance's own

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def fits(cls, body: Body | type[Body]) -> bool:
        """Whether this body reads the parts and has the heads that the task needs, and writes what the task lets it write."""
        writes = body.generates if cls.generates or "vocabulary" in cls.heads else None
        return cls.parts <= set(body.needs) and set(cls.heads) <= set(body.heads) and writes == cls.generates

    @classmethod
    def builds(cls, settings: Any) -> tuple[str, ...]:
        """The head kinds under these settings: ``heads``, and which of ``optional_heads``."""
        return cls.heads

    @classmethod
    def required(cls, columns: Sequence[str]) -> tuple[str, ...]:
        """What a labelled row must have in a table with these columns; a task whose data comes in several forms says which one it is."""
        return cls.columns

    @classmethod
    def opened(cls, table: Table) -> Table:
        """The table that the task reads, one row an example, from one whose rows may hold several."""
        return table

    @classmethod
    def beside(cls, source: Path | None) -> Callable[[Example, str], Example] | None:
        """(row, where it is) -> the row with what it only names, such as an image beside the file ``source``; None if rows hold all that the task reads."""
        return None

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> Any:
        """The ``Settings`` for this data: label names, kind of problem; ``given`` are those that the caller set.

        Raises:
            DataError: the labels can't be learnt from.
        """
        return cls.Settings(**given)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        """The ``Settings`` that a checkpoint of the incumbent stands for.

        Args:
            config: its config.json.
            outputs: the sizes of its head layers by kind; one of ``optional_heads`` may be missing.
            generation: its generation_config.json; empty if it has none.
        """
        return cls.Settings()

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        """These settings, and what the model says where they are silent.

        Args:
            config, generation: the model's config.json and generation_config.json; empty for a model from scratch.
            tokenizer: its tokenizer.
        """
        return settings

    @classmethod
    def pools(cls, settings: Any) -> bool:
        """Whether these settings leave it to the model's folder how a text's vectors become one: it then fills their ``pooling`` and ``normalize``."""
        return False

    @classmethod
    def named(cls, name: str) -> dict[str, Any] | None:
        """The options that a name stands for which says more than the task (``translation_en_to_de``); None if this is no name of the task."""
        return None

    def to_hf(self) -> dict[str, Any]:
        """The keys of config.json that tell the incumbent about this task."""
        return {}

    def to_generation(self) -> dict[str, Any]:
        """The generation_config.json of this task; none is written if it is empty."""
        return {}

    def outputs(self) -> dict[str, int]:
        """Head kind -> size of its output layer."""
        raise NotImplementedError

    def build(self, body: Body) -> None:
        """Make the heads that this task needs on this body, as attributes named by their kind.

        Raises:
            OptionError: the family has no such head.
        """
        for kind, size in self.outputs().items():
            if kind not in body.heads:
                raise OptionError(f"{type(body).__name__} has no '{kind}' head, which {self.name} needs", expected=f"one of {', '.join(body.heads)}")
            spec = body.heads[kind]
            self.add_module(kind, head_of(spec, body.hidden_size, size, dropout=body.head_dropout.get(kind, 0.0), std=body.init_std))
            if spec.tied_to is not None:
                body.get_submodule(spec.tied_to).scored = True  # type: ignore[assignment]

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the heads for training from scratch."""
        for kind in self.heads:
            self.get_submodule(kind).initialise(generator)  # type: ignore[operator]

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: Any, use: Use = "predict", where: str = "") -> list[Row]:
        """Rows of one example: one a window, choice or candidate label; deterministic.

        Args:
            example: a mapping with the task's columns.
            inputs: the model's tokenizer and limits.
            options: the task's ``Options``.
            use: whether targets are needed, and which rule for long texts holds.
            where: what to call the example in an error.
        """
        raise NotImplementedError

    def window_length(self, inputs: Inputs) -> int:
        """The most tokens of a window of token shards, such that a row of it fits the model."""
        return inputs.max_length

    def encode_window(self, window: Window, inputs: Inputs) -> list[Row]:
        """The training rows of a window of token shards: one a fragment of a document, so that no document is seen by another.

        Args:
            window: of the ids that this model's tokenizer made.
            inputs: the model's tokenizer and limits.
        """
        raise NotImplementedError

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        """Masking or augmentation of one training row, drawn from ``generator`` (seed, epoch, example); nothing by default."""
        return row

    def stratum(self, row: Row) -> str | None:
        """What balanced sampling evens out: the row's class, or None if the task has no classes."""
        return None

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        """How much each loss of a batch counts, from the data alone, before any forward."""
        raise NotImplementedError

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        """Sums under the names of :meth:`counts`; the loop divides, so micro-batches add up exactly."""
        raise NotImplementedError

    def read(self, run: Run, batches: Iterable[Batch], options: Any) -> Iterator[tuple[int, Any]]:
        """(row id, reading): small host data a row, an array where it is a number a token; by default the logits of the task's one head, which must pool."""
        (kind,) = self.heads
        head = getattr(self, kind)
        for batch in batches:
            part = run.part(batch, head.spec.reads)
            for row, example, logits in zip(part.ids, part.example.tolist(), head.read(run, batch).tolist(), strict=True):
                if example != FILLER:
                    yield row, logits

    def stream(self, run: Run, inputs: Inputs, rows: Sequence[Row], example: Example, options: Any, watch: bool = False) -> Iterator[dict[str, Any]]:
        """Records of one example's answer as it is written; see ``Model.stream``.

        Args:
            run: the body.
            inputs: the model's tokenizer and limits.
            rows: of the example, for which :meth:`final` holds.
            example, options: as in :meth:`encode`.
            watch: tell each step of a beam search.

        Raises:
            OptionError: the task does not write token by token, or can't with these options.
        """
        raise OptionError(f"{self.name} does not write token by token, so there is nothing to stream", fix="ask for the answer with predict")

    def updated(self) -> None:
        """Bring what has a limit back to it, after each update of the weights; nothing by default."""

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: Any) -> Any:
        """The answer for one example from the readings of its rows, in encode's order: plain data, offsets into the original text, or ``Again``."""
        raise NotImplementedError

    def final(self, rows: Sequence[Row]) -> bool:
        """Whether the readings of these rows make an answer, and ask for no other round."""
        return True

    def truth(self, example: Example, where: str) -> Any:
        """What a labelled example says, in the form that ``score`` takes."""
        raise NotImplementedError

    def score(self) -> Score:
        """A fresh accumulator."""
        raise NotImplementedError

    # ---- rows as the doctor looks at them --------------------------------------------------------------------------------------------------------

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        """The text of a labelled row and its pair, None if it has none; whatever stands there where the row can't be read."""
        return example.get(cls.columns[0]), None

    @classmethod
    def said(cls, example: Example, where: str) -> Any:
        """What a labelled row says of its text, in a form that can be compared; the second column by default.

        Raises:
            UserError: the row can't be read.
        """
        return example.get(cls.columns[1]) if len(cls.columns) > 1 else None

    @classmethod
    def doubts(cls, table: Table, said: Sequence[Any]) -> Iterator[Finding]:
        """What else is worth telling about labelled rows; nothing by default.

        Args:
            table: as :meth:`opened`.
            said: of each row what :meth:`said` gave, None where it could not be read.
        """
        return iter(())

    def calibrate(self, *scores: Any) -> None:
        """Fit what of the settings is chosen on dev rows, and say it to their scores; nothing by default.

        Args:
            scores: accumulators of this task, and its details, that were filled with the same rows.
        """

    def golden_examples(self) -> list[Example]:
        """Inputs whose readings are saved with the model: letters, Hangul, emoji and nothing."""
        return [{"text": text} for text in ("The film was not bad at all.", "나비가 꽃에 앉았다.", "WINNER!! Claim £900 now \U0001f389", "")]

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What a pipeline was called with -> its inputs and its options.

        Raises:
            InputError: there is not one positional argument.
        """
        options = dict(given)
        if not args and "inputs" in options:
            args = (options.pop("inputs"),)
        if len(args) != 1:
            raise InputError("a pipeline is called with its inputs", value=f"{len(args)} positional arguments", expected="one: an input or a list of them")
        return args[0], options

    def single(self, inputs: Any) -> bool:
        """Whether this is one input, and no collection of them."""
        return isinstance(inputs, str | Mapping)

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """One input of a pipeline or of the command line as an example; ``where`` is what to call it in an error."""
        return item if isinstance(item, Mapping) else {"text": item}

    def plain(self, answer: Any) -> Any:
        """The answer as JSON takes it: itself, but where it holds arrays."""
        return answer

    def line(self, answer: Any) -> str:
        """The answer on one line of a terminal."""
        return json.dumps(answer, ensure_ascii=False)

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        """Whether v4 puts the answer into a list of its own.

        Args:
            form: what the pipeline was called with.
            given: the call's own options.
        """
        return form == "text" and "top_k" not in given

    def present(self, answer: Any, options: Any, alone: bool) -> Any:
        """The answer in the shape of the incumbent's v4 pipeline; ``alone`` as :meth:`alone` says."""
        return answer


def own_text(example: Example, where: str) -> str:
    """The truth for a task that learns a text from itself.

    Raises:
        DataError: the example has none.
    """
    text = example.get("text")
    if not isinstance(text, str):
        raise DataError(f"{where} has no text", value=text, expected="a str")
    return text


def find(name: str) -> type[Task]:
    """The task of this name or alias, with - or _ alike.

    Raises:
        OptionError: there is none of this name.
    """
    wanted = name.replace("-", "_").lower()
    found = plugins.find("tasks", wanted)
    if found is None:
        for other in plugins.names("tasks"):
            task = plugins.find("tasks", other)
            assert isinstance(task, type) and issubclass(task, Task)
            if wanted in (alias.replace("-", "_") for alias in task.aliases) or task.named(wanted) is not None:
                return task
        raise unknown("task", name, [n for t in names() for n in (t, *(find(t).aliases))])
    assert isinstance(found, type) and issubclass(found, Task)
    return found


def names() -> list[str]:
    """All task names, plugins included."""
    return plugins.names("tasks")
