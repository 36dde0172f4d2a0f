"""The model that ships inside the package, one folder per model.

Start at `FOLDER`; this module knows names and folders only.
"""

from pathlib import Path

MINI = "prorank-mini"
FOLDER = Path(__file__).parent / MINI
