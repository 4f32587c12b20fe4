"""The names that version 4 of the incumbent has and this package answers to, without loading anything heavy."""

from __future__ import annotations

# head kinds of the automatic classes, and the part that a body with them writes: None reads only, "any" leaves it open
AUTO_MODELS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "AutoModel": ((), "any"),
    "AutoModelForPreTraining": (("vocabulary", "next_sentence"), None),
    "AutoModelForSequenceClassification": (("row",), "any"),
    "AutoModelForTokenClassification": (("token",), "any"),
    "AutoModelForQuestionAnswering": (("span",), "any"),
    "AutoModelForMultipleChoice": (("choice",), "any"),
    "AutoModelForNextSentencePrediction": (("next_sentence",), None),
    "AutoModelForMaskedLM": (("vocabulary",), None),
    "AutoModelForCausalLM": (("vocabulary",), "text"),
    "AutoModelForSeq2SeqLM": (("vocabulary",), "target"),
    "AutoModelWithLMHead": (("vocabulary",), "any"),
    "AutoModelForImageClassification": (("row",), None),
}
# what the names of classes begin with -> model_type
STEMS = {
    "Bert": "bert",
    "DistilBert": "distilbert",
    "Roberta": "roberta",
    "XLMRoberta": "xlm-roberta",
    "Camembert": "camembert",
    "GPT2": "gpt2",
    "OpenAIGPT": "openai-gpt",
    "T5": "t5",
    "MT5": "mt5",
    "Bart": "bart",
    "Marian": "marian",
    "ViT": "vit",
}
SEEING = frozenset({"ViT"})  # these read images and no text
# class of an image processor -> the stem of the kind that it is; empty for those that take any
IMAGE_PROCESSORS = {
    "AutoImageProcessor": "", "AutoFeatureExtractor": "",
    **{f"{stem}{end}": stem for stem in ("ViT", "CLIP", "ConvNext", "ImageGPT") for end in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor")},
}  # fmt: skip
PROCESSORS = ("AutoProcessor", "CLIPProcessor")  # of texts and images
TYPES = {model_type: stem for stem, model_type in STEMS.items()}
# the tokenizer that a model_type uses where no file says it
TOKENIZERS = {model_type: f"{stem}Tokenizer" for stem, model_type in STEMS.items() if stem not in SEEING} | {"mt5": "T5Tokenizer"}
TOKENIZER_CLASSES = (
    *dict.fromkeys(TOKENIZERS.values()), "ElectraTokenizer", "AlbertTokenizer", "CLIPTokenizer", "MobileBertTokenizer", "LongformerTokenizer",
    "PreTrainedTokenizer",
)  # fmt: skip
# these number the second text of a pair 1 and say so
SEGMENTED = frozenset({"BertTokenizer", "ElectraTokenizer", "AlbertTokenizer", "MobileBertTokenizer", "PreTrainedTokenizer"})
NOT_HERE = {
    "Trainer": "it comes later: train with nabi.fit or `nabi train`, or write the loop, for loss.backward() works",
    "TrainingArguments": "it comes later: nabi.Plan holds the settings of a training",
    "Seq2SeqTrainer": "it comes later: train with nabi.fit or `nabi train`",
    "Seq2SeqTrainingArguments": "it comes later: nabi.Plan holds the settings of a training",
    "AdamW": "it left version 4 as well: take torch.optim.AdamW",
}
FOREIGN = {"TF": "there is no TensorFlow here: take the class without TF", "Flax": "there is no Flax here: take the class without Flax"}
