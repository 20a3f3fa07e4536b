"""The layouts of made-up inputs, on modules that only have a signature and a configuration."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from normsurgery.anatomy.inputs import example_candidates, example_inputs, working_candidate


class _Model(nn.Module):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.config = PretrainedConfig(**settings)
        self.weight = nn.Parameter(torch.zeros(1))


class _Text(_Model):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return input_ids


class _Series(_Model):
    def forward(
        self,
        past_values: Tensor,
        past_time_features: Tensor,
        past_observed_mask: Tensor,
        future_values: Tensor | None = None,
        future_time_features: Tensor | None = None,
    ) -> Tensor:
        return past_values


class _SeriesWithLoss(_Model):
    def forward(self, past_values: Tensor, future_values: Tensor | None = None) -> Tensor:
        return past_values


class _Speech(_Model):
    def forward(self, input_features: Tensor) -> Tensor:
        return input_features @ torch.zeros(4 * self.config.num_mel_bins, 1)


class _Grid(_Model):
    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        return pixel_values


class _Rows(_Model):
    def forward(
        self, pixel_values: Tensor, spatial_shapes: Tensor, pixel_attention_mask: Tensor
    ) -> Tensor:
        return pixel_values


class _Picture(_Model):
    """Four features a picture, one a quarter."""

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, mm_token_type_ids: Tensor | None = None
    ) -> Tensor:
        return input_ids

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        batch, channels, _, _ = pixel_values.shape
        return nn.functional.adaptive_avg_pool2d(pixel_values, 2).reshape(batch * 4, channels)


class _Sound(_Model):
    def forward(
        self, input_ids: Tensor, input_features: Tensor, input_features_mask: Tensor | None = None
    ) -> Tensor:
        return input_ids

    def get_audio_features(self, input_features: Tensor, input_features_mask: Tensor) -> Tensor:
        return torch.zeros(int(input_features_mask.sum()) // 8, 5)


def _inputs(model: nn.Module) -> dict[str, Tensor]:
    return example_inputs(model, batch=2, length=5, seed=0)


def test_tokens_are_seeded_and_keep_clear_of_special_ids():
    model = _Text(vocab_size=8, pad_token_id=0, eos_token_id=3)
    inputs = _inputs(model)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 5)
    assert not set(inputs["input_ids"].flatten().tolist()) & {0, 3}
    assert torch.equal(inputs["input_ids"], _inputs(model)["input_ids"])


def test_every_row_asks_a_question_where_the_model_answers_one():
    inputs = _inputs(_Text(vocab_size=50, question_token_id=9))
    assert (inputs["input_ids"] == 9).sum(dim=1).tolist() == [1, 1]


def test_a_series_reaches_back_as_far_as_its_lags():
    model = _Series(
        context_length=6, prediction_length=3, lags_sequence=[1, 7], num_time_features=2,
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in _inputs(model).items()}
    assert shapes == {
        "past_values": (2, 13), "past_time_features": (2, 13, 2), "past_observed_mask": (2, 13),
        "future_values": (2, 3), "future_time_features": (2, 3, 2),
    }  # fmt: skip


def test_what_only_a_loss_reads_is_left_out():
    assert set(_inputs(_SeriesWithLoss(context_length=6))) == {"past_values"}


def test_the_first_layout_that_runs_is_found():
    model = _Speech(num_mel_bins=4)
    number = working_candidate(model, lambda inputs: model(**inputs), length=5, seed=0)
    made = list(example_candidates(model, batch=2, length=5, seed=0))
    assert made[number]["input_features"].shape[-1] == 16
    assert number > 0


def test_patches_of_a_grid_lie_in_one_row_and_are_also_tried_as_small_pictures():
    model = _Grid(patch_size=2, num_channels=3, image_size=8)
    made = list(example_candidates(model, batch=2, length=5, seed=0))
    shapes = [tuple(inputs["pixel_values"].shape) for inputs in made]
    patches = int(made[0]["image_grid_thw"].prod(dim=1).sum())
    assert shapes[0] == (patches, 12)
    assert (patches, 3, 2, 2) in shapes


def test_patches_of_a_picture_lie_in_a_row_of_its_own():
    inputs = _inputs(_Rows(patch_size=2, num_channels=3, image_size=8))
    count = int(inputs["spatial_shapes"][0].prod())
    assert inputs["pixel_values"].shape == (2, count, 12)
    assert inputs["pixel_attention_mask"].shape == (2, count)


def test_a_placeholder_stands_for_every_feature_of_a_picture():
    model = _Picture(vocab_size=50, image_token_id=7, image_size=8, num_channels=3)
    inputs = _inputs(model)
    assert inputs["input_ids"].shape == (2, 4 + 5)
    assert (inputs["input_ids"] == 7).sum(dim=1).tolist() == [4, 4]
    assert torch.equal(inputs["mm_token_type_ids"], (inputs["input_ids"] == 7).long())


def test_a_placeholder_stands_for_every_feature_of_a_sound():
    inputs = _inputs(_Sound(vocab_size=50, audio_token_id=7, num_mel_bins=4))
    frames = inputs["input_features"].shape[2]
    assert inputs["input_features_mask"].shape == (2, frames)
    assert (inputs["input_ids"] == 7).sum(dim=1).tolist() == [frames // 8] * 2
