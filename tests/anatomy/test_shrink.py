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
