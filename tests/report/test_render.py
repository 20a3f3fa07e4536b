"""Reports as a person sees them: rendered to text at a width, then read."""

import io

import pytest
from rich.console import Console

from normsurgery.report import render
from tests.report import documents


def shown(document, *, width=80, colour=False):
    """What `cli.console.show` prints, at a width."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, markup=False, emoji=False, highlight=False,
        force_terminal=colour, color_system="standard" if colour else None,
    )  # fmt: skip
    for part in render(document):
        console.print(part, soft_wrap=bool(getattr(part, "no_wrap", False)))
    return out.getvalue()


def row(text, start):
    """The cells of the line that starts with `start`."""
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith(start))
    return line[len(start) :].split()


def test_convert_shows_measured_beside_allowed_for_both_forms():
    text = shown(documents.convert_document())
    assert row(text, "check") == ["stock", "graft", "allowed"]
    assert row(text, "logits, float16 (× noise floor)") == ["0.97", "0.41", "3", "pass"]
    assert row(text, "load report (bad keys)") == ["0", "0", "0", "pass"]
    assert row(text, "greedy text (16 tokens)") == ["same", "same", "same", "pass"]
    assert row(text, "centre") == ["exact", "99", "49", "0", "0"]
    assert "25 LayerNorm → 25 RMSNorm" in text
    assert "stock: centred weights are the same function" in text
    assert "EleutherAI/pythia-160m@50f5173 → out" in text
    assert row(text, "4.2 s") == ["peak", "memory", "61", "MiB"]


def test_a_failing_form_is_marked_and_says_why():
    text = shown(documents.convert_document("fail", 9.0))
    assert row(text, "logits, float16 (× noise floor)") == ["9", "0.41", "3", "fail"]
    assert "stock: logits: error is 9 × the noise floor" in text


def test_a_figure_that_is_not_finite_fails():
    document = documents.verify_document("fail")
    document["verification"]["outputs"]["logits"]["ratio"] = None  # what JSON makes of NaN
    assert row(shown(document), "logits, float16 (× noise floor)") == ["–", "3", "fail"]


def test_bad_keys_are_counted_over_all_kinds():
    document = documents.verify_document("fail")
    document["verification"]["load_report"] |= {"missing": ["a", "b"], "mismatched": ["c"]}
    assert row(shown(document), "load report (bad keys)") == ["3", "0", "fail"]


@pytest.mark.parametrize(("excused", "cells"), [(True, "1/4 tie"), (False, "1/4 differ")])
def test_a_different_text_says_whether_the_reference_could_tell(excused, cells):
    document = documents.verify_document()
    one = {"row": 2, "step": 5, "margin": 0.1, "noise": 0.2, "excused": excused}
    document["verification"]["generation"]["divergences"] = [one]
    verdict = "pass" if excused else "fail"
    assert row(shown(document), "greedy text (16 tokens)") == [*cells.split(), "same", verdict]


def test_no_verification_is_loud():
    document = documents.convert_document()
    document["verification"] = {"verdict": "skipped", "contract": "exact"}
    assert "skipped  the saved files were NOT verified (--no-verify)" in shown(document)


def test_a_contract_that_allows_change_is_not_judged_by_its_logits():
    document = documents.verify_document(ratio=900.0)
    document["verification"]["contract"] = "lossy"
    assert row(shown(document), "logits, float16 (× noise floor)") == ["900", "–"]


def test_a_dry_run_shows_the_plan_and_how_the_config_changes():
    text = shown(documents.plan_document())
    assert "nothing written (dry run)" in text
    assert row(text, "tensors") == "99 kept · 49 changed · 0 added · 0 dropped".split()
    assert "325 MB needed, 1.0 TB free" in text and "NOT ENOUGH" not in text
    assert row(text, "auto_map")[0] == "absent"
    assert "Load it" not in text


def test_a_dry_run_says_when_the_disk_is_too_small():
    document = documents.plan_document()
    document["plan"]["disk_free"] = 10**6
    assert "325 MB needed, 1.0 MB free: NOT ENOUGH" in shown(document)


def test_loading_code_is_never_broken_and_runs_as_printed():
    document = documents.convert_document()
    document["output"] = "a/rather/long/directory/" * 5 + "it's"
    lines = shown(document, width=60).splitlines()
    start = lines.index("Load it") + 1
    code = "\n".join(line[2:] for line in lines[start : start + 5])
    calls: list[tuple[str, bool]] = []

    class Auto:
        @staticmethod
        def from_pretrained(path, trust_remote_code=False):
            calls.append((path, trust_remote_code))

    exec(code.replace("from transformers import", "#"), {"AutoModelForCausalLM": Auto})
    assert calls == [(document["output"], False), (document["output"], True)]


def test_inspect_folds_blocks_and_keeps_every_site():
    text = shown(documents.inspect_document())
    assert row(text, "gpt_neox.layers.{0-11}.input_layernorm")[0] == "12"
    assert row(text, "gpt_neox.final_layer_norm") == ["1", "LayerNorm", "final", "768"]
    assert row(text, "gpt_neox.layers ") == ["×", "12", "85.1", "M", "170", "MB", "52.4", "%"]
    assert row(text, "convert --to rmsnorm")[:3] == ["yes", "exact", "stock"]
    assert row(text, "convert --to crmsnorm")[:3] == ["no", "exact", "graft"]
    assert "Health" not in text


def test_inspect_shows_stacks_with_what_keeps_them_from_moving():
    document = documents.inspect_document()
    text = shown(document)
    assert row(text[text.index("Stacks of blocks") :], "gpt_neox.layers") == [
        "12", "768", "num_hidden_layers",
    ]  # fmt: skip
    document["stacks"] = [
        {**document["stacks"][0], "name": "a", "keys": [["text_config", "depths", 2]]},
        {**document["stacks"][0], "name": "b", "width": None, "why_not": "it runs twice"},
    ]
    text = shown(document)[shown(document).index("Stacks of blocks") :]
    assert row(text, "a ") == ["12", "768", "text_config.depths.2"]
    assert row(text, "b ") == ["12", "–", *"it runs twice".split()]
    document["stacks"] = []
    assert "Stacks of blocks" not in shown(document)


def test_inspect_shows_health_when_it_was_asked_for():
    document = documents.inspect_document()
    document["health"] = {
        "nonfinite": [{"name": "a.weight", "nan": 3, "inf": 1}],
        "all_zero": [f"h.{i}.bias" for i in range(4)],
    }
    text = shown(document)
    assert row(text, "a.weight") == "3 NaN, 1 Inf".split()
    assert row(text, "h.{0-3}.bias") == "all zero (× 4)".split()
    document["health"] = {"nonfinite": [], "all_zero": []}
    assert "every value is finite" in shown(document)


ALL = [
    documents.convert_document,
    documents.plan_document,
    documents.verify_document,
    documents.inspect_document,
    documents.prune_document,
    documents.heal_document,
    documents.push_document,
]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("width", [60, 80])
def test_no_line_is_wider_than_the_terminal(make, width):
    text = shown(make(), width=width)
    wide = [line for line in text.splitlines() if len(line.rstrip()) > width]
    assert [line for line in wide if "from_pretrained" not in line and "# " not in line] == []


@pytest.mark.parametrize("make", ALL)
def test_hostile_names_reach_the_terminal_as_text(make):
    document = make()
    document["source"]["model"] = "[red]x[/] :smile: \x1b[31m\x07\udcff"
    if "norms" in document:
        document["norms"][-1]["name"] = "[bold]y[/]\x1b]0;title\x07"
    text = shown(document)
    assert "\x1b" not in text and "\x07" not in text
    assert r"[red]x[/] :smile: \x1b[31m\x07\udcff" in text.replace("\n", "")
    text.encode("utf-8")


def test_colour_only_where_it_is_asked_for():
    assert "\x1b[" in shown(documents.verify_document(), colour=True)
    assert "\x1b[" not in shown(documents.verify_document())


def test_blocks_that_went_are_named_and_no_modeling_file_is_spoken_of():
    text = shown(documents.arrange_document())
    assert "12 → 10 of gpt_neox.layers, without 6-8" in text
    assert "trust_remote_code" not in text
