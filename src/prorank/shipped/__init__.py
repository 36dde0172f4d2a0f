"""The model that ships inside the package, one folder a model; knows names and folders only."""

from pathlib import Path

MINI = "prorank-mini"
FOLDER = Path(__file__).parent / MINI
