"""The command line: parse, call the API, print. The only place that prints."""

from normsurgery.cli.main import main

__all__ = ["main"]
