"""Token shards as training examples: example ``i`` is window ``i``, its rows are made when a step asks for them.

Unusual: nothing is kept, so five million windows take no more memory than one; the rows of a window are its documents' fragments and always go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from nabi.batch import Row
from nabi.data.shards import TokenShards, check_tokenizer, is_shards
from nabi.errors import OptionError
from nabi.model import Model
from nabi.tasks import Task

LONGEST = 8192  # tokens of a window, for a model that reads rows of any length


def open_shards(data: Any, kind: type[Task], dev: Any = None, columns: Mapping[str, str] | None = None) -> TokenShards | None:
    """The token shards that data to train on is, every byte held against its hash; None if it is something else.

    Args:
        data: shards, the path of their folder, or anything else.
        kind: of task.
        dev, columns: what is given beside the data.

    Raises:
        OptionError: the task does not learn from token shards, or what is given does not go with them.
        DataError: the shards are damaged.
    """
    if not isinstance(data, TokenShards) and not is_shards(data):
        return None
    if not kind.reads_shards:
        raise OptionError(f"{kind.name} does not learn from token shards", fix="give it the texts, as a table")
    if isinstance(dev, int | float):
        raise OptionError("token shards are not split", value=dev, expected="texts to evaluate on", fix="give a file: --dev FILE")
    if columns and dev is None:
        raise OptionError("token shards have no columns to rename", value=", ".join(columns), fix="leave --columns out")
    return TokenShards.open(data.folder, length=data.length, verify=True) if isinstance(data, TokenShards) else TokenShards.open(data, verify=True)


class Windows(Sequence[list[Row]]):
    """The rows of each window, for a ``Feed``.

    Args:
        model: whose task makes the rows.
        shards: in windows that the model can read.

    Raises:
        OptionError: the windows are longer than the model's rows.
        TokenizerError: another tokenizer than the model's made the ids.
    """

    def __init__(self, model: Model, shards: TokenShards) -> None:
        check_tokenizer(shards.manifest, model.inputs.tokenizer, shards.folder)
        if shards.length > model.inputs.max_length:
            raise OptionError("the windows are longer than the model reads", value=f"{shards.length} tokens", expected=f"at most {model.inputs.max_length}",
                              fix=f"open the shards with length={model.inputs.max_length}, or give their path")  # fmt: skip
        self.model, self.shards = model, shards

    @classmethod
    def fitted(cls, model: Model, shards: TokenShards) -> Windows:
        """In windows of the model's length.

        Raises:
            TokenizerError: another tokenizer than the model's made the ids.
        """
        return cls(model, shards.with_length(min(model.task.window_length(model.inputs), LONGEST)))

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, index: int) -> list[Row]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Row]]: ...
    def __getitem__(self, index: int | slice) -> list[Row] | list[list[Row]]:
        chosen = range(len(self))[index]  # raises IndexError as a list does
        return self._rows(chosen) if isinstance(chosen, int) else [self._rows(i) for i in chosen]

    def _rows(self, index: int) -> list[Row]:
        rows = self.model.task.encode_window(self.shards[index], self.model.inputs)
        return self.model.fitting(rows, self.shards.where(index), index)
