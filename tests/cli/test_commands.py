"""Every command hands each of its options to the API and prints the document that comes back."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import normsurgery
from normsurgery.cli import main
from normsurgery.cli.app import app
from tests.cli.invoke import ROOT, Fake
from tests.report import bench_documents, documents

MODEL = str(ROOT / "tests" / "data" / "tiny-gpt2-6x96")
RECIPE = str(ROOT / "recipes" / "gpt2-to-rmsnorm.yaml")
DOCUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "inspect": documents.inspect_document,
    "convert": documents.convert_document,
    "remove_ln": documents.remove_ln_document,
    "fold_bn": documents.fold_bn_document,
    "fold": documents.fold_document,
    "prune": documents.prune_document,
    "arrange": documents.arrange_document,
    "heal": documents.heal_document,
    "verify": documents.verify_document,
    "bench": bench_documents.bench_document,
    "eval": bench_documents.eval_document,
    "run": documents.convert_document,
    "card": documents.card_document,
    "push": documents.push_document,
    "report": documents.report_document,
}
NEEDED = {
    "inspect": [MODEL],
    "convert": [MODEL, "-o", "out"],
    "remove_ln": [MODEL, "-o", "out"],
    "fold_bn": [MODEL, "-o", "out"],
    "fold": [MODEL, "-o", "out", "--what", "norm"],
    "prune": [MODEL, "-o", "out", "--drop", "2"],
    "arrange": [MODEL, "-o", "out", "--blocks", "0-3,zero"],
    "heal": [MODEL, "-o", "out", "--teacher", MODEL],
    "verify": [MODEL, MODEL],
    "bench": [MODEL, MODEL],
    "eval": [MODEL, MODEL],
    "run": [RECIPE],
    "card": [MODEL],
    "push": [MODEL, "user/pythia-rms"],
    "report": [MODEL],
}
OPTIONS = [
    ("inspect", "--health", "health", True),
    ("inspect", "--trust-remote-code", "trust_remote_code", True),
    ("inspect", "--allow-pickle", "allow_pickle", True),
    ("convert", "--to=crmsnorm", "to", "crmsnorm"),
    ("convert", "--target=graft", "target", "graft"),
    ("convert", "--fold-affine", "fold_affine", True),
    ("convert", "--untie", "untie", True),
    ("convert", "--part=transformer", "part", "transformer"),
    ("convert", "--dtype=bfloat16", "dtype", "bfloat16"),
    ("convert", "--device=cuda:1", "device", "cuda:1"),
    ("convert", "--dry-run", "dry_run", True),
    ("convert", "--overwrite", "overwrite", True),
    ("convert", "--seed=7", "seed", 7),
    ("convert", "--max-shard-size=2GB", "max_shard_size", "2GB"),
    ("convert", "--no-verify", "verify", False),
    ("convert", "--keep-failed", "keep_failed", True),
    ("convert", "--allow-nonfinite", "allow_nonfinite", True),
    ("convert", "--data=t.txt", "data", Path("t.txt")),
    ("convert", "--trust-remote-code", "trust_remote_code", True),
    ("convert", "--allow-pickle", "allow_pickle", True),
    ("fold_bn", "--example=photo.png", "example", Path("photo.png")),
    ("fold_bn", "--form=graft", "form", "graft"),
    ("fold_bn", "--example=x.npy", "example", Path("x.npy")),
    ("fold_bn", "--dtype=bfloat16", "dtype", "bfloat16"),
    ("fold_bn", "--device=cuda:1", "device", "cuda:1"),
    ("fold_bn", "--dry-run", "dry_run", True),
    ("fold_bn", "--overwrite", "overwrite", True),
    ("fold_bn", "--seed=7", "seed", 7),
    ("fold_bn", "--max-shard-size=2GB", "max_shard_size", "2GB"),
    ("fold_bn", "--no-verify", "verify", False),
    ("fold_bn", "--keep-failed", "keep_failed", True),
    ("fold_bn", "--allow-nonfinite", "allow_nonfinite", True),
    ("fold_bn", "--data=t.txt", "data", Path("t.txt")),
    ("fold_bn", "--trust-remote-code", "trust_remote_code", True),
    ("fold_bn", "--allow-pickle", "allow_pickle", True),
    ("fold", "--untie", "untie", True),
    ("fold", "--rotation=random", "rotation", "random"),
    ("fold", "--data=images", "data", Path("images")),
    ("fold", "--reference=whole", "reference", "whole"),
    ("remove_ln", "--finetune", "finetune", True),
    ("remove_ln", "--one-shot", "one_shot", True),
    ("remove_ln", "--data=t.txt", "data", "t.txt"),
    ("remove_ln", "--text-column=body", "text_column", "body"),
    ("remove_ln", "--other-data=o.txt", "other_data", "o.txt"),
    ("remove_ln", "--tokens=99", "tokens", 99),
    ("remove_ln", "--max-length=64", "max_length", 64),
    ("remove_ln", "--schedule=gpt2", "schedule", "gpt2"),
    ("remove_ln", "--sites=mlp,final", "sites", "mlp,final"),
    ("remove_ln", "--export=partial", "export", "partial"),
    ("remove_ln", "--no-control", "control", False),
    ("remove_ln", "--teacher=control", "teacher", "control"),
    ("remove_ln", "--lr=1e-4", "lr", 0.0001),
    ("remove_ln", "--batch-size=2", "batch_size", 2),
    ("remove_ln", "--gradient-accumulation=3", "gradient_accumulation", 3),
    ("remove_ln", "--gradient-checkpointing", "gradient_checkpointing", True),
    ("remove_ln", "--bf16", "bf16", True),
    ("remove_ln", "--save-every=5", "save_every", 5),
    ("remove_ln", "--resume", "resume", True),
    ("remove_ln", "--report-to=trackio", "report_to", "trackio"),
    ("prune", "--stack=decoder", "stack", "decoder"),
    ("prune", "--method=taylor", "method", "taylor"),
    ("prune", "--iterative", "iterative", True),
    ("prune", "--explain", "explain", True),
    ("prune", "--substitute=merge", "substitute", "merge"),
    ("prune", "--objective=cosine", "objective", "cosine"),
    ("prune", "--heal=sequential", "heal", "sequential"),
    ("prune", "--data=t.txt", "data", "t.txt"),
    ("prune", "--text-column=body", "text_column", "body"),
    ("prune", "--tokens=99", "tokens", 99),
    ("prune", "--max-length=64", "max_length", 64),
    ("prune", "--other-data=o.txt", "other_data", "o.txt"),
    ("arrange", "--stack=encoder", "stack", "encoder"),
    ("arrange", "--data=t.txt", "data", Path("t.txt")),
    ("heal", "--train=head+last3", "train", "head+last3"),
    ("heal", "--data=t.txt", "data", "t.txt"),
    ("heal", "--text-column=body", "text_column", "body"),
    ("heal", "--tokens=99", "tokens", 99),
    ("heal", "--max-length=64", "max_length", 64),
    ("heal", "--steps=7", "steps", 7),
    ("heal", "--epochs=1.5", "epochs", 1.5),
    ("heal", "--lr=1e-4", "lr", 0.0001),
    ("heal", "--batch-size=2", "batch_size", 2),
    ("heal", "--gradient-accumulation=3", "gradient_accumulation", 3),
    ("heal", "--gradient-checkpointing", "gradient_checkpointing", True),
    ("heal", "--no-bf16", "bf16", False),
    ("heal", "--ce=0.5", "ce", 0.5),
    ("heal", "--kl=2", "kl", 2.0),
    ("heal", "--hidden=0.1", "hidden", 0.1),
    ("heal", "--temperature=2", "temperature", 2.0),
    ("heal", "--lora-rank=4", "lora_rank", 4),
    ("heal", "--save-every=5", "save_every", 5),
    ("heal", "--resume", "resume", True),
    *(
        (command, given, name, value)
        for command in ("fold", "remove_ln", "prune", "arrange", "heal")
        for given, name, value in (
            ("--dtype=bfloat16", "dtype", "bfloat16"),
            ("--device=cuda:1", "device", "cuda:1"),
            ("--dry-run", "dry_run", True),
            ("--overwrite", "overwrite", True),
            ("--seed=7", "seed", 7),
            ("--max-shard-size=2GB", "max_shard_size", "2GB"),
            ("--no-verify", "verify", False),
            ("--keep-failed", "keep_failed", True),
            ("--allow-nonfinite", "allow_nonfinite", True),
            ("--trust-remote-code", "trust_remote_code", True),
            ("--allow-pickle", "allow_pickle", True),
        )
    ),
    *((command, "--plots", "plots", True) for command in ("fold", "remove_ln", "prune", "heal")),
    ("verify", "--data=t.txt", "data", Path("t.txt")),
    ("verify", "--tokens=99", "tokens", 99),
    ("verify", "--max-length=64", "max_length", 64),
    ("verify", "--dtype=float64", "dtype", "float64"),
    ("verify", "--device=cpu", "device", "cpu"),
    ("verify", "--against-float64", "against_float64", True),
    ("verify", "--linearity", "linearity", True),
    ("verify", "--contract=lossy", "contract", "lossy"),
    ("verify", "--seed=3", "seed", 3),
    ("verify", "--trust-remote-code", "trust_remote_code", True),
    ("verify", "--allow-pickle", "allow_pickle", True),
    ("bench", "--batch=1,4", "batch", (1, 4)),
    ("bench", "--length=8,16", "length", (8, 16)),
    ("bench", "--new-tokens=5", "new_tokens", 5),
    ("bench", "--repeats=7", "repeats", 7),
    ("bench", "--compile=eager+compiled", "compile", "eager+compiled"),
    ("bench", "--dtype=bfloat16", "dtype", "bfloat16"),
    ("bench", "--device=cpu", "device", "cpu"),
    ("bench", "--threads=2", "threads", 2),
    ("bench", "--no-memory", "memory", False),
    ("bench", "--data=images", "data", Path("images")),
    ("bench", "--seed=3", "seed", 3),
    ("bench", "--trust-remote-code", "trust_remote_code", True),
    ("bench", "--allow-pickle", "allow_pickle", True),
    ("eval", "--tasks=a,b", "tasks", ("a", "b")),
    ("eval", "--data=t.txt", "data", "t.txt"),
    ("eval", "--text-column=body", "text_column", "body"),
    ("eval", "--tokens=99", "tokens", 99),
    ("eval", "--max-length=64", "max_length", 64),
    ("eval", "--num-fewshot=2", "num_fewshot", 2),
    ("eval", "--limit=5", "limit", 5),
    ("eval", "--batch-size=3", "batch_size", 3),
    ("eval", "--chat-template", "chat_template", True),
    ("eval", "--include-path=tasks", "include_path", Path("tasks")),
    ("eval", "--dtype=bfloat16", "dtype", "bfloat16"),
    ("eval", "--device=cpu", "device", "cpu"),
    ("eval", "--seed=3", "seed", 3),
    ("eval", "--trust-remote-code", "trust_remote_code", True),
    ("eval", "--allow-pickle", "allow_pickle", True),
    ("run", "--set=seed=1", "overrides", ("seed=1",)),
    ("run", "--dry-run", "dry_run", True),
    ("card", "--template=t.md", "template", Path("t.md")),
    ("card", "--dry-run", "dry_run", True),
    ("run", "--no-fuse", "fuse", False),
    ("push", "--public", "private", False),
    ("push", "--create-pr", "create_pr", True),
    ("push", "--revision=v2", "revision", "v2"),
    ("push", "--message=Second", "message", "Second"),
    ("push", "--unverified", "unverified", True),
    ("push", "--i-have-permission", "i_have_permission", True),
    ("push", "--dry-run", "dry_run", True),
    ("report", "--output=page.html", "output", Path("page.html")),
    ("report", "--overwrite", "overwrite", True),
    ("report", "--samples=3", "samples", 3),
    ("report", "--prompt=Once", "prompts", ("Once",)),
    ("report", "--data=t.txt", "data", "t.txt"),
    ("report", "--source=gpt2", "source", "gpt2"),
    ("report", "--device=cpu", "device", "cpu"),
    ("report", "--seed=3", "seed", 3),
    ("report", "--trust-remote-code", "trust_remote_code", True),
    ("report", "--allow-pickle", "allow_pickle", True),
]


def spelled(command):
    """The function's name as the command line has it."""
    return command.replace("_", "-")


@pytest.fixture(params=DOCUMENTS)
def faked(request, monkeypatch):
    """A command's name and the fake in place of its API function."""
    fake = Fake(DOCUMENTS[request.param]())
    monkeypatch.setattr(normsurgery, request.param, fake)
    return request.param, fake


@pytest.mark.parametrize(("command", "given", "name", "value"), OPTIONS)
def test_an_option_reaches_the_api(monkeypatch, capsys, command, given, name, value):
    fake = Fake(DOCUMENTS[command]())
    monkeypatch.setattr(normsurgery, command, fake)
    assert main([spelled(command), *NEEDED[command], given]) == 0
    assert fake.calls[0][1][name] == value


def test_every_option_of_every_command_is_in_the_table_above():
    printing = {"json", "traceback", "print_template"}
    for info in app.registered_commands:
        assert info.callback is not None
        name = info.callback.__name__
        taken = {
            key for key, p in inspect.signature(info.callback).parameters.items()
            if p.default is not p.empty
        } - printing  # fmt: skip
        assert taken == {option for command, _, option, _ in OPTIONS if command == name}


@pytest.mark.parametrize("command", DOCUMENTS)
def test_defaults_are_the_api_s_own(monkeypatch, capsys, command):
    function = getattr(normsurgery, command)
    fake = Fake(DOCUMENTS[command]())
    monkeypatch.setattr(normsurgery, command, fake)
    assert main([spelled(command), *NEEDED[command]]) == 0
    defaults = {
        name: p.default for name, p in inspect.signature(function).parameters.items()
        if p.default is not p.empty
    }  # fmt: skip
    needed = needed_options(function)
    given = {key: v for key, v in fake.calls[0][1].items() if key not in needed}
    assert given.pop("progress") is not None
    defaults.pop("progress")
    assert given == {key: defaults[key] for key in given}
    assert set(given) == set(defaults)


def needed_options(function):
    """The options without a default."""
    return [
        name for name, p in inspect.signature(function).parameters.items()
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY
    ]  # fmt: skip


def test_what_must_be_given_arrives(faked, capsys):
    command, fake = faked
    main([spelled(command), *NEEDED[command]])
    words = [word for word in NEEDED[command] if word != "-o"]
    option = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    given, options = fake.calls[0]
    assert list(map(str, given)) == words[:option]
    for name, value in zip(words[option::2], words[option + 1 :: 2], strict=True):
        assert options[name[2:]] == value


def test_the_report_goes_to_stdout_and_nothing_to_stderr(faked, capsys):
    command, _ = faked
    assert main([spelled(command), *NEEDED[command]]) == 0
    out, err = capsys.readouterr()
    assert "EleutherAI/pythia-160m" in out and err == ""


def test_json_is_the_document_and_nothing_else(faked, capsys):
    command, fake = faked
    assert main([spelled(command), *NEEDED[command], "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == fake.answer and err == ""


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_failed_verdict_is_printed_and_exits_6(monkeypatch, capsys, extra):
    monkeypatch.setattr(normsurgery, "verify", Fake(documents.verify_document("fail", 9.0)))
    assert main(["verify", "a", "b", *extra]) == 6
    assert "fail" in capsys.readouterr().out


def test_what_a_library_prints_stays_out_of_the_results(monkeypatch, capsys):
    class Chatty(Fake):
        def __call__(self, *arguments, **options):
            print("Loading weights…")
            return super().__call__(*arguments, **options)

    monkeypatch.setattr(normsurgery, "inspect", Chatty(documents.inspect_document()))
    assert main(["inspect", "gpt2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["command"] == "inspect" and "Loading" in err


def test_figures_that_json_cannot_hold_become_null(monkeypatch, capsys):
    document = documents.verify_document("fail")
    document["verification"]["logits"]["max"] = float("nan")
    monkeypatch.setattr(normsurgery, "verify", Fake(document))
    main(["verify", "a", "b", "--json"])
    parsed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert parsed["verification"]["logits"]["max"] is None


def test_an_interrupted_push_says_how_it_goes_on(monkeypatch, capsys):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(normsurgery, "push", interrupted)
    assert main(["push", *NEEDED["push"]]) == 130
    said = capsys.readouterr().err
    assert "error: interrupted" in said and "the same command goes on" in said
