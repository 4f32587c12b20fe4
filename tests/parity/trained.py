"""A small GPT-2 that nabi trains for some seconds on the messages that it ships, saves and opens again, and the incumbent opens."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import transformers

import nabi
from nabi import checkpoint
from nabi.data.shipped import sms_spam
from parity.written import Incumbent, Pair

END = "<|endoftext|>"
SIZE = {
    "hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_positions": 128, "init_std": 0.1,
    "hidden_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def trained(folder: Path) -> Pair:
    """Both models; texts to begin are messages that were not trained on."""
    train, unseen = ([str(row["text"]) for row in table] for table in sms_spam())
    folder.mkdir()
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        train, tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2TokenizerFast", "eos_token": END, "bos_token": END}), encoding="utf-8")
    plan = nabi.Plan(steps=120, batch=16, learning_rate=5e-3, warmup=0.05)
    fitted = nabi.fit("text_generation", [{"text": text} for text in train], family="gpt2", size=SIZE, tokenizer=folder, plan=plan)
    checkpoint.save(fitted.model, folder / "model")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "model").eval()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    mine = nabi.load(folder / "model", "text_generation")
    texts = [bpe.encode(text).ids for text in unseen]
    return Pair("trained gpt2", mine, Incumbent(model, True), [ids for ids in texts if ids], bpe.token_to_id(END))
