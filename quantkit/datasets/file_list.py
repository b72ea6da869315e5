"""A text, CSV or JSON-lines file that names images and their labels. Decoding is left to `image_files`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.datasets.class_labels import index_labels
from quantkit.datasets.image_decoding import IMAGE_SUFFIXES
from quantkit.datasets.image_files import ImageFiles, name_samples
from quantkit.datasets.remote_path import Source, locate
from quantkit.datasets.stored_files import read_stored
from quantkit.errors import DatasetError
from quantkit.machine import FILE_LIMIT_BYTES, decode_text
from quantkit.types import Preprocessing, TensorSpec
from quantkit.urls import is_url

PATH_COLUMNS = ("path", "file", "image", "filename", "filepath")
LABEL_COLUMNS = ("label", "class", "target")
# The path ends at the last image suffix, so that paths and class names may hold spaces and commas.
_PATH_AND_LABEL = re.compile(
    rf"(?P<path>.+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:\s*[,;]\s*|\s+)(?P<label>.+)", re.IGNORECASE
)
_TOKEN_AT_END = re.compile(r"(?P<path>.+?)(?:\s*[,;]\s*|\s+)(?P<label>[^\s,;]+)")


@dataclass(frozen=True)
class _Entry:
    line: int
    path: str
    label: str | None


def open_file_list(
    path: Source, spec: TensorSpec, *, preprocessing: Preprocessing, classes: Sequence[str] | None = None
) -> ImageFiles:
    """Reads a list of images, in its order. Relative paths start at the folder of the list.

    - .txt: a path per line, then optionally a label after a tab, a comma or spaces; lines from "#" are comments.
    - .csv: a header with path, file or image, and optionally label or class; or path and label without a header.
    - .jsonl: objects with "path", "file" or "image", and optionally "label" or "class".

    Labels that are all non-negative integers are class indices; otherwise they are names, indexed by `classes` or in
    sorted order.

    Args:
        path: the list, UTF-8.
        spec: the model's only input.
        preprocessing: how an image becomes that input.
        classes: names by index.

    Raises:
        DatasetError: naming the line of a missing file, a missing label or a line that cannot be understood.
    """
    read = _READERS[path.suffix.lower()]
    entries = list(read(read_list(path), path, frozenset(classes or ())))
    if not entries:
        raise DatasetError(f"{path} names no image")
    paths = [_locate(entry, path) for entry in entries]
    targets, names = _targets(entries, path, classes)
    return ImageFiles(
        kind="image list",
        paths=paths,
        ids=name_samples(_relative(entries, paths)),
        targets=targets,
        classes=names,
        input_name=spec.name,
        preprocessing=preprocessing,
    )


def read_list(path: Source) -> str:
    """The text of a list. Raises `DatasetError` where it cannot be read or is not UTF-8."""
    try:
        return decode_text(read_stored(path, most_bytes=FILE_LIMIT_BYTES), "utf-8-sig")
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def _read_txt(text: str, source: Source, classes: frozenset[str]) -> Iterator[_Entry]:
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if line and not line.startswith("#"):
            yield _Entry(number, *_split(line, source, classes))


def _split(line: str, source: Source, classes: frozenset[str]) -> tuple[str, str | None]:
    if "\t" in line:
        path, _, label = line.rpartition("\t")
        return path.strip(), label.strip()
    if line.lower().endswith(IMAGE_SUFFIXES):
        return line, None
    if match := _PATH_AND_LABEL.fullmatch(line):
        return match["path"], match["label"]
    # No image suffix to go by: the last word is a label only if it can be one, and if it is not part of the name.
    match = _TOKEN_AT_END.fullmatch(line)
    is_name = isinstance(source, Path) and _is_there(source.parent / line)
    if match and not is_name and (match["label"].isdigit() or match["label"] in classes):
        return match["path"], match["label"]
    return line, None


def _read_csv(text: str, source: Source, classes: frozenset[str]) -> Iterator[_Entry]:
    start = text.lstrip().split("\n", 1)[0]
    delimiter = next((d for d in "\t;" if d in start and "," not in start), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[int, int | None] | None = None
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#"):
                continue
            where = f"{source} line {reader.line_num}"
            if columns is None:
                columns = _header(cells)
                if columns is not None:
                    continue
                columns = (0, 1)
                if len(cells) > 2:
                    raise DatasetError(f"{where}: {len(cells)} columns need a header with path, and label or class")
            place, label = columns
            if len(cells) <= place:
                raise DatasetError(f"{where}: {len(cells)} columns, too few")
            yield _Entry(
                reader.line_num,
                cells[place],
                cells[label] or None if label is not None and label < len(cells) else None,
            )
    except csv.Error as error:
        raise DatasetError(f"{source} line {reader.line_num}: {error}") from error


def _header(cells: Sequence[str]) -> tuple[int, int | None] | None:
    names = [cell.lower() for cell in cells]
    place = next((names.index(c) for c in PATH_COLUMNS if c in names), None)
    if place is None:
        return None
    return place, next((names.index(c) for c in LABEL_COLUMNS if c in names), None)


def _read_jsonl(text: str, source: Source, classes: frozenset[str]) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where}: not a JSON object ({str(error).splitlines()[0]})") from error
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}: not a JSON object")
        path = next((entry[key] for key in PATH_COLUMNS if key in entry), None)
        if not isinstance(path, str):
            raise DatasetError(f'{where}: no "path", "file" or "image" with the name of a file')
        label = next((entry[key] for key in LABEL_COLUMNS if entry.get(key) is not None), None)
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
            raise DatasetError(f"{where}: label {label!r} must be a class name or an integer from 0")
        yield _Entry(number, path, None if label is None else str(label))


_READERS = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl}
LIST_SUFFIXES = tuple(_READERS)


def _locate(entry: _Entry, source: Source) -> Source:
    where = f"{source} line {entry.line}"
    if not entry.path or "\0" in entry.path:
        raise DatasetError(f"{where}: no file is named")
    if is_url(entry.path):
        return locate(entry.path)
    if not isinstance(source, Path):
        return source.parent / entry.path  # a request for each would take long: reading tells what is missing
    path = source.parent / entry.path
    if os.sep == "/" and "\\" in entry.path and not _is_there(path):
        path = source.parent / entry.path.replace("\\", "/")  # a list that was written on Windows
    if not (_is_there(path) and path.is_file()):
        kind = "no file" if _is_there(path) else "no such file"
        kind = "a folder" if _is_there(path) and path.is_dir() else kind
        raise DatasetError(f"{where}: {entry.path[:200]!r} is {kind} (looked in {source.parent.resolve()})")
    return path


def _is_there(path: Path) -> bool:
    """Whether the system finds something of that name; what it refuses to look for (too long, locked) it does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _relative(entries: Sequence[_Entry], paths: Sequence[Source]) -> list[str]:
    """Names without a machine's folders: as the list writes them; absolute ones from their common folder.

    Those of URLs are without scheme and credentials.
    """
    absolute = [p.parent for e, p in zip(entries, paths, strict=True) if isinstance(p, Path) and _is_absolute(e)]
    root = os.path.commonpath(absolute) if absolute else ""
    names = []
    for entry, path in zip(entries, paths, strict=True):
        if is_url(entry.path):
            names.append(str(path).partition("://")[2])
        elif isinstance(path, Path) and _is_absolute(entry):
            names.append(path.relative_to(root).as_posix())
        else:
            names.append(os.path.normpath(entry.path.replace("\\", "/")).replace(os.sep, "/"))
    return names


def _is_absolute(entry: _Entry) -> bool:
    return Path(entry.path).is_absolute()


def _targets(
    entries: Sequence[_Entry], source: Source, classes: Sequence[str] | None
) -> tuple[list[int] | None, tuple[str, ...]]:
    labels: dict[str, str] = {}
    for entry in entries:
        if entry.label is not None:
            labels.setdefault(entry.label, f"{source} line {entry.line}")
    if not labels:
        return None, ()
    if missing := next((e for e in entries if e.label is None), None):
        raise DatasetError(f"{source} line {missing.line}: no label, but other lines have one")
    indices, names = index_labels(labels, classes)
    return [indices[str(entry.label)] for entry in entries], names
