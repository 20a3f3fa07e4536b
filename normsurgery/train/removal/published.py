"""The four schedules of "Transformers Don't Need LayerNorm at Inference Time".

Where each number is from:
* steps, tokens a step, starts, gaps of mlp / qk / v, rates, λ, weight decay, clip, decay of σ̂:
  arXiv 2507.02559.
* The final norm goes one v gap after the last v path, end-of-text's σ̂ 2 steps later and position
  0's 10 steps after that; warm-ups of 25, 10, 15 and 20 steps: the authors' repository,
  github.com/submarat/removing-layer-norm, config.py (the configurations with an auxiliary loss).
* AdamW's betas (0.9, 0.999) and ε 1e-8 are the Trainer's own: their arguments name none.
* Cosine over 1,200 steps for large and XL, whose runs are used at 600 and 800: the horizon.
The authors' σ̂ seems to tick at every forward pass (their configurations of large and XL have 0.9 to
the power of batch / 32); ours ticks once an optimizer step, so accumulation does not change it.
"""

from __future__ import annotations

from normsurgery.train.removal.schedule import Schedule

_TOKENS = 2**19

PUBLISHED: dict[str, Schedule] = {
    "gpt2": Schedule(
        name="gpt2", steps=300, horizon=300, tokens_per_step=_TOKENS, start=20,
        gap_mlp=2, gap_qk=2, gap_v=3, gap_final=2, gap_end=10, gap_first=0,
        learning_rate=6e-4, min_learning_rate=3e-4, warmup=25, auxiliary=0.1,
    ),
    "gpt2-medium": Schedule(
        name="gpt2-medium", steps=500, horizon=500, tokens_per_step=_TOKENS, start=20,
        gap_mlp=2, gap_qk=2, gap_v=3, gap_final=2, gap_end=10, gap_first=0,
        learning_rate=6e-4, min_learning_rate=3e-4, warmup=10, auxiliary=0.1,
    ),
    "gpt2-large": Schedule(
        name="gpt2-large", steps=600, horizon=1200, tokens_per_step=_TOKENS, start=30,
        gap_mlp=4, gap_qk=4, gap_v=6, gap_final=2, gap_end=10, gap_first=0,
        learning_rate=3e-4, min_learning_rate=4e-5, warmup=15, auxiliary=0.03,
    ),
    "gpt2-xl": Schedule(
        name="gpt2-xl", steps=800, horizon=1200, tokens_per_step=_TOKENS, start=50,
        gap_mlp=4, gap_qk=4, gap_v=6, gap_final=2, gap_end=10, gap_first=0,
        learning_rate=1e-4, min_learning_rate=2e-5, warmup=20, auxiliary=0.01,
    ),
}  # fmt: skip
