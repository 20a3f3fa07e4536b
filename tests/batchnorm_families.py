"""Tiny random models with BatchNorms, one for every way in which a norm folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.families import build_spec

_RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
_DETR: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 5,
}  # fmt: skip

BATCH_NORM_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet": (
        "ResNetForImageClassification", "ResNetConfig", {**_RESNET, "layer_type": "basic"},
    ),
    "regnet": (
        "RegNetForImageClassification", "RegNetConfig", {**_RESNET, "groups_width": 4},
    ),
    "mobilenet_v2": (
        "MobileNetV2ForImageClassification", "MobileNetV2Config",
        {"depth_multiplier": 0.25, "image_size": 32, "finegrained_output": False},
    ),
    "levit": (
        "LevitForImageClassificationWithTeacher",
        "LevitConfig",
        {
            "image_size": 64, "hidden_sizes": [16, 32, 48], "depths": [1, 1, 1],
            "key_dim": [8, 8, 8], "num_attention_heads": [2, 3, 4],
        },
    ),
    "conformer": (
        "ParakeetForCTC",
        "ParakeetCTCConfig",
        {
            "vocab_size": 17, "pad_token_id": 16,
            "encoder_config": {
                "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                "intermediate_size": 48, "num_mel_bins": 16, "subsampling_conv_channels": 8,
            },
        },
    ),
    "dpt": (
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 32, "image_size": 32, "patch_size": 8,
            "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 8, "use_batch_norm_in_fusion_residual": True,
            "use_bias_in_fusion_residual": False,
        },
    ),
    "pp_lcnet_v3": (
        "PPLCNetV3Backbone",
        "PPLCNetV3Config",
        {
            "scale": 0.25, "conv_symmetric_num": 3,
            "block_configs": [
                [[3, 16, 32, 1, False]], [[3, 32, 32, 1, True]], [[3, 32, 32, 2, False]],
                [[3, 32, 32, 2, False]], [[5, 32, 32, 1, False]],
            ],
        },
    ),
    "detr": ("DetrForObjectDetection", "DetrConfig", _DETR),
}  # fmt: skip


def build_batch_norms(name: str, directory: Path, *, seed: int = 0, dtype: str = "float32") -> Any:
    """Save the model, every parameter and running statistic random; returns it in float32."""
    class_name, config_name, values = BATCH_NORM_FAMILIES[name]
    if name == "detr":
        from transformers import ResNetConfig

        backbone = ResNetConfig(**_RESNET, layer_type="basic", out_features=["stage2"])
        values = {**values, "backbone_config": backbone, "use_timm_backbone": False}
    return build_spec((class_name, config_name, values), directory, seed=seed, dtype=dtype)
