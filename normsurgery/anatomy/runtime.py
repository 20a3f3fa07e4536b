"""How transformers and torch are run here: quietly, and on as many threads as help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger

import torch


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, remarks or load report of the libraries: our own report says the same."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    offload = getLogger("accelerate.big_modeling")
    level = offload.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    offload.setLevel(ERROR)
    try:
        yield
    finally:
        offload.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch: a twin's matrices are so small that more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
