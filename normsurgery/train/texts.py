"""Whether a model is one that training on text is for."""

from __future__ import annotations

from normsurgery.anatomy.examine import Examination


def why_no_text(examination: Examination) -> str | None:
    """None: the model predicts the next token of a text, which is what training is on."""
    model = examination.twin.model
    both = getattr(examination.config, "is_encoder_decoder", False)
    if model.can_generate() and not both:
        return None
    return (
        f"{examination.model_class.__name__} does not predict the next token of a text, which is "
        "what training is on"
    )
