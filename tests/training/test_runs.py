"""Runs that are killed, that meet a full disk, or that are gone on with: fit(resume=True) in processes of their own."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nabi
from nabi import Plan, checkpoint, fit, fitting
from nabi.errors import CheckpointError, NabiError, OptionError, StorageError
from nabi.training import manifest, saving
from nabi.training.runs import RunFolder
from training.killed import Runs, server
from training.small import SIZE, rows, same, weights

ROOT = Path(__file__).parents[2]
PLAN = {"steps": 24, "batch": 8, "tokens": 60, "learning_rate": 3e-3, "evaluate_every": 0.5, "seed": 2}
PLANS = {
    "usual": PLAN,
    "gradual unfreezing": {**PLAN, "unfreeze": 1, "layer_decay": 0.5},
    "balanced, bf16": {**PLAN, "sampler": "balanced", "precision": "bf16"},
}


@pytest.fixture(scope="module")
def processes(tokenizer: Path) -> Iterator[Runs]:
    with server(tokenizer) as found:
        yield found


def sealed(folder: Path) -> None:
    """The manifest of a checkpoint made to fit what is in it now."""
    manifest.made(folder, manifest.read(folder).step, 1).write(folder)


def left(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    """All that a finished run left: the model, the last one, the optimizer, the history."""
    return (
        load_file(out / "model.safetensors"),
        load_file(out / "last" / "model.safetensors"),
        load_file(out / "last" / "training.safetensors"),
        json.loads((out / "history.json").read_text()),
    )


def alike(a: Path, b: Path) -> bool:
    first, second = left(a), left(b)
    return all(same(x, y) for x, y in zip(first[:3], second[:3], strict=True)) and first[3] == second[3]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, processes: Runs) -> dict[str, Path]:
    folders = {}
    for name, plan in PLANS.items():
        folders[name] = tmp_path_factory.mktemp("unbroken") / "run"
        assert processes.whole(folders[name], plan) == 0
    return folders


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_is_the_unbroken_run(name: str, unbroken: dict[str, Path], processes: Runs, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert processes.whole(out, PLANS[name], stop=3) == -signal.SIGKILL and not (out / "config.json").exists()
    facts = json.loads((out / "last" / "training.json").read_text())
    middle = load_file(out / "last" / "training.safetensors")
    assert facts["step"] == 12 and len(facts["extra"]["history"]) == 3
    assert processes.whole(out, PLANS[name], resume=True) == 0
    assert alike(out, unbroken[name]) and len(left(out)[3]["history"]) == 6
    assert not same(middle, load_file(out / "last" / "training.safetensors"))
    assert not any(alike(out, folder) for other, folder in unbroken.items() if other != name)


def test_control_without_the_optimizers_state_it_is_another_run(unbroken: dict[str, Path], processes: Runs, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert processes.whole(out, PLAN, stop=3) == -signal.SIGKILL
    save_file({}, out / "last" / "training.safetensors")
    sealed(out / "last")
    assert processes.whole(out, PLAN, resume=True) == 0
    assert not alike(out, unbroken["usual"])


@pytest.mark.parametrize("moment", [*range(3, 8), 12, *range(14, 18), *range(22, 30, 2)])
def test_killed_where_files_are_put_in_place(moment: int, unbroken: dict[str, Path], processes: Runs, tmp_path: Path) -> None:
    """A kill at a rename: while best and last are written and moved, and while the best model is put into the folder itself."""
    out, plan = tmp_path / "run", {**PLAN, "evaluate_every": 1.5}
    assert processes.whole(out, plan, moment=moment) in (-signal.SIGKILL, 0)
    if not (out / "config.json").exists():
        assert processes.whole(out, plan, resume=True) == 0
    ours, whole = left(out), left(unbroken["usual"])
    assert same(ours[1], whole[1]) and same(ours[2], whole[2]), "evaluations do not change a run"
    assert not checkpoint.load(out).check_golden()
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")] and not (out / "best").exists()


# ---- in this process -----------------------------------------------------------------------------------------------------------------------------


def run(out: Path | None, tokenizer: Path, plan: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    from nabi.training.progress import Progress

    given = {"data": rows(60), "dev": rows(20, 1), "family": "bert", "size": SIZE, "tokenizer": tokenizer, **kwargs}
    return fit("text_classification", given.pop("data"), out=out, plan=Plan(**(plan or PLAN)), progress=Progress("quiet", io.StringIO()), **given)


def broken_off(out: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, at: int = 2, **kwargs: Any) -> None:
    """A run that stops by an error after ``at`` states."""
    with monkeypatch.context() as patch:
        real, count = RunFolder.save_last, [0]

        def save(*args: Any) -> None:
            real(*args)
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt

        patch.setattr(RunFolder, "save_last", save)
        with pytest.raises(KeyboardInterrupt):
            run(out, tokenizer, **kwargs)


def test_the_folder_opens_here_and_in_the_incumbent(tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    fitted = run(tmp_path / "out", tokenizer)
    assert fitted.out == tmp_path / "out" and sorted(p.name for p in fitted.out.iterdir() if p.is_dir()) == ["last"]
    loaded = nabi.load(fitted.out)
    assert same(weights(loaded), weights(fitted.model)) and not loaded.check_golden()
    theirs = AutoModelForSequenceClassification.from_pretrained(fitted.out).eval()
    encoding = loaded.inputs.tokenizer.encode("the film was good")
    with torch.no_grad():
        logits = theirs(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.segments])).logits[0].tolist()
    assert logits == pytest.approx(list(loaded.predict("the film was good", function_to_apply="none")["scores"].values()), abs=1e-5)
    assert theirs.config.id2label == {0: "neg", 1: "pos"}


def test_the_best_model_is_kept_and_published(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.1, 0.7, 0.3, 0.2, 0.5, 0.6])
    real = fitting.evaluate
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(model, *args, **kwargs)
        found.metrics["macro_f1"] = next(figures)
        seen.append(weights(model))
        return found

    monkeypatch.setattr(fitting, "evaluate", evaluate)
    fitted = run(tmp_path / "out", tokenizer)
    assert fitted.metrics["macro_f1"] == 0.7 and [e["metrics"]["macro_f1"] for e in fitted.history] == [0.1, 0.7, 0.3, 0.2, 0.5, 0.6]
    assert same(weights(fitted.model), seen[1]) and same(weights(nabi.load(fitted.out)), seen[1]) and not same(seen[1], seen[5])
    assert same(weights(checkpoint.load(fitted.out / "last")), seen[5])


def test_early_stopping_and_its_resume(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {**PLAN, "learning_rate": 1e-12, "patience": 2}
    fitted = run(tmp_path / "out", tokenizer, plan)
    assert len(fitted.history) == 3 and fitted.history[-1]["step"] == 12, "the first evaluation is the best, two more are no better"
    assert "Stopped" not in str(fitted.history)
    # killed between the last evaluation and the end: nothing is left to train, the best model is still what comes out
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", tokenizer, plan)
    again = run(tmp_path / "again", tokenizer, plan, resume=True)
    assert again.history == fitted.history and again.metrics == fitted.metrics and same(weights(again.model), weights(fitted.model))
    assert alike(tmp_path / "again", tmp_path / "out")


def test_without_a_folder_the_best_weights_come_back(tokenizer: Path, tmp_path: Path) -> None:
    plan = {**PLAN, "learning_rate": 1e-2}
    inside, outside = run(None, tokenizer, plan), run(tmp_path / "out", tokenizer, plan)
    assert inside.out is None and inside.history == outside.history and same(weights(inside.model), weights(outside.model))


def test_a_killed_publication_goes_on(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {**PLAN, "steps": 4}
    run(tmp_path / "whole", tokenizer, short)
    for after in range(12):
        out = tmp_path / f"out{after}"
        with monkeypatch.context() as patch:
            real, count = Path.replace, [0]

            def replace(self: Path, target: Any, real: Any = real, count: list[int] = count, out: Path = out, after: int = after) -> Any:
                if Path(target).parent == out:
                    count[0] += 1
                    if count[0] > after:
                        raise KeyboardInterrupt
                return real(self, target)

            patch.setattr(Path, "replace", replace)
            try:
                run(out, tokenizer, short)
                break
            except KeyboardInterrupt:
                pass
        assert not (out / "config.json").exists()
        run(out, tokenizer, short, resume=True)
        assert alike(out, tmp_path / "whole")
    else:
        pytest.fail("never got through")
    assert after == len([p for p in (tmp_path / "whole").iterdir() if p.is_file()])


@pytest.mark.parametrize("moment", [1, 2])
def test_a_full_disk(moment: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    real, count = saving.Contents.write_weights, [0]

    def full(self: Any, folder: Path, *args: int) -> Any:
        count[0] += 1
        if count[0] > moment:
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(self, folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(saving.Contents, "write_weights", full)
        with pytest.raises(StorageError, match=r"last could not be written \(it takes [\d,]+ bytes\): .*No space left on device.*nothing .* is lost") as caught:
            run(out, tokenizer, {**PLAN, "steps": 8})
    assert caught.value.exit_code == 1
    for folder in [f for f in (out / "last", out / "best") if f.is_dir()]:
        assert not checkpoint.load(folder).check_golden()
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    run(out, tokenizer, {**PLAN, "steps": 8}, resume=True)
    checkpoint.load(out)


def test_a_file_size_limit(tokenizer: Path, tmp_path: Path) -> None:
    """The operating system refuses the state of the optimizer: what is there stays, and the command ends with code 1."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(30)))
    args = ["train", "--task", "text_classification", "--data", "train.jsonl", "--family", "bert", "--tokenizer", str(tokenizer), "--out", "out"]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run([sys.executable, "-m", "nabi", *args], capture_output=True, text=True, cwd=tmp_path, preexec_fn=limit, env=environment())
    assert done.returncode == 1 and "could not be written" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == []


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def test_a_folder_that_is_in_use(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="the output folder is not empty.*--resume"):
        run(tmp_path / "out", tokenizer)
    with pytest.raises(OptionError, match="there is no run to go on with"):
        run(tmp_path / "out", tokenizer, resume=True)
    with pytest.raises(OptionError, match="--out is a file"):
        run(tmp_path / "out" / "notes.txt", tokenizer)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_finished_run_is_not_gone_on_with(tokenizer: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", tokenizer)
    with pytest.raises(OptionError, match="this run is over"):
        run(tmp_path / "out", tokenizer, resume=True)
    with pytest.raises(OptionError, match="not empty"):
        run(tmp_path / "out", tokenizer)


def test_resuming_what_never_began_is_beginning(tokenizer: Path, tmp_path: Path, unbroken: dict[str, Path]) -> None:
    assert len(run(tmp_path / "out", tokenizer, resume=True).history) == 6


CHANGES = {
    "plan.learning_rate was 0.003 and is 0.004": {"plan": {**PLAN, "learning_rate": 4e-3}},
    "plan.seed was 2 and is 3": {"plan": {**PLAN, "seed": 3}},
    "data was '": {"data": rows(61)},
    "dev was '": {"dev": rows(21, 1)},
    "settings was ": {"settings": {"loss": "focal"}},
    "options was {} and is {'long': 'truncate'}": {"options": {"long": "truncate"}},
    "size was ": {"size": {**SIZE, "num_layers": 3}},
}


def test_other_settings_are_named(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    broken_off(out, tokenizer, monkeypatch)
    for sentence, change in CHANGES.items():
        with pytest.raises(OptionError) as caught:
            run(out, tokenizer, **{"resume": True, **change})  # type: ignore[arg-type]
        assert str(caught.value).startswith("this run was begun with other settings: ") and sentence in str(caught.value), caught.value
    with pytest.raises(OptionError, match=r"plan.batch was 8 and is 9; plan.clip was 1.0 and is 2"):
        run(out, tokenizer, {**PLAN, "batch": 9, "clip": 2}, resume=True)
    assert len(run(out, tokenizer, resume=True).history) == 6


def test_columns_are_part_of_it(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [{**r, "other": r["label"]} for r in rows(60)]
    broken_off(tmp_path / "out", tokenizer, monkeypatch, data=data)
    with pytest.raises(OptionError, match="columns was {} and is {'label': 'other'}"):
        run(tmp_path / "out", tokenizer, data=data, dev=[{**r, "other": r["label"]} for r in rows(20, 1)], columns={"label": "other"}, resume=True)


def test_a_broken_state(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    broken_off(out, tokenizer, monkeypatch)
    shutil.rmtree(out / "previous")  # or the run would go on from there
    for name in ("training.safetensors", "training.json"):
        whole = (out / "last" / name).read_bytes()
        (out / "last" / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="no checkpoint of the run is whole") as caught:
            run(out, tokenizer, resume=True)
        assert caught.value.exit_code == 2
        (out / "last" / name).unlink()
        with pytest.raises(CheckpointError, match="no checkpoint of the run is whole"):
            run(out, tokenizer, resume=True)
        (out / "last" / name).write_bytes(whole)


def test_loading_the_folder_before_the_end_names_best(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    broken_off(out, tokenizer, monkeypatch)
    with pytest.raises(NabiError, match="best") as caught:
        nabi.load(out)
    assert isinstance(caught.value, CheckpointError) and str(out / "best") in str(caught.value)
    assert nabi.load(out / "best").predict("good")["label"] in ("neg", "pos")
