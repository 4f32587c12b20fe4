"""What a model of this package returns: a mapping in order, with attributes, and places as in a tuple.

Unusual: version 4 also puts ``past_key_values`` into the outputs of models that write. There is none here, so a place behind it is refused rather than moved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from nabi.errors import OptionError, nearest


class ModelOutput(OrderedDict[str, Any]):
    """Named results, those that were not asked for left out.

    Args:
        fields: name -> result; None for one that was not asked for.
        past: how many results stand before the place where version 4 has ``past_key_values``; None where it has none.
    """

    def __init__(self, fields: Mapping[str, Any] | None = None, past: int | None = None) -> None:
        super().__init__((name, value) for name, value in (fields or {}).items() if value is not None)
        object.__setattr__(self, "_absent", frozenset(name for name, value in (fields or {}).items() if value is None))
        object.__setattr__(self, "_past", past)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "past_key_values":
            raise AttributeError("nabi hands out no past_key_values: call generate(), which keeps a past of its own")
        if name in self._absent:
            return None
        raise AttributeError(f"there is no '{name}' among {', '.join(self)}. {nearest(name, [*self, *self._absent])}".rstrip())

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        values = tuple(self.values())
        last = (key.stop if key.stop is not None and key.stop >= 0 else len(values)) - 1 if isinstance(key, slice) else key if key >= 0 else len(values)
        if self._past is not None and last >= self._past:
            names = list(self)[self._past :]
            fix = f"name it: {', '.join(names) or 'past_key_values is none of them'}; or call the model with use_cache=False"
            raise OptionError("version 4 has past_key_values here, which nabi does not hand out", value=f"place {self._past}", fix=fix)
        return values[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The results in order.

        Raises:
            OptionError: in version 4 ``past_key_values`` would be among them.
        """
        return tuple(self[:])

    def __reduce__(self) -> Any:
        return ModelOutput, ({**dict(self), **dict.fromkeys(self._absent)}, self._past)
