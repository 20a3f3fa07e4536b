"""Configurations of the installed transformers that have a BatchNorm.

One row for every class that adds norms of its own, and for every flag that brings norms in. The
table says which; that no family is missing from it is checked against the code.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BATCH_NORM = re.compile(r"BatchNorm\d?d?\b|\bFrozenBatchNorm|\bbatch_norm\(")


@dataclass(frozen=True)
class Configuration:
    """A class with what is said of its configuration beyond the defaults. name: of the row."""

    family: str
    model_class: str
    changes: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.family}/{self.model_class}{f' ({self.variant})' if self.variant else ''}"

    def load(self) -> tuple[type, Any]:
        """The class, and its configuration."""
        model_class = _class_of(self.family, self.model_class)
        return model_class, model_class.config_class(**self.changes)  # type: ignore[attr-defined]


def _class_of(family: str, name: str) -> type:
    package = importlib.import_module(f"transformers.models.{family}")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("modeling_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            if hasattr(module, name):
                return getattr(module, name)  # type: ignore[no-any-return]
    raise LookupError(f"{family} has no class {name}")


# Families in whose code the word stands and that no row is of.
NOT_TRIED = {
    "bit": "it standardizes weights by that function, and keeps no running statistics",
    "emu3": "the codec that holds them has no forward, and the whole wants its tokenizer's map",
    "layoutlmv2": "needs detectron2",
    "sapiens2": "a remark alone: its norms are instance norms",
    "timm_backbone": "needs timm",
}


def families_in_code() -> set[str]:
    """Families in whose code the word stands; a look at the code, not a verdict."""
    import transformers.models

    root = Path(transformers.models.__path__[0])
    return {
        path.parent.name
        for path in root.glob("*/modeling_*.py")
        if _BATCH_NORM.search(path.read_text(encoding="utf-8"))
    }


# The DETR families' default backbone is timm's; this is the same one in transformers' own code.
_NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
_STAGES = {"out_features": ["stage2", "stage3", "stage4"]}
_RESNET_50 = {**_NO_TIMM, "backbone_config": {"model_type": "resnet", **_STAGES}}
_FOUR = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
_RESNET_4 = {**_NO_TIMM, "backbone_config": {"model_type": "resnet", **_FOUR}}
_LAYERS = {"out_indices": [3, 5, 7, 11]}
_FUSED = {"use_batch_norm_in_fusion_residual": True}


_SERIES = {"prediction_length": 4, "context_length": 16}
# The projector takes in the encoder's width.
_PROJECTOR = {"projector_config": {"model_type": "blip_2_qformer", "encoder_hidden_size": 1024}}
_SWIN = {
    **_NO_TIMM, "apply_layernorm_after_vision_backbone": False, "encoder_hidden_dim": 192,
    "decoder_hidden_dim": 192, "encoder_attention_heads": 6, "decoder_num_heads": 6,
    "vision_features_channels": [192] * 3,
    "backbone_config": {
        "model_type": "swin", "embed_dim": 96, "depths": [1, 1, 1, 1],
        "num_heads": [3, 6, 12, 24], "out_indices": [2, 3, 4],
    },
}  # fmt: skip
# A detector's stages halve both sides; the default's are a reader's of lines.
_LCNET = {"backbone_config": {
    "model_type": "pp_lcnet_v4", **_FOUR, "block_configs": [
        [[3, 96, 96, 1, True]],
        [[3, 96, 96, 2, False], [3, 96, 96, 1, False]],
        [[3, 96, 192, 2, False], [3, 192, 192, 1, True]],
        [[3, 192, 384, 2, False], [3, 384, 384, 1, True]],
    ],
}}  # fmt: skip
_WIDTHS = {"layer_list_out_channels": [96, 96, 192, 384]}
_LW_VIT = {
    "projector_scale_factors": [1.0],
    "backbone_config": {"model_type": "lw_detr_vit", "out_indices": [2, 4, 5, 9]},
}
_UVDOC = {"backbone_config": {
    "model_type": "uvdoc_backbone", "out_features": [f"stage{number}" for number in range(1, 7)],
}}  # fmt: skip
_VITDET = {"backbone_config": {
    "model_type": "vitdet", "hidden_size": 384, "num_attention_heads": 6, "num_channels": 4,
    "image_size": 512, "out_features": ["stage12"],
}}  # fmt: skip


def _intraclass() -> dict[str, Any]:
    """The kernels of PP-OCR's detectors for the server, as their checkpoints have them."""
    ratios = ("longratio", "midratio", "shortratio")
    tall, flat = "vertical_long_to_small_conv", "horizontal_small_to_long_conv"
    groups = {tall: (True, False), flat: (False, True), "symmetric_conv_long": (True, True)}
    blocks: dict[str, Any] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for name, (high, wide) in groups.items():
        for ratio, side in zip(ratios, (7, 5, 3), strict=True):
            kernel = [side if high else 1, side if wide else 1]
            blocks[f"{name}_{ratio}"] = [kernel, [1, 1], [extent // 2 for extent in kernel]]
    lists = {"kernel_list": [3, 2, 2], "scale_factor_list": [1, 2, 4, 8]}
    return {"intraclass_block_config": blocks, **lists}


def _plain(family: str, *classes: str) -> list[Configuration]:
    return [Configuration(family, name) for name in classes]


def _flagged(family: str, model_class: str, variant: str, **changes: Any) -> list[Configuration]:
    return [Configuration(family, model_class, changes, variant)]


CONFIGURATIONS: tuple[Configuration, ...] = (
    *_plain("align", "AlignVisionModel"),
    *_flagged("beit", "BeitForSemanticSegmentation", "", **_LAYERS),
    *_plain("canary", "CanaryForConditionalGeneration"),
    *_plain("clap", "ClapAudioModel"),
    *_flagged("clap", "ClapAudioModel", "fusion", enable_fusion=True),
    *_plain("cohere_asr", "CohereAsrForConditionalGeneration"),
    *_flagged("conditional_detr", "ConditionalDetrForObjectDetection", "ResNet-50", **_RESNET_50),
    *_flagged("conditional_detr", "ConditionalDetrForSegmentation", "ResNet-50", **_RESNET_4),
    *_plain("cvt", "CvtForImageClassification"),
    *_plain("d_fine", "DFineForObjectDetection"),
    *_flagged("dab_detr", "DabDetrForObjectDetection", "ResNet-50", **_RESNET_50),
    *_plain("data2vec", "Data2VecVisionForSemanticSegmentation"),
    *_flagged("deformable_detr", "DeformableDetrForObjectDetection", "ResNet-50", **_RESNET_50),
    *_flagged("deformable_detr", "DeformableDetrForObjectDetection", "two stages", **_RESNET_50,
              two_stage=True, with_box_refine=True),
    *_plain("deimv2", "Deimv2ForObjectDetection"),
    *_flagged("depth_pro", "DepthProForDepthEstimation", "fusion", **_FUSED),
    *_flagged("detr", "DetrForObjectDetection", "ResNet-50", **_RESNET_50),
    *_flagged("detr", "DetrForSegmentation", "ResNet-50", **_RESNET_4),
    *_flagged("dpt", "DPTForDepthEstimation", "fusion", **_FUSED),
    *_plain("dpt", "DPTForSemanticSegmentation"),
    *_flagged("dpt", "DPTForSemanticSegmentation", "fusion", **_FUSED),
    *_plain("efficientloftr", "EfficientLoFTRForKeypointMatching"),
    *_plain("efficientnet", "EfficientNetForImageClassification"),
    *_plain("fastspeech2_conformer", "FastSpeech2ConformerModel",
            "FastSpeech2ConformerWithHifiGan"),
    *_plain("glpn", "GLPNForDepthEstimation"),
    *_flagged("granite_speech", "GraniteSpeechForConditionalGeneration", "", **_PROJECTOR),
    *_plain("granite_speech5", "GraniteSpeech5ForCTC"),
    *_flagged("granite_speech_plus", "GraniteSpeechPlusForConditionalGeneration", "",
              **_PROJECTOR),
    *_flagged("grounding_dino", "GroundingDinoForObjectDetection", "ResNet-50", **_RESNET_50),
    *_plain("groupvit", "GroupViTModel"),
    *_plain("hgnet_v2", "HGNetV2ForImageClassification"),
    *_flagged("hgnet_v2", "HGNetV2ForImageClassification", "learnable affine",
              use_learnable_affine_block=True),
    *_flagged("hubert", "HubertForCTC", "batch norm", conv_pos_batch_norm=True),
    *_flagged("informer", "InformerForPrediction", "", **_SERIES),
    *_plain("lasr", "LasrForCTC"),
    *_plain("levit", "LevitForImageClassification", "LevitForImageClassificationWithTeacher"),
    *_flagged("mask2former", "Mask2FormerForUniversalSegmentation", "ResNet-50", **_RESNET_4),
    *_flagged("maskformer", "MaskFormerForInstanceSegmentation", "ResNet-50", **_RESNET_4),
    *_flagged("mm_grounding_dino", "MMGroundingDinoForObjectDetection", "ResNet-50", **_RESNET_50),
    *_flagged("lw_detr", "LwDetrForObjectDetection", "", **_LW_VIT),
    *_plain("mobilenet_v1", "MobileNetV1ForImageClassification"),
    *_plain("mobilenet_v2", "MobileNetV2ForImageClassification",
            "MobileNetV2ForSemanticSegmentation"),
    *_flagged("mobilenet_v2", "MobileNetV2ForImageClassification", "expanded first",
              first_layer_is_expansion=False, finegrained_output=False, tf_padding=False),
    *_plain("mobilevit", "MobileViTForImageClassification", "MobileViTForSemanticSegmentation"),
    *_plain("mobilevitv2", "MobileViTV2ForImageClassification",
            "MobileViTV2ForSemanticSegmentation"),
    *_flagged("omdet_turbo", "OmDetTurboForObjectDetection", "Swin", **_SWIN),
    *_flagged("oneformer", "OneFormerForUniversalSegmentation", "ResNet-50", **_RESNET_4),
    *_plain("parakeet", "ParakeetForCTC", "ParakeetForRNNT", "ParakeetForTDT"),
    *_flagged("patchtsmixer", "PatchTSMixerForPrediction", "batch norm", norm_mlp="BatchNorm"),
    *_plain("patchtst", "PatchTSTForPrediction", "PatchTSTForClassification"),
    *_flagged("patchtst", "PatchTSTForPrediction", "post-norm", pre_norm=False),
    *_flagged("perceiver", "PerceiverForImageClassificationConvProcessing", "batch norm",
              d_latents=512, num_latents=16,
              num_cross_attention_heads=1),
    *_flagged("pp_doclayout_v2", "PPDocLayoutV2ForObjectDetection", "",
              class_thresholds=[0.5] * 25, class_order=[*range(25)]),
    *_plain("pp_doclayout_v3", "PPDocLayoutV3ForObjectDetection"),
    *_plain("pp_doclayout_v4", "PPDocLayoutV4ForObjectDetection"),
    *_plain("pp_lcnet", "PPLCNetForImageClassification"),
    *_plain("pp_lcnet_v3", "PPLCNetV3Backbone"),
    *_plain("pp_lcnet_v4", "PPLCNetV4Backbone"),
    *_plain("pp_ocrv5_mobile_det", "PPOCRV5MobileDetForObjectDetection"),
    *_plain("pp_ocrv5_mobile_rec", "PPOCRV5MobileRecForTextRecognition"),
    *_flagged("pp_ocrv5_server_det", "PPOCRV5ServerDetForObjectDetection", "", **_intraclass()),
    *_plain("pp_ocrv5_server_rec", "PPOCRV5ServerRecForTextRecognition"),
    *_flagged("pp_ocrv6_medium_det", "PPOCRV6MediumDetForObjectDetection", "",
              **_intraclass(), **_LCNET),
    *_flagged("pp_ocrv6_small_det", "PPOCRV6SmallDetForObjectDetection", "", **_LCNET, **_WIDTHS),
    *_plain("pp_ocrv6_small_rec", "PPOCRV6SmallRecForTextRecognition"),
    *_plain("pp_ocrv6_tiny_rec", "PPOCRV6TinyRecForTextRecognition"),
    *_plain("regnet", "RegNetForImageClassification"),
    *_flagged("regnet", "RegNetForImageClassification", "x layers", layer_type="x"),
    *_plain("resnet", "ResNetForImageClassification"),
    *_flagged("resnet", "ResNetForImageClassification", "basic layers", layer_type="basic",
              depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]),
    *_plain("rt_detr", "RTDetrForObjectDetection", "RTDetrResNetBackbone"),
    *_plain("rt_detr_v2", "RTDetrV2ForObjectDetection"),
    *_plain("sam3_lite_text", "Sam3LiteTextTextModel"),
    *_plain("seamless_m4t", "SeamlessM4TForSpeechToText"),
    *_plain("segformer", "SegformerForSemanticSegmentation"),
    *_plain("slanet", "SLANetForTableRecognition"),
    *_plain("speecht5", "SpeechT5ForSpeechToSpeech", "SpeechT5ForTextToSpeech"),
    *_plain("superglue", "SuperGlueForKeypointMatching"),
    *_plain("swiftformer", "SwiftFormerForImageClassification"),
    *_flagged("table_transformer", "TableTransformerForObjectDetection", "ResNet-50",
              **_RESNET_50),
    *_plain("textnet", "TextNetForImageClassification"),
    *_plain("tvp", "TvpForVideoGrounding"),
    *_plain("upernet", "UperNetForSemanticSegmentation"),
    *_flagged("uvdoc", "UVDocModel", "", **_UVDOC),
    *_flagged("vitmatte", "VitMatteForImageMatting", "small", **_VITDET),
    *_flagged("vitpose", "VitPoseForPoseEstimation", "classic decoder", use_simple_decoder=False),
    *_plain("wav2vec2_conformer", "Wav2Vec2ConformerForSequenceClassification"),
    *_flagged("zoedepth", "ZoeDepthForDepthEstimation", "fusion", **_FUSED),
)  # fmt: skip
