"""Models of ``nabi.compat`` beside the incumbent's version 4 (``tests/golden/v4_compat.py``): ragged rows, padded on either side, in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nabi.compat as nc
from compat import tiny
from nabi.errors import CheckpointError, InputError, MissingHeadError, OptionError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "v4_compat.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-5
CONTROL = 100 * TOLERANCE
# a head of version 4 reads the first column, which is padding where that is on the left; here it reads the row's first token
FIRST_COLUMN = {"pooler_output", "seq_relationship_logits"}
# version 4 counts the constant tables of positions, twice 24 x 16
CONSTANT = {"MarianMTModel": 2 * 24 * 16}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    base = tmp_path_factory.mktemp("models")
    return cache(lambda name, seed=0: getattr(nc, name).from_pretrained(tiny.model_folder(name, base / f"{name}{seed}", seed)))


def first_column(name: str, key: str) -> bool:
    encoder = tiny.stem_of(name) in ("Bert", "DistilBert", "Roberta")
    return key in FIRST_COLUMN or (encoder and key == "logits" and name.endswith(tiny.POOLED))


def gap(ours: Tensor, golden: dict[str, Any], key: str, given: dict[str, Tensor]) -> float:
    """The largest difference where there are tokens, as a share of the largest value where that is above 1."""
    theirs = torch.tensor(golden["values"]).view(golden["shape"])
    assert ours.shape == theirs.shape, (key, ours.shape, theirs.shape)
    mask = given["attention_mask"].bool()
    if "attentions" in key and "decoder" not in key and "cross" not in key:
        ours, theirs = ours.movedim(1, -1)[mask], theirs.movedim(1, -1)[mask]  # queries that are masked
    elif ours.dim() >= 2 and ours.shape[:2] == mask.shape and "decoder" not in key:
        ours, theirs = ours[mask], theirs[mask]
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


def gaps(model: Any, name: str, side: str, **changes: Any) -> dict[str, float]:
    given = tiny.padded(name, side)
    with torch.no_grad():
        out = model(**{**given, **changes}, output_attentions=True, output_hidden_states=True)
    assert list(out) == GOLDEN["keys"][name]
    found = {}
    for key, wanted in GOLDEN["models"][f"{name} {side}"].items():
        ours, theirs = (out[key], wanted) if isinstance(out[key], tuple) else ([tiny.part(key, out[key])], [wanted])
        assert len(ours) == len(theirs) > 0
        found[key] = max(gap(a, b, key, given) for a, b in zip(ours, theirs, strict=True))
    return found


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_results_of_padded_rows(name: str, side: str, opened: Callable[..., Any]) -> None:
    """Every result under its name: hidden values, poolers, scores, the states of all layers and the weights of all attentions."""
    found = gaps(opened(name), name, side)
    differ = {key for key in found if side == "left" and first_column(name, key)}
    assert all(value > CONTROL if key in differ else value <= TOLERANCE for key, value in found.items()), found
    controls = gaps(opened(name, 1), name, side)
    assert min(controls.values()) >= CONTROL, controls


@pytest.mark.parametrize("name", ["BertModel", "GPT2LMHeadModel", "T5Model"])
def test_control_a_mask_that_is_not_read_shows(name: str, opened: Callable[..., Any]) -> None:
    side = "right" if name != "GPT2LMHeadModel" else "left"
    given = tiny.padded(name, side)
    changes = {"attention_mask": torch.ones_like(given["attention_mask"])}
    assert max(gaps(opened(name), name, side, **changes).values()) >= CONTROL


@pytest.mark.parametrize("name", tiny.LOSSES)
def test_losses_and_gradients(name: str, opened: Callable[..., Any]) -> None:
    model = opened(name)
    model.zero_grad()
    loss = model(**tiny.labelled(name)).loss
    loss.backward()
    assert abs(float(loss) - GOLDEN["losses"][name]) <= TOLERANCE * max(1, float(loss))
    assert abs(float(opened(name, 1)(**tiny.labelled(name)).loss) - GOLDEN["losses"][name]) >= CONTROL
    if name in tiny.GRADIENT:
        wanted = GOLDEN["losses"][f"{name} gradient"]
        found = dict(model.named_parameters())[tiny.GRADIENT[name]].grad
        assert float((found - torch.tensor(wanted["values"]).view(wanted["shape"])).abs().max()) <= TOLERANCE


def test_several_labels(opened: Callable[..., Any]) -> None:
    model = opened("BertForSequenceClassification", 0)
    kept, model.config.problem_type = model.config.problem_type, None
    loss = model(**tiny.labelled("BertForSequenceClassification", "multi")).loss
    assert model.config.problem_type == "multi_label_classification"
    model.config.problem_type = kept
    assert abs(float(loss) - GOLDEN["losses"]["multi"]) <= TOLERANCE


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_generate(name: str, opened: Callable[..., Any]) -> None:
    given = {key: value for key, value in tiny.padded(name, tiny.WRITERS[name]).items() if key in ("input_ids", "attention_mask")}
    found = [opened(name).generate(**given, **options).tolist() for options in tiny.GENERATE]
    for options, ours, theirs in zip(tiny.GENERATE, found, GOLDEN["generate"][name], strict=True):
        assert ours == theirs, options
    control = [opened(name, 1).generate(**given, **options).tolist() for options in tiny.GENERATE]
    assert sum(a != b for a, b in zip(control, found, strict=True)) >= len(found) - 1


def test_draws_follow_the_seed(opened: Callable[..., Any]) -> None:
    ids = tiny.padded("GPT2LMHeadModel", "left")["input_ids"][1:2]

    def draw() -> list[list[int]]:
        found = opened("GPT2LMHeadModel").generate(ids, do_sample=True, max_new_tokens=12, top_k=0, temperature=2.0, num_return_sequences=3)
        return list(found.tolist())

    nc.set_seed(1)
    first, second = draw(), draw()
    nc.set_seed(1)
    assert first == draw() and first != second


def test_parameters_are_counted_once(opened: Callable[..., Any]) -> None:
    for name in tiny.MODELS:
        model = opened(name)
        assert model.num_parameters() == sum(t.numel() for t in model.parameters()) == GOLDEN["parameters"][name] - CONSTANT.get(name, 0), name
    for sizes, count in GOLDEN["sizes"].items():
        with torch.device("meta"):
            model = nc.AutoModelForCausalLM.from_config(nc.GPT2Config(**json.loads(sizes)))
        assert sum(t.numel() for t in model.parameters()) == count


def test_parameters_have_the_incumbents_names(opened: Callable[..., Any]) -> None:
    names = [name for name, _ in opened("BertForSequenceClassification").named_parameters()]
    assert "bert.encoder.layer.0.attention.output.LayerNorm.weight" in names and "classifier.bias" in names
    joined = [name for name in names if "+" in name]
    assert joined[0].split("+") == [f"bert.encoder.layer.0.attention.self.{x}.weight" for x in ("query", "key", "value")]


def test_masked_places_are_zero(opened: Callable[..., Any]) -> None:
    given = tiny.padded("BertModel", "right")
    out = opened("BertModel")(**given)
    masked = given["attention_mask"] == 0
    assert bool((out.last_hidden_state[masked] == 0).all()) and bool((out.last_hidden_state[~masked] != 0).any())


def test_outputs_are_mappings_and_tuples(opened: Callable[..., Any]) -> None:
    model, given = opened("BertModel"), tiny.padded("BertModel", "right")
    out = model(**given)
    assert out[0] is out.last_hidden_state is out["last_hidden_state"] and out[:2] == out.to_tuple() and list(out) == ["last_hidden_state", "pooler_output"]
    assert out.attentions is None and out.hidden_states is None
    hidden, pooled = model(**given, return_dict=False)
    assert torch.equal(hidden, out[0]) and torch.equal(pooled, out[1])
    with pytest.raises(AttributeError, match="did you mean 'pooler_output'"):
        _ = out.poler_output
    assert len(model(given["input_ids"], given["attention_mask"], given["token_type_ids"])) == 2


def test_a_past_that_is_not_handed_out_does_not_shift_places(opened: Callable[..., Any]) -> None:
    model, given = opened("GPT2LMHeadModel"), tiny.padded("GPT2LMHeadModel", "right")
    out = model(**given, output_hidden_states=True)
    assert out[0] is out.logits
    for wrong in (lambda: out[1], lambda: out[-1], out.to_tuple, lambda: out[:2], lambda: model(**given, output_hidden_states=True, return_dict=False)):
        with pytest.raises(OptionError, match="past_key_values"):
            wrong()
    with pytest.raises(AttributeError, match="past_key_values"):
        _ = out.past_key_values
    assert model(**given, output_hidden_states=True, use_cache=False)[1] is not None


def test_auto_classes_find_the_class(tmp_path: Path) -> None:
    folder = tiny.model_folder("BertForMaskedLM", tmp_path / "bert")
    assert type(nc.AutoModelForMaskedLM.from_pretrained(folder)) is nc.BertForMaskedLM
    model = nc.AutoModelForTokenClassification.from_pretrained(folder, id2label={0: "O", 1: "B-PS"}, label2id={"O": 0, "B-PS": 1}, output_attentions=True)
    assert type(model) is nc.BertForTokenClassification and model.config.label2id == {"O": 0, "B-PS": 1} and not model.training
    out = model(**tiny.padded("BertForMaskedLM", "right"))
    assert out.logits.shape == (3, 7, 2) and len(out.attentions) == 2
    with pytest.raises(MissingHeadError, match="AutoModelForMaskedLM"):
        nc.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="Take BertModel or an Auto class"):
        nc.GPT2Model.from_pretrained(folder)


def test_heads_that_a_folder_lacks_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.model_folder("BertForSequenceClassification", tmp_path / "bert")
    nc.AutoModelForSequenceClassification.from_pretrained(folder)
    assert not caplog.records
    nc.AutoModelForTokenClassification.from_pretrained(tiny.model_folder("BertForMaskedLM", tmp_path / "masked"))
    assert "task.token.out.weight" in caplog.text and "fresh weights" in caplog.text
    with pytest.raises(CheckpointError, match="ignore_mismatched_sizes=True"):
        nc.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5)
    assert nc.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True).config.num_labels == 5


def test_saved_folders_hold_the_same(tmp_path: Path, opened: Callable[..., Any]) -> None:
    for name in ("BertModel", "GPT2LMHeadModel", "MarianMTModel"):
        opened(name).save_pretrained(tmp_path / name)
        given = tiny.padded(name, "right")
        again = nc.AutoModel.from_pretrained(tmp_path / name) if name == "BertModel" else getattr(nc, name).from_pretrained(tmp_path / name)
        assert torch.equal(again(**given)[0], opened(name)(**given)[0])


def test_dtypes(tmp_path: Path) -> None:
    folder = tiny.model_folder("BertModel", tmp_path / "bert")
    assert nc.BertModel.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert nc.BertModel.from_pretrained(folder, torch_dtype="auto").dtype == torch.float32
    with pytest.raises(OptionError, match="no dtype"):
        nc.BertModel.from_pretrained(folder, torch_dtype="int8")


def test_fine_tuning_by_hand_learns(tmp_path: Path) -> None:
    nc.set_seed(0)
    model = nc.AutoModelForSequenceClassification.from_pretrained(tiny.model_folder("BertModel", tmp_path / "bert"), num_labels=2).train()
    given = {**tiny.padded("BertModel", "right"), "labels": torch.tensor([0, 1, 0])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.1 < losses[0]


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("BertModel", {"atention_mask": torch.ones(3, 7)}, OptionError, "(?i)did you mean 'attention_mask'"),
    ("BertModel", {"labels": torch.ones(3)}, OptionError, "unknown argument of BertModel"),
    ("BertModel", {"head_mask": torch.ones(2)}, OptionError, "head_mask is not taken"),
    ("BertModel", {"inputs_embeds": torch.ones(2)}, OptionError, "embedded="),
    ("BertModel", {"input_ids": [[1, 2]]}, InputError, "return_tensors='pt'"),
    ("BertModel", {"input_ids": torch.full((3, 7), 900)}, InputError, "no vectors for: 900"),
    ("BertModel", {"input_ids": torch.ones(7, dtype=torch.int64)}, InputError, "row by row"),
    ("BertModel", {"attention_mask": torch.zeros(3, 7)}, InputError, "without a token"),
    ("BertModel", {"attention_mask": torch.ones(3, 6)}, InputError, "another shape"),
    ("BertModel", {"attention_mask": torch.full((3, 7), 0.5)}, InputError, "other values than 0 and 1"),
    ("BertModel", {"position_ids": torch.full((3, 7), 24)}, InputError, "no such position: 24"),
    ("RobertaModel", {"position_ids": torch.zeros(3, 7)}, InputError, "counts positions"),
    ("T5Model", {"attention_mask": torch.tensor([[1, 0, 1, 1, 1, 1, 1]] * 3)}, InputError, "hole"),
    ("T5Model", {"decoder_input_ids": None}, InputError, "no decoder_input_ids"),
    ("GPT2LMHeadModel", {"past_key_values": torch.ones(1)}, OptionError, "generate"),
    ("GPT2LMHeadModel", {"token_type_ids": torch.zeros(3, 7)}, OptionError, "unknown argument"),
    ("GPT2LMHeadModel", {"labels": torch.ones(3, 7, dtype=torch.int64)}, InputError, "set labels to -100|Set labels to -100"),
    ("GPT2LMHeadModel", {"labels": torch.full((3, 7), 900)}, InputError, "no class"),
    ("BertForPreTraining", {"labels": torch.full((3, 7), -100)}, OptionError, "go together"),
    ("BertForSequenceClassification", {"labels": torch.tensor([0, 1, 7])}, InputError, "no class"),
    ("BertForTokenClassification", {"labels": torch.zeros(3, 6, dtype=torch.int64)}, InputError, "another shape"),
    ("BertForQuestionAnswering", {"start_positions": torch.tensor([6, 0, 0]), "end_positions": torch.tensor([6, 0, 0])}, InputError, "reads nothing"),
    ("BartForSequenceClassification", {"input_ids": torch.full((3, 7), 9)}, InputError, "end token"),
]


@pytest.mark.parametrize(("name", "changes", "error", "words"), REFUSED)
def test_what_can_not_be_done_is_refused(name: str, changes: dict[str, Any], error: type[Exception], words: str, opened: Callable[..., Any]) -> None:
    given = tiny.padded(name, "right")
    opened(name)(**given)  # control: it is the change that is refused
    with pytest.raises(error, match=words):
        opened(name)(**{**given, **changes})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_token": 3}, "(?i)did you mean 'max_new_tokens'"),
        ({"penalty_alpha": 0.6}, "penalty_alpha"),
        ({"return_dict_in_generate": True}, "not built"),
        ({"num_beams": 2, "do_sample": True}, "exclude each other"),
        ({"stop_strings": "a"}, "need a tokenizer"),
    ],
)
def test_settings_of_generate_that_are_not_built(options: dict[str, Any], words: str, opened: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match=words):
        opened("GPT2LMHeadModel").generate(torch.tensor([[5, 6]]), **options)


def test_what_a_model_does_not_do(opened: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="writes nothing"):
        opened("BertModel").generate(torch.tensor([[5]]))
    with pytest.raises(OptionError, match="can't be resized"):
        opened("BertModel").resize_token_embeddings(10)
    assert opened("BertModel").resize_token_embeddings(tiny.SIZE).weight.shape[0] == tiny.SIZE
    with pytest.raises(OptionError, match="checkpointing"):
        opened("BertModel").gradient_checkpointing_enable()
    with pytest.raises(InputError, match="no room"):
        opened("GPT2LMHeadModel").generate(torch.tensor([[5, 6, 7]]), max_length=3)
    folder = tiny.model_folder("BertModel", tmp_path / "bert")
    for options, words in (({"device_map": "auto"}, "model.to"), ({"trust_remote_code": True}, "never runs"), ({"output_atentions": True}, "(?i)did you mean")):
        with pytest.raises(OptionError, match=words):
            nc.BertModel.from_pretrained(folder, **options)
