"""Import a modeling file straight from its directory.

`AutoModel.from_pretrained(trust_remote_code=True)` registers the class for its model type in the
whole process, so that a later untrusted load of that type would get it. This does not.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
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
    spec.loader.exec_module(module)
    found: type = getattr(module, class_name)
    return found
