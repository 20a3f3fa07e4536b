"""Results of the harness side by side, and perplexities of the same tokens."""

import importlib.machinery
import math
import sys
import types

import pytest
import torch

from normsurgery.bench.harness import Harness, TaskRequest
from normsurgery.bench.perplexity import perplexity_figures
from normsurgery.bench.tasks import compare_tasks
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.errors import UsageError


def results(values, *, value=None, error=0.1, prompts="p", samples=True):
    """What the harness returns for one task whose metric is the mean of `values`."""
    mean = sum(values) / len(values) if value is None else value
    logged = [
        {"doc_id": i, "prompt_hash": f"{prompts}{i}", "filter": "none", "acc": v}
        for i, v in enumerate(values)
    ]
    return {
        "results": {"arc": {"alias": "arc", "acc,none": mean, "acc_stderr,none": error}},
        "n-shot": {"arc": 2},
        "n-samples": {"arc": {"original": 99, "effective": len(values)}},
        "higher_is_better": {"arc": {"acc": True}},
        "samples": {"arc": logged} if samples else {},
    }


def test_the_same_samples_are_paired():
    (entry,) = compare_tasks(results([1.0, 0.0, 1.0, 1.0]), results([1.0, 0.0, 0.0, 1.0]))
    assert entry["paired"] and entry["samples"] == 4 and entry["shots"] == 2
    assert entry["higher_is_better"] is True
    assert entry["difference"]["value"] == -0.25
    assert entry["difference"]["error"] == pytest.approx(0.25)  # of 0, 0, −1, 0: s = 0.5, n = 4
    assert entry["difference"]["within_noise"] is True


def test_a_difference_beyond_its_error_is_no_noise():
    (entry,) = compare_tasks(results([0.0] * 40), results([1.0, 1.0, 1.0, 0.0] * 10))
    assert entry["difference"]["within_noise"] is False


@pytest.mark.parametrize("other", [
    {"prompts": "q"},  # other prompts
    {"samples": False},
    {"value": 0.9},  # the metric is not the mean of its samples
])  # fmt: skip
def test_what_cannot_be_paired_has_the_error_of_two_measurements(other):
    options = {"error": 0.4, **other}
    (entry,) = compare_tasks(results([1.0, 0.0], error=0.3), results([1.0, 1.0], **options))
    assert not entry["paired"]
    assert entry["difference"]["error"] == pytest.approx(0.5)


def test_a_metric_without_error_has_no_verdict():
    first, second = (results([1.0, 0.0], value=7.5, error="N/A", samples=False) for _ in range(2))
    (entry,) = compare_tasks(first, second)
    assert entry["reference"] == {"value": 7.5, "error": None}
    assert entry["difference"] == {"value": 0.0, "error": None, "within_noise": None}


def test_a_harness_that_is_not_there_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        Harness(TaskRequest(("arc",)))
    assert "normsurgery[eval]" in caught.value.hint


class Manager:
    """Stands in for the harness's, which takes seconds to list its thousands of tasks."""

    def __init__(self, include_path=None, include_defaults=True):
        own = ["mine"] if include_path else []
        self.all_tasks = [*own, *(["arc", "gsm8k"] if include_defaults else [])]
        self.includes_defaults = include_defaults


@pytest.fixture
def harness(monkeypatch):
    """A module in place of the harness's."""
    modules = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.tasks")}
    modules["lm_eval"].__dict__["__version__"] = "0.4.99"
    modules["lm_eval.tasks"].__dict__["TaskManager"] = Manager
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def test_a_task_that_is_not_there_is_refused_before_a_model_is_loaded(harness):
    assert Harness(TaskRequest(("arc", "gsm8k"))).version == "0.4.99"
    with pytest.raises(UsageError, match="no task nowhere, mine"):
        Harness(TaskRequest(("nowhere", "arc", "mine")))


@pytest.mark.parametrize(("tasks", "everything"), [(("mine",), False), (("mine", "arc"), True)])
def test_the_harness_s_own_tasks_are_listed_where_they_are_asked_for(
    harness, tmp_path, tasks, everything
):
    made = Harness(TaskRequest(tasks, include_path=tmp_path))
    assert made._manager.includes_defaults is everything


def test_perplexities_of_the_same_tokens():
    rows = TextRows.of([[1, 2, 3], [4, 5, 6], [7, 8]], source="t")
    reference = torch.tensor([1.0, 2.0, 3.0, 2.0, 2.0], dtype=torch.float64)
    extra = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.4], dtype=torch.float64)
    found = perplexity_figures(rows, reference, reference + extra)
    assert found["reference"]["perplexity"] == pytest.approx(math.exp(2.0))
    assert found["difference"]["value"] == pytest.approx(0.2)
    assert found["ratio"]["value"] == pytest.approx(math.exp(0.2))
    # Sums of the rows, centred: −0.2, 0, 0.2.
    error = math.sqrt(0.08 * 3 / 2) / 5
    assert found["difference"]["error"] == pytest.approx(error)
    assert found["ratio"]["low"] == pytest.approx(math.exp(0.2 - 1.96 * error))


def test_a_model_is_no_worse_than_itself():
    rows = TextRows.of([[1, 2, 3], [4, 5, 6]], source="t")
    losses = torch.tensor([1.0, 2.0, 3.0, 2.0])
    found = perplexity_figures(rows, losses, losses)["difference"]
    assert found == {"value": 0.0, "error": 0.0, "within_noise": True}


def test_a_loss_that_is_not_finite_is_refused():
    rows = TextRows.of([[1, 2, 3]], source="t")
    with pytest.raises(UsageError, match="not finite"):
        perplexity_figures(rows, torch.ones(2), torch.tensor([1.0, math.inf]))
