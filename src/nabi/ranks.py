"""The processes of a run, which torch calls ranks: how many there are, which one this is, and what they tell each other.

``torchrun`` starts them and says who they are in the environment. Unusual: each attempt of a group has a store of its own. torchrun's is shared by all
attempts, so that after a restart a process may read the address of one that is dead, and hang (seen in 4 of 9 small runs).
"""

from __future__ import annotations

import atexit
import datetime as dt
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from nabi import errors
from nabi.errors import NabiError, OptionError, StorageError, TrainingError

T = TypeVar("T")
PATIENCE = 20.0  # seconds after which a process that did not come is missed; NABI_PREFLIGHT sets another number
LONGEST = dt.timedelta(hours=2)  # what the others may wait for one that encodes data, evaluates or writes


class Ranks:
    """The processes of this run; as it is made, one that is alone.

    Attributes:
        rank: the number of this one; world: how many there are.
        attempt: how often the group was begun again after one died.
        first: whether this is the one that speaks and writes what is written once.
    """

    rank, world, attempt = 0, 1, 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def all(self, value: Any) -> list[Any]:
        """What each process gave, plain data, in the order of their numbers; every process has to call it."""
        return [value]

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over the processes under each name, in float64; every process has to give the same names."""
        return dict(values)

    def meet(self) -> None:
        """Wait until every process is here, for ``PATIENCE`` seconds.

        Raises:
            TrainingError: some did not come; they are named.
        """

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do some work in the first process and then in the others, who find what it kept; an error of the first one does not stop them."""
        if not self.first:
            self.all(None)
            return work()
        try:
            return work()
        finally:
            self.all(None)

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do some work on every process, and go on only if all have done it; gives what each gave, plain data.

        Raises:
            NabiError: what it raised here, or else what it raised on the first process where it did, which is named: its own kind if it is one of nabi's,
                StorageError otherwise.
        """
        problem: BaseException | None = None
        value: T | None = None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - told to the others, who would wait for ever; then raised
            problem = raised
        kind = next((c.__name__ for c in type(problem).__mro__ if getattr(errors, c.__name__, None) is c), None)
        said = self.all({"value": value, "problem": None if problem is None else str(problem) if kind else repr(problem), "kind": kind})
        if problem is not None:
            raise problem
        for rank, other in enumerate(said):
            if other["problem"] is not None:
                raised_as: type[NabiError] = getattr(errors, other["kind"] or "", StorageError)
                raise raised_as(f"{other['problem']} (said by process {rank})")
        return [other["value"] for other in said]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compare what each process was given.

        Raises:
            OptionError: they differ; each name is told with the values and whose they are.
        """
        told = self.all(dict(facts))
        differing = [
            f"{name} is {'; '.join(f'{value!r} in {_those(ranks)}' for value, ranks in values)}"
            for name in facts
            if len(values := _grouped([each.get(name) for each in told])) > 1
        ]
        if differing:
            raise OptionError(
                "the processes of this run do not agree", value=". ".join(differing), fix="start all of them with the same command, data and version"
            )

    def another(self) -> Ranks:
        """The same processes, to be talked to from another thread; every process has to call it."""
        return self


ALONE = Ranks()


class Group(Ranks):
    """Several processes that ``torch.distributed`` joins: gloo for what lies on the CPU, NCCL for a GPU.

    Args:
        group: to talk in; the one of all processes if None.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    def all(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, self.group)
        return found

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        names = sorted(values)
        numbers = torch.tensor([values[name] for name in names], dtype=torch.float64)
        dist.all_reduce(numbers, group=self.group)
        return dict(zip(names, numbers.tolist(), strict=True))

    def meet(self) -> None:
        try:
            dist.monitored_barrier(self.group, _patience(), wait_all_ranks=True)
        except RuntimeError as problem:
            found = re.search(r"[Rr]anks? ((?:\d+(?:, )?)+) failed", str(problem))
            raise _missed(self.world, [int(rank) for rank in found[1].split(",")] if found else []) from None

    def another(self) -> Ranks:  # gloo, whatever the others talk through
        return Group(dist.new_group(backend="gloo", timeout=LONGEST))


def found() -> Ranks:
    """The processes that the environment tells of (RANK and WORLD_SIZE, as ``torchrun`` sets them), joined; ``ALONE`` if it tells of none.

    Raises:
        OptionError: the environment is not that of torchrun.
        TrainingError: some did not come.
    """
    if _number("WORLD_SIZE", 1) == 1:
        return ALONE
    if not dist.is_initialized():
        _join()
    ranks = Group(dist.new_group(backend="gloo", timeout=LONGEST) if torch.cuda.is_available() else None)
    ranks.meet()
    return ranks


def _patience() -> dt.timedelta:
    text = os.environ.get("NABI_PREFLIGHT", str(PATIENCE))
    try:
        return dt.timedelta(seconds=float(text))
    except ValueError:
        raise OptionError("NABI_PREFLIGHT is no number", value=text, expected="seconds, such as 60") from None


def _number(name: str, usual: int | None = None) -> int:
    text = os.environ.get(name, str(usual))
    if not text.isdecimal():
        raise OptionError(f"{name} is no number", value=text, expected="what torchrun sets", fix=f"start with torchrun, or unset {name}")
    return int(text)


def _missed(world: int, missing: list[int], why: str = "") -> TrainingError:
    who = f"{_those(missing)} of {world}" if missing else f"some of {world} processes"
    return TrainingError(f"{who} did not come within {_patience().total_seconds():g} s{why}. Look at what they are doing; NABI_PREFLIGHT=SECONDS waits longer.")


def _join() -> None:
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise OptionError("WORLD_SIZE is set, but not what belongs to it", value=", ".join(missing), fix="start with torchrun, or unset WORLD_SIZE")
    rank, world = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < world:
        raise OptionError("RANK is out of range", value=rank, expected=f"0 to {world - 1}, since WORLD_SIZE is {world}", fix="start with torchrun")
    store = _store(rank, world)
    every = [f"nabi/here/{other}" for other in range(world)]
    store.set(every[rank], "yes")
    try:
        try:
            store.wait(every, _patience())
        except dist.DistStoreError:
            raise _missed(world, [other for other, key in enumerate(every) if not store.check([key])]) from None
    except dist.DistNetworkError:
        raise _missed(world, [], ", and process 0 has given up") from None
    if torch.cuda.is_available():  # what NCCL exchanges lies on the current device
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONGEST)
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def _store(rank: int, world: int) -> Store:
    """Where the processes find each other: under torchrun one for this attempt alone, of which the agent's tells where it is."""
    try:
        given = (os.environ["MASTER_ADDR"], _number("MASTER_PORT"))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return TCPStore(*given, world, is_master=rank == 0, timeout=_patience(), wait_for_workers=False)
        agent = TCPStore(*given, is_master=False, timeout=_patience())
        key = f"nabi/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if rank == 0:
            host = socket.gethostname() if os.environ.get("LOCAL_WORLD_SIZE") != str(world) else "127.0.0.1"
            store = TCPStore(host, 0, world, is_master=True, timeout=LONGEST, wait_for_workers=False)
            agent.set(key, f"{host}:{store.port}")
            return store
        host, _, port = agent.get(key).decode().rpartition(":")
        return TCPStore(host, int(port), world, is_master=False, timeout=LONGEST, wait_for_workers=False)
    except (dist.DistStoreError, dist.DistNetworkError) as problem:
        raise _missed(world, [0] if rank else [], f" ({str(problem).partition(chr(10))[0]})") from None


def _grouped(values: list[Any]) -> list[tuple[Any, list[int]]]:
    """The different values, each with the numbers of those who gave it."""
    found: list[tuple[Any, list[int]]] = []
    for rank, value in enumerate(values):
        for known, ranks in found:
            if known == value:
                ranks.append(rank)
                break
        else:
            found.append((value, [rank]))
    return found


def _those(ranks: list[int]) -> str:
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
