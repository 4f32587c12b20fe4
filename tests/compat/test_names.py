"""The names of ``nabi.compat``, configurations beside the incumbent's version 4, and what importing it loads."""

from __future__ import annotations

import json
import logging
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nabi.compat as nc
from compat import tiny
from nabi.compat.names import AUTO_MODELS, STEMS, TOKENIZER_CLASSES
from nabi.errors import CheckpointError, OptionError, TokenizerError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "v4_compat.json").read_text(encoding="utf-8"))
# keys of decoding stand in GenerationConfig; of heads that nabi lacks; of what version 4 itself takes for nothing
UNREAD = {
    "add_cross_attention", "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task", "is_decoder",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature", "tie_encoder_decoder", "top_k", "top_p", "typical_p",
    "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "sinusoidal_pos_embds", "dense_act_fn", "is_gated_act", "tokenizer_class", "tie_word_embeddings",
}  # fmt: skip
LIGHT = """
import sys
import nabi.compat as transformers
dir(transformers)
heavy = {"torch", "numpy", "tokenizers", "safetensors"} & {name.partition(".")[0] for name in sys.modules}
assert not heavy, heavy
from nabi.compat import BatchEncoding
assert "torch" not in sys.modules
from nabi.compat import pipeline
assert callable(pipeline)
"""


def test_importing_it_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_that_is_listed_is_there() -> None:
    for name in (*nc.__all__, *AUTO_MODELS, *TOKENIZER_CLASSES, *(f"{name}Fast" for name in TOKENIZER_CLASSES), *(f"{stem}Config" for stem in STEMS)):
        assert getattr(nc, name) is getattr(nc, name), name
    from nabi.compat.models import class_names

    for name in class_names():
        assert getattr(nc, name).__name__ == name
    assert {"BertForMultipleChoice", "GPT2LMHeadModel", "MarianMTModel", "T5ForConditionalGeneration", "DistilBertForMaskedLM"} <= set(class_names())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Trainer", "It comes later: train with nabi.fit"),
        ("TFAutoModel", "no TensorFlow"),
        ("FlaxBertModel", "no Flax"),
        ("AutoModelForSequenceClasification", "(?i)did you mean 'AutoModelForSequenceClassification'"),
        ("BertForMaskedLn", "(?i)did you mean 'BertForMaskedLM'"),
        ("set_sed", "(?i)did you mean 'set_seed'"),
        ("SwinModel", "and the classes of Bert, DistilBert"),
    ],
)
def test_names_that_are_not_there(name: str, words: str) -> None:
    with pytest.raises(AttributeError, match=words):
        getattr(nc, name)
    with pytest.raises(ImportError):
        exec(f"from nabi.compat import {name}")


@pytest.mark.parametrize("model_type", GOLDEN["defaults"])
def test_defaults_of_configurations(model_type: str) -> None:
    wanted, found = GOLDEN["defaults"][model_type], nc.AutoConfig.for_model(model_type)
    read = {key: value for key, value in wanted.items() if key not in UNREAD}
    assert len(read) > 15
    ours = {key: getattr(found, key) for key in read}
    assert json.loads(json.dumps(ours)) == read
    assert found.hidden_size > 0 and found.num_attention_heads > 0 and found.num_hidden_layers > 0


def test_settings_of_a_configuration(tmp_path: Path) -> None:
    """As the notes type them: another vocabulary and other special tokens over a folder's configuration."""
    nc.GPT2Config().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "merges.txt").write_text("")
    config = nc.AutoConfig.from_pretrained(tmp_path / "gpt2", vocab_size=100, n_ctx=1024, bos_token_id=0, eos_token_id=0, num_hidden_layers=2)
    assert type(config) is nc.GPT2Config and (config.vocab_size, config.n_layer, config.num_hidden_layers, config.n_positions) == (100, 2, 2, 1024)
    config.num_labels = 4
    assert config.id2label[3] == "LABEL_3" and config.label2id["LABEL_3"] == 3
    assert pickle.loads(pickle.dumps(config)) == config and nc.GPT2Config.from_dict(config.to_dict()) == config
    with pytest.raises(OptionError, match="(?i)did you mean 'n_layer'"):
        nc.AutoConfig.from_pretrained(tmp_path / "gpt2", n_layers=2)
    with pytest.raises(OptionError, match="(?i)did you mean 'vocab_size'"):
        config.vocab_sise = 3
    with pytest.raises(AttributeError, match="(?i)did you mean 'vocab_size'"):
        _ = config.vocab_sise
    with pytest.raises(OptionError, match="contradict"):
        nc.BertConfig(num_labels=3, id2label={0: "a", 1: "b"})
    with pytest.raises(CheckpointError, match="take GPT2Config|Take GPT2Config"):
        nc.BertConfig.from_pretrained(tmp_path / "gpt2")
    with pytest.raises(CheckpointError, match="unknown family"):
        nc.AutoConfig.for_model("gpt5")


def test_what_a_family_does_not_compute_is_refused() -> None:
    with pytest.raises(CheckpointError, match="position_embedding_type"):
        nc.BertModel(nc.BertConfig(**tiny.CONFIGS["Bert"], position_embedding_type="relative_key"))
    with pytest.raises(OptionError, match="BertConfig"):
        nc.BertModel(nc.GPT2Config())


def test_names_of_no_folder() -> None:
    for kind in (nc.AutoConfig, nc.AutoTokenizer, nc.AutoModel):
        with pytest.raises((CheckpointError, TokenizerError), match="not exist|no such"):
            kind.from_pretrained("./not-there")


def test_words_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steers the hub from a script is refused where nabi is steered otherwise, never passed over."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hints = {"local_files_only": "HF_HUB_OFFLINE=1", "cache_dir": "HF_HUB_CACHE", "force_download": "delete", "trust_remote_code": "never runs"}
    for kind in (nc.AutoConfig, nc.AutoTokenizer, nc.AutoModel):
        for name, words in hints.items():
            with pytest.raises(OptionError, match=f"(?i){words}"):
                kind.from_pretrained("./not-there", **{name: True})


def test_seeds() -> None:
    def drawn() -> tuple[Any, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - the global generator is meant

    nc.set_seed(3)
    first, second = drawn(), drawn()
    nc.set_seed(3)
    assert drawn() == first != second


def test_logging() -> None:
    before = nc.logging.get_verbosity()
    nc.logging.set_verbosity_error()
    assert nc.logging.get_verbosity() == logging.ERROR and not nc.logging.get_logger("nabi.compat").isEnabledFor(logging.WARNING)
    nc.logging.set_verbosity(before)
    assert nc.logging.get_verbosity() == before
