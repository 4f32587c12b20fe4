"""LoRA on every family: what learns, what stays, what is saved, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

import nabi
from conformance.kit import CELLS, FAMILIES, body_of, encoded, examples_of, model_of
from nabi import adapters, checkpoint, cli, tasks
from nabi.batch import batch_of
from nabi.errors import CheckpointError, OptionError
from nabi.evaluation import evaluate
from nabi.fitting import fit
from nabi.inspection import check_model
from nabi.model import Model, largest_gap
from nabi.nn.linear import Linear
from nabi.nn.lora import WHOLE, Adapted, Lora, adapted, chosen, fingerprint, merge, span, unmerge
from nabi.training.optimizer import Optimizer
from nabi.training.plan import Plan
from nabi.training.progress import Progress
from training.small import feed, model, rows, same, weights

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
PLAN = Plan(steps=40, batch=8, learning_rate=1e-2, weight_decay=0.0, evaluate_every=200, **STILL)  # type: ignore[arg-type]
# a text has more to learn than a label
USUAL = ("text_classification", "summarization", "image_classification", "zero_shot_image_classification")
# a convolutional network has no linear layer that could be adapted
TASKS = {
    family: next(task for task in USUAL if (family, task) in CELLS) for family in FAMILIES if any(isinstance(m, Linear) for m in body_of(family).modules())
}


def readings(built: Model) -> list[Any]:
    return list(built.readings(encoded(built), built.options()))


def with_noise(built: Model, seed: int = 5) -> Model:
    """The model, its adapters no longer without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted(built.body).values():
            for adapter in layer.adapters():
                adapter.b.copy_(torch.randn(adapter.b.shape, generator=generator) * 0.1)
    return built


def own(built: nn.Module) -> dict[str, Tensor]:
    """A copy of the body's own weights."""
    return {name: x.clone() for name, x in built.state_dict().items() if ".lora." not in name}


@pytest.mark.parametrize(("family", "task"), [(family, task) for family, task in CELLS if family in TASKS])
def test_a_fresh_adapter_changes_nothing_and_merging_one_that_has_learnt_is_exact(family: str, task: str, small_words: Path) -> None:
    built = model_of(family, task, small_words)
    before, body = readings(built), own(built.body)
    adapters.adapt(built, Lora(rank=2), "nowhere")
    assert largest_gap(readings(built), before) == 0
    with_noise(built)
    learnt = readings(built)
    assert largest_gap(learnt, before) > 1e-2
    scale = max(1.0, largest_gap(learnt, before))
    for other in (adapters.merged(built), built.prepare()):
        assert largest_gap(readings(other), learnt) <= 1e-4 * scale and not any(isinstance(m, Adapted) for m in other.body.modules())
    merge(built)
    assert largest_gap(readings(built), learnt) <= 1e-4 * scale and not same(own(built.body), body)
    with pytest.raises(OptionError, match="merged adapters can't be trained"):
        built.train()
    assert fingerprint(built.body) == fingerprint(model_of(family, task, small_words).body)  # also while they are merged
    unmerge(built)
    assert largest_gap(readings(built), learnt) == 0 and same(own(built.body), body)


@pytest.mark.parametrize("family", TASKS)
def test_eight_rows_are_overfitted_by_adapters_and_heads_alone(family: str, small_words: Path, tmp_path: Path) -> None:
    kind, examples = tasks.find(task := TASKS[family]), examples_of(TASKS[family])
    plan = PLAN if kind.generates is None else replace(PLAN, steps=150)
    base = model_of(family, task, small_words)
    checkpoint.save(base, tmp_path / "base")
    control = evaluate(base, examples).metrics[kind.main_metric]
    fitted = fit(task, examples, tmp_path / "base", tmp_path / "out", plan, lora=Lora(rank=16 if kind.generates else 4), progress=Progress("quiet"))
    assert same(own(fitted.model.body), own(base.body))
    learning = {name for name, p in fitted.model.named_parameters() if p.requires_grad}
    heads = {f"task.{name}" for name, _ in fitted.model.task.named_parameters()}
    assert learning == heads | {name for name, _ in fitted.model.named_parameters() if ".lora." in name} and len(learning) > len(heads)
    loaded = nabi.load(tmp_path / "out")
    assert same(weights(loaded), weights(fitted.model)) and not loaded.check_golden()
    figure = evaluate(loaded, examples).metrics[kind.main_metric]
    assert figure >= 0.99 > control


@pytest.mark.parametrize("family", TASKS)
def test_only_adapters_and_heads_get_gradients(family: str, small_words: Path) -> None:
    built = model_of(family, TASKS[family], small_words)
    adapters.adapt(built, Lora(rank=2, dropout=0.1), "nowhere")
    with_noise(built)
    batch = batch_of(encoded(built), range(len(encoded(built))), built.task.targets)
    torch.stack([x.float().sum() for x in built.train()(batch).values()]).sum().backward()
    for name, parameter in built.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == (".lora." in name or (name.startswith("task.") and parameter.requires_grad)), name
    groups = [{id(p) for p in group.parameters()} for group in built.groups()]
    assert sum(map(len, groups)) == len({id(p) for p in built.parameters()})  # adapters lie in the groups of their layers, each once


def test_activations_may_be_computed_anew_for_the_gradient(small_words: Path) -> None:
    built = with_noise(adapted_model(small_words))
    batch = batch_of(encoded(built), range(8), built.task.targets)
    gradients = []
    for again in (False, True):
        built.zero_grad()
        for layer in built.body.layers if again else ():  # type: ignore[union-attr]
            layer.forward = (lambda forward: lambda *args, **kwargs: recomputed(forward, *args, use_reentrant=False, **kwargs))(layer.forward)
        torch.stack([x.sum() for x in built(batch).values()]).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None})
    assert same(*gradients)


def adapted_model(words: Path, lora: Lora | None = None, family: str = "bert", task: str = "text_classification") -> Model:
    built = model_of(family, task, words)
    adapters.adapt(built, lora or Lora(rank=2), "nowhere")
    return built


# ---- the layer ---------------------------------------------------------------------------------------------------------------------------------------


def test_every_way_through_a_linear_layer_goes_through_the_adapter() -> None:
    torch.manual_seed(0)
    plain = Linear(6, 12, parts=("q", "k", "v"))
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    box = nn.ModuleDict({"x": plain})
    for targets in (("q", "v"), ("x",), ("k",), ("*",)):
        body = nn.ModuleDict({"x": Linear(6, 12, parts=("q", "k", "v"))})
        body.load_state_dict(box.state_dict())
        nabi.nn.lora.adapt(body, Lora(rank=2, alpha=3.0, targets=targets), torch.Generator().manual_seed(1))
        layer = body["x"]
        assert isinstance(layer, Adapted)
        for adapter in layer.adapters():
            nn.init.normal_(adapter.b)
        x, add = torch.randn(5, 6), torch.randn(5, 12)
        changed = torch.zeros(12, 6)
        for name in chosen(box, targets)["x"]:
            adapter = layer.lora[name]
            changed[list(span(plain, name))] += 1.5 * torch.einsum("or,ri->oi", adapter.b, adapter.a)
        wanted = nn.functional.linear(x, plain.weight + changed, plain.bias)
        close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
        close(layer(x), wanted)
        close(layer(x, add), wanted + add)
        close(layer(x, act="gelu"), nn.functional.gelu(wanted))
        for some in (slice(0, 4), slice(4, None), slice(2, 7), slice(11, 12)):
            close(layer.part(x, some), wanted[:, some])
        close(layer.prepared("fp32")(x, add), wanted + add)
        close(layer.plain()(x), wanted)
        assert (layer(x) - plain(x)).abs().max() > 0.1


def test_dropout_is_on_what_the_adapter_reads_and_in_training_only() -> None:
    body = nn.ModuleDict({"x": Linear(64, 64)})
    nn.init.zeros_(body["x"].weight), nn.init.zeros_(body["x"].bias)
    nabi.nn.lora.adapt(body, Lora(rank=4, dropout=0.5), torch.Generator().manual_seed(1))
    nn.init.normal_(body["x"].lora[WHOLE].b)
    x = torch.ones(1, 64)
    still = body.eval()["x"](x)
    assert torch.equal(still, body["x"](x)) and not torch.equal(still, body.train()["x"](x))
    mean = torch.stack([body["x"](x) for _ in range(2000)]).mean(0)
    assert (mean - still).abs().max() < 0.15 * still.abs().max()


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert Lora(rank=16, alpha=8.0).scale == 0.5 and Lora(rank=16, alpha=8.0, rslora=True).scale == 2.0


def test_targets_are_ends_of_paths(small_words: Path) -> None:
    bert, t5 = (model_of(family, task, small_words).body for family, task in (("bert", "text_classification"), ("t5", "text2text_generation")))
    assert chosen(bert, ["q", "v"]) == {f"layers.{i}.attention.qkv": ["q", "v"] for i in range(2)}
    assert chosen(bert, ["qkv"]) == {f"layers.{i}.attention.qkv": [WHOLE] for i in range(2)}
    assert chosen(bert, ["layers.1.*.down"]) == {"layers.1.feed_forward.down": [WHOLE]}
    crossing = {"q": [WHOLE], "kv": ["k", "v"], "out": [WHOLE]}
    assert chosen(t5, ["cross.*"]) == {f"decoder.{i}.cross.{x}": parts for i in range(2) for x, parts in crossing.items()}
    assert all(parts in (["q", "k", "v"], ["k", "v"], ["gate", "up"], [WHOLE]) for parts in chosen(t5, ["*"]).values())
    assert Lora(targets="q, v").targets == ("q", "v")
    with pytest.raises(OptionError, match=r"lora.targets names no linear layer of this body: 'query, wi'. Expected the end of a path, such as .*qkv"):
        chosen(bert, ["q", "wi", "query"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"targets": ()}, "names no layer"),
        ({"targets": "q,"}, "names no layer"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Lora(**given)


# ---- runs and folders --------------------------------------------------------------------------------------------------------------------------------

RUN = Plan(steps=12, batch=8, learning_rate=5e-3, evaluate_every=1, hidden_dropout=0.2, layer_decay=0.8, head_rate=1e-2)


def run(base: Path, out: Path | None, *, data: Any = None, **given: Any) -> Any:
    usual = {"plan": RUN, "lora": Lora(rank=2, dropout=0.2), "dev": rows(10, 1), "progress": Progress("quiet")}
    return fit("text_classification", data or rows(32), base, out, **{**usual, **given})


@pytest.fixture(scope="module")
def base(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "base"
    checkpoint.save(model(tokenizer), path)
    return path


def test_a_run_that_is_stopped_goes_on_bit_for_bit(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(base, tmp_path / "whole")
    saved = nabi.training.runs.RunFolder.save_last

    def stop(self: Any, built: Model, state: Any, *rest: Any) -> None:
        saved(self, built, state, *rest)
        if state.step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nabi.training.runs.RunFolder, "save_last", stop)
        run(base, tmp_path / "broken")
    with pytest.raises(OptionError, match=r"lora was \{.*'rank': 2"):
        run(base, tmp_path / "broken", resume=True, lora=Lora(rank=3))
    resumed = run(base, tmp_path / "broken", resume=True)
    assert same(weights(resumed.model), weights(whole.model)) and resumed.history == whole.history
    assert same(weights(nabi.load(tmp_path / "broken" / "last")), weights(nabi.load(tmp_path / "whole" / "last")))
    other = run(base, None, plan=Plan(**{**vars(RUN), "seed": 1}))
    assert not same(weights(other.model), weights(whole.model))


def test_only_what_learns_has_a_state_in_the_optimizer(tokenizer: Path) -> None:
    built = model(tokenizer)
    adapters.adapt(built, Lora(rank=2), "nowhere")
    step = next(iter(nabi.train(built, feed(built, rows(16), RUN), RUN)))
    learning = {name for name, p in built.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in step.state().optimizer} - {"body.embeddings.tokens.weight"} == learning
    assert isinstance(step._optimizer, Optimizer)


def test_what_is_in_the_folder_and_where_it_can_go(base: Path, tmp_path: Path) -> None:
    fitted = run(base, tmp_path / "out")
    folder = tmp_path / "out"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "nabi.json", "config.json", "vocab.txt", "README.md", "report.html"} <= names
    assert "model.safetensors" not in names
    ours = json.loads((folder / "nabi.json").read_text())
    assert ours["adapter"]["sha256"] == fingerprint(nabi.load(base).body) and ours["adapter"]["base"] == str(base)
    assert ours["settings"]["labels"] == ["neg", "pos"]
    assert "lora.rank" in (folder / "README.md").read_text()
    text = "the films were great"
    wanted = fitted.model.predict(text)
    assert nabi.load(folder).predict(text) == wanted
    assert nabi.pipeline("text-classification", str(folder))(text)[0]["label"] == wanted["label"]
    assert not [f for f in check_model(str(folder)) if f["severity"] != "info" and f["code"] != "vocabulary"]
    # moved together with its base, it is found beside it
    shutil.copytree(base, tmp_path / "elsewhere" / "base")
    shutil.copytree(folder, tmp_path / "elsewhere" / "adapter")
    config = tmp_path / "elsewhere" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "gone" / "base")}))
    assert nabi.load(tmp_path / "elsewhere" / "adapter").predict(text) == wanted


def test_a_base_that_is_missing_or_another_is_refused(base: Path, tokenizer: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    run(moved, tmp_path / "apart" / "out")
    shutil.rmtree(moved)
    with pytest.raises(CheckpointError, match=r"the base model of the adapter .*out can't be opened: .*moved.*Put the model there, or write where it is"):
        nabi.load(tmp_path / "apart" / "out")
    checkpoint.save(model(tokenizer, seed=1), moved)
    with pytest.raises(CheckpointError, match="the base model is not the one that this adapter was trained on"):
        nabi.load(tmp_path / "apart" / "out")
    shutil.rmtree(moved)
    shutil.copytree(base, moved)
    assert nabi.load(tmp_path / "apart" / "out").predict("good")


def test_a_merged_model_is_an_ordinary_one(base: Path, tmp_path: Path) -> None:
    fitted = run(base, tmp_path / "out").model
    whole = adapters.merged(fitted)
    checkpoint.save(whole, tmp_path / "whole")
    loaded = nabi.load(tmp_path / "whole")
    assert loaded.origin.adapter is None and loaded.state_dict().keys() == nabi.load(base).state_dict().keys() and not loaded.check_golden()
    examples = [row["text"] for row in rows(12, 3)]
    assert largest_gap([answer["score"] for answer in loaded.predict(examples)], [answer["score"] for answer in fitted.predict(examples)]) <= 1e-6
    assert all(p.requires_grad for p in whole.parameters())
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert same(own(fitted.body), own(nabi.load(base).body))  # nothing is shared
    with pytest.raises(OptionError, match="no adapters to merge"):
        adapters.merged(loaded)
    further = run(tmp_path / "whole", tmp_path / "second")
    assert nabi.load(tmp_path / "second").origin.adapter.base == str(tmp_path / "whole") and further.out


def test_an_adapter_as_base_is_trained_further(base: Path, tmp_path: Path) -> None:
    first = run(base, tmp_path / "first").model
    second = run(tmp_path / "first", tmp_path / "second", lora=None, plan=Plan(steps=4, batch=8))
    assert second.model.origin.adapter == first.origin.adapter and not same(weights(second.model), weights(first))
    assert same(own(second.model.body), own(nabi.load(base).body))
    with pytest.raises(OptionError, match="this model has adapters already"):
        run(tmp_path / "first", tmp_path / "third")
    with pytest.raises(OptionError, match="adapters need a base model"):
        fit("text_classification", rows(8), family="bert", tokenizer=base, lora=Lora())


def test_a_new_head_for_other_labels_goes_with_the_adapter(base: Path, tmp_path: Path) -> None:
    data = [{**row, "label": f"{row['label']}{i % 2}"} for i, row in enumerate(rows(32))]
    data += [{**row, "label": "third"} for row in rows(8, 2)]
    run(base, tmp_path / "out", data=data, dev=None)
    assert len(nabi.load(tmp_path / "out").task.settings.labels) == 3


# ---- the command line --------------------------------------------------------------------------------------------------------------------------------


def test_the_commands_train_inspect_predict_and_merge_an_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(24)))
    usual = ["--task", "text_classification", "--data", "train.jsonl", "--base", str(base), "--set", "plan.steps=3", "--set", "plan.batch=8"]

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(list(words))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    assert call("train", *usual, "--out", "out", "--set", "lora.rank=4", "--set", "lora.targets=q,v")[0] == 0
    code, out, _ = call("inspect", "out", "--json")
    facts = json.loads(out)
    model_ = nabi.load("out")
    learnt = sum(p.numel() for p in model_.parameters() if p.requires_grad)
    assert code == 0 and facts["adapter"][0].startswith(f"{learnt:,} of ") and "LoRA of rank 4 on 4 layers" in facts["adapter"][0]
    assert facts["adapter"][1] == f"it belongs to {base}"
    answer = call("predict", "out", "a great film", "--json")
    assert answer[0] == 0 and call("merge", "out", "--out", "whole")[0] == 0
    assert largest_gap(json.loads(call("predict", "whole", "a great film", "--json")[1])["score"], json.loads(answer[1])["score"]) <= 1e-6
    assert call("merge", "out", "--out", "whole")[0] == 2 and "not empty" in call("merge", "out", "--out", "whole")[2]
    assert "no adapters to merge" in call("merge", "whole", "--out", "again")[2]
    code, _, err = call("train", *usual, "--out", "other", "--set", "lora.rnak=4")
    assert code == 2 and "unknown key 'rnak'" in err and "rank" in err and not Path("other").exists()
    code, out, _ = call("train", *usual, "--find-rate", "rates.html", "--json")
    found = json.loads(out)
    assert code == 0 and found["page"] == "rates.html" and found["suggestion"] > 0 and len(found["rates"]) == len(found["losses"])
    assert "<svg" in Path("rates.html").read_text()
    for words, message in ((["--find-rate", "rates.txt"], "ends in .html"), (["--find-rate", "a.html", "--resume"], "goes without --resume")):
        code, _, err = call("train", *usual, *words)
        assert code == 2 and message in err
