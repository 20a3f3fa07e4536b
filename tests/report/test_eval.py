"""The report of `eval`."""

from normsurgery.report.eval import difference_text
from tests.report import bench_documents
from tests.report.test_bench import shown


def test_perplexities_and_tasks_stand_side_by_side():
    text = shown(bench_documents.eval_document(), width=120)
    assert "+0.10000 ± 0.01000 nats per token" in text
    assert "1.1050 [1.0840, 1.1270]" in text
    assert "token within" not in text
    (line,) = [line for line in text.splitlines() if "lambada_openai" in line]
    assert line.split() == [
        *"lambada_openai acc ↑ 5,153 0.3200 0.3180 -0.0020 ± 0.0040".split(),
        *"within noise (paired)".split(),
    ]


def test_what_was_not_asked_for_is_not_there():
    document = bench_documents.eval_document()
    document["perplexity"], document["settings"]["limit"] = None, 20
    text = shown(document)
    assert "Perplexity" not in text and "20 samples a task" in text
    document["tasks"] = None
    assert "lambada" not in shown(document)


def test_a_difference_without_error_has_no_words():
    assert difference_text({"value": 0.5, "error": None, "within_noise": None}, 2) == "+0.50"
