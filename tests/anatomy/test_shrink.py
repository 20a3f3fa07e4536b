"""A shrunken configuration keeps flags, depth and ratios."""

from __future__ import annotations

from normsurgery.anatomy.shrink import TWIN_HEAD_DIM, TWIN_VOCABULARY, shrink


def test_depth_and_flags_stay():
    config = {
        "num_hidden_layers": 96, "hidden_size": 8192, "num_attention_heads": 64,
        "tie_word_embeddings": True, "layer_types": ["full"] * 96, "rope_theta": 1e6,
    }  # fmt: skip
    tiny = shrink(config)
    assert tiny["num_hidden_layers"] == 96
    assert tiny["layer_types"] == config["layer_types"]
    assert tiny["hidden_size"] == tiny["num_attention_heads"] * TWIN_HEAD_DIM


def test_the_kind_of_key_value_sharing_stays():
    base = {"hidden_size": 4096, "num_attention_heads": 32}
    assert shrink({**base, "num_key_value_heads": 32})["num_key_value_heads"] == 4
    assert shrink({**base, "num_key_value_heads": 8})["num_key_value_heads"] == 2
    assert shrink({**base, "num_key_value_heads": 1})["num_key_value_heads"] == 1


def test_a_width_that_is_not_heads_times_head_dim_stays_one_that_is_not():
    tiny = shrink({"hidden_size": 3072, "num_attention_heads": 16, "head_dim": 256})
    assert tiny["hidden_size"] != tiny["num_attention_heads"] * tiny["head_dim"]


def test_rotary_and_frequency_lists_fit_the_small_head():
    tiny = shrink({
        "hidden_size": 2560, "num_attention_heads": 32, "rotary_dim": 40,
        "rope_parameters": {"partial_rotary_factor": 0.5, "short_factor": [1.0] * 20},
    })  # fmt: skip
    assert tiny["rotary_dim"] == TWIN_HEAD_DIM // 2
    assert len(tiny["rope_parameters"]["short_factor"]) == TWIN_HEAD_DIM // 4


def test_token_ids_stay_inside_the_vocabulary_and_apart():
    tiny = shrink({
        "vocab_size": 50000, "pad_token_id": 49999, "eos_token_id": 49998, "bos_token_id": 49998,
        "begin_suppress_tokens": [220, 50256],
    })  # fmt: skip
    assert tiny["vocab_size"] == TWIN_VOCABULARY
    assert tiny["eos_token_id"] == tiny["bos_token_id"] != tiny["pad_token_id"]
    assert max(tiny["eos_token_id"], tiny["pad_token_id"]) < TWIN_VOCABULARY
    assert tiny["begin_suppress_tokens"] is None


def test_nested_configurations_are_shrunk():
    tiny = shrink({
        "projection_dim": 512,
        "text_config": {"model_type": "x", "hidden_size": 512, "num_attention_heads": 8},
        "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "image_size": 224,
                          "patch_size": 14},
    })  # fmt: skip
    assert tiny["text_config"]["hidden_size"] == tiny["vision_config"]["hidden_size"] == 64
    assert tiny["vision_config"]["image_size"] == 56


def test_parts_that_met_at_a_width_still_meet():
    tiny = shrink({
        "d_model": 256, "encoder_attention_heads": 8, "decoder_in_channels": [256, 256],
        "decoder_config": {"model_type": "x", "hidden_size": 256},
        "vision_config": {"model_type": "y", "hidden_size": 768, "num_attention_heads": 12,
                          "output_channels": 256, "num_pos_feats": 128, "layers": 256},
    })  # fmt: skip
    width, vision = tiny["d_model"], tiny["vision_config"]
    assert width < 256
    assert tiny["decoder_in_channels"] == [width, width]
    assert tiny["decoder_config"]["hidden_size"] == width
    assert (vision["output_channels"], vision["num_pos_feats"]) == (width, width // 2)
    assert vision["layers"] == 256  # a count, not a width


def test_shares_of_a_width_still_make_it_up():
    tiny = shrink({
        "hidden_size": 256, "num_attention_heads": 4, "axial_pos_embds_dim": [64, 192],
        "embed_dim_per_stage": [256, 512, 1024],
    })  # fmt: skip
    width = tiny["hidden_size"]
    assert sum(tiny["axial_pos_embds_dim"]) == width
    assert tiny["embed_dim_per_stage"] == [width, 2 * width, 4 * width]


def test_a_box_shares_out_the_width_by_six():
    tiny = shrink({
        "hidden_size": 768, "num_attention_heads": 12, "max_2d_position_embeddings": 1024,
        "coordinate_size": 128, "shape_size": 128,
    })  # fmt: skip
    assert tiny["hidden_size"] == 4 * tiny["coordinate_size"] + 2 * tiny["shape_size"]


def test_a_picture_that_encoders_share_is_divided_for_all_once():
    config = {
        "prompt_encoder_config": {"hidden_size": 256, "image_size": 1024, "patch_size": 16,
                                  "mask_input_channels": 16},
        "vision_config": {"model_type": "x", "image_size": 1024, "window_size": 14,
                          "patch_size": 16, "backbone_feature_sizes": [[256, 256], [128, 128]]},
    }  # fmt: skip
    tiny = shrink(config)
    assert tiny["prompt_encoder_config"]["image_size"] == 256
    assert tiny["vision_config"]["image_size"] == 256
    assert tiny["vision_config"]["backbone_feature_sizes"] == [[64, 64], [32, 32]]
    assert shrink(tiny) == tiny


def test_shrinking_twice_is_shrinking_once():
    config = {
        "text_config": {"model_type": "x", "d_model": 512, "encoder_attention_heads": 8},
        "vision_config": {"model_type": "y", "hidden_size": 1152, "num_attention_heads": 16,
                          "projection_dim": 512, "embedding_size": 288},
    }  # fmt: skip
    tiny = shrink(config)
    assert tiny["vision_config"]["projection_dim"] == tiny["text_config"]["d_model"]
    assert shrink(tiny) == tiny


def test_a_tower_that_is_tapped_at_several_depths_keeps_them():
    config = {
        "vision_feature_layers": [-2, -5], "text_config": {"model_type": "x", "num_layers": 9},
        "vision_config": {"model_type": "y", "num_hidden_layers": 24},
    }  # fmt: skip
    tiny = shrink(config, depth=2)
    assert tiny["vision_config"]["num_hidden_layers"] == 24
    assert tiny["text_config"]["num_layers"] == 2
    single = shrink({**config, "vision_feature_layers": -2}, depth=2)
    assert single["vision_config"]["num_hidden_layers"] == 2


def test_a_picture_without_patches_is_capped_and_one_in_scales_has_small_pictures_for_patches():
    assert shrink({"image_size": 640})["image_size"] == 128
    assert shrink({"image_size": [640, 96]})["image_size"] == [128, 96]
    tiny = shrink({"scaled_images_ratios": [0.25, 0.5, 1], "patch_size": 384})
    assert tiny["patch_size"] == 64


def test_a_mask_head_keeps_heads_that_share_out_its_width():
    tiny = shrink({"hidden_size": 256, "num_attention_heads": 8, "mask_loss_coefficient": 1})
    assert (tiny["hidden_size"] + tiny["num_attention_heads"]) % 8 == 0


def test_one_head_among_others_stays_one():
    tiny = shrink({
        "d_latents": 1280, "num_self_attention_heads": 8, "num_cross_attention_heads": 1,
    })  # fmt: skip
    assert (tiny["num_self_attention_heads"], tiny["num_cross_attention_heads"]) == (4, 1)


def test_a_stem_as_wide_as_the_first_stage_stays_so():
    tiny = shrink({"hidden_sizes": [64, 128], "stem_out_channels": 64})
    assert (tiny["hidden_sizes"], tiny["stem_out_channels"]) == ([16, 32], 16)


def test_features_that_are_handed_out_unprojected_keep_their_width():
    wide = {"projection_dim": 640, "vision_config": {"model_type": "x", "hidden_dim": 640}}
    assert shrink(wide)["projection_dim"] == 640
    assert shrink({**wide, "projection_dim": 512})["projection_dim"] < 512
