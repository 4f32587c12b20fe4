"""Weight files: read through a map that training can't write through, hostile folders refused, folders written whole or not at all."""

import json
import os
import random
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from nabi.errors import CheckpointError, NabiError, StorageError
from nabi.weights import NameTable, atomic_folder, file_sha256, place, read_tensors, recover, same, stacked, write_tensors

A, B = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.float16)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    write_tensors(path, {"a": A, "b": B, "n": torch.tensor(3)})
    return path


@pytest.fixture
def sharded(tmp_path):
    path = tmp_path / "sharded"
    path.mkdir()
    save_file({"a": A}, path / "model-1.safetensors")
    save_file({"b": B}, path / "model-2.safetensors")
    write_index(path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return path


def write_index(path, weight_map):
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_reads_one_file_and_shards(folder, sharded):
    files = read_tensors(folder)
    assert files.names == ("a", "b", "n") and len(files) == 3 and "a" in files and "c" not in files
    assert files.shapes("a") == (2, 3) and files.shapes("n") == () and files.dtypes == {torch.float32, torch.float16, torch.int64}
    assert torch.equal(files["a"], A) and torch.equal(files["b"], B) and files["n"] == 3
    with pytest.raises(KeyError):
        files["c"]
    assert {n: t.tolist() for n, t in read_tensors(sharded).items()} == {"a": A.tolist(), "b": B.tolist()}


def test_reading_maps_and_loading_keeps_the_map(tmp_path):
    size = 64 << 20
    write_tensors(tmp_path, {"w": torch.ones(size // 4), "v": torch.ones(4)})
    loaded = NameTable([same("w", "ours"), same("v", "small")]).load(read_tensors(tmp_path))
    with open("/proc/self/maps") as maps:
        spans = [line.split() for line in maps if str(tmp_path) in line]
    assert spans and all(s[1].endswith("p") for s in spans), "mapped, and privately"
    starts = [tuple(int(x, 16) for x in s[0].split("-")) for s in spans]
    assert any(a <= loaded.tensors["ours"].data_ptr() < b for a, b in starts)


def test_tensors_are_read_joined_into_memory_of_their_own(tmp_path):
    parts = {f"q{i}": torch.randn(300, 70, generator=torch.Generator().manual_seed(i)).to(torch.bfloat16) for i in range(3)}
    others = {"longer": torch.zeros(300, 71), "whole numbers": torch.zeros(300, 70, dtype=torch.int64), "one": torch.zeros(())}
    save_file(parts | others, tmp_path / "model.safetensors")
    files = read_tensors(tmp_path)
    joined = files.joined(list(parts))
    files.filled()
    assert joined is not None and torch.equal(joined, torch.cat(list(parts.values()))) and not torch.equal(joined, torch.cat([parts["q0"]] * 3))
    joined.zero_()
    assert all(torch.equal(files[name], x) for name, x in parts.items())  # nobody else's memory
    assert files.joined(["q0", "longer"]) is None and files.joined(["whole numbers"] * 2) is None and files.joined(["one"]) is None
    os.truncate(tmp_path / "model.safetensors", 20_000)
    assert files.joined(list(parts)) is not None  # threads read it
    with pytest.raises(CheckpointError, match=r"tensor 'q\d' can't be read \(the file ends early\)"):
        files.filled()
    files.filled()  # it was told once
    os.remove(tmp_path / "model.safetensors")
    assert files.joined(list(parts)) is not None
    with pytest.raises(CheckpointError, match=r"tensor 'q\d' can't be read \(No such file or directory\)"):
        files.filled()


def test_training_mapped_parameters_never_changes_the_file(tmp_path):
    torch.manual_seed(0)
    write_tensors(tmp_path, torch.nn.Linear(300, 200).state_dict())
    file = tmp_path / "model.safetensors"
    file.chmod(0o444)
    before, files = file_sha256(file), read_tensors(tmp_path)
    models = []
    for _ in range(3):  # the second and third get the file's values, not what training made of the first
        with torch.device("meta"):
            model = torch.nn.Linear(300, 200)
        place(model, files)
        assert all(torch.equal(p, load_file(file)[n]) for n, p in model.named_parameters())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 300)).square().sum().backward()
            optimizer.step()
        with torch.no_grad():
            model.weight.zero_()
        models.append(model)
    assert file_sha256(file) == before
    models[0].weight.data.fill_(7.0)
    assert float(models[1].weight.detach().sum()) == 0.0
    file.unlink()
    assert float(models[0].weight.detach().sum()) == 7.0 * 300 * 200


def test_replacing_the_folder_leaves_mapped_tensors_alone(folder):
    tensor = read_tensors(folder)["a"]
    with atomic_folder(folder) as new:
        write_tensors(new, {"a": A + 1})
    assert torch.equal(tensor, A) and torch.equal(read_tensors(folder)["a"], A + 1)


def test_a_saved_bert_is_read_and_written_bit_for_bit(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    theirs = transformers.BertModel(config)
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="8KB")
    layer, ours = "encoder.layer.*", "layers.*"
    attention = tuple(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))
    table = NameTable(
        [
            *(same(f"embeddings.{name}_embeddings", f"embed.{name}") for name in ("word", "position", "token_type")),
            same("embeddings.LayerNorm", "embed.norm"),
            stacked(attention, f"{ours}.qkv"),
            same(f"{layer}.attention.output.dense", f"{ours}.out"),
            same(f"{layer}.attention.output.LayerNorm", f"{ours}.norm1"),
            same(f"{layer}.intermediate.dense", f"{ours}.up"),
            same(f"{layer}.output.dense", f"{ours}.down"),
            same(f"{layer}.output.LayerNorm", f"{ours}.norm2"),
            same("pooler.dense", "pooler"),
        ]
    )
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    for name in ("one", "many"):
        files = read_tensors(tmp_path / name)
        loaded = table.load(files)
        assert not loaded.unknown and loaded.tensors["layers.2.qkv.weight"].shape == (48, 16)
        (tmp_path / f"{name}-back").mkdir()
        write_tensors(tmp_path / f"{name}-back", table.save(loaded.tensors))
        back = read_tensors(tmp_path / f"{name}-back")
        assert back.names == files.names and all(torch.equal(back[n], files[n]) for n in files)
        assert all(torch.equal(back[n], t) for n, t in theirs.state_dict().items())


def refusal(path, *words):
    with pytest.raises(CheckpointError) as caught:
        dict(read_tensors(path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_folders_without_weights(tmp_path, folder):
    refusal(tmp_path / "modle", "does not exist", "Near it by name: model")
    refusal(tmp_path / "no" / "where", "does not exist", "folder above it")
    refusal(tmp_path / ("x" * 5000), "does not exist")
    refusal(tmp_path / "nul\0", "does not exist")
    refusal(folder / "model.safetensors", "a file, not a model folder")
    (tmp_path / "empty").mkdir()
    refusal(tmp_path / "empty", "the folder is empty")
    (tmp_path / "empty" / "notes.txt").touch()
    refusal(tmp_path / "empty", "no weights among notes.txt", "model.safetensors")
    for name in ("tf_model.h5", "flax_model.msgpack", "model.pt"):
        path = tmp_path / f"only-{name}"
        path.mkdir()
        (path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
        refusal(path, name, "not opened", "safetensors")


def test_truncated_at_every_kind_of_place(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 1, 7, 8, 9, 50, len(whole) - 1):
        file.write_bytes(whole[:size])
        refusal(folder, "model.safetensors", "cut off or damaged")
    file.write_bytes(whole + b"x")
    refusal(folder, "model.safetensors")


def test_mutated_files_raise_our_errors_or_read(folder):
    rng = random.Random(0)
    file = folder / "model.safetensors"
    whole, refused = file.read_bytes(), 0
    for _ in range(1500):
        mutant = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        file.unlink()  # a new inode: earlier maps keep theirs
        file.write_bytes(mutant)
        try:
            dict(read_tensors(folder))
        except NabiError:
            refused += 1
    assert 500 < refused < 1500


HOSTILE = [
    "../model/model.safetensors",
    "..",
    ".",
    "",
    "/etc/passwd",
    "/tmp/x.safetensors",
    "..\\model\\model.safetensors",
    "C:\\x.safetensors",
    "C:x.safetensors",
    "\\\\host\\x.safetensors",
    "a\0.safetensors",
    "sub/x.safetensors",
    "./model-1.safetensors",
    "~/x.safetensors",
    "model-1.safetensors\n",
    "-x.safetensors",
    ".hidden.safetensors",
    "pytorch_model.bin",
    "\ud800.safetensors",
    "..%2fx.safetensors",
    "x.safetensors/",
    "a" * 5000 + ".safetensors",
    "$HOME.safetensors",
    "file:///x.safetensors",
    "model.safetensors.index.json/../x.safetensors",
    "\u202ex.safetensors",
    "gone.safetensors",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_shard_names(sharded, folder, name):
    write_index(sharded, {"a": "model-1.safetensors", "b": name})
    refusal(sharded)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "null",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        "{}",
        "[" * 100_000,
        '{"weight_map": {"a": null}}',
    ],
)
def test_broken_index(sharded, index):
    (sharded / "model.safetensors.index.json").write_text(index)
    refusal(sharded, "model.safetensors.index.json" if index in ("[]", "null") else "cut off")


def test_index_and_shards_that_disagree(sharded):
    write_index(sharded, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors", "d": "model-1.safetensors"})
    refusal(sharded, "'c' is not in model-2", "'d' is not in model-1")
    save_file({"a": A, "b": B}, sharded / "model-2.safetensors")
    write_index(sharded, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    refusal(sharded, "'a' is in model-1.safetensors and in model-2.safetensors")
    (sharded / "model-1.safetensors").unlink()
    refusal(sharded, "missing", "model-1.safetensors")


def test_links(tmp_path, sharded, folder):
    blobs, snapshot = tmp_path / "cache" / "models--a--b" / "blobs", tmp_path / "cache" / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (folder / "model.safetensors").rename(blobs / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert torch.equal(read_tensors(snapshot)["a"], A)
    (tmp_path / "alias").symlink_to(snapshot)
    assert torch.equal(read_tensors(tmp_path / "alias")["a"], A)
    # out of the folder, out of the cache folder of this model, to nowhere, to itself
    (folder / "model.safetensors").symlink_to(blobs / "123")
    refusal(folder, "leaves its folder")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(sharded / "model-1.safetensors")
    refusal(snapshot, "leaves its folder")
    (sharded / "model-2.safetensors").unlink()
    (sharded / "model-2.safetensors").symlink_to(blobs / "123")
    refusal(sharded, "leaves its folder")
    for target in ("nowhere", "model-2.safetensors"):
        (sharded / "model-2.safetensors").unlink()
        (sharded / "model-2.safetensors").symlink_to(target)
        refusal(sharded, "is no file", "model-2.safetensors")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refusal(folder, "is no file")


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head, self.norm = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(3)
        self.head.weight = self.tokens.weight
        self.norm.weight.requires_grad = False
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_place():
    source = Tied()
    with torch.device("meta"):
        model = Tied()
    tensors = {n: t for n, t in source.state_dict().items() if n != "tokens.weight"}
    place(model, tensors)
    assert model.tokens.weight is model.head.weight and not model.norm.weight.requires_grad and model.head.bias.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True))
    assert model.head.bias.data_ptr() == source.head.bias.data_ptr() and model.scratch.is_meta
    assert model.norm.num_batches_tracked.dtype == torch.int64
    place(model, source.state_dict(), dtype=torch.bfloat16)
    assert model.tokens.weight.dtype == torch.bfloat16 and model.norm.num_batches_tracked.dtype == torch.int64
    place(model, {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()})
    assert model.head.weight.dtype == torch.float16
    place(model, {"head.bias": torch.ones(5).half()}, dtype=torch.float32)
    assert model.head.bias.dtype == torch.float32 and model.head.weight.dtype == torch.float16


def test_place_misfits_are_one_error_and_change_nothing():
    model = Tied()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    wrong = {
        "tokens.weight": torch.ones(6, 3),
        "head.bias": torch.ones(5, dtype=torch.int64),
        "nose": torch.ones(2),
        "norm.bias": torch.ones(3),
    }
    wrong["scratch"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        place(model, wrong)
    for words in (
        "tokens.weight is (6, 3) in the file, (5, 3) wanted",
        "head.bias is torch.int64",
        "'nose' (2,) has no place",
        "'scratch'",
    ):
        assert words in str(caught.value)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    for second in (torch.ones(5, 3), torch.zeros(5, 3).half()):
        with pytest.raises(CheckpointError, match="another value"):
            place(model, {"tokens.weight": torch.zeros(5, 3), "head.weight": second})


def test_write_tensors(tmp_path, monkeypatch):
    base = torch.arange(12.0)
    shared = {
        "x": base,
        "again": base,
        "half": base[:6],
        "turned": base.view(3, 4).t(),
        "p": torch.nn.Parameter(base),
        "empty": torch.ones(0),
    }
    old = os.umask(0o022)
    try:
        write_tensors(tmp_path, shared)
    finally:
        os.umask(old)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    files = read_tensors(tmp_path)
    assert all(torch.equal(files[n], t) for n, t in shared.items()) and os.listdir(tmp_path) == ["model.safetensors"]
    before = file_sha256(tmp_path / "model.safetensors")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nabi.weights.files.save_file", full)
    with pytest.raises(StorageError, match=r"model.safetensors could not be written \(48 bytes\): .*No space"):
        write_tensors(tmp_path, {"x": base})
    assert file_sha256(tmp_path / "model.safetensors") == before and os.listdir(tmp_path) == ["model.safetensors"]
    with pytest.raises(StorageError):
        write_tensors(tmp_path / "none", {"x": base})


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(CheckpointError):
        file_sha256(tmp_path / "y")


def names(path):
    return sorted(os.listdir(path))


def test_atomic_folder_writes_replaces_and_undoes(tmp_path):
    out = tmp_path / "deep" / "out"
    for text in ("one", "two"):
        with atomic_folder(out) as new:
            assert new.parent == out.parent
            (new / "sub").mkdir()
            (new / "sub" / "file").write_text(text)
        assert (out / "sub" / "file").read_text() == text and names(out.parent) == ["out"]
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(out) as new:
            (new / "file").write_text("three")
            raise error
        assert names(out) == ["sub"] and names(out.parent) == ["out"]
    with pytest.raises(StorageError, match=r"out could not be written \([\d,]+ bytes free\).*No space"), atomic_folder(out) as new:
        raise OSError(28, "No space left on device")
    assert names(out.parent) == ["out"]
    (tmp_path / "file").touch()
    for place_ in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError), atomic_folder(place_):
            raise AssertionError("the block must not be entered")


def test_a_failing_rename_keeps_the_old_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic_folder(out) as new:
        (new / "file").write_text("old")
    real, calls = os.rename, []

    def rename(a, b):
        calls.append((a, b))
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        real(a, b)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StorageError), atomic_folder(out) as new:
        (new / "file").write_text("new")
    assert len(calls) == 3 and (out / "file").read_text() == "old" and names(tmp_path) == ["out"]


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda f: (events.append(os.readlink(f"/proc/self/fd/{f}")), sync(f)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as new:
        (new / "sub").mkdir()
        for file in ("a", "sub/b"):
            (new / file).write_text("x")
    first = events.index("rename")
    assert sorted(events[:first]) == sorted(str(p) for p in (new / "a", new / "sub" / "b", new / "sub", new))
    assert events[first:] == ["rename", "rename", str(tmp_path)]


CHILD = """
import os, sys
from pathlib import Path
from nabi.weights import atomic_folder
out, point = Path(sys.argv[1]), sys.argv[2]
real, count = os.rename, 0
def rename(a, b):
    global count
    count += 1
    if point == f"before {count}": os._exit(9)
    real(a, b)
    if point == f"after {count}": os._exit(9)
os.rename = rename
with atomic_folder(out) as new:
    (new / "file").write_text("new")
    if point == "inside": os._exit(9)
    if point == "sleep":
        print("ready", flush=True)
        sys.stdin.readline()
print("done")
"""


def child(out, point, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(out), point], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs
    )


@pytest.mark.parametrize(
    ("point", "path_there", "found"),
    [("inside", True, "old"), ("before 1", True, "old"), ("after 1", False, "old"), ("before 2", False, "old"), ("after 2", True, "new")],
)
def test_a_killed_writer_loses_nothing(tmp_path, point, path_there, found):
    out = tmp_path / "out"
    with atomic_folder(out) as new:
        (new / "file").write_text("old")
    (tmp_path / "out.new-12345678").mkdir()  # other people's folders
    (tmp_path / ".out.x.new-12345678").mkdir()
    process = child(out, point)
    process.communicate()
    assert process.returncode == 9 and out.exists() == path_there and len(names(tmp_path)) > 3
    recover(out)
    assert (out / "file").read_text() == found and names(tmp_path) == [".out.x.new-12345678", "out", "out.new-12345678"]
    recover(out)
    with atomic_folder(out) as new:
        (new / "file").write_text("next")
    assert (out / "file").read_text() == "next"


def test_the_next_writer_recovers_too(tmp_path):
    out = tmp_path / "out"
    with atomic_folder(out) as new:
        (new / "file").write_text("old")
    child(out, "after 1").communicate()
    assert not out.exists()
    with pytest.raises(ValueError), atomic_folder(out):
        raise ValueError
    assert (out / "file").read_text() == "old" and names(tmp_path) == ["out"]


def test_recover_leaves_a_living_writer_alone(tmp_path):
    out = tmp_path / "out"
    process = child(out, "sleep")
    assert process.stdout.readline() == "ready\n"
    recover(out)
    assert len(names(tmp_path)) == 1
    with atomic_folder(out) as new:  # a second writer, in this process: nor does it disturb itself
        recover(out)
        (new / "file").write_text("mine")
    assert (out / "file").read_text() == "mine"
    assert process.communicate("go\n")[0] == "done\n" and process.returncode == 0
    assert (out / "file").read_text() == "new" and names(tmp_path) == ["out"]
    recover(tmp_path / "never" / "there")


def test_a_full_disk_is_a_storage_error(tmp_path):
    """A child whose files may not grow over 64 KiB meets a real write error, from the library and from Python."""
    code = """
        import resource, signal, sys, torch
        from pathlib import Path
        from nabi.errors import StorageError
        from nabi.weights import atomic_folder, write_tensors
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        out = Path(sys.argv[1])
        for fill in (lambda new: write_tensors(new, {"w": torch.ones(100_000)}), lambda new: (new / "x").write_bytes(bytes(100_000))):
            try:
                with atomic_folder(out) as new:
                    fill(new)
            except StorageError as error:
                print(error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "out")], capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and "400,000 bytes" in lines[0] and "bytes free" in lines[1] and names(tmp_path) == [], result


def test_small_tensors_are_placed_on_a_cache_line(tmp_path):
    """Where a tensor lies decides how some CPUs round; a large one stays mapped, wherever it lies."""
    write_tensors(tmp_path, {"a": torch.ones(3), "small": torch.arange(64.0).view(8, 8), "large": torch.ones(600, 600)})
    files = read_tensors(tmp_path)
    held = {name: files[name] for name in files}
    assert any(x.data_ptr() % 64 for x in held.values())  # else this shows nothing
    with torch.device("meta"):
        module = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.empty(x.shape)) for name, x in held.items()})
    place(module, held)
    assert not any(module[name].data_ptr() % 64 for name in ("a", "small")) and module["large"].data_ptr() == held["large"].data_ptr()
    assert all(torch.equal(module[name], x) for name, x in held.items())
