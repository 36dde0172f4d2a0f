"""Results kept in a folder beside what they were made from, and reused only while that is the same.

`study.json` in the folder holds the settings and the files' fingerprints that everything in it was made from, the
version of prorank that made it, and the fingerprint of each finished product (a file or a folder). Knows files, keys
and fingerprints; nothing of recipes, collections or models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prorank.util.errors import DataError, ProrankError
from prorank.util.files import read_json, write_json
from prorank.util.version import VERSION

RECORD = "study.json"
RECIPE = "recipe.yaml"  # beside the record of a training run
HINT = "--force starts over; another folder leaves this one as it is"
NAMED = 3  # differences that an error names


class Inputs(NamedTuple):
    """What results depend on: settings by dotted key, and fingerprints of files by a name that a reader knows."""

    settings: Mapping[str, Any]
    files: Mapping[str, str]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys.

    >>> flat({"seed": 1, "data": {"test": "dev", "union": []}})
    {'seed': 1, 'data.test': 'dev', 'data.union': []}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def different_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, with both values.

    >>> different_settings({"seed": 13, "depth": 5}, {"seed": 14, "depth": 5})
    ['seed: 13 in the run, 14 now']
    """
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key}: {then.get(key)} in the run, {now.get(key)} now" for key in keys]


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def files_fingerprint(folder: Path, files: Sequence[Path]) -> str:
    """SHA-256 of some of a folder's files: names and bytes."""
    rows = [f"{path.relative_to(folder).as_posix()} {file_fingerprint(path)}\n" for path in sorted(files)]
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def model_fingerprint(source: str | Path) -> str | None:
    """Fingerprint of a model's folder (weights, settings, tokenizer; numbered modules too) or file; None: neither.

    Model cards and hidden files are passed over, and what else lies in deeper folders: a run may lie there.
    """
    path = Path(source)
    if path.is_file():
        return file_fingerprint(path)
    if not path.is_dir():
        return None
    files = [file for pattern in ("*", "[0-9]_*/*") for file in path.glob(pattern) if file.is_file()]
    return files_fingerprint(path, [f for f in files if not f.name.startswith(".") and f.suffix != ".md"])


class Study:
    """A folder of results of one kind of work.

    Args:
        folder: where the results lie; made when something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder / RECORD

    def _record(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        record = read_json(self.file)
        keys = ("settings", "files", "products")
        if not isinstance(record, dict) or not all(isinstance(record.get(key, {}), dict) for key in keys):
            raise DataError(f"{self.file}: not a record of results", hint=HINT)
        return record

    def begun(self) -> bool:
        """Whether `begin` made the folder's record; another file of its name is no mark of prorank's."""
        try:
            return "prorank" in self._record()
        except DataError:
            return False

    def refuse_run(self) -> None:
        """Refuse to write other results into the folder of a training run.

        Raises:
            ProrankError: it is one.
        """
        if self.begun() and (self.folder / RECIPE).is_file():
            raise ProrankError(f"{self.folder} holds a training run", hint="choose another output")

    def begin(self, inputs: Inputs) -> None:
        """Write down what everything in the folder will be made from; nothing counts as finished."""
        write_json(
            self.file,
            {
                "prorank": VERSION,
                "settings": dict(inputs.settings),
                "files": dict(inputs.files),
                "products": {},
            },
        )

    def differences(self, inputs: Inputs) -> list[str]:
        """What the folder's results were made from and would not be now, a sentence each; empty: they can be used."""
        try:
            record = self._record()
        except DataError as error:
            return [error.message]
        if "prorank" not in record:
            return [f"{self.file.name} is missing, so nothing says what it was made from"]
        found = []
        if record["prorank"] != VERSION:
            found.append(f"prorank {record['prorank']} made it, this is {VERSION}")
        found += different_settings(record["settings"], inputs.settings)
        since = next(iter(record["products"]), "it was begun")
        then, now = record["files"], inputs.files
        found += [f"{name} changed since {since}" for name in {**then, **now} if then.get(name) != now.get(name)]
        return found

    def check(self, inputs: Inputs) -> None:
        """Refuse results that were made from something else.

        Raises:
            ProrankError: what differs is named.
        """
        if found := self.differences(inputs):
            more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
            raise ProrankError(
                f"{self.folder} holds results of another recipe, other data or other settings: "
                f"{'; '.join(found[:NAMED])}{more}",
                hint=HINT,
            )

    def reusable(self, product: str, inputs: Inputs, force: bool = False) -> bool:
        """Whether a finished product can be read in place of making it.

        Args:
            product: its name in the folder.
            inputs: what it would be made from now.
            force: one that was made from something else is to be made again.

        Raises:
            ProrankError: it was made from something else, or changed since it was made; not with `force`.
        """
        if not self.file.is_file() and not (self.folder / product).exists():
            return False
        if force:
            return not self.differences(inputs) and self._intact(product)
        self.check(inputs)
        return self.has(product)

    def products(self) -> list[str]:
        """Names of the finished products that are there, in the order in which they were made."""
        return [name for name in self._record().get("products", {}) if (self.folder / name).exists()]

    def has(self, product: str) -> bool:
        """Whether a product is finished and there. One that a kill left without a record is made again.

        Raises:
            ProrankError: it is not what was made.
        """
        if product not in self.products():
            return False
        if not self._intact(product):
            raise ProrankError(f"{self.folder / product} changed since it was made", hint=HINT)
        return True

    def keep(self, *products: str) -> None:
        """Record finished products."""
        record = self._record()
        record["products"] = record.get("products", {}) | {name: self._fingerprint(name) for name in products}
        write_json(self.file, record)

    def _intact(self, product: str) -> bool:
        return product in self.products() and self._record()["products"][product] == self._fingerprint(product)

    def _fingerprint(self, product: str) -> str:
        path = self.folder / product
        if path.is_dir():
            return files_fingerprint(path, [file for file in path.rglob("*") if file.is_file()])
        return file_fingerprint(path)
