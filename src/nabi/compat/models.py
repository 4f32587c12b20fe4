"""``BertModel``, ``BertForSequenceClassification`` and the rest: one class over nabi's bodies and heads; their names are made from the families' tables.

A class is a family and the kinds of its heads (``HF.heads``), so a head that a family learns is here without a line. Here are where a model comes from and
goes to and what it takes; what a call computes stands in ``forwards``, the Auto classes in ``autos``. Unusual: an argument that can't be honoured is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nabi import families
from nabi.compat import seeing
from nabi.compat.configs import PretrainedConfig, without_hub
from nabi.compat.configs import class_named as config_class
from nabi.compat.forwards import output
from nabi.compat.names import SEEING, STEMS, TYPES
from nabi.compat.writing import GenerationConfig, written
from nabi.config import read_file
from nabi.errors import CheckpointError, InputError, OptionError, unknown
from nabi.families import HF, Family
from nabi.folder import Folder, name_table
from nabi.nn.body import Body
from nabi.nn.heads import Head
from nabi.nn.linear import Linear, normal_
from nabi.weights import atomic_folder, place, write_tensors
from nabi.weights.download import with_token
from nabi.weights.sources import resolve

SAY = logging.getLogger("nabi.compat")
POOLED = ("Bert", "Roberta", "XLMRoberta", "Camembert")  # their base model has a pooler, whether or not a head reads it
# arguments of from_pretrained that steer what nabi decides by itself
NO_EFFECT = frozenset({"attn_implementation", "low_cpu_mem_usage", "use_safetensors"})
_INPUTS = ("input_ids", "attention_mask", "position_ids", "output_attentions", "output_hidden_states", "return_dict")
_REFUSED = {
    "head_mask": "mute a head with nabi.nn.watch",
    "cross_attn_head_mask": "mute a head with nabi.nn.watch",
    "decoder_head_mask": "mute a head with nabi.nn.watch",
    "inputs_embeds": "nabi.nn.body.Body.forward takes embedded=",
    "decoder_inputs_embeds": "nabi.nn.body.Body.forward takes embedded=",
    "past_key_values": "call generate(), which keeps a past of its own",
    "encoder_outputs": "give input_ids",
    "cache_position": "leave it out",
}
_LABELS = {"row": ("labels",), "token": ("labels",), "span": ("start_positions", "end_positions"), "choice": ("labels",), "next_sentence": ("labels",)}


class Pooler(nn.Module):
    """The first token through a dense layer and tanh: ``pooler_output`` of a base model."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W) -> (N, W)."""
        y: Tensor = self.dense(x)
        return y.tanh()


class PreTrainedModel(nn.Module):
    """A body with its heads, padded tensors in and out.

    Args:
        config: of this family; its weights are drawn from torch's global generator.
        add_pooling_layer: whether a base model has a pooler, where its family has one.
    """

    model_type: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ()
    end: ClassVar[str] = "Model"
    main_input_name: ClassVar[str] = "input_ids"
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__()
        if not self.model_type or not isinstance(config, PretrainedConfig) or config.model_type != self.model_type:
            expected = f"a {TYPES[self.model_type]}Config" if self.model_type else "a class of a family, such as BertModel"
            raise OptionError(f"{type(self).__name__} can't be made from this", value=type(config).__name__, expected=expected)
        family = self._family()
        self._build(families.build(family, family.body.cut(config.sizes(), self.kinds)), config, add_pooling_layer)
        if not self.parameters_on_meta:
            generator = torch.Generator(self.device).manual_seed(int(torch.randint(1 << 31, ())))
            self.body.initialise(generator)
            self._fresh(self.named_state(), generator)

    def _build(self, body: Body, config: PretrainedConfig, pooling: bool) -> None:
        self.body, self.config, self.task = body, config, nn.ModuleDict()
        self.generation_config = GenerationConfig()
        self.name_or_path = config.name_or_path
        sizes = {"pooled": body.hidden_size, "row": config.num_labels, "token": config.num_labels, "span": 2, "choice": 1, "next_sentence": 2}
        for kind in self.kinds:
            spec = body.heads[kind]
            size = body.tables["tokens"] if kind == "vocabulary" else sizes[kind]
            self.task[kind] = Head(spec, body.hidden_size, size, dropout=body.head_dropout.get(kind, 0.0), std=body.init_std)
            if spec.tied_to is not None:
                body.get_submodule(spec.tied_to).scored = True  # type: ignore[assignment]
        self.pooler = Pooler(body.hidden_size) if pooling and not self.kinds and TYPES[self.model_type] in POOLED else None

    @classmethod
    def _family(cls) -> Family:
        return families.find(str(families.of_type(cls.model_type)))

    @classmethod
    def _hf(cls) -> HF:
        hf = cls._family().hf
        assert hf is not None
        return hf

    # ---- where it comes from and goes to ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: PretrainedConfig | None = None,
        revision: str | None = None,
        torch_dtype: Any = None,
        dtype: Any = None,
        ignore_mismatched_sizes: bool = False,
        add_pooling_layer: bool = True,
        token: Any = None,
        use_auth_token: Any = None,
        **settings: Any,
    ) -> PreTrainedModel:
        """A model folder or a model of the hub, in eval mode; heads that it lacks are drawn anew, and a warning says so.

        Args:
            pretrained_model_name_or_path: folder, or id.
            config: takes the place of the folder's.
            revision: branch, tag or commit of a hub's model.
            torch_dtype, dtype: of the tensors, a name or torch's; float32 if None, ``auto`` as the files have them.
            ignore_mismatched_sizes: draw a head anew that the folder has in another size.
            add_pooling_layer: whether a base model has a pooler.
            settings: of the configuration: ``num_labels``, ``id2label``, ``output_attentions``, ``attention_dropout`` ...

        Raises:
            CheckpointError: no such folder, or of another family.
            OptionError: a setting that the family does not know.
        """
        settings = {key: value for key, value in without_hub(settings).items() if key not in NO_EFFECT}
        for name, fix in {"device_map": "model.to(device)", "from_tf": "convert it", "from_flax": "convert it", "quantization_config": "leave it out",
                          "output_loading_info": "read the warnings", "state_dict": "model.load_state_dict()"}.items():  # fmt: skip
            if settings.pop(name, None):
                raise OptionError(f"{name} is not taken here", value=str(pretrained_model_name_or_path), fix=f"use {fix}" if "(" in fix else fix)
        with with_token(token if token is not None else use_auth_token):
            folder = Folder(resolve(pretrained_model_name_or_path, revision))
        if config is None:
            config = PretrainedConfig.from_dict(folder.config)
            config._data["_name_or_path"] = str(pretrained_model_name_or_path)
        config.update(settings)
        found = cls._chosen(config)
        if found.model_type != config.model_type:
            fix = f"take {TYPES[config.model_type]}{found.end} or an Auto class"
            raise CheckpointError(f"this is no model for {cls.__name__}", value=f"{pretrained_model_name_or_path}: {config.model_type}", fix=fix)
        kind = dtype_of(dtype if dtype is not None else torch_dtype, folder)
        made = found._loaded(folder, config, ignore_mismatched_sizes, add_pooling_layer)
        path = folder.path / "generation_config.json"
        if path.is_file():
            made.generation_config = GenerationConfig(**read_file(path, CheckpointError))
        return made.to(kind).eval()

    @classmethod
    def _chosen(cls, config: PretrainedConfig) -> type[PreTrainedModel]:
        return cls

    @classmethod
    def _loaded(cls, folder: Folder, config: PretrainedConfig, ignore: bool, pooling: bool) -> PreTrainedModel:
        folder.sizes = config.sizes(folder.files)
        made = object.__new__(cls)
        nn.Module.__init__(made)
        tensors, body = folder.tensors(cls.kinds), folder.body(cls.kinds)
        with torch.device("meta"):
            made._build(body, config, pooling)
        wanted = made.named_state()
        if made.pooler is not None:
            hf = cls._hf()
            names = {f"pooler.dense.{x}": (f"{hf.prefix}pooler.dense.{x}", f"pooler.dense.{x}") for x in ("weight", "bias")}
            tensors |= {ours: folder.files[name] for ours, theirs in names.items() for name in theirs if name in folder.files}
        other = {name for name, x in tensors.items() if name in wanted and not name.startswith("body.") and x.shape != wanted[name].shape}
        if other and not ignore:
            shown = "; ".join(f"{name}: {tuple(tensors[name].shape)} in the files, {tuple(wanted[name].shape)} wanted" for name in sorted(other))
            fix = "give as many labels as the folder has, or draw the head anew with ignore_mismatched_sizes=True"
            raise CheckpointError("the folder's head has another size", value=f"{folder.path}: {shown}", fix=fix)
        fresh = sorted(other | (wanted.keys() - tensors.keys()))
        if lost := [name for name in fresh if name.startswith("body.")]:
            raise CheckpointError(f"tensors are missing in the checkpoint ({len(lost)} of them)", value=f"{folder.path}: {', '.join(lost[:5])}")
        place(made, {name: x for name, x in tensors.items() if name not in fresh and name in wanted}, dtype=torch.float32)
        if fresh:
            drawn = {name: torch.empty_like(wanted[name], device="cpu", dtype=torch.float32) for name in fresh}
            place(made, drawn)
            made._fresh(drawn, torch.Generator().manual_seed(int(torch.randint(1 << 31, ()))))
            SAY.warning("%s: %s is not in %s and starts with fresh weights: train it before you use it", cls.__name__, ", ".join(fresh), folder.path)
        return made

    def named_state(self) -> dict[str, Tensor]:
        """Tensors under nabi's names, as ``state_dict``."""
        return dict(self.state_dict())

    @torch.no_grad()
    def _fresh(self, names: Mapping[str, Any], generator: torch.Generator) -> None:
        """Fill the named tensors of heads and pooler as at the begin of training; the others stay."""
        kept = {name: x.clone() for name, x in self.named_state().items() if not name.startswith("body.") and name not in names}
        for head in self.task.values():
            head.initialise(generator)  # type: ignore[operator]
        if self.pooler is not None:
            normal_(self.pooler, self.body.init_std, generator)
        state = self.named_state()
        for name, x in kept.items():
            state[name].copy_(x)

    def save_pretrained(self, save_directory: str | Path, **strange: Any) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``generation_config.json`` under the incumbent's names; the folder is written whole or not at all.

        Files of other names that lie in the folder, such as a tokenizer's, stay.
        """
        for name in strange.keys() - {"safe_serialization", "max_shard_size", "push_to_hub"} | {n for n in ("push_to_hub",) if strange.get(n)}:
            raise unknown("argument of save_pretrained", name, ["save_directory"])
        hf, path = self._hf(), Path(save_directory)
        state = {name: x.detach() for name, x in self.named_state().items()}
        pooler = {name: state.pop(name) for name in list(state) if name.startswith("pooler.")}
        # what a folder was loaded with and save_pretrained writes beside it: a tokenizer's files
        beside = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} if path.is_dir() else {}
        mine = ("config.json", "model.safetensors", "generation_config.json", "nabi.json")
        with atomic_folder(path) as folder:
            for name, data in beside.items():
                if name not in mine:
                    (folder / name).write_bytes(data)
            write_tensors(folder, {**self._table().save(state), **pooler})
            self.config._data["architectures"] = [TYPES[self.model_type] + (hf.heads[self.kinds][0] if self.kinds else "Model")]
            self.config.save_pretrained(folder)
            self.generation_config.save_pretrained(folder)

    def _table(self) -> Any:
        hf = self._hf()
        return name_table(self._family(), self.kinds, "" if not self.kinds or self.kinds in hf.bare else hf.prefix, self.body.heads)

    # ---- what version 4's models answer ------------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    @property
    def parameters_on_meta(self) -> bool:
        """Whether the model has no memory, as when it was made under ``torch.device("meta")``."""
        return self.device.type == "meta"

    @property
    def base_model(self) -> Body:
        """nabi's body, which reads packed rows."""
        return self.body

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Numbers in all parameters, each tensor once."""
        left_out = {id(self.get_input_embeddings().weight)} if exclude_embeddings else set()
        return sum(p.numel() for p in self.parameters() if (p.requires_grad or not only_trainable) and id(p) not in left_out)

    def get_input_embeddings(self) -> Any:
        """The table of tokens."""
        return self.body.get_submodule("embeddings.tokens")

    def resize_token_embeddings(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True) -> Any:
        """The table of tokens, if it has as many rows as are asked for.

        Raises:
            OptionError: another number of rows.
        """
        rows = self.get_input_embeddings().weight.shape[0]
        if new_num_tokens is not None and (new_num_tokens != rows or pad_to_multiple_of):
            what = "the table of tokens can't be resized here"
            raise OptionError(what, value=new_num_tokens, expected=f"{rows}, its rows", fix="make the model with this vocab_size, or add no tokens")
        return self.get_input_embeddings()

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the incumbent's names, so that scripts that choose by them (``LayerNorm.weight``, ``bias``) choose the same.

        Several of the incumbent's tensors that are one here have their names joined by ``+``.
        """
        for name, parameter in super().named_parameters("", recurse, remove_duplicate):
            theirs = name if name.startswith("pooler.") else "+".join(self._table_names(name, parameter))
            yield (f"{prefix}.{theirs}" if prefix else theirs), parameter

    def _table_names(self, name: str, parameter: Tensor) -> list[str]:
        if "_theirs" not in self.__dict__:
            self.__dict__["_theirs"] = {}
        known: dict[str, list[str]] = self.__dict__["_theirs"]
        if name not in known:
            known[name] = list(self._table().save({name: torch.empty(parameter.shape, device="meta")}))
        return known[name]

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Refused.

        Raises:
            OptionError: always.
        """
        raise OptionError("gradient checkpointing is not built", fix="take smaller batches")

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **options: Any) -> Tensor:
        """Token ids that the model writes, padded, as version 4 returns them.

        Args:
            inputs: (N, L) int64, the prompts or the source; also as ``input_ids``.
            generation_config: settings for this call in place of the model's.
            options: ``attention_mask`` and settings: ``max_new_tokens``, ``max_length``, ``num_beams``, ``do_sample``, ``top_k``, ``top_p``, ``temperature``,
                ``no_repeat_ngram_size`` ... (``nabi.decoding.Settings``).

        Returns:
            (N x num_return_sequences, longest): prompt and answer of a decoder, start token and answer of an encoder-decoder; then padding.

        Raises:
            OptionError: a setting that is unknown or not built, or a model that writes nothing.
        """
        ids = options.pop("input_ids", None) if inputs is None else inputs
        if self.kinds != ("vocabulary",) or self.body.generates is None:
            raise OptionError(f"{type(self).__name__} writes nothing", fix="take a class for it, such as AutoModelForCausalLM or AutoModelForSeq2SeqLM")
        return written(self, ids, self.generation_config if generation_config is None else generation_config, options)

    def _head(self, kind: str) -> Head:
        head = self.task[kind]
        assert isinstance(head, Head)
        return head

    @property
    def _sees(self) -> bool:
        """Whether it reads images and no text."""
        return "text" not in self.body.needs

    def _known(self) -> list[str]:
        """The arguments of a call."""
        known = [*(seeing.ARGUMENTS if self._sees else _INPUTS), *(name for kind in self.kinds for name in _LABELS.get(kind, ("labels",)))]
        if self.kinds == ("vocabulary", "next_sentence"):
            known.append("next_sentence_label")
        if "segments" in self.body.needs.get("text", ()):
            known.append("token_type_ids")
        if self.body.generates is not None:
            known.append("use_cache")
        if self.body.generates == "target" and "decoder" not in self.body.without:
            known += ["decoder_input_ids", "decoder_attention_mask"]
        return list(dict.fromkeys(known))

    def forward(self, input_ids: Tensor | None = None, *places: Tensor, **arguments: Any) -> Any:
        """Run the model over padded rows.

        Args:
            input_ids: (N, L) int64; of multiple choice (N, choices, L); of a model of images ``pixel_values`` (N, C, H, W).
            places: ``attention_mask`` and ``token_type_ids`` by place, of encoders.
            arguments: ``attention_mask, token_type_ids, position_ids, decoder_input_ids, decoder_attention_mask, labels, start_positions, end_positions,
                next_sentence_label, output_attentions, output_hidden_states, return_dict, use_cache``, as far as the class has them.

        Returns:
            a :class:`ModelOutput`, or a tuple with ``return_dict=False``.

        Raises:
            OptionError: an argument that is unknown or can't be honoured.
            InputError: tensors that the model can't read.
        """
        known, given = self._known(), dict(arguments)
        by_place = ("attention_mask", *(("token_type_ids",) if "token_type_ids" in known else ())) if self.body.generates != "text" and not self._sees else ()
        if len(places) > len(by_place):
            what = f"{type(self).__name__} takes no more arguments by their place"
            raise OptionError(what, value=1 + len(places), expected=str(1 + len(by_place)), fix="name them")
        given |= dict(zip(by_place, places, strict=False))
        for name, fix in _REFUSED.items():
            if given.pop(name, None) is not None:
                raise OptionError(f"{name} is not taken here", value=type(self).__name__, fix=fix)
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in known:
                raise unknown(f"argument of {type(self).__name__}", name, known)
        if self._sees:
            return self._seen(given.pop("pixel_values", None) if input_ids is None else input_ids, given)
        if not isinstance(input_ids, Tensor):
            raise InputError("there are no input_ids", value=type(input_ids).__name__, expected="a tensor: ask the tokenizer for return_tensors='pt'")
        given = {"use_cache": self.config.use_cache, "return_dict": self.config.return_dict, **given}
        for name in ("output_attentions", "output_hidden_states"):
            given.setdefault(name, getattr(self.config, name))
        found = output(self, input_ids, given)
        if given["return_dict"]:
            return found
        return found.to_tuple()

    def _seen(self, pixels: Any, given: dict[str, Any]) -> Any:
        if not isinstance(pixels, Tensor):
            fix = "ask the image processor for return_tensors='pt'"
            raise InputError("there are no pixel_values", value=type(pixels).__name__, expected="a tensor (N, C, H, W)", fix=fix)
        given = {"return_dict": self.config.return_dict, **given}
        for name in ("output_attentions", "output_hidden_states"):
            given.setdefault(name, getattr(self.config, name))
        found = seeing.output(self, pixels, given)
        return found if given["return_dict"] else found.to_tuple()


@cache
def class_named(stem: str, end: str) -> type[PreTrainedModel] | None:
    """The class of a family with these heads, such as ("Bert", "ForMaskedLM"); None if there is none."""
    model_type = STEMS[stem]
    family = families.of_type(model_type)
    hf = families.find(family).hf if family is not None else None
    if hf is None:
        return None
    kinds = {"Model": (), **{name: kinds for kinds, (name, _) in hf.heads.items()}}.get(end)
    if kinds is None:
        return None
    reads = "pixel_values" if stem in SEEING else "input_ids"
    members = {"model_type": model_type, "kinds": kinds, "end": end, "config_class": config_class(stem), "main_input_name": reads, "__module__": __name__}
    return type(stem + end, (PreTrainedModel,), {**members, "__doc__": f"Version 4's {stem}{end}."})


def class_names() -> list[str]:
    """The names of all classes of families."""
    found = []
    for stem, model_type in STEMS.items():
        family = families.of_type(model_type)
        hf = families.find(family).hf if family is not None else None
        found += [stem + end for end in ("Model", *(end for end, _ in hf.heads.values()))] if hf is not None else []
    return found


def dtype_of(wanted: Any, folder: Folder | None) -> torch.dtype:
    """The dtype of a name; ``auto`` is that of the folder's files.

    Raises:
        OptionError: it is none of a model.
    """
    if wanted == "auto":
        floating = {kind for kind in folder.files.dtypes if kind.is_floating_point} if folder is not None else set()
        return floating.pop() if len(floating) == 1 else torch.float32
    found = getattr(torch, str(wanted).removeprefix("torch."), None) if wanted is not None else torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise OptionError("this is no dtype of a model", value=wanted, expected="'float32', 'bfloat16', 'float16' or 'auto'")
    return found
