"""The models that ship inside the package, one folder per model.

`prorank-mini` is whole. `prorank-smol` is a low-rank difference that is added to SmolLM2-135M-Instruct, which comes
from a package of its own. This module knows names and folders only.
"""

from pathlib import Path

MINI = "prorank-mini"  # the default
SMOL = "prorank-smol"
FOLDERS = {name: Path(__file__).parent / name for name in (MINI, SMOL)}
