"""Files of a checkpoint of four shards that are removed, cut short, changed or added: never loaded in silence, and the checkpoint before it is taken."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

import nabi
from crash.kit import GIVEN, Threads, found, model, moments, on_all, save, written
from nabi.errors import CheckpointError, OptionError, StorageError
from nabi.ranks import ALONE
from nabi.training import manifest, saving
from nabi.training.plan import Plan
from nabi.training.runs import RunFolder
from nabi.weights import dealt, read_tensors, shard_name
from training.small import same, weights

WORLD = 4


@pytest.fixture(scope="module")
def run(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four processes with the checkpoints of steps 10 and 20."""
    path = tmp_path_factory.mktemp("sharded") / "run"
    written(path, tokenizer, [10, 20], WORLD, best=True)
    return path


def copy(run: Path, path: Path) -> Path:
    shutil.copytree(run, path, copy_function=shutil.copyfile)
    return path


def removed(file: Path, dice: random.Random) -> None:
    file.unlink()


def cut(file: Path, dice: random.Random) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: dice.randrange(len(whole))])


def flipped(file: Path, dice: random.Random) -> None:
    whole = bytearray(file.read_bytes())
    whole[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    file.write_bytes(bytes(whole))


def grown(file: Path, dice: random.Random) -> None:
    with file.open("ab") as end:
        end.write(dice.randbytes(dice.randint(1, 64)))


def swapped(file: Path, dice: random.Random) -> None:
    """Two bytes that differ change places: the size and the sum of all bytes stay."""
    whole = bytearray(file.read_bytes())
    first = dice.randrange(len(whole))
    second = next(i for i in dice.sample(range(len(whole)), len(whole)) if whole[i] != whole[first])
    whole[first], whole[second] = whole[second], whole[first]
    file.write_bytes(bytes(whole))


def test_each_file_of_four_shards_damaged_in_each_way(run: Path, tmp_path: Path) -> None:
    """Over 200 cases: none is loaded, each is named, the one before is taken with one warning."""
    dice, cases = random.Random(0), 0
    before = weights(nabi.load(run / "previous"))
    names = sorted(p.name for p in (run / "last").iterdir())
    assert len([n for n in names if n.startswith("model-")]) == len([n for n in names if n.startswith("training-")]) == WORLD and manifest.MANIFEST in names
    copied = copy(run, tmp_path / "run")
    for damage, times in ((removed, 1), (cut, 3), (flipped, 6), (grown, 1), (swapped, 2)):
        for name in names:
            for _ in range(times):
                damage(copied / "last" / name, dice)
                folder, state = found(copied)
                assert folder.source == copied / "previous" and state.step == 10 and state.extra == {"note": "of step 10"}, (damage, name)
                assert len(folder.notes) == 1 and name in folder.notes[0] and "step 10" in folder.notes[0], folder.notes
                shutil.copyfile(run / "last" / name, copied / "last" / name)
                cases += 1
    assert same(weights(nabi.load(folder.source)), before)
    folder, state = found(copied)
    assert (folder.source.name, state.step, folder.notes) == ("last", 20, []), "and mended it is taken again"
    print(cases, "cases")
    assert cases >= 200


SHARDED = """
import os, sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

path, world = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
for rank in range(world):
    if os.fork() == 0:
        dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=world)
        whole = distribute_tensor(torch.arange(64.0).reshape(16, 4), init_device_mesh("cpu", (world,)), [Shard(0)])
        dcp.save({"w": whole}, storage_writer=HuggingFaceStorageWriter(path, save_distributed=True))
        dist.barrier()
        os._exit(0)
assert all(os.wait()[1] == 0 for _ in range(world))
"""


def test_torchs_own_reader_loads_in_silence_without_a_shard_in_the_middle(run: Path, tmp_path: Path) -> None:
    """The control: what the manifest is for."""
    theirs = tmp_path / "theirs"
    subprocess.run([sys.executable, "-c", SHARDED, str(theirs), str(WORLD)], check=True, timeout=50)

    def loaded() -> torch.Tensor:
        state = {"w": torch.full((16, 4), -1.0)}
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(theirs)), no_dist=True)
        return state["w"]

    shards = sorted(theirs.glob("*.safetensors"))
    assert len(shards) == WORLD and torch.equal(loaded(), torch.arange(64.0).reshape(16, 4))
    shards[1].unlink()
    assert int((loaded() == -1).sum()) == 16, "no error, and a quarter of the tensor is what it was before"
    ours = copy(run, tmp_path / "ours")
    (ours / "last" / shard_name("model", 1, WORLD)).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00004.safetensors is missing"):
        manifest.verified(ours / "last")


def test_files_that_do_not_belong_and_all_problems_in_one_error(run: Path, tmp_path: Path) -> None:
    ours = copy(run, tmp_path / "ours") / "last"
    (ours / "extra.bin").write_bytes(b"x")
    (ours / "config.json").unlink()
    cut(ours / "training.json", random.Random(1))
    with pytest.raises(CheckpointError) as caught:
        manifest.verified(ours)
    assert all(f"{part}" in str(caught.value) for part in ("config.json is missing", "extra.bin does not belong", "training.json has "))


def test_when_none_is_whole_each_is_named(run: Path, tmp_path: Path) -> None:
    ours = copy(run, tmp_path / "ours")
    (ours / "last" / "training.json").unlink()
    (ours / "previous" / manifest.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint of the run is whole.*last: .*training.json is missing.*previous: .*no manifest.json"):
        found(ours)


def test_a_damaged_best_model_is_refused_and_not_handed_out(run: Path, tmp_path: Path) -> None:
    ours = copy(run, tmp_path / "ours")
    flipped(ours / "best" / "model.safetensors", random.Random(0))
    with pytest.raises(CheckpointError, match=r"the best model so far is damaged or gone: .*model.safetensors has another SHA-256"):
        found(ours)
    with RunFolder(ours, resume=True) as folder, pytest.raises(CheckpointError, match=r"model.safetensors has another SHA-256"):
        folder.load_best()


def test_the_damaged_one_does_not_take_the_place_of_the_good_one(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    ours = copy(run, tmp_path / "ours")
    flipped(ours / "last" / "model-00001-of-00004.safetensors", random.Random(0))
    with RunFolder(ours, resume=True) as folder:
        assert folder.load_last(Plan(), GIVEN).step == 10
        folder.make()
        save(folder, model(tokenizer, 30), 30)
    assert [manifest.verified(ours / name).step for name in ("last", "previous")] == [30, 10]


def test_kept_ones_are_fallen_back_to_newest_first(tokenizer: Path, tmp_path: Path) -> None:
    ours, plan = tmp_path / "run", Plan(keep_every=20)
    written(ours, tokenizer, [10, 20, 30, 40, 50, 60], plan=plan)
    assert sorted(p.name for p in ours.iterdir()) == ["last", "previous", "step-000020", "step-000040", "step-000060"]
    assert [manifest.verified(ours / name).step for name in ("last", "previous", "step-000020", "step-000040")] == [60, 50, 20, 40]
    for name in ("last", "previous", "step-000060"):
        (ours / name / "training.safetensors").unlink()
    folder, state = found(ours, plan)
    assert (folder.source.name, state.step) == ("step-000040", 40)
    assert len(folder.notes) == 1 and all(f"{name}: " in folder.notes[0] for name in ("last", "previous", "step-000060"))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_processes_writes_what_one_reads(world: int, tokenizer: Path, tmp_path: Path) -> None:
    written(tmp_path / "run", tokenizer, [7], world)
    folder, state = found(tmp_path / "run")
    built = model(tokenizer, 7)
    assert same(state.optimizer, moments(built, 7)) and same(weights(nabi.load(folder.source)), weights(built))
    names = {p.name for p in folder.source.iterdir() if p.suffix == ".safetensors"}
    assert names == {shard_name(stem, rank, world) for stem in ("model", "training") for rank in range(world)}
    assert manifest.read(folder.source).world == world


def test_the_incumbent_reads_the_shards(run: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    theirs, ours = AutoModelForSequenceClassification.from_pretrained(run / "last"), read_tensors(run / "last")
    assert all(torch.equal(x, ours[name]) for name, x in theirs.state_dict().items() if name in ours) and len(ours) > 20


def test_tensors_are_dealt_evenly_and_alike_everywhere() -> None:
    dice = random.Random(0)
    for world in (1, 2, 3, 8):
        sizes = {f"t{i}": dice.randint(1, 1000) for i in range(40)}
        shares = dealt(sizes, world)
        assert sorted(name for share in shares for name in share) == sorted(sizes) and len(shares) == world
        loads = [sum(sizes[name] for name in share) for share in shares]
        assert max(loads) <= 4 / 3 * max(sum(sizes.values()) / world, max(sizes.values())) and max(loads) - min(loads) <= max(sizes.values())
        assert shares == dealt(dict(reversed(sizes.items())), world), "the order of the mapping does not matter"
    assert dealt({"a": 5, "b": 5, "c": 1}, 2) == [["a", "c"], ["b"]] and dealt({"a": 1}, 3) == [["a"], [], []]


def test_when_one_rank_fails_all_raise_and_the_old_checkpoint_stays(run: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = copy(run, tmp_path / "ours")
    real = saving.write_tensors

    def full(folder: Path, tensors: Any, *, file: str) -> None:
        if file == shard_name("training", 2, WORLD):
            raise OSError(28, "No space left on device")
        real(folder, tensors, file=file)

    monkeypatch.setattr(saving, "write_tensors", full)

    def work(ranks: Threads) -> None:
        with RunFolder(ours, resume=True, ranks=ranks) as folder:
            folder.load_last(Plan(), GIVEN)
            folder.make()
            save(folder, model(tokenizer, 30), 30)

    problems = on_all(WORLD, work)
    assert all(isinstance(problem, StorageError) and "No space left" in str(problem) for problem in problems), problems
    assert ["said by process 2" in str(problem) for problem in problems] == [True, True, False, True]
    assert [manifest.verified(ours / name).step for name in ("last", "previous")] == [20, 10]
    assert not [p for p in ours.iterdir() if p.name.startswith(".")]


def test_together_raises_the_same_kind_everywhere() -> None:
    def work(ranks: Threads) -> list[int]:
        def piece() -> int:
            if ranks.rank == 1:
                raise OptionError("no")
            return ranks.rank

        return ranks.together(piece)

    problems = on_all(3, work)
    assert [type(problem) for problem in problems] == [OptionError] * 3 and "process 1" in str(problems[0])
    assert on_all(3, lambda ranks: ranks.together(lambda: ranks.rank * 2)) == [[0, 2, 4]] * 3 and ALONE.together(lambda: 5) == [5]


def test_together_gives_another_problem_than_nabis_its_place_and_a_kind_that_the_command_knows() -> None:
    def piece(rank: int) -> int:
        if rank == 1:
            raise ZeroDivisionError("by zero")
        return rank

    first, second = on_all(2, lambda ranks: ranks.together(lambda: piece(ranks.rank)))
    assert type(first) is StorageError and "ZeroDivisionError('by zero') (said by process 1)" in str(first) and type(second) is ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_in_turn_the_others_begin_when_the_first_has_ended_even_if_it_failed(fails: bool) -> None:
    told: list[str] = []

    def piece(rank: int) -> int:
        told.append(f"{rank} begins")
        if rank == 0:
            time.sleep(0.2)
            told.append("0 ends")
            if fails:
                raise OptionError("no")
        return rank

    first, *others = on_all(3, lambda ranks: ranks.in_turn(lambda: piece(ranks.rank)))
    assert told[:2] == ["0 begins", "0 ends"] and sorted(told[2:]) == ["1 begins", "2 begins"]
    assert others == [1, 2] and (isinstance(first, OptionError) if fails else first == 0)
