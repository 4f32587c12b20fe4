"""What changes scores before a token is chosen: penalties, bans and forced tokens, for all rows at once.

Each row has a ``Course``, its tokens so far and what follows from them. Rules and their order are the incumbent's. Unusual: n-grams are entered
into a row's table as its tokens come and never counted again; a beam that splits copies the table; scores are changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nabi.decoding.settings import Settings

Grams = dict[tuple[int, ...], tuple[int, ...]]  # n - 1 tokens -> the tokens that followed them


class Course:
    """One row: its tokens and limits.

    Args:
        history: the prompt and what has been generated behind it.
        prompt: how many of them are the prompt.
        least: generated tokens before which no end token may come.
        most: generated tokens at which the row ends.
    """

    __slots__ = ("grams", "history", "least", "most", "prompt", "source")

    def __init__(self, history: Sequence[int], prompt: int, least: int, most: int) -> None:
        self.history, self.prompt, self.least, self.most = list(history), prompt, least, most
        self.grams: Grams = {}
        self.source: Mapping[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def new(self) -> int:
        """Tokens generated so far."""
        return len(self.history) - self.prompt

    def split(self) -> Course:
        """A second row with the same past."""
        other = Course(self.history, self.prompt, self.least, self.most)
        other.grams, other.source = dict(self.grams), self.source
        return other


def grams_of(tokens: Sequence[int], n: int) -> Grams:
    """The table of all n-grams of ``tokens``."""
    table: Grams = {}
    for end in range(n, len(tokens) + 1):
        _enter(table, tokens, n, end)
    return table


def _enter(table: Grams, tokens: Sequence[int], n: int, end: int) -> None:
    """Enter the n-gram that ends before place ``end``."""
    key = tuple(tokens[end - n : end - 1])
    table[key] = (*table.get(key, ()), tokens[end - 1])


class Processors:
    """The settings that change scores, with the courses of the rows that are being decoded.

    Args:
        settings: checked.
        vocab_size: V.
        device: of the scores.
    """

    def __init__(self, settings: Settings, vocab_size: int, device: torch.device) -> None:
        s = self.settings = settings
        self.device = device
        self.courses: list[Course] = []
        ends = set(s.eos_token_id)
        self._ends = sorted(end for end in ends if end < vocab_size)
        words = [word for word in s.bad_words_ids if not (len(word) == 1 and word[0] in ends)]  # the end can't be a bad word, as the incumbent
        self._words = sorted({word[0] for word in words if len(word) == 1})
        self._phrases = [word for word in words if len(word) > 1]
        last = s.forced_eos_token_id
        self._last = () if last is None else (last,) if isinstance(last, int) else last
        self._seen: Tensor | None = None  # (N, C) each row's tokens, for the penalty; places without one repeat the row's first
        self.active = bool(
            s.repetition_penalty != 1 or s.no_repeat_ngram_size or s.encoder_no_repeat_ngram_size or words or s.suppress_tokens
            or s.begin_suppress_tokens or s.forced_bos_token_id is not None or self._last or ((s.min_length or s.min_new_tokens) and ends)
        )  # fmt: skip

    def admit(self, courses: Sequence[Course], sources: Sequence[Sequence[int]]) -> None:
        """Rows that come behind the last, with the source of each (an encoder's tokens, or a decoder's prompt)."""
        if not self.active:
            return
        n, of_source = self.settings.no_repeat_ngram_size, self.settings.encoder_no_repeat_ngram_size
        for course, source in zip(courses, sources, strict=True):
            if n:
                course.grams = grams_of(course.history, n)
            if of_source:
                course.source = grams_of(source, of_source)
        self.courses.extend(courses)
        if self.settings.repetition_penalty != 1:
            width = max(len(course.history) for course in courses)
            width = max(2 * width, 0 if self._seen is None else self._seen.shape[1])
            fresh = torch.tensor([course.history + course.history[:1] * (width - len(course.history)) for course in courses], device=self.device)
            self._seen = fresh if self._seen is None else torch.cat([self._widened(self._seen, width), fresh])

    @staticmethod
    def _widened(seen: Tensor, width: int) -> Tensor:
        return torch.cat([seen, seen[:, :1].expand(-1, width - seen.shape[1])], 1)

    def take(self, rows: Sequence[int]) -> None:
        """Row i becomes what row rows[i] was; rows that are not named are over."""
        if not self.active or list(rows) == list(range(len(self.courses))):
            return
        used: set[int] = set()
        courses = []
        for row in rows:
            courses.append(self.courses[row].split() if row in used else self.courses[row])
            used.add(row)
        self.courses = courses
        if self._seen is not None:
            self._seen = self._seen[torch.tensor(rows, dtype=torch.int64, device=self.device)] if rows else None

    def append(self, tokens: Sequence[int]) -> None:
        """The token that each row goes on with."""
        if not self.active:
            return
        n = self.settings.no_repeat_ngram_size
        for course, token in zip(self.courses, tokens, strict=True):
            course.history.append(token)
            if n and len(course.history) >= n:
                _enter(course.grams, course.history, n, len(course.history))
        if self._seen is not None and tokens:
            lengths = [len(course.history) for course in self.courses]
            if max(lengths) > self._seen.shape[1]:
                self._seen = self._widened(self._seen, 2 * self._seen.shape[1])
            at = torch.tensor([lengths, tokens], device=self.device)
            self._seen.scatter_(1, at[0].sub_(1)[:, None], at[1][:, None])

    def __call__(self, scores: Tensor) -> None:
        """Change the (N, V) logits or log-probabilities of the rows' next tokens in place."""
        if not self.active:
            return
        s = self.settings
        if self._seen is not None:
            found = scores.gather(1, self._seen)
            scores.scatter_(1, self._seen, torch.where(found < 0, found * s.repetition_penalty, found / s.repetition_penalty))
        self._ban(scores, ((row, token) for row, course in enumerate(self.courses) for token in self._banned(course)))
        self._ban_everywhere(scores, self._words)
        forced = [(row, tokens) for row, course in enumerate(self.courses) if (tokens := self._forced(course))]
        if forced:
            scores[torch.tensor([row for row, _ in forced], device=self.device)] = -torch.inf
            self._set(scores, [(row, token) for row, tokens in forced for token in tokens], 0.0)
        self._ban_everywhere(scores, s.suppress_tokens)
        if s.begin_suppress_tokens:
            # with a forced first token it is the second that counts as the first, as the incumbent has it
            first = [course.new == (course.prompt == 1 and s.forced_bos_token_id is not None) for course in self.courses]
            self._ban(scores, ((row, token) for row, yes in enumerate(first) if yes for token in s.begin_suppress_tokens))

    def _banned(self, course: Course) -> Iterable[int]:
        """What a row's own past forbids."""
        s, history = self.settings, course.history
        if n := s.no_repeat_ngram_size:
            yield from course.grams.get(tuple(history[len(history) + 1 - n :]), ()) if len(history) >= n else ()
        if n := s.encoder_no_repeat_ngram_size:
            yield from course.source.get(tuple(history[len(history) + 1 - n :]), ()) if len(history) >= n - 1 else ()
        for phrase in self._phrases:
            if tuple(history[1 - len(phrase) :]) == phrase[:-1]:
                yield phrase[-1]
        if course.new < course.least:
            yield from self._ends

    def _forced(self, course: Course) -> Sequence[int]:
        if course.new == course.most - 1 and self._last:
            return self._last
        first = self.settings.forced_bos_token_id
        return (first,) if first is not None and len(course.history) == 1 else ()

    def _ban(self, scores: Tensor, places: Iterable[tuple[int, int]]) -> None:
        self._set(scores, list(places), -torch.inf)

    def _set(self, scores: Tensor, places: Sequence[tuple[int, int]], value: float) -> None:
        if places:
            rows, tokens = torch.tensor(places, device=self.device).unbind(1)
            scores[rows, tokens] = value

    def _ban_everywhere(self, scores: Tensor, tokens: Sequence[int]) -> None:
        if tokens:
            scores.index_fill_(1, torch.tensor(tokens, device=self.device), -torch.inf)
