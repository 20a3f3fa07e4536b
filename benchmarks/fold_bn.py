"""What folding BatchNorms saves: the original against the kept and the grafted form.

Three models with random weights (ResNet-50's shapes, MobileNetV2's, and a TextNet, whose parallel
branches merge), each folded in both forms. In every round all forms run the same images one after
another, in another order each time; printed are the ratios of the pairs of one round, original over
form: above 1 is faster. Beside each median stands its 95 % interval (order statistics of the pairs,
no assumption of their distribution).

torch.compile with freezing folds BatchNorms itself, when it compiles: the last row of each model
says what that gives to the original, against the original as it is. Where it applies it leaves
nothing for a fold to save; a folded file is for eager code, and for what reads the weights.

    python benchmarks/fold_bn.py                  # CPU, and CUDA where there is one
    python benchmarks/fold_bn.py --models resnet --compile resnet --rounds 50
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.graft.load import load_graft_class

SIDE = 224
WARM = 3  # runs that do not count: compiling, and the allocator
FORMS = ("original", "keep", "graft")
COMPILED = ("compiled", "frozen")
# name → class, configuration class, configuration
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {}),  # the defaults are ResNet-50's
    "mobilenet": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {}),
    "textnet": (
        "TextNetForImageClassification",
        "TextNetConfig",
        {
            "conv_layer_kernel_sizes": [[[3, 3], [3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]],
                                        [[3, 3], [3, 3]]],
            "conv_layer_strides": [[1, 2], [2, 1], [2, 1], [2, 1]],
        },
    ),
}  # fmt: skip


def build(name: str, directory: Path) -> type:
    """The model with random weights and BatchNorms that do something; its class."""
    class_name, config_name, settings = MODELS[name]
    torch.manual_seed(0)
    model_class: Any = getattr(transformers, class_name)
    model = model_class(getattr(transformers, config_name)(**settings)).eval()
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
            elif key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    with quiet():
        model.save_pretrained(directory)
    return model_class  # type: ignore[no-any-return]


def opened(name: str, scratch: Path, device: torch.device) -> dict[str, Any]:
    """The forms of one model, loaded, by name."""
    source = scratch / name
    model_class: Any = build(name, source)
    places, classes = {"original": source}, dict.fromkeys(FORMS, model_class)
    for form in ("keep", "graft"):
        places[form] = scratch / f"{name}-{form}"
        done = normsurgery.fold_bn(source, places[form], form=form, verify=False).document
        file = next(places[form].glob("modeling_*.py"), None)
        if file is not None:
            classes[form] = load_graft_class(places[form], file.name, model_class.__name__)
    counts = done["batch_norms"]
    print(
        f"{name}: {counts['folded']} BatchNorms folded, {counts['left']} left, "
        f"{counts['merged_maps']} convolutions merged into another"
    )
    with quiet():
        return {
            form: classes[form].from_pretrained(places[form]).eval().to(device) for form in FORMS
        }


def freezing(mode: str) -> Any:
    """A context in which what is compiled takes the weights for constants, where the mode says."""
    patch: Any = torch._inductor.config.patch
    return patch(freezing=mode == "frozen")


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measured(runs: dict[str, Callable[[Any], Any]], images: Any, rounds: int) -> dict[str, Any]:
    """Seconds of every round by name; all run once in a round, in a drawn order."""
    draw = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():  # freezing asks for it
        for run in runs.values():
            for _ in range(WARM):
                run(images)
        for _ in range(rounds):
            order = list(runs)
            draw.shuffle(order)
            for name in order:
                times[name].append(timed(partial(runs[name], images), images.device))
    return times


def ratio(base: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Low end of the 95 % interval of the median of base / other, the median, and the high end."""
    ratios = sorted(b / o for b, o in zip(base, other, strict=True))
    count = len(ratios)
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    middle = (ratios[(count - 1) // 2] + ratios[count // 2]) / 2
    return ratios[rank], middle, ratios[count - 1 - rank]


def show(mode: str, form: str, against: str, base: Sequence[float], other: Sequence[float]) -> None:
    low, middle, high = ratio(base, other)
    fastest = 1000 * min(other)
    print(
        f"  {mode:10}{form:10}{middle:7.3f}×  [{low:.3f}, {high:.3f}]"
        f"   over {against}, at best {fastest:.1f} ms"
    )


def compare(
    name: str, scratch: Path, device: torch.device, compiles: bool, batch: int, rounds: int
) -> None:
    """Print one model's ratios. The kept form is not compiled: it runs what the original runs."""
    models = opened(name, scratch, device)
    images = torch.randn(batch, 3, SIDE, SIDE, device=device)
    times = measured(models, images, rounds)
    for form in FORMS[1:]:
        show("eager", form, "the original", times["original"], times[form])
    for mode in COMPILED if compiles else ():
        torch._dynamo.reset()
        with freezing(mode):
            runs: dict[str, Any] = {"eager": models["original"]}
            runs |= {form: torch.compile(models[form]) for form in ("original", "graft")}
            times = measured(runs, images, rounds)
        show(mode, "graft", "the original", times["original"], times["graft"])
        show(mode, "original", "eager", times["eager"], times["original"])


def main() -> None:
    parser = argparse.ArgumentParser(description="the speed of folded BatchNorms")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--compile", default="mobilenet", help="models to run compiled, too")
    parser.add_argument("--devices", default="cpu,cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for place in options.devices.split(","):
        device = torch.device(place)
        gpu = device.type == "cuda"
        where = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU, "
        threads = "" if gpu else f"{torch.get_num_threads()} threads"
        print(f"{where}{threads}, float32, batch {options.batch}, {SIDE} × {SIDE}")
        for name in options.models.split(","):
            with tempfile.TemporaryDirectory() as scratch:
                compare(
                    name, Path(scratch), device, name in options.compile.split(","),
                    options.batch, options.rounds,
                )  # fmt: skip
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured there")


if __name__ == "__main__":
    main()
