"""The `push` of a recipe: looked at before the first step, done once the output stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normsurgery.api.push import check_licence, check_request, push
from normsurgery.errors import NotPushedError, SurgeryError
from normsurgery.hub.errors import no_token
from normsurgery.recipe import Recipe
from normsurgery.report.next_steps import push_line
from normsurgery.report.progress import Progress


def check_push(recipe: Recipe, *, dry_run: bool) -> None:
    """Raise for what would refuse the push, as far as it can be known before hours of work.

    Of a source on the Hub, the card alone is fetched. On a dry run no token is needed.
    Raises UsageError for a bad repository id, for options that contradict each other, for a
    licence that forbids derivatives and for an output that exists; HubError offline and without a
    token.
    """
    from huggingface_hub import get_token

    from normsurgery.checkpoint import check_destination
    from normsurgery.checkpoint.hub import source_card

    asked = recipe.push
    check_request(
        asked["to"],
        asked.get("revision"),
        create_pr=asked.get("create_pr", False),
        dry_run=dry_run,
    )
    if get_token() is None and not dry_run:
        raise no_token()
    if not asked.get("i_have_permission"):
        overwrite = bool(recipe.settings.get("overwrite", False))
        check_destination(Path(recipe.output), overwrite=overwrite, source=None)
        check_licence(source_card(recipe.source), permitted=False)


def pushed(recipe: Recipe, document: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Push the output; the document of `push`. document: what the recipe did.

    Raises NotPushedError for whatever stops it: the output stays, and the hint pushes it again.
    """
    options = {key: value for key, value in recipe.push.items() if key != "to"}
    try:
        return push(recipe.output, recipe.push["to"], progress=progress, **options).to_dict()
    except SurgeryError as error:
        again = push_line(recipe.output, recipe.push)
        raise NotPushedError(
            f"{recipe.output} is complete, but it was not pushed: {error.message}",
            f"{error.hint}; then: {again}" if error.hint else again,
            document,
        ) from error


def planned_push(recipe: Recipe) -> dict[str, Any]:
    """What a dry run says of it, with the defaults of `push`."""
    asked = recipe.push
    return {
        "repository": asked["to"],
        "revision": asked.get("revision") or "main",
        "private": asked.get("private", True),
        "create_pr": asked.get("create_pr", False),
        "message": asked.get("message"),
        "unverified": asked.get("unverified", False),
        "dry_run": True,
    }
