"""The files that tensors lie in: read through a memory map, placed into modules, and written so that no crash loses a folder.

Safetensors first; a folder that has only pytorch_model.bin is read too (``pickled``), and always saved as safetensors. Tensors that are read
lie in a private, copy-on-write map: writing to one (training) changes memory and never the file. The map stays on the file that was opened, so
replacing the file or the folder is harmless; cutting the file short in place while it is mapped would kill the process.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nabi.config import read_file
from nabi.errors import CheckpointError, StorageError, shortened
from nabi.files import sync, whole
from nabi.weights.pickled import PickledTensors

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # what is read, the first one that is there; each may be an index of shards instead
_WEIGHTS = WEIGHT_FILES[0]
_SHARD = re.compile(r"\w[\w.+-]*")
_FOREIGN = re.compile(r".*\.(bin|h5|pt|pth|ckpt|msgpack|pkl)(\.index\.json)?")
_PART = re.compile(r"[^\\/\x00-\x1f\x7f]{1,255}")
_REFETCH = "the file is cut off or damaged; fetch or write it again"
_JOINED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
READERS = 2  # threads: one alone reads cached files at about half of what memory can do
# some CPUs' matrix products round by where a tensor lies; small ones that a file holds off a cache line are moved, so that a small model that was saved
# and loaded reads bit for bit as before
SMALL, BOUNDARY = 1 << 20, 64  # bytes


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a folder by name, each mapped when it is asked for; made by ``read_tensors``."""

    def __init__(self, handles: Mapping[Path, Any]) -> None:
        self._handles = dict(handles)
        self._shards = {name: path for path, handle in handles.items() for name in handle.keys()}  # noqa: SIM118 - a handle is no mapping
        self._given: set[str] = set()
        self._places: dict[Path, dict[str, tuple[int, int]]] = {}
        self._readers: ThreadPoolExecutor | None = None
        self._reading: list[Future[None]] = []

    def __getitem__(self, name: str) -> Tensor:
        path = self._shards[name]
        if name in self._given:
            # one map hands out the same memory again, with whatever training has written to it since
            self._handles[path] = _open(path)
            self._given -= {n for n, p in self._shards.items() if p == path}
        self._given.add(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, name: object) -> bool:
        return name in self._shards

    def joined(self, names: Sequence[str]) -> Tensor | None:
        """The tensors (A, ...) one behind the other, (sum of A, ...), read straight into memory of their own; None where that can't be done.

        A map would be touched and then copied: the memory of both counts, and faulting pages in takes longer than reading them. Threads read, and
        what is in the tensor is theirs until :meth:`filled` returns.
        """
        parts = [self._handles[self._shards[name]] for name in names]
        if any(isinstance(part, PickledTensors) for part in parts):
            return None
        heads = [part.get_slice(name) for part, name in zip(parts, names, strict=True)]
        shape, kind = heads[0].get_shape(), heads[0].get_dtype()
        if kind not in _JOINED or not shape or any((head.get_shape(), head.get_dtype()) != (shape, kind) for head in heads):
            return None
        places = [self._place(name) for name in names]
        size = math.prod(shape) * _JOINED[kind].itemsize
        if any(end - begin != size for begin, end in places):
            return None
        memory = np.empty(size * len(names), np.uint8)
        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS)
        parts_of = [memory[i * size : (i + 1) * size] for i in range(len(names))]
        self._reading.append(self._readers.submit(self._read_into, list(zip(parts_of, names, (begin for begin, _ in places), strict=True))))
        return torch.from_numpy(memory).view(_JOINED[kind]).reshape(-1, *shape[1:])

    def filled(self) -> None:
        """Wait until all tensors of :meth:`joined` are read.

        Raises:
            CheckpointError: a file ends early or can't be read.
        """
        reading, self._reading = self._reading, []
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.shutdown()
        for one in reading:
            one.result()

    def _read_into(self, parts: Sequence[tuple[np.ndarray[Any, Any], str, int]]) -> None:
        """Read tensors by memory, name and where they begin in their file."""
        for memory, name, begin in parts:
            path, rest = self._shards[name], memoryview(memory.data)
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(begin)
                    while rest:
                        if not (read := file.readinto(rest)):
                            raise CheckpointError(f"tensor {shortened(name)} can't be read (the file ends early)", value=str(path), fix=_REFETCH)
                        rest = rest[read:]
            except OSError as error:
                raise CheckpointError(f"tensor {shortened(name)} can't be read ({error.strerror})", value=str(path), fix=_REFETCH) from None

    def _place(self, name: str) -> tuple[int, int]:
        """Where a tensor's bytes begin and end in its file, by the file's head; the library has checked the head when it opened the file."""
        path = self._shards[name]
        if path not in self._places:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                head = json.loads(file.read(size))
            self._places[path] = {key: (8 + size + x["data_offsets"][0], 8 + size + x["data_offsets"][1]) for key, x in head.items() if key != "__metadata__"}
        return self._places[path][name]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._shards))

    def shapes(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor; nothing is read but the file's head."""
        return tuple(self._handles[self._shards[name]].get_slice(name).get_shape())

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """The dtypes that occur."""
        return frozenset(self._read(name).dtype for name in self._shards)

    def _read(self, name: str) -> Tensor:
        path = self._shards[name]
        try:
            tensor: Tensor = self._handles[path].get_tensor(name)
        except (SafetensorError, AttributeError, OSError, RuntimeError) as error:
            raise CheckpointError(f"tensor {shortened(name)} can't be read ({error})", value=str(path), fix=_REFETCH) from None
        return tensor


def read_tensors(folder: Path, names: Sequence[str] = WEIGHT_FILES) -> TensorFiles:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` lists; else of ``pytorch_model.bin`` likewise.

    Args:
        names: what the file may be called, the first one that is there.

    Raises:
        CheckpointError: no such folder, no weights in it, a damaged file, a pickle that holds anything but tensors, a shard or tensor that is
            missing or there twice, a name or a link that leaves the folder.
    """
    if not os.path.isdir(folder):
        raise _no_folder(folder)
    _check_links(folder)
    for name in names:
        # as a link that leads nowhere is a file that is missing, not one that was never there
        if os.path.lexists(folder / name):
            path = _inside(folder, name)
            return TensorFiles({path: _open(path)})
        if os.path.lexists(folder / f"{name}.index.json"):
            return TensorFiles(_indexed(folder, _inside(folder, f"{name}.index.json"), Path(name).suffix))
    try:
        present = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"the folder can't be read ({error.strerror})", value=str(folder)) from None
    shown = ", ".join(present[:12]) + (f" and {len(present) - 12} more" if len(present) > 12 else "")
    fix = "this may be the folder above or below the model's; name the one with the weights"
    if any(_FOREIGN.fullmatch(name) for name in present):
        fix = "weights of other kinds are not opened: load them with the library that wrote them and save them as safetensors (save_pretrained does)"
    what = f"no weights among {shown}" if present else "the folder is empty"
    raise CheckpointError(what, value=str(folder), expected=f"{' or '.join(names)}, or an index of its shards", fix=fix)


def is_plain_name(name: str, *, folders: bool = False) -> bool:
    """Whether a file name from a foreign source stays below the folder that it is put into, on any system.

    Args:
        folders: whether ``a/b`` is fine too.
    """
    parts = name.split("/")
    whole = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts) and len(name) < 1024
    return whole and not re.match(r"[A-Za-z]:", name) and (folders or len(parts) == 1)


def _no_folder(folder: Path) -> CheckpointError:
    if os.path.lexists(folder):
        return CheckpointError("this is a file, not a model folder", value=str(folder), fix="name the folder that the file lies in")
    try:
        siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except (OSError, ValueError):
        siblings = []
    near = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.5)
    fix = f"near it by name: {', '.join(near)}" if near else "check the path"
    if len(folder.parts) == 2 and not folder.is_absolute():
        fix += f"; it was not looked for on a hub, since the folder '{folder.parent}' is here"
    if not os.path.isdir(folder.parent):
        fix = f"the folder above it, {shortened(str(folder.parent))}, does not exist either"
    return CheckpointError("the folder does not exist", value=str(folder), fix=fix)


def _inside(folder: Path, name: str) -> Path:
    """``folder / name``, a real file in the folder or in the hub's cache around it."""
    if not _SHARD.fullmatch(name):
        wanted = "a name like model-00001-of-00002.safetensors"
        raise CheckpointError("the index names a file that is not a plain name", value=name, expected=wanted, fix="do not use this folder")
    path = folder / name
    if not os.path.isfile(path):
        there = "is no file" if os.path.lexists(path) else "is missing"
        fix = "fetch or write the folder again"
        if os.path.islink(path) and _homes(folder)[1:]:
            fix = "its download was cut off: load it by its id, online, which fetches the rest"
        raise CheckpointError(f"{shortened(name)} {there}", value=str(path), fix=fix)
    _check_link(folder, path)
    return path


def _check_links(folder: Path) -> None:
    """Refuse a folder whose files are links to elsewhere: its tokenizer is copied when it is saved, and would carry what it points to."""
    try:
        links = [path for path in folder.iterdir() if path.is_symlink() and os.path.isfile(path)]
    except OSError as error:
        raise CheckpointError(f"the folder can't be read ({error.strerror})", value=str(folder)) from None
    for link in links:
        _check_link(folder, link)


def _check_link(folder: Path, path: Path) -> None:
    target = path.resolve()
    if not any(target.is_relative_to(home) for home in _homes(folder)):
        fix = "put the file itself into the folder"
        expected = f"a file, not {shortened(str(target))}"
        raise CheckpointError(f"{shortened(path.name)} is a link that leaves its folder", value=str(path), expected=expected, fix=fix)


def _homes(folder: Path) -> list[Path]:
    """Where a folder's files may lie: in it; in a hub's cache also among the model's blobs and those that models share."""
    home = folder.resolve()
    model = next((p for p in home.parents if p.name.startswith("models--")), None)
    return [home] if model is None else [home, model, model.parent / "blobs"]


def _indexed(folder: Path, index: Path, suffix: str) -> dict[Path, Any]:
    weight_map = read_file(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError("the index is not usable", value=str(index), expected='"weight_map": {tensor name: file name}', fix=_REFETCH)
    paths = {shard: _inside(folder, shard) for shard in sorted(set(weight_map.values()))}
    handles: dict[Path, Any] = {}
    where: dict[str, Path] = {}
    problems = [f"{shortened(shard)} is no {suffix} file" for shard in paths if not shard.endswith(suffix)]
    for shard, path in () if problems else paths.items():
        handles[path] = _open(path)
        names = set(handles[path].keys())
        problems += [f"{shortened(n)} is in {where[n].name} and in {shard}" for n in sorted(names & where.keys())]
        problems += [f"{shortened(n)} is not in {shard}" for n, s in weight_map.items() if s == shard and n not in names]
        where |= dict.fromkeys(names, path)
    if problems:
        raise CheckpointError(
            f"the index and its shards disagree: {_listed(problems)}", value=str(index), fix="fetch or write the folder again"
        )
    return handles


def _open(path: Path) -> Any:  # the library's handle has no types
    if path.suffix == ".bin":
        return PickledTensors(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path.name} can't be read ({shortened(error)})", value=str(path), fix=_REFETCH) from None


def _listed(problems: list[str], limit: int = 20) -> str:
    return "; ".join(problems[:limit] + ([f"and {len(problems) - limit} more"] if len(problems) > limit else []))


def place(
    module: nn.Module, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> None:
    """Put ``tensors`` in the place of the module's parameters and buffers of those names, as after building it on ``meta``.

    Nothing large is copied unless dtype or device change, so a mapped tensor becomes a mapped parameter, which can be trained. Parameters keep
    ``requires_grad``; one that has several names in the module keeps them all. What ``tensors`` does not name stays as it is.

    Args:
        tensors: the module's names -> tensors of the same shape.
        dtype: what floating tensors are converted to; None keeps the files'.

    Raises:
        CheckpointError: a name the module lacks, another shape, an integer where a float belongs, two values for one parameter; all in one
            error, and nothing was placed.
    """
    holders: dict[str, tuple[dict[str, Tensor | None], str, Tensor]] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for held in (part._parameters, part._buffers):
            for key, old in held.items():
                if old is not None and key not in part._non_persistent_buffers_set:
                    holders[f"{path}.{key}".removeprefix(".")] = (held, key, old)
    problems: list[str] = []
    chosen: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in holders:
            problems.append(f"{shortened(name)} {tuple(tensor.shape)} has no place in the model")
            continue
        old = holders[name][2]
        if tensor.shape != old.shape:
            problems.append(f"{name} is {tuple(tensor.shape)} in the file, {tuple(old.shape)} wanted")
        elif tensor.is_floating_point() != old.is_floating_point():
            problems.append(f"{name} is {tensor.dtype} in the file, {old.dtype} wanted")
        elif (twin := chosen.setdefault(id(old), tensor)) is not tensor and not (twin.dtype == tensor.dtype and torch.equal(twin, tensor)):
            problems.append(f"{name} is a second name of one parameter, and the file has another value for it")
    if problems:
        raise CheckpointError(
            f"the tensors do not fit the model: {_listed(problems)}", fix="the model's sizes and the file's must be the same"
        )
    placed: dict[int, Tensor] = {}
    for held, key, old in holders.values():
        if id(old) in chosen:
            if id(old) not in placed:
                tensor = chosen[id(old)].detach()
                tensor = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
                if tensor.device.type == "cpu" and tensor.nbytes <= SMALL and tensor.data_ptr() % BOUNDARY:
                    tensor = tensor.clone()
                placed[id(old)] = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
            held[key] = placed[id(old)]


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, file: str = _WEIGHTS) -> None:
    """Write ``model.safetensors``; tensors that share memory are written in full, each under its name.

    Args:
        metadata: goes into the file's head; ``{"format": "pt"}`` by default.
        file: another name for it, as that of a shard.

    Raises:
        StorageError: the file could not be written; names it and its size.
    """
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    path = folder / file
    with whole(path) as draft:
        # the library makes files that only their owner can read, so take the mode that the umask grants
        draft.touch()
        mode = draft.stat().st_mode
        try:
            save_file(separate, draft, metadata=dict(metadata or {"format": "pt"}))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path} could not be written ({sum(t.nbytes for t in separate.values()):,} bytes): {error}") from error
        draft.chmod(mode)


@contextlib.contextmanager
def atomic_folder(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A new folder to fill, which becomes ``path`` when the block ends: whole and on the disk, or not at all.

    It is filled beside ``path`` under a hidden name. An older folder is moved aside before and deleted after; a process killed between the
    two leaves it aside, from where ``recover`` puts it back. If the block raises, the new folder is removed and the old one is as it was.

    Args:
        keep: the older folder goes there instead, beside ``path``, and what was there is deleted; only after the new one is on the disk.

    Raises:
        StorageError: an OSError on the way (disk full, read-only): names the path and the free bytes.
    """
    path = path.resolve()
    new, old = (path.parent / f".{path.name}.{kind}-{secrets.token_hex(4)}" for kind in ("new", "old"))
    dropped = old  # what is deleted in the end
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "this is a file, not a folder", str(path))
        recover(path)
        with contextlib.ExitStack() as held:
            with locked(path.parent):
                new.mkdir()
                held.enter_context(locked(new))  # says that its writer lives
            yield new
            for folder, _, names in os.walk(new, topdown=False):
                for file in (Path(folder, name) for name in names):
                    if not file.is_symlink():
                        sync(file)
                sync(Path(folder))
            with locked(path.parent):
                if path.exists():
                    os.rename(path, old)
                try:
                    os.rename(new, path)
                except OSError:
                    if old.exists():
                        os.rename(old, path)
                    raise
                sync(path.parent)
                if keep is not None and old.exists():
                    dropped = path.parent / f".{keep.name}.old-{secrets.token_hex(4)}"
                    if keep.exists():
                        os.rename(keep, dropped)
                    os.rename(old, path.parent / keep.name)
                    sync(path.parent)
        shutil.rmtree(dropped, ignore_errors=True)
    except OSError as error:
        free = next((shutil.disk_usage(p).free for p in path.parents if p.is_dir()), 0)
        raise StorageError(f"the folder {path} could not be written ({free:,} bytes free): {error}; what was there before is kept") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def recover(path: Path) -> None:
    """Undo what a killed ``atomic_folder(path)`` left: put a folder that was moved aside back, remove what was not finished.

    Call it before reading. A folder whose writer lives, in this or another process, is left alone.

    Raises:
        StorageError: the only whole folder lies aside and can't be moved back.
    """
    path = path.resolve()
    if not _leftovers(path, "new|old"):
        return
    try:
        with locked(path.parent):
            asides = sorted(_leftovers(path, "old"), key=lambda p: p.stat().st_mtime)
            if asides and not path.exists():
                os.rename(asides.pop(), path)
                sync(path.parent)
            for aside in asides:
                shutil.rmtree(aside, ignore_errors=True)
            for draft in _leftovers(path, "new"):
                with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(draft, wait=False):
                    shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        # a reader without the right to tidy up can still read
        if not path.exists():
            raise StorageError(f"could not put {path} back after a crash: {error}") from error


def _leftovers(path: Path, kinds: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.({kinds})-[0-9a-f]{{8}}")
    try:
        return [path.parent / name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    except OSError:
        return []


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """An advisory lock on a folder, held by this process until the block ends or the process does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # some network file systems have no locks: there one writer at a time must do
        yield
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits; raises CheckpointError if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"the file can't be read ({error.strerror})", value=str(path)) from None
