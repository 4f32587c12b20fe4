"""A tiny CLIP of the incumbent's with an image processor and a tokenizer, in a folder that nabi opens too; and pictures to give both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from conformance.kit import randomised
from training.small import vocabulary

LOOK = {"num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 24, "eos_token_id": 3, **LOOK}
IMAGE = {"hidden_size": 48, "intermediate_size": 96, "image_size": 16, "patch_size": 4, **LOOK}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 16}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], "do_convert_rgb": True,
}  # fmt: skip


def folder(path: Path, seed: int = 0) -> Path:
    """Its folder; all weights from N(0, 0.25), and a tokenizer of BERT's kind, whose [SEP] is the end token."""
    words = vocabulary(path)
    (words / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 24, "do_lower_case": False}))
    size = len((words / "vocab.txt").read_text().split())
    config = transformers.CLIPConfig(text_config={**TEXT, "vocab_size": size}, vision_config=IMAGE, projection_dim=24)
    randomised(transformers.CLIPModel(config), seed).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return path


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Smooth random pictures of several sizes."""
    g = np.random.default_rng(seed)
    sizes = [(20, 16), (16, 16), (33, 18), (17, 40)]
    small = [Image.fromarray(g.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize(sizes[i % len(sizes)]) for i, image in enumerate(small)]


def reference(path: Path) -> tuple[Any, Any, Any]:
    """The incumbent's model, tokenizer and image processor from this folder."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = transformers.CLIPModel.from_pretrained(path).eval()
    return model, transformers.AutoTokenizer.from_pretrained(path), CLIPImageProcessorPil(**{k: v for k, v in PROCESSOR.items() if k != "image_processor_type"})
