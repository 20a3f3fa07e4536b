"""What the installed transformers ships: its families and the classes of each.

A family is a directory of `transformers.models`. Its classes are tried in the order in which they
say most: a head that gives logits before a bare model that returns the stream itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LAYER_NORM = re.compile(r"\bLayerNorm\b|\blayer_norm\(|class \w*LayerNorm\w*\(")
# Endings of class names, the most telling first.
_TELLING = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForPreTraining",
    "ForImageClassification", "ForVideoClassification", "ForAudioClassification", "ForCTC",
    "ForSequenceClassification", "ForTokenClassification", "ForObjectDetection",
    "ForDepthEstimation", "ForSemanticSegmentation", "ForUniversalSegmentation",
    "ForSpeechSeq2Seq", "ForPrediction", "ForPoseEstimation", "Model",
)  # fmt: skip


def families() -> tuple[list[str], int]:
    """Families whose code has a LayerNorm, in alphabetical order; and how many there are in all.

    A look at the code, not a verdict: one without cannot have anything to convert.
    """
    import transformers.models

    root = Path(transformers.models.__path__[0])
    code = {path.name: "".join(f.read_text() for f in path.glob("modeling_*.py"))
            for path in root.iterdir()}  # fmt: skip
    named = sorted(name for name, text in code.items() if _LAYER_NORM.search(text))
    return named, sum(map(bool, code.values()))


def classes_of(family: str) -> list[type]:
    """The family's model classes, the most telling first.

    Whole models before towers, and one class of every configuration before a second of any.
    """
    found = {model for module in _modules(family) for model in _models(module)}
    ranked = sorted(found, key=lambda m: (_rank(m.__name__), m.__name__))
    seen: Counter[type] = Counter()
    order: dict[type, tuple[bool, int]] = {}
    for model in ranked:
        config_class = model.config_class  # type: ignore[attr-defined]
        order[model] = is_tower(model), seen[config_class]
        seen[config_class] += 1
    return sorted(ranked, key=lambda m: order[m])


def is_tower(model_class: Any) -> bool:
    """Whether the class is a part of a larger model: its configuration or its name says so."""
    nested = bool(getattr(model_class.config_class, "base_config_key", ""))
    return nested or model_class.__name__.endswith("Backbone")


def _modules(family: str) -> Iterator[Any]:
    package = importlib.import_module(f"transformers.models.{family}")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("modeling_"):
            yield importlib.import_module(f"{package.__name__}.{info.name}")


def _models(module: Any) -> Iterator[type]:
    from transformers import PreTrainedModel

    for name, value in vars(module).items():
        if (
            isinstance(value, type)
            and issubclass(value, PreTrainedModel)
            and value.__module__ == module.__name__
            and not name.endswith("PreTrainedModel")
            and name in getattr(module, "__all__", ())
            and getattr(value, "config_class", None) is not None
        ):
            yield value


def _rank(name: str) -> int:
    return next((rank for rank, end in enumerate(_TELLING) if name.endswith(end)), len(_TELLING))


# Families whose default configuration cannot be built, or is not the one that has pre-LN blocks.
_STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
# The DETR families' default backbone is timm's, which transformers does not bring along.
_RESNET = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": {
        "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1], "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
}  # fmt: skip
_SWIN = {
    "model_type": "swin", "embed_dim": 96, "depths": [1, 1, 1, 1], "num_heads": [3, 6, 12, 24],
    "out_indices": [2, 3, 4],
}  # fmt: skip
_DETR = ("conditional_detr", "dab_detr", "deformable_detr", "detr", "table_transformer")
_SERIES = ("autoformer", "informer", "time_series_transformer")
_STEPS = {"prediction_length": 4, "context_length": 16}
# Every checkpoint says the sections of its positions.
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_THIRDS = {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [16, 24, 24]}}}
_HALF = {**_ROPE, "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5}
_HALF_THIRDS = {"text_config": {"rope_parameters": _HALF}}
# The projector takes in the encoder's width.
_PROJECTOR = {"projector_config": {"model_type": "blip_2_qformer", "encoder_hidden_size": 1024}}
_OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_DETR, _RESNET),
    **dict.fromkeys(_SERIES, _STEPS),
    **{key: {"num_blocks": 1} for key in ("eomt", "eomt_dinov3", "videomt")},
    "cohere_compass": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    # With mean pooling the vision tower hands out the stream itself, mean included.
    "internvl": {"vision_config": {"use_mean_pooling": False}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "esm": {
        "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True,
        "position_embedding_type": "rotary", "emb_layer_norm_before": False,
    },
    "flava": {"return_loss": False},  # the loss wants a codebook's own picture
    "hiera": {"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 2},
    **dict.fromkeys(("paddleocr_vl", "qwen2_vl", "qwen2_5_vl"), _THIRDS),
    **dict.fromkeys(("glm4v", "glm_ocr"), _HALF_THIRDS),
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), _PROJECTOR),
    "aya_vision": {"vision_config": {"num_attention_heads": 16}},  # 14 do not share out 1152
    "voxtral": {"audio_token_id": 24},
    "janus": {"vision_config": {"projection_dim": 4096}},  # its text's width
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 25, "class_order": [*range(25)]},
    # Where the decoder's width is the text's, the class lacks an attribute.
    "omdet_turbo": {
        **_RESNET, "backbone_config": _SWIN, "apply_layernorm_after_vision_backbone": False,
        "encoder_hidden_dim": 192, "decoder_hidden_dim": 192, "encoder_attention_heads": 6,
        "decoder_num_heads": 6, "vision_features_channels": [192] * 3,
    },
    "nemotron": {"num_key_value_heads": 8},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "wav2vec2_bert": {"vocab_size": 32},  # None: a checkpoint of features alone
    "xmod": {"default_language": "en_XX"},
    **dict.fromkeys(("hubert", "unispeech", "unispeech_sat", "wav2vec2", "wavlm"), _STABLE),
}  # fmt: skip


def default_config(family: str, model_class: Any) -> Any:
    """The class's configuration with its default values (and what `_OVERRIDES` says)."""
    chosen = _OVERRIDES.get(family, {})
    if is_tower(model_class):  # the overrides are for the whole; a tower takes those that it knows
        known = set(model_class.config_class().to_dict())
        chosen = {key: value for key, value in chosen.items() if key in known}
    return model_class.config_class(**chosen)
