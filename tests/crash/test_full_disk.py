"""A disk that fills at twenty levels of a save: one error that names path and bytes, the older checkpoints whole, nothing left over, and with room it goes on.

The operating system refuses to let a file grow beyond a size (RLIMIT_FSIZE), so each level breaks off at another byte. Mounting a small disk would need rights
that a test should not.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crash.kit import found, model, save, written
from nabi.errors import StorageError
from nabi.training import manifest
from nabi.training.plan import Plan
from nabi.training.runs import RunFolder

LEVELS = 20


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("wait", [True, False], ids=["in the foreground", "behind training"])
def test_a_disk_that_fills_at_twenty_levels(wait: bool, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    written(out, tokenizer, [10, 20], best=True)
    largest = max(file.stat().st_size for file in (out / "last").iterdir())
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    said = set()
    for level in range(LEVELS):
        with RunFolder(out, resume=True) as run:
            run.load_last(Plan(), {"data": "these rows"})
            run.make()
            built = model(tokenizer, 30)
            with no_file_over(largest * level // LEVELS), pytest.raises(StorageError) as caught:
                save(run, built, 30, best=True, wait=wait)
                run.wait()
        assert str(out / "last") in str(caught.value) and "bytes)" in str(caught.value) and caught.value.exit_code == 1
        said.add(str(caught.value))
        assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before or manifest.verified(out / "best").step == 30
        assert (found(out)[1].step, found(out)[0].notes) == (20, []) and not [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert len(said) > 1, "it broke off in several places"
    with RunFolder(out, resume=True) as run:
        run.load_last(Plan(), {"data": "these rows"})
        run.make()
        save(run, model(tokenizer, 30), 30, best=True, wait=wait)
    assert found(out)[1].step == 30
