"""Import a modeling file straight from its directory.

`AutoModel.from_pretrained(trust_remote_code=True)` registers the class for its model type in the
whole process, so that a later untrusted load of that type would get it. This does not.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_serial = itertools.count()


def load_graft_class(directory: Path, file: str, class_name: str) -> type:
    """The class `class_name` of `directory/file`; relative imports of neighbours work."""
    package = f"_normsurgery_graft_{next(_serial)}"
    parent = types.ModuleType(package)
    parent.__path__ = [str(directory)]
    sys.modules[package] = parent
    name = f"{package}.{file.removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, directory / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _no_bytecode():  # which would lie beside the weights, and move into place with them
        spec.loader.exec_module(module)
    found: type = getattr(module, class_name)
    return found


@contextmanager
def _no_bytecode() -> Iterator[None]:
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
