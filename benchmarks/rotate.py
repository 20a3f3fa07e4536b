"""What a rotation is for: perplexity after naive quantization, with and without it.

The model is folded and rotated (`fold --what norm,rotate`), and source and result are run in
float32 and then with every linear of their blocks quantized: weights rounded to the nearest of the
grid of their output channel, inputs to that of their token (symmetric, no calibration, no
clipping). What is not quantized: the embedding, the head, attention's products. Also prints whether
both models agree to six digits in float32 (relative difference at most 5e-7).

    python benchmarks/rotate.py [MODEL] [--text FILE] [--tokens 16384] [--rotation random]
                                [--principal-axes]

Without a model: the GPT-2 that the project ships, whose tied head gets a table of its own.
Small models have no outlier channels, as large ones do. `--principal-axes` makes some without
changing what the model computes: its stream is first turned to its own principal axes, where few
channels hold most of it (RMSNorm models only). What is printed as the source is then that model.
Exit code 1 where the two do not agree in float32.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.frames import read_frames
from normsurgery.anatomy.sites import blocks_of, in_blocks
from normsurgery.api.fold import fold
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.checkpoint import open_checkpoint
from normsurgery.verify import ModelSource
from normsurgery.verify.load import load_model
from normsurgery.verify.losses import model_losses

SHIPPED = Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
SIX_DIGITS = 5e-7
# bits of weights, of inputs; None is float32
GRIDS = ((8, None), (4, None), (8, 8), (4, 8), (6, 6), (4, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description="quantized perplexity before and after rotation")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--text", help="a text file or JSON lines; default: the bundled prose")
    parser.add_argument("--tokens", type=int, default=16384, help="at most so many")
    parser.add_argument("--window", type=int, default=128, help="tokens of context, at most")
    parser.add_argument("--rotation", choices=("hadamard", "random"), default="hadamard")
    parser.add_argument("--principal-axes", action="store_true", help="give it outliers first")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = load_rows(
        arguments.model, data=arguments.text, tokens=arguments.tokens, max_length=arguments.window
    )
    with tempfile.TemporaryDirectory() as scratch:
        model, rotated = arguments.model, Path(scratch, "rotated")
        if arguments.principal_axes:
            model = on_principal_axes(model, rows, Path(scratch))
        tied = open_checkpoint(model).config.get("tie_word_embeddings", True)
        document = fold(
            model, rotated, what="norm,rotate", untie=bool(tied), device="cpu",
            rotation=arguments.rotation, seed=arguments.seed, data=arguments.text,
        ).to_dict()  # fmt: skip
        print_kurtosis(document["kurtosis"])
        source = perplexities(model, rows, Path(scratch))
        result = perplexities(rotated, rows, Path(scratch))
    print(f"\n{rows.tokens:,} tokens in windows of at most {arguments.window}; perplexity")
    print(f"{'weights':>8}{'inputs':>8}{'source':>16}{'rotated':>16}")
    for grid, before in source.items():
        words = "".join(f"{f'int{bits}' if bits else 'float32':>8}" for bits in grid)
        print(f"{words}{before:>16.8g}{result[grid]:>16.8g}")
    difference = abs(result[None, None] / source[None, None] - 1)
    same = difference <= SIX_DIGITS
    print(f"float32: relative difference {difference:.1e}, {'' if same else 'NOT '}six digits")
    sys.exit(0 if same else 1)


def on_principal_axes(directory: Path, rows: TextRows, scratch: Path) -> Path:
    """The same function with the stream of its middle block on its principal axes."""
    folded, turned = scratch / "folded", scratch / "turned"
    fold(directory, folded, what="norm", device="cpu", verify=False)
    examination = examine(open_checkpoint(folded))
    (frame,) = read_frames(examination.twin, examination.anatomy)
    if frame.why_not or frame.keeps_ones:
        sys.exit("only a stream that RMSNorms read can be turned to its principal axes")
    model: Any = examination.model_class
    loaded = model.from_pretrained(folded, dtype=torch.float32)
    with torch.no_grad():
        states = loaded(rows.ids[:16], output_hidden_states=True).hidden_states
        stream = states[len(states) // 2].flatten(0, 1).double()
        axes = torch.linalg.eigh(stream.T @ stream).eigenvectors.T
        parameters = dict(loaded.named_parameters())
        for turn in frame.turns:
            parameter = parameters[turn.parameter]
            new = torch.tensordot(parameter.double(), axes, dims=([turn.axis], [1]))
            parameter.copy_(new.movedim(-1, turn.axis))
    loaded.save_pretrained(turned)
    for file in directory.glob("token*"):
        (turned / file.name).write_bytes(file.read_bytes())
    return turned


def print_kurtosis(found: dict[str, Any]) -> None:
    """The stream's figures at the entrance of each block."""
    print(f"{'stream entering':<28}{'kurtosis':>20}{'largest / median channel':>30}")
    for row in found["blocks"]:
        pairs = [
            f"{row['before'][name]:.2f} → {row['after'][name]:.2f}"
            for name in ("kurtosis", "largest_over_median")
        ]
        print(f"{row['block']:<28}{pairs[0]:>20}{pairs[1]:>30}")


Grid = tuple[int | None, int | None]


def perplexities(directory: Path, rows: TextRows, scratch: Path) -> dict[Grid, float]:
    """Perplexity on every grid, and in float32."""
    cpu = torch.device("cpu")
    found: dict[Grid, float] = {}
    source = ModelSource(directory)
    with load_model(source, dtype=torch.float32, device=cpu, scratch=scratch) as loaded:
        for grid in ((None, None), *GRIDS):
            with quantized(loaded.model, *grid):
                losses = model_losses(loaded.model, rows, device=cpu)
            found[grid] = math.exp(float(losses.mean()))
    return found


@contextmanager
def quantized(model: nn.Module, weight_bits: int | None, input_bits: int | None) -> Iterator[None]:
    """While open, every linear of the blocks has rounded weights and inputs."""
    blocks = blocks_of(name for name, _ in model.named_modules())
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear | Conv1D) or not in_blocks(name, blocks):
                continue
            if weight_bits is not None:
                weight: Tensor = module.weight
                stack.callback(_put_back, weight, weight.detach().clone())
                inputs = 1 if isinstance(module, nn.Linear) else 0
                weight.copy_(rounded(weight, weight_bits, axis=inputs))
            if input_bits is not None:
                hook = module.register_forward_pre_hook(_rounding(input_bits))
                stack.callback(hook.remove)
        yield


def rounded(values: Tensor, bits: int, *, axis: int) -> Tensor:
    """Rounded to the nearest of 2^bits − 1 values that are symmetric about 0; one grid a row."""
    steps = 2 ** (bits - 1) - 1
    scale = values.abs().amax(axis, keepdim=True) / steps
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (values / scale).round() * scale


def _rounding(bits: int) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rounded(args[0], bits, axis=-1), *args[1:])

    return hook


def _put_back(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)


if __name__ == "__main__":
    main()
