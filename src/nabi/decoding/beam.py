"""Beam search over several prompts at once; a prompt whose search is over leaves, a waiting one takes its place.

Scores, candidates and the end of a search are the incumbent's (its version 5.23, searching one prompt at a time): of each prompt the best
``num_beams * (1 + end tokens)`` continuations are candidates (at least twice the beams), those that end are kept if they are among the best
``num_beams`` of them, and the best ``num_beams`` that go on are the next beams. Unusual: what happens on the device is one top-k a row; the
bookkeeping of the few candidates is done on the host, where hypotheses are a tree of nodes and nothing is copied when beams split.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nabi.batch import Cache
from nabi.decoding.processors import Course, Processors
from nabi.decoding.settings import Settings
from nabi.decoding.steps import Branches, Ending, Generated, Request, Steps, begun, nothing_left, top
from nabi.errors import InputError, WorkError

FAR = -1e9  # what the incumbent adds to rule a hypothesis out; two that are ruled out still rank by their scores


@dataclass(frozen=True, slots=True)
class Node:
    """A token of a hypothesis, its log-probability, and what came before it."""

    parent: Node | None
    token: int
    logprob: float

    def path(self) -> list[Node]:
        """The hypothesis, from its first token on."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class Search:
    """The search behind one prompt: its hypotheses."""

    def __init__(self, request: Request, beams: int) -> None:
        self.request = request
        self.length = 0  # tokens generated
        self.beams: list[Node | None] = [None] * beams  # best first; None is the prompt itself
        self.ended: list[Node | None] = [None] * beams  # best first; None where there is none yet
        self.parents: list[int] = []  # of each beam, its beam in the step before
        self.over = False

    def answers(self, scores: Sequence[float], settings: Settings, ending: Ending) -> Iterator[Generated]:
        """The best ended hypotheses, with their ranked scores."""
        found = [(node, score) for node, score in zip(self.ended, scores, strict=True) if node is not None]
        for index, (node, score) in enumerate(found[: settings.num_return_sequences]):
            path = node.path()
            end = node.token if node.token in ending.ends else None
            tokens = [step.token for step in path]
            stopped = end is not None or ending.said(tokens)
            tokens = tokens if end is None else tokens[:-1]
            logprobs = tuple(step.logprob for step in path)
            yield Generated(self.request.row, index, tuple(tokens), end, "stop" if stopped else "length", logprobs, score)


@dataclass
class Board:
    """The scores of P searches with B beams each, on the host.

    Attributes:
        running: (P, B) sums of log-probabilities of the beams, best first.
        ended: (P, B) ranked scores of the ended hypotheses, best first.
        filled: (P, B) whether there is one.
        hopeful: (P, 1) whether an open beam may still become one of the best.
    """

    running: Tensor
    ended: Tensor
    filled: Tensor
    hopeful: Tensor

    @classmethod
    def fresh(cls, searches: int, beams: int) -> Board:
        """Of searches that begin: all beams are the prompt, so only the first of them counts."""
        running = torch.full((searches, beams), FAR)
        running[:, 0] = 0
        filled = torch.zeros((searches, beams), dtype=torch.bool)
        return cls(running, torch.full((searches, beams), FAR), filled, torch.ones((searches, 1), dtype=torch.bool))

    def take(self, searches: Sequence[int]) -> Board:
        """The scores of some of the searches."""
        return Board(*(getattr(self, f.name)[list(searches)] for f in fields(self)))

    def joined(self, other: Board) -> Board:
        """The scores of these searches and others."""
        return Board(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def run(steps: Steps, requests: Sequence[Request], settings: Settings, ending: Ending, *, slots: int, watch: bool) -> Iterator[Generated | Branches]:
    """Search for the answers to the requests, as many at a time as have their beams in ``slots``.

    Args:
        steps: the model.
        requests: in the order in which they get their slots.
        settings: checked; with beams.
        ending: when a hypothesis is over.
        slots: the most rows in a batch; one search runs in any case.
        watch: whether each step is told.

    Raises:
        InputError: processors forbid every continuation of a prompt, or the vocabulary is too small.
        WorkError: the model's scores are not numbers.
    """
    beams = settings.num_beams
    kept = max(2, 1 + len(settings.eos_token_id)) * beams
    if steps.vocab_size * beams < kept:
        raise InputError("the vocabulary is too small for a beam search", value=steps.vocab_size, expected=f"{kept // beams} tokens at least")
    waiting = deque(requests)
    searches: list[Search] = []
    board = Board.fresh(0, beams)
    cache: Cache | None = None
    scores: Tensor | None = None
    room: Tensor | None = None  # for log-probabilities, once for all steps: fresh memory of this size costs more than what is computed in it
    processors: Processors | None = None
    while waiting or searches:
        free = max(slots // beams, 1) - len(searches)
        if waiting and free:
            fresh = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            more, first = begun(steps, fresh, beams)
            processors = processors or Processors(settings, steps.vocab_size, first.device)
            rows = [request for request in fresh for _ in range(beams)]
            processors.admit([Course(r.history, len(r.history), r.least, r.most) for r in rows], [r.source for r in rows])
            searches += [Search(request, beams) for request in fresh]
            board = board.joined(Board.fresh(len(fresh), beams))
            if cache is None or scores is None:
                cache, scores = more, first
            else:
                cache.admit(more)
                scores = torch.cat([scores, first])
            del more, first  # or a cache whose rows are all done would stay until the next is made
        assert scores is not None and cache is not None and processors is not None
        if room is None or room.shape != scores.shape:
            room = torch.empty_like(scores)
        torch.log_softmax(scores, 1, out=room)
        told = _advance(searches, board, *_continuations(room, processors, settings, kept), kept, settings, ending)
        if watch:
            yield from told
        for search, ranked in zip(searches, board.ended.tolist(), strict=True):
            if search.over:
                yield from search.answers(ranked, settings, ending)
        left = [p for p, search in enumerate(searches) if not search.over]
        processors.take([p * beams + parent for p in left for parent in searches[p].parents])
        if len(left) < len(searches) and left:
            cache.release([p * beams + b for p, search in enumerate(searches) if search.over for b in range(beams)])
        searches, board = [searches[p] for p in left], board.take(left)
        if not searches:
            cache, scores = None, None
            continue
        moved = [p * beams + parent for p, search in enumerate(searches) for parent in search.parents]
        if moved != list(range(len(moved))):
            cache.reorder(moved)
        tokens = [node.token for search in searches for node in search.beams if node is not None]
        processors.append(tokens)
        scores = steps.next(tokens, cache)


def _continuations(scores: Tensor, processors: Processors, settings: Settings, kept: int) -> tuple[Tensor, Tensor]:
    """The best next tokens of each beam by log-probabilities (N, V), which are changed: (N, K) on the host. No candidate of a search lies outside of these."""
    processors(scores)
    values, tokens = top(scores, min(kept, scores.shape[1]))
    if settings.renormalize_logits and processors.active:
        values = values - scores.logsumexp(1, keepdim=True)
    return values.cpu(), tokens.cpu()


def _advance(
    searches: Sequence[Search], board: Board, values: Tensor, tokens: Tensor, kept: int, settings: Settings, ending: Ending
) -> list[Branches]:
    """Go one token further in all searches; ``board`` and ``searches`` are changed.

    Args:
        searches: P of them.
        board: their scores.
        values: (P * B, K) log-probabilities of the beams' best continuations.
        tokens: their tokens.
        kept: candidates of a search.
        settings: length penalty and when a search is over.
        ending: when a hypothesis is over.
    """
    beams, width = settings.num_beams, values.shape[1]
    values, tokens = values.view(len(searches), beams, width), tokens.view(len(searches), -1)
    best, at = (values + board.running[:, :, None]).flatten(1).topk(kept)
    _vet(searches, best)
    parents: list[list[int]] = (at // width).tolist()
    chosen: list[list[int]] = tokens.gather(1, at).tolist()
    logprobs: list[list[float]] = values.flatten(1).gather(1, at).tolist()
    candidates: list[list[Node]] = []
    for p, search in enumerate(searches):
        search.length += 1
        candidates.append([Node(search.beams[b], t, lp) for b, t, lp in zip(parents[p], chosen[p], logprobs[p], strict=True)])
    over = torch.tensor([[_ends(node, search, ending) for node in nodes] for search, nodes in zip(searches, candidates, strict=True)])

    board.running, going = (best + over * FAR).topk(beams)
    lengths = torch.tensor([[search.length] for search in searches], dtype=torch.float64)
    full = board.filled.all(1, keepdim=True) & (settings.early_stopping is True)
    just = over & (torch.arange(kept) < beams)  # the other candidates only replace beams that ended
    ranked = best / (lengths**settings.length_penalty).float() + full * FAR + ~board.hopeful * FAR + ~just * FAR
    board.ended, kept_ends = torch.cat([board.ended, ranked], 1).topk(beams)
    board.filled = torch.cat([board.filled, just], 1).gather(1, kept_ends)

    if settings.early_stopping == "never" and settings.length_penalty > 0:
        lengths = torch.tensor([[search.request.most] for search in searches], dtype=torch.float64)
    possible = board.running[:, :1] / (lengths**settings.length_penalty).float()
    worst = torch.where(board.filled, board.ended[:, -1:], FAR)
    board.hopeful = board.hopeful & (possible > worst).any(1, keepdim=True)
    done = ~board.hopeful[:, 0] | over.all(1)
    if settings.early_stopping is True:
        done |= board.filled.all(1)

    told = []
    for p, search in enumerate(searches):
        goes, ends = going[p].tolist(), kept_ends[p].tolist()
        search.over = bool(done[p])
        search.parents = [parents[p][c] for c in goes]
        search.beams = [candidates[p][c] for c in goes]
        hypotheses = [*search.ended, *candidates[p]]
        search.ended = [hypotheses[h] if filled else None for h, filled in zip(ends, board.filled[p].tolist(), strict=True)]
        news = [(h - beams, float(board.ended[p, i])) for i, h in enumerate(ends) if h >= beams and bool(board.filled[p, i])]
        told.append(
            Branches(
                search.request.row, search.length - 1, tuple(search.parents), tuple(chosen[p][c] for c in goes), tuple(board.running[p].tolist()),
                tuple((parents[p][c], chosen[p][c], score) for c, score in news),
            )
        )  # fmt: skip
    return told


def _ends(node: Node, search: Search, ending: Ending) -> bool:
    if node.token in ending.ends or search.length >= search.request.most:
        return True
    return bool(ending.strings) and ending.said([step.token for step in node.path()])


def _vet(searches: Sequence[Search], best: Tensor) -> None:
    """The first candidate of each search is a possible one."""
    first = best[:, 0].tolist()
    if any(score != score for score in first):
        raise WorkError("the model's scores of the next token are not numbers")
    for search, score in zip(searches, first, strict=True):
        if score == -torch.inf:
            raise nothing_left(search.request.row)
