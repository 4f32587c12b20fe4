"""Several processes: equal gradients however the rows are shared, equal losses under DDP and FSDP2, and states that any number of processes goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nabi import ranks
from nabi.errors import OptionError
from training.small import same
from training.together import Together

PLAN = {"steps": 30, "batch": 8, "tokens": 60, "learning_rate": 3e-3, "seed": 3}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    found = Together(tmp_path_factory.mktemp("together"))
    yield found
    found.close()


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("kind", ["classifier", "pretraining", "adapters"])
def test_the_gradient_is_the_same_however_the_rows_are_shared(kind: str, tokenizer: Path, together: Together) -> None:
    whole = together("one_gradient", 1, tokenizer=str(tokenizer), kind=kind, plan={**PLAN, "tokens": 100000})[0]
    assert whole["micro"] == 1 and max(float(x.abs().max()) for x in whole["gradient"].values()) > 1e-2
    shared = {
        "8 x 1": (1, {"tokens": 1}),
        "2 x 4": (2, {"tokens": 1}),
        "2": (2, {"tokens": 60}),
        "2, FSDP2": (2, {"tokens": 60, "parallel": "fsdp"}),
        "4, a filler among them": (4, {"tokens": 100}),
        "4, FSDP2, recomputed": (4, {"tokens": 1, "parallel": "fsdp", "recompute": True}),
    }
    for name, (world, changed) in shared.items():
        found = together("one_gradient", world, tokenizer=str(tokenizer), kind=kind, plan={**PLAN, **changed})
        for each in found:
            assert gap(each["gradient"], whole["gradient"]) <= 1e-6, name
            assert each["losses"] == pytest.approx(whole["losses"], abs=1e-6) and each["norm"] == pytest.approx(whole["norm"], rel=1e-5)
            assert each["tokens"] == whole["tokens"], name
        if changed["tokens"] == 1:
            assert sum(each["micro"] for each in found) == 8
    other = together("one_gradient", 2, tokenizer=str(tokenizer), kind=kind, plan={**PLAN, "seed": 4})[0]  # the control: other rows
    assert gap(other["gradient"], whole["gradient"]) > 1e-4


def test_ddp_and_fsdp_of_one_size_give_the_same_bits_and_of_another_nearly(tokenizer: Path, together: Together) -> None:
    given: dict[str, Any] = {"tokenizer": str(tokenizer), "to": 30}
    alone = together("some_steps", 1, plan=PLAN, **given)[0]
    for world in (2, 4):
        ddp = together("some_steps", world, plan=PLAN, **given)
        fsdp = together("some_steps", world, plan={**PLAN, "parallel": "fsdp"}, **given)
        for each in (*ddp, *fsdp):
            assert each["losses"] == ddp[0]["losses"] and same(each["weights"], ddp[0]["weights"]), world
            assert same(each["optimizer"], ddp[0]["optimizer"]) and min(each["shares"]) > 0
        assert max(abs(a - b) for a, b in zip(ddp[0]["losses"], alone["losses"], strict=True)) <= 2e-6
    assert alone["losses"][-1] < alone["losses"][0] - 0.1  # something was learnt


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"unfreeze": 1, "layer_decay": 0.5, "batch": 16}, id="gradual unfreezing"),
        pytest.param({}, marks=pytest.mark.slow, id="usual"),
        pytest.param({"precision": "bf16"}, marks=pytest.mark.slow, id="bf16"),
        pytest.param({"recompute": True}, marks=pytest.mark.slow, id="recomputed"),
    ],
)
def test_a_run_goes_on_from_any_number_of_processes(changed: dict[str, Any], tokenizer: Path, together: Together, tmp_path: Path) -> None:
    plan = {**PLAN, **changed}
    near = 2e-6 if "precision" not in changed else 2e-3
    given: dict[str, Any] = {"tokenizer": str(tokenizer)}
    alone = together("some_steps", 1, plan=plan, to=30, **given)[0]
    losses: list[float] = []
    state: str | None = None
    for to, world, parallel in ((8, 1, "ddp"), (15, 2, "fsdp"), (20, 4, "ddp"), (26, 2, "ddp"), (30, 1, "ddp")):
        found = together("some_steps", world, plan={**plan, "parallel": parallel}, to=to, state=state, **given)
        losses += found[0]["losses"]
        state = str(tmp_path / f"{to}.pt")
        torch.save({k: found[0][k] for k in ("weights", "optimizer", "step")}, state)
    assert max(abs(a - b) for a, b in zip(losses, alone["losses"], strict=True)) <= near
    # the control: without the optimizer's memory the losses are others
    torch.save({**torch.load(tmp_path / "15.pt"), "optimizer": {}}, tmp_path / "without.pt")
    forgot = together("some_steps", 2, plan=plan, to=30, state=str(tmp_path / "without.pt"), **given)[0]
    assert max(abs(a - b) for a, b in zip(forgot["losses"], alone["losses"][15:], strict=True)) > 100 * 2e-6


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_layers_that_thaw_on_the_way_learn_from_all_processes(parallel: str, tokenizer: Path, together: Together) -> None:
    given: dict[str, Any] = {"tokenizer": str(tokenizer), "to": 13}
    plan = {**PLAN, "unfreeze": 1, "batch": 16}  # three steps an epoch, four groups: the last thaws at step 10
    alone = together("some_steps", 1, plan=plan, **given)[0]
    both = together("some_steps", 2, plan={**plan, "parallel": parallel}, **given)
    assert same(both[0]["weights"], both[1]["weights"])
    assert max(abs(a - b) for a, b in zip(both[0]["losses"], alone["losses"], strict=True)) <= 2e-6
    thawed = together("some_steps", 1, plan={**plan, "unfreeze": 0}, **given)[0]  # the control
    assert max(abs(a - b) for a, b in zip(thawed["losses"], alone["losses"], strict=True)) > 1e-3


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_with_dropout_a_group_that_goes_on_is_the_unbroken_one(parallel: str, tokenizer: Path, together: Together, tmp_path: Path) -> None:
    given: dict[str, Any] = {"tokenizer": str(tokenizer), "dropout": 0.2, "plan": {**PLAN, "parallel": parallel}}
    unbroken = together("some_steps", 2, to=20, **given)[0]
    half = together("some_steps", 2, to=9, **given)[0]
    torch.save(half, tmp_path / "half.pt")
    rest = together("some_steps", 2, to=20, state=str(tmp_path / "half.pt"), **given)[0]
    assert half["losses"] + rest["losses"] == unbroken["losses"] and same(rest["weights"], unbroken["weights"])
    alone = together("some_steps", 1, to=20, **given)[0]  # the control: dropout depends on the process
    assert max(abs(a - b) for a, b in zip(alone["losses"], unbroken["losses"], strict=True)) > 1e-3


def test_recomputing_gives_the_same_bits(tokenizer: Path, together: Together) -> None:
    given: dict[str, Any] = {"tokenizer": str(tokenizer), "dropout": 0.2, "to": 10}
    plans = ({**PLAN, "recompute": recompute} for recompute in (False, True))
    kept, again = (together("some_steps", 1, plan=plan, **given)[0] for plan in plans)
    assert kept["losses"] == again["losses"] and same(kept["weights"], again["weights"])


def test_all_stop_at_the_step_at_which_one_was_asked_to(tokenizer: Path, together: Together) -> None:
    plan = {**PLAN, "steps": 4}
    for who in (0, 1):
        assert together("asked_to_stop", 2, tokenizer=str(tokenizer), plan=plan, who=who, at=3) == [[False, False, True, False]] * 2
    assert together("asked_to_stop", 2, tokenizer=str(tokenizer), plan=plan, who=2, at=3) == [[False] * 4] * 2  # the control: nobody


def test_one_that_does_not_come_is_named(together: Together) -> None:
    assert ranks.PATIENCE == 20.0
    soon = {"NABI_PREFLIGHT": "3"}
    first, *_ = together("met_late", 3, late=2, seconds=5, environment=soon)
    assert "process 2 of 3 did not come within 3 s" in first
    first, second, _ = together("met_late", 3, late=1, seconds=0, environment=soon, absent=[2])  # it never began
    assert "process 2 of 3 did not come within 3 s" in first and "did not come within 3 s" in second
    assert "process 0 of 2 did not come within 3 s" in together("met_late", 2, late=1, seconds=0, environment=soon, absent=[0])[1]
    assert together("met_late", 2, late=1, seconds=1, environment=soon) == ["met", "met"]


def test_processes_that_were_given_other_things_are_told_which(together: Together) -> None:
    facts = [{"data": "a", "version": 1}, {"data": "b", "version": 1}, {"data": "a", "version": 1}]
    for told in together("disagreed", 3, facts=facts):
        assert "data is 'a' in processes 0, 2; 'b' in process 1" in told and "version" not in told.partition("Start all")[0]
    assert together("disagreed", 2, facts=facts[::2]) == ["agreed", "agreed"]


def test_a_run_whose_processes_have_other_plans_is_refused_by_all(tokenizer: Path, together: Together) -> None:
    for told in together("fitted_differently", 2, tokenizer=str(tokenizer)):
        assert "plan.batch is 4 in process 0; 5 in process 1" in told and "plan.steps" not in told


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is no number: 'two'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but not what belongs to it"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK is out of range: 2. Expected 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT is no number: 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "NABI_PREFLIGHT": "soon"}, "NABI_PREFLIGHT is no number: 'soon'"),
    ],
)
def test_an_environment_that_is_not_torchruns(environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError) as caught:
        ranks.found()
    assert message in str(caught.value)
