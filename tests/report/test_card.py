import ast
import re

import pytest
import yaml

from normsurgery.report.card import at_home, model_card
from tests.report import documents

SOURCE_CARD = (
    "---\nlicense: mit\ntags:\n- pythia\n---\n\n# Pythia-160M\n\nThe source's own words.\n"
)


def card(document=None, source_card=SOURCE_CARD, notes=()):
    return model_card(document or documents.convert_document(), source_card, notes=notes)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_source_card_is_kept_below_our_section():
    text = card()
    ours, theirs = text.index("# pythia-160m with RMSNorm"), text.index("# Pythia-160M\n")
    assert ours < theirs
    assert text.endswith("# Pythia-160M\n\nThe source's own words.\n")


def test_front_matter_names_the_base_and_keeps_the_license():
    assert front(card()) == {
        "license": "mit",
        "base_model": ["EleutherAI/pythia-160m"],
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "tags": ["pythia", "normsurgery", "rmsnorm", "custom_code"],
    }


def test_a_local_source_leaves_no_path_and_no_name_behind():
    document = documents.convert_document()
    document["source"] |= {"model": "secret-directory", "revision": None}
    text = card(document, source_card=None)
    assert "secret-directory" not in text and "base_model" not in text
    assert "a local `GPTNeoXForCausalLM` checkpoint" in text


def test_neither_time_nor_output_nor_memory_is_in_the_card():
    document = documents.convert_document()
    document |= {"output": "/home/someone/out", "seconds": 77.77, "peak_memory_bytes": 1}
    other = documents.convert_document() | {"output": None, "seconds": 1.0}
    assert card(document) == card(other)


def test_figures_contract_and_tensor_counts_are_in_the_card():
    text = card()
    assert "| logits, float16 (× noise floor) | 0.97 | 0.41 | 3 | pass |" in text
    assert "| centre | exact | 99 | 49 | 0 | 0 |" in text
    assert "* **exact**: the same function in real arithmetic" in text
    assert "Verdict: **pass**" in text


def test_an_unverified_result_says_so():
    document = documents.convert_document()
    document["verification"] = {"verdict": "skipped", "contract": "exact"}
    assert "**Not verified**" in card(document)


@pytest.mark.parametrize(
    ("form", "trusting"), [("stock", [False, True]), ("graft", [True]), ("native", [False])]
)
def test_loading_code_parses_and_names_the_ways_in(form, trusting):
    document = documents.convert_document()
    document["target"]["form"] = form
    code = "".join(re.findall(r"```python\n(.*?)```", card(document), re.S))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert [bool(call.keywords) for call in calls] == trusting


def test_limits_are_those_of_centring_and_the_notes():
    limits = card(notes=["pooled output is not kept"]).partition("## What is not guaranteed")[2]
    assert "fine-tuning" in limits and "Dropout" in limits and "output_hidden_states" in limits
    assert "* pooled output is not kept" in limits


def test_a_name_from_the_checkpoint_cannot_break_the_table_or_start_html():
    document = documents.convert_document()
    document["receipts"][0]["surgery"] = "a|b\n<script>"
    text = card(document, notes=["<img src=x>"])
    assert "| a\\|b &lt;script> |" in text and "<img" not in text


def test_a_trained_surgery_does_not_claim_that_nothing_was_trained():
    document = documents.convert_document()
    assert "No gradient step was taken" in card(document)
    document["receipts"][0]["contract"] = "trained"
    assert "No gradient step was taken" not in card(document)


def test_a_dollar_sign_in_the_source_card_stays():
    assert card(source_card="costs $5 and $name\n").endswith("costs $5 and $name\n")


def test_a_result_without_a_modeling_file_has_no_custom_code():
    text = card(documents.arrange_document())
    assert "custom_code" not in text and "trust_remote_code" not in text


def test_a_card_at_home_names_its_id_and_leaves_the_source_s_card_alone():
    inner = model_card(documents.convert_document(), None, notes=[])
    card = model_card(documents.convert_document(), inner, notes=[])
    changed = at_home(card, "user/model")
    assert changed.count("from_pretrained('user/model'") == 2
    assert changed.count("from_pretrained('path/to/the/source/of/this'") == 2
    assert changed.index("'user/model'") < changed.index("'path/to/the/source/of/this'")
    assert at_home(changed, "other/place") == changed
    assert at_home("# No code", "user/model") == "# No code"
