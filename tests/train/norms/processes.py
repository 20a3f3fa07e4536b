"""One of two processes that measure: in a file of its own, which imports little and starts fast."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from normsurgery.train.norms.statistics import Sums, means
from normsurgery.train.norms.tokens import Tokens, read_tokens

END = 2


def measure(sums: list[Sums], rank: int) -> None:
    """What a process sees: two batches of its own at the first site, rank 0's alone at the next."""
    for number in range(2):
        draw = torch.Generator().manual_seed(10 * rank + number)
        ids = torch.randint(0, 6, (2, 5 + rank), generator=draw)
        tokens: Tokens = read_tokens({"input_ids": ids}, END, counted=True)
        sigma = torch.rand(ids.shape, generator=draw, dtype=torch.float64)
        sums[0].add(sigma, tokens)
        if rank == 0:
            sums[1].add(sigma + 1, tokens)


def share(rank: int, store: str, out: str) -> None:
    """Measure in one of two processes, and write the means over both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    sums = [Sums(), Sums()]
    measure(sums, rank)
    Path(f"{out}.{rank}").write_text(json.dumps(means(sums)))
    torch.distributed.destroy_process_group()
