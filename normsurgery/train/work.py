"""The directory beside the output in which an interrupted run waits to be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normsurgery.checkpoint import write_text_durably  # type: ignore[attr-defined]
