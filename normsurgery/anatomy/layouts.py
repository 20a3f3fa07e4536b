"""The layouts that an argument of a model's forward may have, likely first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WAVE_SAMPLES = 5200  # 16 frames of wav2vec2's extractor
_FRAMES = 32
_REGIONS = 3
_SIDE = 128  # of a picture whose size no configuration tells
_LINES = ((48, 320), (96, 320))  # height and width of pictures of one line of text
_GRID = (1, 4, 4)  # time, height and width of a picture, in patches
_TEXT_LIMITS = (
    "max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len", "n_ctx",
)  # fmt: skip


def wanted(name: str, accepted: Any, maker: Maker) -> bool:
    """Arguments that no modality needs are made only where the forward insists on them."""
    if name in ("decoder_input_ids", "decoder_input_values"):
        return bool(getattr(maker.config, "is_encoder_decoder", False))
    if name.startswith("future_"):  # a decoder's; elsewhere only a loss reads them
        return "past_time_features" in accepted
    if name == "pixel_values_videos" and "pixel_values" in accepted:  # a picture will do
        return bool(accepted[name].default is inspect.Parameter.empty)
    if name == "image_attention_mask":  # which pictures a token sees
        return "perceiver_embeddings" in accepted
    if name == "pixel_attention_mask":  # of rows of patches; tiles have none missing
        return "spatial_shapes" in accepted
    if name == "inputs" and "pixel_values" in accepted:
        return False
    if name == "inputs":
        return "input_ids" not in accepted or bool(maker.setting("num_latents"))
    if name == "input_ids" and "inputs" in accepted and maker.setting("num_latents"):
        return False
    return name not in _ON_DEMAND or accepted[name].default is inspect.Parameter.empty


@dataclass
class Maker:
    """Makes one argument after another; every method gives the layouts to try, likely first."""

    model: Any
    generator: torch.Generator
    batch: int
    length: int
    accepted: set[str]

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def text(self) -> Any:
        """The configuration of the part that reads tokens."""
        nested = (getattr(self.config, key, None) for key in ("text_config", "decoder"))
        return next((c for c in nested if hasattr(c, "vocab_size")), self.config)

    def setting(self, *keys: str, default: Any = None) -> Any:
        """The first of these keys that the configuration, or one nested in it, has a value for."""
        found = self._setting_of(self.config, *keys)
        return default if found is None else found

    @staticmethod
    def _setting_of(config: Any, *keys: str) -> Any:
        queue = [config]
        while queue:
            config = queue.pop(0)
            found = (getattr(config, key, None) for key in keys)
            value = next((value for value in found if value is not None), None)
            if value is not None:
                return value
            nested = vars(config).values()
            queue += [sub for sub in nested if hasattr(sub, "to_dict")]
        return None

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    @property
    def longest(self) -> int:
        """How many tokens the positions reach for."""
        limits = [getattr(self.text, key, None) for key in _TEXT_LIMITS]
        given = [limit for limit in limits if isinstance(limit, int) and limit > 0]
        return min(given, default=1 << 30) - self._first_position()

    def _first_position(self) -> int:
        """The first token's position: RoBERTa and its kin begin after the pad id."""
        counted = (hasattr(m, "create_position_ids_from_input_ids") for m in self.model.modules())
        return (getattr(self.text, "pad_token_id", None) or 0) + 1 if any(counted) else 0

    def tokens(self) -> list[Tensor]:
        length = min(self.length, self.longest)
        ids = self._ids(self.batch, length)
        question = getattr(self.text, "question_token_id", None)
        if question is not None:  # Splinter asks at every such token
            ids[:, 1] = question
        books = getattr(self.text, "num_codebooks", None)
        if not books:
            return [ids]
        many = self._ids(self.batch * books, length)
        cube = many.view(self.batch, books, length)
        return [many, cube, cube.transpose(1, 2).contiguous(), ids]

    def boxes(self) -> list[Tensor]:
        """A box [left, top, right, bottom] a token, or its four corners."""
        ids = self.tokens()[0]
        corners = torch.tensor([1, 2, 3, 4]).expand(*ids.shape, 4)
        return [corners, torch.cat([corners, corners], dim=-1) / 10]

    def _ids(self, rows: int, length: int) -> Tensor:
        special = {
            value
            for config in (self.text, self.config)
            for key, value in config.to_dict().items()
            if key.endswith(("token_id", "token_index")) and isinstance(value, int)
        }
        size = getattr(self.text, "vocab_size", None) or self.setting("vocab_size", default=160)
        allowed = torch.tensor([i for i in range(min(size, 4096)) if i not in special] or [0])
        return allowed[torch.randint(len(allowed), (rows, length), generator=self.generator)]

    def mask_of_latents(self) -> list[Tensor]:
        count = self.setting("latent_query_num", default=0)
        mask = torch.zeros(self.batch, self.tokens()[0].shape[1], dtype=torch.long)
        mask[:, 1 : count + 1] = 1
        return [mask]

    def spectrograms(self) -> list[Tensor]:
        keys = (
            "num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "input_dim",
            "feature_projection_input_dim",
        )  # fmt: skip
        mels = self.setting(*keys, default=80)
        # The stem's convolution halves the frames.
        frames = 2 * self.setting("max_source_positions", default=_FRAMES)
        plain = [self.noise(self.batch, mels, frames), self.noise(self.batch, frames, mels)]
        # Two frames and their differences side by side; CLAP's one or four views of a sound.
        pair = self.noise(self.batch, frames // 2, 4 * mels)
        views = (1, 4) if "is_longer" in self.accepted else ()
        return [*plain, pair, *(self.noise(self.batch, count, frames, mels) for count in views)]

    def frames(self) -> list[Tensor]:
        """A decoder's spectrogram so far."""
        return [self.noise(self.batch, self.length, self.setting("num_mel_bins", default=80))]

    def waves(self) -> list[Tensor]:
        mels, frames = self.setting("num_mel_bins"), self.setting("max_length")
        made = [self.noise(self.batch, frames, mels)] if mels and frames else []
        wave = self.noise(self.batch, _WAVE_SAMPLES)
        return [*made, wave, wave.unsqueeze(1)]

    def pictures(self) -> list[Tensor]:
        picture, film = self._picture(), self.film()[0]
        lines = [self.noise(self.batch, picture.shape[1], *size) for size in _LINES]
        layouts = [picture, film, picture.unsqueeze(1), self._patches()]
        if "spatial_shapes" in self.accepted:
            return [self._patches().view(self.batch, _GRID[1] * _GRID[2], -1), *layouts]
        if "image_grid_thw" not in self.accepted:
            return [*layouts, *lines]
        squares = self._patches().view(_GRID[1] * _GRID[2] * self.batch, -1, *[self._side()] * 2)
        return [*layouts[::-1], squares]  # patches, each a small picture

    def _side(self) -> int:
        patch = self.setting("patch_size", default=16)
        return patch if isinstance(patch, int) else int(patch[-1])

    def _patches(self) -> Tensor:
        """Flattened patches of all pictures in a row, as many as `grids` says."""
        side, channels = self._side(), self.setting("in_channels", "num_channels", default=3)
        channels = channels if isinstance(channels, int) else 3  # a list is of its stages' widths
        depth = self.setting("temporal_patch_size", default=1)
        return self.noise(self.batch * _GRID[1] * _GRID[2], channels * depth * side * side)

    def shapes(self) -> list[Tensor]:
        return [torch.tensor([_GRID[1:]] * self.batch)]

    def patches_there(self) -> list[Tensor]:
        return [torch.ones(self.batch, _GRID[1] * _GRID[2], dtype=torch.long)]

    def grids(self) -> list[Tensor]:
        return [torch.tensor([_GRID] * self.batch)]

    def film(self) -> list[Tensor]:
        frames = self.setting("num_frames", "frames_per_clip", default=2)
        return [self.noise(self.batch, frames, *self._picture().shape[1:])]

    def _picture(self) -> Tensor:
        of_timm = (getattr(self.config, "pretrained_cfg", None) or {}).get("input_size")
        if of_timm:  # channels, height, width
            return self.noise(self.batch, *of_timm)
        config = getattr(self.config, "vision_config", self.config)
        keys = ("image_size", "crop_size", "max_img_size")
        size = self._setting_of(config, *keys) or self.setting(*keys)
        height, width = (size, size) if isinstance(size or _SIDE, int) else tuple(size)
        channels = getattr(config, "num_channels", None) or self.setting("num_channels", default=3)
        height, width = height or _SIDE, width or _SIDE
        ratios = self.setting("scaled_images_ratios")
        if ratios:  # at its smallest scale it is one patch
            height = width = round(self._side() / min(ratios))
        if "prompt_pixel_values" in self.accepted:  # it is laid on top of the picture
            height //= 2
        return self.noise(self.batch, channels, height, width)

    def picture(self) -> list[Tensor]:
        return [self._picture()]

    def mask_of_patches(self) -> list[Tensor]:
        size, patch = self.setting("image_size"), self.setting("patch_size")
        sides = [size, size] if isinstance(size, int) else list(size)
        steps = [patch, patch] if isinstance(patch, int) else list(patch)[-2:]
        count = (sides[0] // steps[0]) * (sides[1] // steps[1])
        films = self.setting("num_frames", default=1) // self.setting("tubelet_size", default=1)
        mask = torch.zeros(self.batch, count, dtype=torch.bool)
        mask[:, ::2] = True
        return [mask, mask.repeat(1, max(1, films))]

    def series(self) -> list[Tensor]:
        length = self._past()
        channels = self.setting("num_input_channels", default=1)
        return [self.noise(self.batch, length), self.noise(self.batch, length, channels)]

    def _past(self) -> int:
        """Steps of the past: those that are read, and those that they look back to."""
        lags = self.setting("lags_sequence", default=[0])
        return int(self.setting("context_length", default=64)) + int(max(lags))

    def _time_features(self, length: int) -> Tensor:
        keys = ("num_time_features", "num_dynamic_real_features")
        return self.noise(self.batch, length, sum(self.setting(key, default=0) for key in keys))

    def past_time(self) -> list[Tensor]:
        return [self._time_features(self._past())]

    def observed(self) -> list[Tensor]:
        return [torch.ones(self.batch, self._past())]

    def future(self) -> list[Tensor]:
        return [self.noise(self.batch, self.setting("prediction_length", default=4))]

    def future_time(self) -> list[Tensor]:
        return [self._time_features(self.setting("prediction_length", default=4))]

    def task(self) -> list[Tensor]:
        return [self.noise(self.batch, self.setting("task_seq_len", default=self.length))]

    def phrases(self) -> list[Tensor]:
        """Two names of classes a picture, all pictures' in a row."""
        return [self._ids(2 * self.batch, self.length)]

    def regions(self) -> list[Tensor]:
        """Features of regions that a detector has found in a picture."""
        return [self.noise(self.batch, _REGIONS, self.setting("visual_feat_dim", default=4))]

    def anything(self) -> list[Tensor]:
        length = self.setting("max_position_embeddings", default=self.length)
        width = self.setting("d_model", default=1)
        return [self._ids(self.batch, length), self.noise(self.batch, length, width)]


def _steps(*keys: str) -> Callable[[Maker], list[Tensor]]:
    """A trajectory [batch, length, width] of reinforcement learning; width from the config."""

    def make(maker: Maker) -> list[Tensor]:
        return [maker.noise(maker.batch, maker.length, maker.setting(*keys, default=1))]

    return make


# Argument of forward → the layouts that it may have.
MAKERS: dict[str, Callable[[Maker], list[Tensor]]] = {
    "input_ids": Maker.tokens,
    "bbox": Maker.boxes,
    "input_features": Maker.spectrograms,
    "input_values": Maker.waves,
    "pixel_values": Maker.pictures,
    "image_grid_thw": Maker.grids,
    "spatial_shapes": Maker.shapes,
    "image_merge_sizes": lambda maker: [torch.ones(maker.batch, dtype=torch.long)],
    "image_attention_mask": lambda maker: [torch.ones(*maker.tokens()[0].shape, 1).long()],
    "pixel_attention_mask": Maker.patches_there,
    "pixel_values_videos": Maker.film,
    "image_embeds_position_mask": Maker.mask_of_latents,
    "inputs": Maker.anything,
    "past_values": Maker.series,
    "past_time_features": Maker.past_time,
    "past_observed_mask": Maker.observed,
    "future_values": Maker.future,
    "future_time_features": Maker.future_time,
    "task_inputs": Maker.task,
    "classes_input_ids": Maker.phrases,
    "classes_attention_mask": lambda maker: [torch.ones(2 * maker.batch, maker.length).long()],
    "tasks_input_ids": lambda maker: maker.tokens()[:1],
    "tasks_attention_mask": lambda maker: [torch.ones(maker.batch, maker.length).long()],
    "classes_structure": lambda maker: [torch.full((maker.batch,), 2)],
    "visual_feats": Maker.regions,
    "visual_pos": lambda maker: [maker.noise(maker.batch, _REGIONS, 4)],
    "states": _steps("state_dim"),
    "actions": _steps("act_dim"),
    "rewards": _steps(),
    "returns_to_go": _steps(),
    "timesteps": lambda maker: [torch.arange(maker.length).expand(maker.batch, -1)],
    "bool_masked_pos": Maker.mask_of_patches,
    "prompt_pixel_values": Maker.picture,
    "prompt_masks": Maker.picture,
    "decoder_input_ids": Maker.tokens,
    "decoder_input_values": Maker.frames,
    "is_longer": lambda maker: [torch.ones(maker.batch, 1, dtype=torch.bool)],
}
_ON_DEMAND = {"past_observed_mask", "bool_masked_pos", "prompt_pixel_values", "prompt_masks"}
