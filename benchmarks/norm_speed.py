"""LayerNorm against RMSNorm: the speed of one converted checkpoint in its two forms.

Builds a GPT-2-XL-shaped model with random weights, converts it, opens the result in the stock class
(LayerNorm) and through its modeling file (RMSNorm), and times a forward pass of each in turn, eager
and compiled. Prints the ratio of each pair of runs: median, and the middle half.

    python benchmarks/norm_speed.py                     # CPU, 4 of the 48 blocks
    python benchmarks/norm_speed.py --device cuda --blocks 48 --batch 8 --length 1024
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.graft.load import load_graft_class


def build(directory: Path, blocks: int) -> None:
    """A GPT-2 of XL's width (1600, 25 heads) and `blocks` blocks, saved in float32."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=1600, n_head=25, n_layer=blocks)
    with quiet():
        transformers.GPT2LMHeadModel(config).save_pretrained(directory)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(models: dict[str, Any], ids: torch.Tensor, rounds: int) -> tuple[float, list[float]]:
    """Median milliseconds of the stock form, and the ratio RMSNorm / LayerNorm of every round."""
    with torch.inference_mode():
        for model in models.values():
            for _ in range(3):
                model(ids)
        pairs = []
        for turn in range(rounds):
            order = list(models.items()) if turn % 2 == 0 else list(models.items())[::-1]
            pairs.append({name: timed(partial(m, ids), ids.device) for name, m in order})
    stock = statistics.median(pair["stock"] for pair in pairs)
    return 1000 * stock, sorted(pair["graft"] / pair["stock"] for pair in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    blocks = options.blocks or (48 if gpu else 4)
    shape = (options.batch or (8 if gpu else 1), options.length or (1024 if gpu else 128))
    name = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"GPT-2 XL's width, {blocks} blocks, batch × length {shape[0]} × {shape[1]}")
    print(f"{'dtype':10}{'mode':10}{'LayerNorm':>12}{'RMSNorm / LayerNorm':>22}{'middle half':>16}")
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "source"), Path(scratch, "out")
        build(source, blocks)
        normsurgery.convert(source, out, untie=True, verify=False)
        graft = load_graft_class(out, "modeling_rmsnorm.py", "GPT2LMHeadModel")
        ids = torch.randint(50257, shape, device=device)
        for dtype in (torch.float32, torch.bfloat16) if gpu else (torch.float32,):
            with quiet():
                models = {
                    "stock": transformers.GPT2LMHeadModel.from_pretrained(out, dtype=dtype),
                    "graft": graft.from_pretrained(out, dtype=dtype),  # type: ignore[attr-defined]
                }
            for mode in ("eager", "compiled"):
                ready = {
                    key: torch.compile(m.eval().to(device))
                    if mode == "compiled"
                    else m.eval().to(device)
                    for key, m in models.items()
                }
                base, ratios = compare(ready, ids, options.rounds)
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(
                    f"{str(dtype)[6:]:10}{mode:10}{base:9.1f} ms{middle:22.3f}{low:9.3f}–{high:.3f}"
                )


if __name__ == "__main__":
    main()
