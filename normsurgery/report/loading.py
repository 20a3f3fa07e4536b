"""The lines of Python that load a result, for the report and for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
STOCK = "# in the source's own class, no custom code"
GRAFT = "# with RMSNorm for LayerNorm, by the modeling file beside the weights"
OTHER_GRAFT = "# by the modeling file beside the weights"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
              "vocab.txt", "spiece.model", "sentencepiece.bpe.model")  # fmt: skip
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_GENERATE = 'inputs = tokenizer("Once upon a time", return_tensors="pt")'
_GENERATED = (
    "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]))"
)
_PICTURE = 'picture = Image.new("RGB", (640, 480))  # or Image.open("yours.jpg")'
_SECOND = "[0.0] * processor.sampling_rate"
_LABEL = "print(model.config.id2label[model(**inputs).logits.argmax(-1).item()])"
_SHAPE = "print(model(**inputs)[0].shape)"
_FILL = (
    'inputs = tokenizer(f"One {tokenizer.mask_token} two", return_tensors="pt")',
    "print(tokenizer.decode(model(**inputs).logits[0].argmax(-1)))",
)
# Auto class → what comes after the tokenizer; every other one that reads text shows a shape.
_TEXT_USES: dict[str, tuple[str, ...]] = {
    "AutoModelForCausalLM": (_GENERATE, _GENERATED),
    "AutoModelForSeq2SeqLM": (_GENERATE, _GENERATED),
    "AutoModelForMaskedLM": _FILL,
    "AutoModelForSequenceClassification": (_GENERATE, _LABEL),
}
_SOUND = ("CTC", "SpeechSeq2Seq", "Audio")


def custom_code(document: Document) -> bool:
    """Whether a modeling file of ours travels with the result.

    The target says so in `modeling_file`; where it does not, a stock result has one if norms were
    swapped: it is the second way in.
    """
    stated = document["target"].get("modeling_file")
    if stated is not None:
        return bool(stated)
    form = document["target"]["form"]
    return form == "graft" or (form == "stock" and _swaps_norms(document))


def _swaps_norms(document: Document) -> bool:
    return any(receipt.get("norms") for receipt in document["receipts"])


def loading_lines(document: Document, where: str) -> list[str]:
    """Code that opens the result in every form that it has. where: a directory or a Hub id."""
    lines = [f"from transformers import {_auto(document)}"]
    for trusted in _ways(document):
        said = _said(document, trusted)
        lines += [f"# {said}"] if said else []
        lines.append(_opened("model", _auto(document), where, trusted=trusted))
    return lines


def loading_blocks(document: Document, where: str) -> list[dict[str, str | None]]:
    """For each way in: `how` in words (None where there is one only), and `code` that runs as it
    stands: the model, what prepares its inputs where the result has that, and one use of both."""
    ways = _ways(document)
    blocks = []
    for number, trusted in enumerate(ways):
        said = _said(document, trusted)
        how = None if said is None else f"{'Or ' if number else ''}{said}:"
        code = "\n".join(_lines(document, where, trusted=trusted))
        blocks.append({"how": how and how[0].upper() + how[1:], "code": code})
    return blocks


def _ways(document: Document) -> list[bool]:
    """Each way to open it: by its own class alone, or by trusted code."""
    plain = [] if document["target"]["form"] == "graft" else [False]
    return [*plain, True] if custom_code(document) else plain


def _said(document: Document, trusted: bool) -> str | None:
    if trusted:
        return (GRAFT if _gains_rmsnorms(document) else OTHER_GRAFT).removeprefix("# ")
    return STOCK.removeprefix("# ") if document["target"]["form"] == "stock" else None


def _auto(document: Document) -> str:
    return str(document["target"].get("auto_class") or "AutoModel")


def _opened(name: str, auto: str, where: str, *, trusted: bool = False) -> str:
    more = ", trust_remote_code=True" if trusted else ""
    return f"{name} = {auto}.from_pretrained({where!r}{more})"


def _lines(document: Document, where: str, *, trusted: bool) -> list[str]:
    auto = _auto(document)
    model = _opened("model", auto, where, trusted=trusted)
    reader, use = _use(auto, (document.get("files") or {}).get("result") or ())
    if reader is None:
        return [f"from transformers import {auto}", "", model]
    image = ["from PIL import Image"] if reader == "AutoImageProcessor" else []
    name = "tokenizer" if reader == "AutoTokenizer" else "processor"
    names = ", ".join(sorted((auto, reader)))
    imports = [*image, f"from transformers import {names}"]
    return [*imports, "", model, _opened(name, reader, where), *use]


def _use(auto: str, files: Sequence[str] | Mapping[str, Any]) -> tuple[str | None, Sequence[str]]:
    """The class that prepares inputs, and lines that use it; None where no file tells of one."""
    if any(name in files for name in _PROCESSOR):
        if any(word in auto for word in _SOUND):
            return "AutoFeatureExtractor", _sound_use(auto)
        return "AutoImageProcessor", _image_use(auto)
    if any(name in files for name in _TOKENIZER):
        return "AutoTokenizer", _TEXT_USES.get(auto, (_GENERATE, _SHAPE))
    return None, ()


def _image_use(auto: str) -> list[str]:
    last = _LABEL if auto == "AutoModelForImageClassification" else _SHAPE
    return [_PICTURE, 'inputs = processor(picture, return_tensors="pt")', last]


def _sound_use(auto: str) -> list[str]:
    prepared = f"processor({_SECOND}, sampling_rate=processor.sampling_rate, return_tensors='pt')"
    last = "print(model.generate(**inputs).shape)" if "Seq2Seq" in auto else _SHAPE
    return [f"inputs = {prepared}  # or a second of yours", last]


def _gains_rmsnorms(document: Document) -> bool:
    """Whether a step put RMSNorms where others were."""
    for receipt in document["receipts"]:
        norms = receipt.get("norms") or {}
        before, after = (norms.get(side) or {} for side in ("before", "after"))
        if any(after[kind] > before.get(kind, 0) for kind in after if kind.endswith("RMSNorm")):
            return True
    return False
