"""``nabi corpus``: what it prints where, its exit codes, and that wrong input leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.corpus.builds import ROOT, rows, text_of, tree
from nabi import cli
from nabi.corpus_cli import size_of
from nabi.data.shards import TokenShards
from nabi.errors import OptionError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command in this process, in a folder with some files; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "files", 16)

    def run(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli._run(lambda: cli.cli.main(args=["corpus", *map(str, args)], prog_name="nabi", standalone_mode=False))
        return code, *capsys.readouterr()

    return run


def test_from_files_to_a_card(call: Call, tmp_path: Path) -> None:
    code, out, err = call("build", "files", "--out", "corpus", "--near", "0.8", "--dev", "0.2", "--workers", "1", "--json")
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and told["documents"]["out"] == len(rows(tmp_path / "corpus")) == 13
    assert "listing the sources" in err and "\r" not in err and "\x1b" not in err
    code, out, _ = call("stats", "corpus", "--report", "page.html", "--json")
    counted = json.loads(out)
    assert code == 0 and counted["documents"] == 13 and counted["bytes"]["total"] == told["bytes"]["out"]
    assert (tmp_path / "page.html").read_text().count("<svg") == 2
    code, out, _ = call("stats", "corpus")
    assert code == 0 and "13 documents" in out and ".py" in out
    assert call("card", "corpus")[0] == 0 and (tmp_path / "corpus" / "README.md").read_text().startswith("---\n")
    code, out, err = call("build", "files", "--out", "corpus", "--near", "0.8", "--dev", "0.2")
    assert code == 0 and "is built already" in err and "13 documents" in out
    (tmp_path / "corpus" / "README.md").write_text("mine")
    assert call("card", "corpus")[0] == 2


def test_options_win_over_the_recipe(call: Call, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('dev = 0.5\nworkers = 1\n[near]\nthreshold = 0.9\n[[sources]]\npath = "files"\ninclude = ["*1.py", "*2.py"]\n')
    assert call("build", "recipe.toml", "--out", "one", "--dev", "0", "--set", "near.bands=20", "--set", "shard=1MB", "--no-exact")[0] == 0
    recipe = json.loads((tmp_path / "one" / "manifest.json").read_text())["recipe"]
    assert (recipe["dev"], recipe["near"]["threshold"], recipe["near"]["bands"], recipe["shard"], recipe["exact"]) == (0.0, 0.9, 20, 1_000_000, False)
    assert {row["path"][-4] for row in rows(tmp_path / "one")} == {"1", "2"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is nothing to build from"),
        (["nowhere"], "there is no such file or folder"),
        (["files", "--dev", "2"], "the dev share is out of range"),
        (["files", "--near", "5"], "threshold"),
        (["files", "--memory", "1 XB"], "this is no size"),
        (["files", "--memory", "10MB"], "the memory is too small"),
        (["files", "--executor", "slurm"], "Slurm needs a partition"),
        (["files", "--set", "shrad=5"], "did you mean 'shard'"),
        (["files", "--set", "cleaning.quality={\"longest_lin\": 3}"], "unknown"),
        (["files", "recipe.toml"], "give one recipe or sources"),
        (["recipe.toml"], "unknown key 'surces' did you mean 'sources'"),
        (["--resume"], "there is no build to go on with"),
        (["files", "--resume"], "--resume takes the recipe from the folder"),
    ],
)
def test_what_cannot_be_built_is_told_and_leaves_nothing(args: list[str], message: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[surces]]\npath = "files"\n')
    code, out, err = call("build", *args, "--out", "corpus")
    assert code == 2 and not out and message.lower() in err.lower() and "Traceback" not in err, err
    assert not (tmp_path / "corpus").exists()


def test_a_folder_without_a_corpus_is_told(call: Call) -> None:
    code, _, err = call("card", "files")
    assert code == 2 and "holds no finished corpus" in err


@pytest.mark.parametrize(("text", "size"), [("1000", 1000), ("1GB", 10**9), ("1.5 MB", 1_500_000), ("64MiB", 64 << 20), ("2kb", 2000)])
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1 gigabyte", "-5", "1e9"])
def test_control_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="this is no size"):
        size_of(text)


def test_building_a_corpus_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text_of(1))
    code = """
import sys
from nabi import cli
cli._run(lambda: cli.cli.main(args=["corpus", "build", "a.txt", "--out", "out", "--workers", "1"], prog_name="nabi", standalone_mode=False))
cli._run(lambda: cli.cli.main(args=["corpus", "stats", "out"], prog_name="nabi", standalone_mode=False))
import nabi.data.corpus.worker
assert not {"torch", "datatrove", "ray", "pandas", "transformers"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_corpus_is_written_as_token_shards(call: Call, tmp_path: Path) -> None:
    assert call("build", "files", "--out", "corpus", "--workers", "1", "--log", "quiet")[0] == 0
    written(tmp_path / "words")
    code, out, err = call("shards", "corpus", "--tokenizer", "words", "--out", "shards", "--length", "64", "--file-tokens", "300", "--json")
    told = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and told["documents"] == len(rows(tmp_path / "corpus")) and told["files"] > 1
    assert told["windows"] == -(-told["tokens"] // 64) and (tmp_path / told["out"] / "manifest.json").is_file() and "documents" in err
    ends = TokenShards.open(tmp_path / told["out"], length=10**6)[0].ids
    assert int((ends == 0).sum()) == told["documents"]
    code, out, err = call("shards", "corpus", "--tokenizer", "words", "--out", "shards", "--file-tokens", "300")
    assert code == 0 and told["out"] in out and f"{told['tokens']:,} tokens" in out and err == ""  # nothing is tokenised again
    named = json.loads(call("shards", "corpus", "--tokenizer", "words", "--out", "shards", "--end", "<unk>", "--json")[1])
    assert named["out"] != told["out"]


@pytest.mark.parametrize(("arguments", "words"), [
    (("nothing",), "there is no such file or folder"), (("corpus/train.jsonl", "--end", "<gone>"), "no such token to end a document"),
    (("corpus/train.jsonl", "--file-tokens", "0"), "file_tokens is 0"),
    (("rows.csv",), "no column 'text'"),
    (("corpus/train.jsonl", "--longest", "3"), "the document is too long"),
])  # fmt: skip
def test_shards_that_can_not_be_written_are_refused(call: Call, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.jsonl").write_text('{"text": "some words"}\n')
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    written(tmp_path / "words")
    code, out, err = call("shards", *arguments, "--tokenizer", "words", "--out", "shards")
    assert code == 2 and out == "" and words in err and not list(tmp_path.glob("shards/*/manifest.json"))


def written(folder: Path) -> None:
    """A tokenizer of bytes, whose end token is 0."""
    from nabi.text.training import TokenizerSettings, train_tokenizer

    train_tokenizer(["some words"], TokenizerSettings(vocab_size=259, special_tokens=("<|endoftext|>", "<unk>"))).save(folder)
