"""The command line: what it prints where, its exit codes, and that wrong input leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nabi
from nabi import cli
from training.small import rows, vocabulary

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")
QUICK = ("--set", "plan.steps=6", "--set", "plan.batch=8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A folder with data and a model that learnt it."""
    folder = tmp_path_factory.mktemp("work")
    for name, data in (("train", rows(60)), ("dev", rows(20, 1))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    (folder / "train.csv").write_text("review,stars\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows(40)))
    done = nabi.fit(
        "text_classification", folder / "train.jsonl", out=folder / "model", plan=nabi.Plan(steps=60, batch=16, learning_rate=5e-3), family="bert", size="tiny",
        tokenizer=tokenizer, progress=nabi.training.progress.Progress("quiet", io.StringIO()),
    )  # fmt: skip
    assert done.out is not None
    return folder


def here() -> list[str]:
    """What lies in the current folder."""
    return sorted(p.name for p in Path().iterdir())


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """The one document of standard output."""
        assert self.out.endswith("\n") and self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def call(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: Any, stdin: bytes = b"") -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli._run(lambda: cli.cli.main(args=[str(a) for a in args], prog_name="nabi", standalone_mode=False))
        return Done(code, *capsys.readouterr())

    return run


def process(*args: Any, cwd: Path, stdin: bytes | None = None, **environment: str) -> Done:
    """A command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "nabi", *map(str, args)]
    done = subprocess.run(command, capture_output=True, cwd=cwd, input=stdin if stdin is not None else b"", env=env)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def train(work: Path, tokenizer: Path, *more: Any, data: str = "train.jsonl", out: Any = "out") -> list[Any]:
    scratch = ["--family", "bert", "--size", "tiny", "--tokenizer", tokenizer]
    return ["train", "--task", "text_classification", "--data", work / data, "--out", out, *scratch, *QUICK, *more]


# ---- train -------------------------------------------------------------------------------------------------------------------------------------------


def test_train_in_a_process_of_its_own(work: Path, tokenizer: Path, tmp_path: Path) -> None:
    done = process(*train(work, tokenizer, "--dev", work / "dev.jsonl", "--json"), cwd=tmp_path)
    assert done.code == 0 and list(done.json) == ["task", "out", "metrics", "seconds", "tokens"], done.err
    assert done.json["out"] == "out" and set(done.json["metrics"]) == {"accuracy", "macro_f1", "mcc", "ece", "f1/neg", "f1/pos"}
    assert "epoch" in done.err and "macro_f1" in done.err and "\r" not in done.err and "\x1b" not in done.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "history.json", "last", "model.safetensors", "nabi.json", "report.html", "tokenizer.json", "tokenizer_config.json",
        "vocab.txt"]  # fmt: skip
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert history["plan"]["steps"] == 6 and history["data"]["rows"] == 60 and history["dev"]["rows"] == 20


def test_train_says_what_to_do_next(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    done = call(*train(work, tokenizer))
    assert done.code == 0 and re.fullmatch(r"The model is in out \(\d+ s\). Try: nabi predict out TEXT\n", done.out)
    assert call("predict", "out", "good").code == 0


def test_the_log_as_json_lines(work: Path, tokenizer: Path, tmp_path: Path) -> None:
    done = process(*train(work, tokenizer, "--dev", work / "dev.jsonl", "--json", "--log", "json"), cwd=tmp_path)
    events = [json.loads(line) for line in done.err.splitlines()]
    assert done.code == 0 and done.json["task"] == "text_classification" and {e["event"] for e in events} == {"step", "note"}
    (step,) = [e for e in events if e["event"] == "step"]
    assert (
        set(step) == {"event", "step", "steps", "epoch", "loss", "rate", "tokens_per_second", "seconds_left"} and step["step"] == step["steps"] == 6
    )
    assert [e["metrics"]["accuracy"] for e in events if "metrics" in e]


def test_a_moving_line_on_a_terminal(work: Path, tokenizer: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "nabi", *map(str, train(work, tokenizer, "--dev", work / "dev.jsonl", "--json"))]
    running = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=follower, stdin=subprocess.DEVNULL)
    os.close(follower)
    seen = b""
    while True:
        if select.select([leader], [], [], 60)[0]:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    assert running.stdout is not None
    out = running.stdout.read()
    assert running.wait() == 0 and len(out.splitlines()) == 1 and json.loads(out)
    text = seen.decode()
    assert re.search(r"\r\x1b\[Kstep 6/6  loss \d\.\d{4}  rate \d\.\d\de[-+]\d\d  [\d,]+ tokens/s  0:00 left", text), text
    assert "epoch 0.75" in text and all(len(line) < 100 for line in text.replace("\r\x1b[K", "\n").splitlines() if line.startswith("step"))


def test_quiet(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    assert "step " not in call(*train(work, tokenizer, "--log", "quiet")).err


def test_columns_settings_and_a_share_for_dev(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    done = call(*train(work, tokenizer, "--columns", "text=review,label=stars", "--dev", "0.2", "--set", "task.class_weights=balanced", "--set",
                       "task.label_smoothing=0.1", "--set", "options.long=truncate", "--seed", "5", "--json", data="train.csv"))  # fmt: skip
    assert done.code == 0, done.err
    history = json.loads(Path("out/history.json").read_text())
    assert history["plan"]["seed"] == 5 and history["data"]["rows"] + history["dev"]["rows"] == 40
    assert json.loads(Path("out/nabi.json").read_text())["settings"]["label_smoothing"] == 0.1


def test_a_seed_decides_the_weights(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call(*train(work, tokenizer, "--seed", seed, out=out)).code == 0
    a, b, c = (load_file(f"{out}/model.safetensors") for out in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)


RECIPE = """
task = "text_classification"
data = "{work}/train.jsonl"
dev = 0.25
family = "bert"
tokenizer = "{tokenizer}"
seed = 7
[plan]
steps = 4
batch = 8
[options]
long = "truncate"
[settings]
loss = "focal"
"""


def test_a_recipe_and_what_wins_over_it(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    Path("run.toml").write_text(RECIPE.format(work=work, tokenizer=tokenizer))
    assert call("train", "run.toml", "--out", "a").code == 0
    assert call("train", "run.toml", "--out", "b", "--seed", "8", "--set", "plan.steps=5", "--set", "task.loss=cross_entropy").code == 0
    for out, seed, steps, loss in (("a", 7, 4, "focal"), ("b", 8, 5, "cross_entropy")):
        plan = json.loads(Path(out, "history.json").read_text())["plan"]
        assert (plan["seed"], plan["steps"], plan["batch"]) == (seed, steps, 8)
        assert json.loads(Path(out, "nabi.json").read_text())["settings"]["loss"] == loss


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("taskk = 'x'", r"unknown key in the recipe: 'taskk'.*Did you mean 'task'\?"),
        ("plan = 3", "'plan' has the wrong type: 3"),
        ("task = 3", "'task' has the wrong type: 3"),
        ("resume = 'yes'", "'resume' has the wrong type"),
        ("columns = 3", "'columns' has the wrong type"),
        ("[plan]\nepoch = 3", r"unknown key 'epoch' did you mean 'epochs'\?"),
        ("[settings]\nlos = 'focal'", r"no such setting: 'los'.*Did you mean 'loss'\?"),
        ("= 3", "not valid TOML"),
        ("", "--task is missing"),
        ("task = 'text_classification'", "--data is missing"),
    ],
)
def test_a_recipe_that_cannot_be(line: str, message: str, work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    full = f"task = 'text_classification'\ndata = '{work}/train.jsonl'\nout = 'out'\nfamily = 'bert'\ntokenizer = '{tokenizer}'\n"
    Path("run.toml").write_text(full + line + "\n" if line.startswith("[") else line + "\n")
    refused(call("train", "run.toml"), message, left=["run.toml"])


def refused(done: Done, message: str, left: list[str]) -> None:
    assert done.code == 2 and done.out == "", (done.code, done.out, done.err)
    assert re.search(message, done.err) and "Traceback" not in done.err, done.err
    assert here() == sorted(left)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "text_clasification"], r"unknown task: 'text_clasification'.*Did you mean 'text_classification'\?"),
        (["--famly", "x"], "No such option '?--famly'?"),
        (["--family", "bertt"], r"unknown family: 'bertt'.*Did you mean 'bert'\?"),
        (["--size", "tinny"], r"no such size: 'tinny'.*Did you mean 'tiny'\?"),
        (["--tokenizer", "nowhere"], "nowhere"),
        (["--base", "minilm"], "either a base model or a family"),
        (["--set", "plan.epoch=3"], r"unknown key 'epoch' did you mean 'epochs'\?"),
        (["--set", "plan.epochs=x"], "'epochs' has the wrong type: 'x'"),
        (["--set", "plan.epochs=-1"], "epochs is -1"),
        (["--set", "plans.epochs=1"], r"unknown setting: 'plans.epochs=1'.*Did you mean 'plan'\?"),
        (["--set", "epochs"], "unknown setting: 'epochs'. Expected one of plan.KEY=VALUE"),
        (["--set", "options.lng=window"], r"unknown key 'lng' did you mean 'long'\?"),
        (["--set", "options.max_length=1000"], "max_length is out of range: 1000"),
        (["--set", "task.los=focal"], r"no such setting: 'los'.*Did you mean 'loss'\?"),
        (["--precision", "fp16"], "'precision' has an unknown value: 'fp16'"),
        (["--seed", "x"], "not a valid integer"),
        (["--log", "loud"], "'loud' is not one of"),
        (["--columns", "text"], "--columns takes NAME=COLUMN"),
        (["--columns", "text=revew"], "no column 'revew'"),
        (["--dev", "nowhere.jsonl"], "no such file"),
        (["--dev", "1.5"], "the dev fraction is out of range"),
        (["--plugin", "nowhere.py"], "no such plugin file: 'nowhere.py'"),
        (["--processes", "0"], "--processes is out of range: 0"),
        (["--device", "nowhere"], "the device can't be used here: 'nowhere"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_options_that_cannot_be(more: list[str], message: str, work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    refused(call(*train(work, tokenizer, *more)), message, left=[])


GOOD = "text,label\ngood,a\nbad,b\n"
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "missing": ("none.csv", b"", "no such file"),
    "empty": ("a.csv", b"", "the file is empty"),
    "header only": ("a.csv", b"text,label\n", "no rows"),
    "one class": ("a.csv", b"text,label\na,x\nb,x\n", "there is only one class"),
    "missing column": ("a.csv", b"review,label\na,x\nb,y\n", "no column 'text'.*--columns text=review"),
    "mixed label types": ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label": 1}\n', "labels of mixed types"),
    "no label": ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n', "row 2: the label is missing"),
    "a number as text": ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": 5, "label": "y"}\n', "a.jsonl, line 2 has no text: 5"),
    "wrong encoding": ("a.csv", "text,label\n좋다,긍정\n싫다,부정\n".encode("cp949"), "iconv -f CP949"),
    "cut-off gzip": ("a.csv.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:-12], "is cut off"),
    "a stray quote": ("a.csv", b'text,label\ngood,a\n"bad,b\nfine,a\n', "a quote opens here"),
    "a lone surrogate": ("a.jsonl", b'{"text": "a \\ud83d", "label": "x"}\n{"text": "b", "label": "y"}\n', "half of a surrogate pair"),
    "no JSON": ("a.jsonl", b'{"text": \n', "not JSON"),
    "unknown ending": ("a.xlsx", b"PK\x03\x04", "unknown file ending"),
    "Parquet that is none": ("a.parquet", b"PAR1" * 5, "not a whole Parquet file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_leaves_nothing_behind(name: str, work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    file, content, message = BAD_FILES[name]
    if content or name == "empty":
        Path(file).write_bytes(content)
    left = here()
    refused(call(*train(Path(), tokenizer, data=file, out="runs/out")), message, left)
    if name not in ("one class", "mixed label types", "no label"):  # what only training asks for
        dev = {"missing column": "no column 'text'", "a number as text": "no text: 5|unknown label"}.get(name, message)
        refused(call(*train(work, tokenizer, "--dev", file, out="runs/out")), dev, left)
        refused(call("predict", work / "model", "--data", file, "--out", "answers.jsonl"), message, left)
        refused(call("evaluate", work / "model", "--data", file, "--json"), dev, left)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut off", "unknown type", "no weights"])
def test_bad_models_leave_nothing_behind(kind: str, work: Path, call: Callable[..., Done]) -> None:
    base = Path("base")
    if kind != "missing":
        base.mkdir()
    if kind in ("cut off", "unknown type"):
        for file in (work / "model").iterdir():
            if file.is_file():
                (base / file.name).write_bytes(file.read_bytes())
    if kind == "cut off":
        whole = (base / "model.safetensors").read_bytes()
        (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    if kind == "unknown type":
        (base / "config.json").write_text('{"model_type": "retnet"}')
        (base / "nabi.json").unlink()
    if kind == "no weights":
        (base / "config.json").write_text("{}")
    told = {"missing": "does not exist", "empty": "the folder is empty", "cut off": "can't be read", "unknown type": "unknown family: 'retnet'"}
    message = told.get(kind, kind)
    left = here()
    refused(call("train", "--task", "text-classification", "--data", work / "train.jsonl", "--base", "./base", "--out", "out"), message, left)
    for command in (["predict", "./base", "good"], ["evaluate", "./base", "--data", work / "dev.jsonl"], ["inspect", "./base"]):
        refused(call(*command), message, left)


def test_resume(work: Path, tokenizer: Path, call: Callable[..., Done]) -> None:
    assert call(*train(work, tokenizer)).code == 0
    done = call(*train(work, tokenizer))
    assert done.code == 2 and "the output folder is not empty" in done.err and "--resume" in done.err
    done = call(*train(work, tokenizer, "--resume"))
    assert done.code == 2 and "this run is over" in done.err
    shutil.copytree("out/last", "out/best")  # as if it had not come to its end
    Path("out/config.json").unlink()
    done = call(*train(work, tokenizer, "--resume", "--seed", "3"))
    assert done.code == 2 and "plan.seed was 0 and is 3" in done.err


def test_a_loss_that_is_not_finite_is_code_1(work: Path, call: Callable[..., Done]) -> None:
    Path("base").mkdir()
    for file in (work / "model").iterdir():
        if file.is_file():
            Path("base", file.name).write_bytes(file.read_bytes())
    tensors = load_file("base/model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(tensors, "base/model.safetensors", metadata={"format": "pt"})
    done = call("train", "--task", "text_classification", "--data", work / "train.jsonl", "--base", "./base", "--out", "out", *QUICK)
    assert done.code == 1 and "error: step 1: the loss is nan" in done.err and done.out == "" and "Traceback" not in done.err


# ---- evaluate, predict, inspect, doctor --------------------------------------------------------------------------------------------------------------


def test_evaluate(work: Path, call: Callable[..., Done]) -> None:
    done = call("evaluate", work / "model", "--data", work / "dev.jsonl", "--json")
    assert list(done.json) == ["task", "model", "data", "rows", "metrics", "seconds"] and done.err == ""
    assert (done.json["task"], done.json["data"], done.json["rows"]) == ("text_classification", "dev.jsonl", 20) and done.json["model"] == str(
        work / "model"
    )
    assert list(done.json["metrics"]) == ["accuracy", "macro_f1", "mcc", "ece", "f1/neg", "f1/pos"] and done.json["metrics"]["accuracy"] > 0.8
    plain = call("evaluate", work / "model", "--data", work / "dev.jsonl")
    assert plain.code == 0 and re.search(r"^  macro_f1 +[01]\.\d{4}$", plain.out, re.MULTILINE)
    other = call("evaluate", work / "model", "--data", work / "train.csv", "--columns", "text=review,label=stars", "--set", "long=truncate", "--json")
    assert other.json["rows"] == 40


def test_predict(work: Path, call: Callable[..., Done]) -> None:
    done = call("predict", work / "model", "a good film", "awful", "--json")
    assert [line["label"] for line in done.lines] == ["pos", "neg"] and done.err == ""
    assert list(done.lines[0]) == ["label", "score", "scores", "windows", "truncated"]
    assert re.fullmatch(r"pos\t0\.\d{4}\nneg\t0\.\d{4}\n", call("predict", work / "model", "a good film", "awful").out)
    raw = call("predict", work / "model", "good", "--set", "function_to_apply=none", "--set", "options.long=error", "--json")
    assert sum(raw.lines[0]["scores"].values()) != pytest.approx(1)


def test_predict_reads_standard_input_line_by_line(work: Path, call: Callable[..., Done]) -> None:
    done = call("predict", work / "model", "-", "--json", stdin="good\r\n\n나비 bad\nlast".encode())
    assert len(done.lines) == 4 and done.lines[0]["label"] == "pos"
    assert call("predict", work / "model", "-", "--json").out == ""
    bad = call("predict", work / "model", "-", stdin="좋다\n".encode("cp949"))
    assert bad.code == 2 and "standard input is not UTF-8" in bad.err and "iconv" in bad.err and bad.out == ""


def test_predict_in_a_process_of_its_own(work: Path, tmp_path: Path) -> None:
    done = process("predict", work / "model", "-", "--json", cwd=tmp_path, stdin="good\n나비\n".encode())
    assert done.code == 0 and len(done.lines) == 2
    shell = f"yes good | head -20000 | {sys.executable} -m nabi predict {work / 'model'} - | head -1"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert pipe.stdout.startswith("pos\t") and "Traceback" not in pipe.stderr, pipe.stderr
    assert not list(tmp_path.iterdir())


def test_predict_writes_a_file_whole_or_not_at_all(work: Path, call: Callable[..., Done]) -> None:
    assert call("predict", work / "model", "--data", work / "dev.jsonl", "--out", "answers.jsonl").out == ""
    written = Path("answers.jsonl").read_text()
    assert len([json.loads(line) for line in written.splitlines()]) == 20
    Path("bad.jsonl").write_text('{"text": "good"}\n{"text": 5}\n')
    done = call("predict", work / "model", "--data", "bad.jsonl", "--out", "answers.jsonl", "--overwrite")
    assert done.code == 2 and "bad.jsonl, line 2 has no text: 5" in done.err
    assert Path("answers.jsonl").read_text() == written and here() == ["answers.jsonl", "bad.jsonl"]
    for place in ("nowhere", work / "dev.jsonl"):
        done = call("predict", work / "model", "good", "--out", f"{place}/answers.jsonl")
        assert done.code == 1 and "could not be written" in done.err
    assert call("predict", work / "model", "--data", work / "train.csv", "--columns", "text=review", "--json").code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either inputs or --data"),
        (["a", "--data", "b"], "give either inputs or --data"),
        (["a", "--set", "lng=window"], r"unknown key 'lng' did you mean 'long'\?"),
        (["a", "--set", "long"], "--set takes KEY=VALUE"),
        (["a", "--set", "top_k=x"], "'top_k' has the wrong type"),
        (["a", "--set", "long=error", "--set", "max_length=2"], "too long"),
        (["a", "--plugin", "nowhere.py"], "no such plugin file"),
        (["a", "--jsn"], "No such option"),
    ],
    ids=str,
)
def test_predict_that_cannot_be(args: list[str], message: str, work: Path, call: Callable[..., Done]) -> None:
    refused(call("predict", work / "model", *args), message, left=[])


def test_an_unknown_command(call: Callable[..., Done]) -> None:
    refused(call("trian"), "No such command 'trian'", left=[])
    assert call("--help").code == 0 and call().code in (0, 2)
    assert call("--version").out == f"nabi, version {nabi.__version__}\n"


def test_inspect(work: Path, call: Callable[..., Done]) -> None:
    done = call("inspect", work / "model", "--json")
    assert (
        done.json["task"] == "text_classification"
        and done.json["golden"] == "4 vectors, all as saved"
        and len(done.json["groups"]) == 4
        and done.err == ""
    )
    plain = call("inspect", work / "model")
    assert plain.code == 0 and "parameters" in plain.out and "TextClassification" in plain.out


def test_inspect_and_doctor_of_the_shipped_base(call: Callable[..., Done]) -> None:
    done = call("inspect", "minilm", "--json")
    assert done.code == 0 and done.json["task"].startswith("none: a bare encoder") and "golden" not in done.json
    assert call("doctor", "minilm", "--json").json["findings"][0]["code"] == "no_head"


def test_doctor(work: Path, call: Callable[..., Done]) -> None:
    machine = call("doctor", "--json").json
    assert machine["target"] == "machine" and {"versions", "cpu", "fast_path"} <= {f["code"] for f in machine["findings"]}
    model = call("doctor", work / "model", "--json").json["findings"]
    assert [(f["severity"], f["code"]) for f in model] == [("info", "golden")]
    data = call("doctor", work / "train.jsonl", "--dev", work / "train.jsonl", "--json")
    assert data.code == 1 and "leakage" in {f["code"] for f in data.json["findings"]}
    Path("clean.csv").write_text("review,label\nfine,a\npoor,b\nnice,a\nbad,b\n")
    assert call("doctor", "clean.csv", "--columns", "text=review").out.startswith("info")
    refused(call("doctor", "nowhere.csv"), "no such file", left=["clean.csv"])


def test_doctor_finds_a_damaged_model(work: Path, call: Callable[..., Done]) -> None:
    Path("damaged").mkdir()
    for file in (work / "model").iterdir():
        if file.is_file():
            Path("damaged", file.name).write_bytes(file.read_bytes())
    tensors = load_file("damaged/model.safetensors")
    tensors["classifier.bias"] += 0.01
    save_file(tensors, "damaged/model.safetensors", metadata={"format": "pt"})
    done = call("doctor", "./damaged", "--json")
    assert (
        done.code == 1
        and {f["code"] for f in done.json["findings"] if f["severity"] == "error"} == {"changed_file", "golden"}
        and any("readings differ by 0.01" in f["message"] for f in done.json["findings"])
    )
    Path("damaged/model.safetensors").write_bytes(b"xx")
    done = call("doctor", "./damaged")
    assert done.code == 1 and done.out.startswith("error    ")


# ---- the page about it ---------------------------------------------------------------------------------------------------------------------------------


def test_the_page_lists_the_options() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    commands: dict[str, Any] = {}
    for name, command in cli.cli.commands.items():
        inner = getattr(command, "commands", None)  # of a group
        commands |= {name: command} if inner is None else {f"{name} {each}": one for each, one in inner.items()}
    assert "train" in commands and "corpus build" in commands
    for name, command in commands.items():
        section = page.partition(f"## nabi {name}\n")[2].partition("\n## ")[0]
        assert section, name
        listed = {option for line in section.splitlines() if line.startswith("| `--") for option in re.findall(r"`(--[a-z-]+)", line.split("|")[1])}
        options = {option for p in command.params if p.param_type_name == "option" for option in (*p.opts, *p.secondary_opts) if option.startswith("--")}
        assert listed == options, (name, listed ^ options)
