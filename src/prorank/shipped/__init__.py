"""The models that ship inside the package, one folder per model.

`prorank-mini` (English) and `prorank-mini-multilingual` are whole. `prorank-smol` is a low-rank difference that is
added to SmolLM2-135M-Instruct, which comes from a package of its own. This module knows names and folders only.
"""

from pathlib import Path

from prorank.util.errors import CheckpointError

MINI = "prorank-mini"  # the default
MULTILINGUAL = "prorank-mini-multilingual"
SMOL = "prorank-smol"
AUTO = "auto"  # no model of its own: one of the first two for each query
FOLDERS = {name: Path(__file__).parent / name for name in (MINI, MULTILINGUAL, SMOL)}


def two_models() -> CheckpointError:
    """What to say where `auto` stands for one model."""
    return CheckpointError(
        f"'{AUTO}' is two models, and this needs one",
        hint=f"name {MINI} (English) or {MULTILINGUAL}; a folder of that name is ./{AUTO}",
    )
