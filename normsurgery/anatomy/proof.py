"""The proof: the surgery's own code on the twin's saved files, every output compared in float64.

Each form that the result opens in is loaded from disk, as a user would load it, and held against
the source. A negative control follows: the same comparison must notice a result that is wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination, save_twin
from normsurgery.anatomy.model import Anatomy
from normsurgery.anatomy.probe import probe, run_outputs
from normsurgery.anatomy.runtime import quiet, single_thread
from normsurgery.anatomy.twin import relative_error
from normsurgery.checkpoint import Checkpoint, open_checkpoint, write_weights
from normsurgery.errors import VerificationError

EXACT_BOUND = 1e-9  # × the outputs' std, in float64
CONTROL_FLOOR = 1e-6  # what a wrong result must at least change

Operate = Callable[[Checkpoint], Checkpoint]
FormClass = Callable[[Path], type]


@dataclass(frozen=True)
class Proof:
    """errors: form → largest output difference / std on the twin, float64. controls: form → the
    same after sabotage. probe: the numeric witness's change. outputs: the outputs compared.
    bound: what the errors were allowed to be."""

    errors: Mapping[str, float]
    controls: Mapping[str, float]
    probe: float
    outputs: tuple[str, ...]
    bound: float = EXACT_BOUND

    def to_dict(self) -> dict[str, Any]:
        return {
            "dtype": "float64",
            "bound": self.bound,
            "errors": dict(self.errors),
            "controls": dict(self.controls),
            "probe": self.probe,
            "outputs": list(self.outputs),
        }


@single_thread()
def prove(
    examination: Examination,
    operate: Operate,
    forms: Mapping[str, FormClass],
    *,
    centred: Mapping[str, int] | None = None,
    exclusive: bool = False,
    bound: float = EXACT_BOUND,
    without: Collection[str] = (),
    reference: Mapping[str, Tensor] | None = None,
    wrong: Mapping[str, Operate] | None = None,
) -> Proof:
    """Prove a surgery on the twin.

    operate: the surgery, checkpoint → checkpoint. forms: name → function from the result's
    directory to the class that opens it. centred: tensors of the result that must have zero mean
    along the given axis (float64 rounding allowed). exclusive: the source's class computes
    something else with the result, so it must fail to open it. bound: on the error / std. without:
    outputs that the result does not have. reference: what the result must give, by output; None:
    what the twin gives. wrong: name → a wrong surgery that the comparison must notice; None: the
    right result is spoiled instead. With a reference of its own, nothing rests on the anatomy's
    streams: no output is left out for showing one, and the numeric witness is not asked.
    Raises VerificationError naming the tensor, the output or the form that is wrong.
    """
    anatomy = examination.anatomy
    pushed = probe(examination.twin, anatomy) if reference is None else 0.0
    with tempfile.TemporaryDirectory(prefix="normsurgery-twin-") as scratch:
        before, after = Path(scratch, "source"), Path(scratch, "result")
        save_twin(examination, before)
        result = operate(open_checkpoint(before))
        after.mkdir()
        write_weights(result, after, hashes=False)
        _check_centred(result, centred or {})
        if exclusive:
            _check_refused(examination.model_class, after)
        inputs = examination.twin.inputs
        # The twin in memory is the reference: names misread on the way to disk would show too.
        source = examination.twin.model
        hidden = tuple(without)
        if reference is None:
            hidden = (*anatomy.exposed, *without)
            reference = run_outputs(source, inputs, without=hidden)
        errors, controls = {}, {}
        for form, class_of in forms.items():
            model = load_float64(class_of(after), after)
            ours = _run_form(model, form, inputs, hidden)
            errors[form] = _checked_error(ours, reference, form, bound)
            if wrong is None:
                _sabotage(model, source, anatomy)
                spoiled = run_outputs(model, inputs, without=hidden)
                controls[form] = _noticed(spoiled, reference, form, bound)
                continue
            found = {
                name: _noticed(
                    _wrong_outputs(examination, operate_wrongly, class_of, hidden),
                    reference, form, bound, f" ({name})",
                )
                for name, operate_wrongly in wrong.items()
            }  # fmt: skip
            controls[form] = min(found.values())
    return Proof(errors, controls, pushed, tuple(reference), bound)


def _noticed(
    spoiled: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    form: str,
    bound: float,
    how: str = "",
) -> float:
    """The error of a wrong result, which must be far above what a right one is allowed."""
    error = relative_error(spoiled, reference)[0]
    if not error >= max(CONTROL_FLOOR, 3 * bound):
        raise VerificationError(
            f"the proof cannot tell a wrong {form} result{how} from a right one "
            f"(control {error:.1e})",
            "please report the model id",
        )
    return error


def _wrong_outputs(
    examination: Examination, operate: Operate, class_of: FormClass, hidden: tuple[str, ...]
) -> dict[str, Tensor]:
    """What a wrong surgery's result gives, opened in the same class."""
    with tempfile.TemporaryDirectory(prefix="normsurgery-twin-") as scratch:
        before, after = Path(scratch, "source"), Path(scratch, "result")
        save_twin(examination, before)
        after.mkdir()
        write_weights(operate(open_checkpoint(before)), after, hashes=False)
        model = load_float64(class_of(after), after)
        return run_outputs(model, examination.twin.inputs, without=hidden)


def _check_refused(model_class: Any, directory: Path) -> None:
    try:
        with quiet():
            model_class.from_pretrained(directory)
    except Exception:  # whatever the class refuses it with
        return
    raise VerificationError(
        f"{model_class.__name__} opens the result, although it computes something else with it",
        "nothing was written; please report the model id",
    )


def _run_form(
    model: Any, form: str, inputs: Mapping[str, Tensor], hidden: tuple[str, ...]
) -> dict[str, Tensor]:
    try:
        return run_outputs(model, inputs, without=hidden)
    except Exception as error:  # whatever the model's own code raises
        reason = " ".join(str(error).split())[:160]
        raise VerificationError(
            f"{form} form does not run on the twin: {reason}",
            "nothing was written; please report the model id",
        ) from error


def load_float64(model_class: Any, directory: Path) -> Any:
    """Load a directory in float64; any missing, unexpected or mismatched key is an error."""
    with quiet():
        model, report = model_class.from_pretrained(
            directory, dtype=torch.float64, output_loading_info=True,
            attn_implementation="eager", experts_implementation="eager",
        )  # fmt: skip
    problems = {
        kind: sorted(map(str, keys))
        for kind, keys in report.items()
        if kind in ("missing_keys", "unexpected_keys", "mismatched_keys") and keys
    }
    if problems:
        kind, keys = next(iter(problems.items()))
        raise VerificationError(
            f"{model_class.__name__} loads the twin with {kind.replace('_', ' ')}: {keys[0]}",
            "please report the model id: the names on disk are misread",
        )
    return model.eval()


def _checked_error(
    ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], form: str, bound: float
) -> float:
    if set(ours) != set(reference):
        odd = sorted(set(ours) ^ set(reference))[0]
        raise VerificationError(
            f"the {form} form and the source differ in outputs: {odd}",
            "nothing was written; please report the model id",
        )
    error, where = relative_error(ours, reference)
    if not error <= bound:
        raise VerificationError(
            f"{form} form: {where} differs from the source's by {error:.1e} of its std on the twin "
            f"(allowed {bound:.0e})",
            "nothing was written; please report the model id",
        )
    return error


def _check_centred(result: Checkpoint, centred: Mapping[str, int]) -> None:
    for name, dim in centred.items():
        tensor = result[name].load()
        mean = tensor.mean(dim) if tensor.dim() > 1 else tensor.mean()
        if float(mean.abs().max()) > 1e-12 * float(tensor.abs().max()):
            raise VerificationError(
                f"{name} writes to the residual stream and is not centred",
                "the surgery left a writer out; nothing was written",
            )


def _sabotage(model: Any, source: Any, anatomy: Anatomy) -> None:
    """Spoil a loaded result: give it back the source's weights where they fit, and noise to one.

    The source's weights alone are no sabotage in the stock class (it ignores the mean), the noise
    alone would not show that the graft needs centred writers; together every form must notice.
    """
    original = dict(source.named_parameters())
    generator = torch.Generator().manual_seed(1)
    changed = False
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            before = original.get(name)
            if before is None or before.shape != parameter.shape:
                continue
            changed = changed or not torch.equal(before, parameter)
            parameter.copy_(before)
        if changed and type(model) is not type(source):
            return
        for victim in _weights_that_matter(model, anatomy):
            noise = torch.randn(victim.shape, generator=generator, dtype=victim.dtype)
            victim += 1e-2 * noise * victim.std()


def _weights_that_matter(model: Any, anatomy: Anatomy) -> list[Tensor]:
    """The matrices that read a converted norm; the largest of all, under other names."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    sites = (anatomy.sites[name] for stream in anatomy.convertible() for name in stream.sites)
    read = dict.fromkeys(reader.weight for site in sites for reader in site.readers)
    found = [parameters[name] for name in read if name in parameters]
    return found or [max(parameters.values(), key=lambda p: p.numel() if p.dim() == 2 else 0)]
