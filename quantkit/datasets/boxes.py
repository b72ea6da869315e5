"""Annotated boxes of a data set's images. Their file formats are left to `coco_boxes` and `yolo_boxes`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from quantkit.datasets.annotated_images import AnnotatedImage, list_images
from quantkit.datasets.coco_boxes import Numbering, read_coco
from quantkit.datasets.yolo_boxes import find_folder, label_folders, read_yolo
from quantkit.datasets.yolo_data import class_names, is_yolo_data, split_folders
from quantkit.errors import DatasetError
from quantkit.notices import join_names
from quantkit.types import BoxAnnotations, Boxes, Dataset, PathLike


def open_boxes(
    labels: Path,
    dataset: Dataset,
    *,
    data: PathLike,
    classes: Sequence[str] | None = None,
    numbering: Numbering = "sorted",
) -> BoxAnnotations:
    """Reads what is to be found in each image of a data set.

    - A file is COCO's JSON ("instances"). An image is found by its path, or by its name alone where that is unique.
      Images that the JSON has besides do not matter; one of the data that it does not have is an error.
    - A folder holds YOLO's text files, one for each image, a line for each object: ``class cx cy w h``, or the class
      and the corners of a polygon, as fractions of the image. The folder is the one of the labels, the root above
      "images" and "labels", or the one of the images. An image without a file is one without objects.
    - A data.yaml of YOLO stands for the folder of the images, or where that has no labels for those of the file's own
      images, found by their names; it has the names of the classes.

    Args:
        labels: the JSON file or the folder.
        dataset: images, perhaps a selection of them.
        data: what `dataset` was opened from, for messages.
        classes: class names in the model's order. A JSON's categories are found among them by name; without them,
            text files take the names of a ``classes.txt`` beside them, if there is one.
        numbering: how a JSON's category ids, which may have gaps, become class indices where there are no `classes`:
            "sorted" by their order, 0 to C-1; "ids" as they are (DETR's 91 classes of COCO); "ids-1" one less
            (torchvision and TensorFlow, whose class 0 is the background).

    Returns:
        Boxes of all samples of `dataset` and of no others.

    Raises:
        DatasetError: naming file and entry or line: what cannot be read or understood, an image without an entry or
            with several, a class that is not known; or no object in any of the images.
    """
    if not labels.exists():
        raise DatasetError(f"{labels} does not exist: --labels takes a COCO JSON file or a folder of YOLO text files")
    images, given = list_images(dataset, data), tuple(classes or ())
    if is_yolo_data(labels):
        given = given or class_names(labels)
        labels = _labels_by(labels, images)
    sizes: Mapping[str, tuple[int, int]] = {}
    notes: tuple[str, ...] = ()
    if labels.is_dir():
        if numbering != "sorted":
            raise DatasetError(f"{labels}: text files contain class indices: only COCO JSON files have category ids")
        boxes, names = read_yolo(labels, images, classes=given)
    else:
        coco = read_coco(labels, images, classes=given, numbering=numbering)
        boxes, names, sizes = coco.boxes, coco.classes, coco.sizes
        everything = list_images(getattr(dataset, "dataset", dataset), data)
        notes = (*coco.notes, *coco.absent(labels, {image.parts[-1] for image in everything}, data))
    if not any(len(found) for found in boxes.values()):
        raise DatasetError(f"{labels}: none of the {len(images)} images of {data} holds an object")
    return BoxAnnotations(
        source=str(labels),
        boxes=boxes,
        classes=names,
        is_relative=labels.is_dir(),
        fingerprint=_fingerprint(boxes, names, is_relative=labels.is_dir()),
        image_sizes=sizes,
        notes=notes,
    )


def _labels_by(data_yaml: Path, images: Sequence[AnnotatedImage]) -> Path:
    """The folder of the images where it has labels, else one of the file's own."""
    splits = split_folders(data_yaml)
    common = Path(os.path.commonpath([image.path.absolute().parent for image in images]))
    folders = [common, *(folder for split in splits for folder in label_folders(split))]
    found = find_folder(folders, images)
    if found is None:
        missing = "" if splits else "; no folder of images that it names is there"
        raise DatasetError(
            f"{data_yaml}: no text file for any of the {len(images)} images: looked in "
            f"{join_names([str(folder) for folder in folders])}{missing}"
        )
    return found


def _fingerprint(boxes: Mapping[str, Boxes], classes: tuple[str, ...], *, is_relative: bool) -> str:
    digest = hashlib.sha256(msgspec.json.encode([is_relative, classes]))
    for sample, found in sorted(boxes.items()):
        crowds = np.zeros(len(found), np.bool_) if found.crowds is None else found.crowds
        digest.update(msgspec.json.encode([sample, len(found)]))
        for array in (found.corners.astype("<f8"), found.classes.astype("<i8"), crowds):
            digest.update(array.tobytes())
    return digest.hexdigest()
