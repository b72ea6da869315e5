"""How the usual exporters lay out detections: shapes, coordinates, scores. A new layout is one entry of `LAYOUTS`.

`declared` finds a layout's tensors among a model's outputs, `decoding` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantkit.evaluation.detection.shapes import RoleShapes

OPTIONS: dict[str, tuple[str, ...]] = {
    "coordinates": ("pixels", "relative"),
    "order": ("xyxy", "yxyx", "cxcywh"),
    "labels_from": ("0", "1"),
    "activation": ("none", "sigmoid", "softmax"),
    "background": ("none", "first", "last"),
    "classes_of_a_box": ("one", "all"),
}
"""What can be said of a layout's tensors: whether coordinates are pixels of the model's input or fractions of it; the
order of a box's numbers; the label of class 0; what makes probabilities of the scores; which column of the scores
stands for no object; whether a box counts for its best class or for each."""

DEFAULT_OPTIONS = {
    "coordinates": "pixels",
    "order": "xyxy",
    "labels_from": "0",
    "activation": "none",
    "background": "none",
    "classes_of_a_box": "all",
}
"""Where a layout says nothing else."""


@dataclass(frozen=True)
class Field:
    """Where a quantity stands: in the tensor of a role, in some of the columns of a row; None: in all."""

    role: str
    columns: int | slice | None = None


@dataclass(frozen=True)
class DetectionLayout:
    """How a family of exports lays out its detections.

    Attributes:
        source: who exports it so.
        forms: the shapes of its tensors by role, alternatives; one without N holds a single image.
        fields: where the quantities of a box stand: "box"; "scores" of each class, perhaps times "objectness", or one
            "score" and a "label"; "image", its number in the batch, where all images are in one tensor.
        is_transposed: whether a column is a box, not a row.
        strides: of the grids that centers count from, in pixels, where the graph does not decode them (YOLOX).
        suppresses: whether duplicates are still in it and are removed here.
        is_aligned: whether a row means the same place or query in every variant, so that raw outputs are comparable.
        names: what the exporters call the outputs, by role; taken where they are all there.
        options: those that differ from the common ones: pixels, xyxy, labels from 0, probabilities.
        is_dense: whether it has more boxes than classes in any case.
    """

    source: str
    forms: tuple[RoleShapes, ...]
    fields: Mapping[str, Field]
    is_transposed: bool = False
    strides: tuple[int, ...] = ()
    suppresses: bool = False
    is_aligned: bool = False
    names: tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    is_dense: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of its tensors."""
        return tuple(self.forms[0])

    @property
    def choices(self) -> tuple[str, ...]:
        """Which of `OPTIONS` change how it is read."""
        if self.strides:
            return ()
        if self.is_matrix:
            return ("coordinates", "order", "activation", "background", "classes_of_a_box")
        has_labels = "label" in self.fields and "indices" not in self.roles
        return ("coordinates", "order", "labels_from") if has_labels else ("coordinates", "order")

    @property
    def is_matrix(self) -> bool:
        """Whether the scores are a tensor of their own, which may hold logits and a column for no object."""
        return self.fields.get("scores") == Field("scores")


def _one(shape: str) -> tuple[RoleShapes, ...]:
    return ({"detections": shape},)


def _columns(**columns: int | slice) -> dict[str, Field]:
    return {name: Field("detections", where) for name, where in columns.items()}


_BOX = slice(0, 4)
_MATRIX_FIELDS = {"box": Field("boxes"), "scores": Field("scores")}
_ROW_FIELDS = {"box": Field("boxes"), "score": Field("scores"), "label": Field("labels")}
_OBJECTNESS_FIELDS = _columns(box=_BOX, objectness=4, scores=slice(5, None))

_MATRIX: tuple[RoleShapes, ...] = ({"boxes": "[N, B, 4]", "scores": "[N, B, C]"},)
_MATRIX_AND_NONE: tuple[RoleShapes, ...] = ({"boxes": "[N, B, 4]", "scores": "[N, B, 1+C]"},)
_ROWS: tuple[RoleShapes, ...] = (
    {"boxes": "[N, K, 4]", "labels": "[N, K]", "scores": "[N, K]"},
    {"boxes": "[K, 4]", "labels": "[K]", "scores": "[K]"},
)
_ROW_NAMES = (
    {"boxes": "boxes", "labels": "labels", "scores": "scores"},
    {"boxes": "bboxes", "labels": "labels", "scores": "scores"},
)
_COUNTED: tuple[RoleShapes, ...] = tuple(
    {"count": count, "boxes": "[N, K, 4]", "scores": "[N, K]", "labels": "[N, K]"} for count in ("[N, 1]", "[N]")
)

LAYOUTS: dict[str, DetectionLayout] = {
    "yolov5": DetectionLayout(
        source="YOLOv5, v6 and v7 as exported by their own repositories",
        forms=_one("[N, B, 5+C]"),
        fields=_OBJECTNESS_FIELDS,
        suppresses=True,
        is_aligned=True,
        options={"order": "cxcywh"},
        is_dense=True,
    ),
    "yolov8": DetectionLayout(
        source="Ultralytics YOLOv8, v9, 11, 12",
        forms=_one("[N, 4+C, B]"),
        fields=_columns(box=_BOX, scores=slice(4, None)),
        is_transposed=True,
        suppresses=True,
        is_aligned=True,
        options={"order": "cxcywh"},
        is_dense=True,
    ),
    "yolox": DetectionLayout(
        source="YOLOX, exported without --decode_in_inference (with it: yolov5)",
        forms=_one("[N, B, 5+C]"),
        fields=_OBJECTNESS_FIELDS,
        strides=(8, 16, 32),
        suppresses=True,
        is_aligned=True,
        options={"order": "cxcywh"},
        is_dense=True,
    ),
    "yolov10": DetectionLayout(
        source="YOLOv10, YOLO26, and Ultralytics exports with nms=True: x0, y0, x1, y1, score, class",
        forms=_one("[N, K, 6]"),
        fields=_columns(box=_BOX, score=4, label=5),
    ),
    "yolov7-end2end": DetectionLayout(
        source="YOLOv7, export.py --end2end --max-wh: image, x0, y0, x1, y1, class, score",
        forms=_one("[M, 7]"),
        fields=_columns(image=0, box=slice(1, 5), label=5, score=6),
    ),
    "detr": DetectionLayout(
        source="DETR, Conditional DETR: logits, no object last, and boxes cx, cy, w, h from 0 to 1",
        forms=_MATRIX_AND_NONE,
        fields=_MATRIX_FIELDS,
        is_aligned=True,
        names=({"boxes": "pred_boxes", "scores": "logits"}, {"boxes": "pred_boxes", "scores": "pred_logits"}),
        options={
            "coordinates": "relative",
            "order": "cxcywh",
            "activation": "softmax",
            "background": "last",
            "classes_of_a_box": "one",
        },
    ),
    "deformable-detr": DetectionLayout(
        source="Deformable DETR, DINO, RF-DETR, Hugging Face RT-DETR and D-FINE: logits of each class, boxes as DETR",
        forms=_MATRIX,
        fields=_MATRIX_FIELDS,
        names=(
            {"boxes": "pred_boxes", "scores": "logits"},
            {"boxes": "pred_boxes", "scores": "pred_logits"},
            {"boxes": "dets", "scores": "labels"},
        ),
        options={"coordinates": "relative", "order": "cxcywh", "activation": "sigmoid"},
    ),
    "rtdetr": DetectionLayout(
        source="Ultralytics RT-DETR: cx, cy, w, h from 0 to 1, then the probability of each class",
        forms=_one("[N, Q, 4+C]"),
        fields=_columns(box=_BOX, scores=slice(4, None)),
        options={"coordinates": "relative", "order": "cxcywh", "classes_of_a_box": "one"},
    ),
    "rtdetr-original": DetectionLayout(
        source="RT-DETR and D-FINE by their own repositories, its target size fixed to the input's",
        forms=_ROWS,
        fields=_ROW_FIELDS,
        names=_ROW_NAMES,
    ),
    "ssd": DetectionLayout(
        source="SSD without NMS: decoded boxes x0, y0, x1, y1 from 0 to 1; probabilities, background first",
        forms=_MATRIX_AND_NONE,
        fields=_MATRIX_FIELDS,
        suppresses=True,
        is_aligned=True,
        names=({"boxes": "boxes", "scores": "scores"},),
        options={"coordinates": "relative", "background": "first"},
        is_dense=True,
    ),
    "ssd-no-background": DetectionLayout(
        source="as ssd, the scores without a column for the background",
        forms=_MATRIX,
        fields=_MATRIX_FIELDS,
        suppresses=True,
        is_aligned=True,
        names=({"boxes": "boxes", "scores": "scores"},),
        options={"coordinates": "relative"},
        is_dense=True,
    ),
    "torchvision": DetectionLayout(
        source="torchvision's SSD, RetinaNet, Faster R-CNN: x0, y0, x1, y1 in pixels, labels from 1",
        forms=_ROWS,
        fields=_ROW_FIELDS,
        names=_ROW_NAMES,
        options={"labels_from": "1"},
    ),
    "mlperf-ssd": DetectionLayout(
        source="MLPerf's SSD ResNet-34: x0, y0, x1, y1 from 0 to 1, labels from 1",
        forms=_ROWS,
        fields=_ROW_FIELDS,
        names=_ROW_NAMES,
        options={"labels_from": "1", "coordinates": "relative"},
    ),
    "tensorflow": DetectionLayout(
        source="TensorFlow Object Detection API, MLPerf's SSD MobileNet: y0, x0, y1, x1 from 0 to 1, labels from 1",
        forms=_COUNTED,
        fields=_ROW_FIELDS,
        names=tuple(
            {
                "count": f"num_detections{end}",
                "boxes": f"detection_boxes{end}",
                "scores": f"detection_scores{end}",
                "labels": f"detection_classes{end}",
            }
            for end in ("", ":0")
        ),
        options={"labels_from": "1", "coordinates": "relative", "order": "yxyx"},
    ),
    "efficient-nms": DetectionLayout(
        source="TensorRT's EfficientNMS_TRT, also by YOLOv7 and MMYOLO: x0, y0, x1, y1 in pixels",
        forms=_COUNTED,
        fields=_ROW_FIELDS,
        names=(
            {"count": "num_dets", "boxes": "det_boxes", "scores": "det_scores", "labels": "det_classes"},
            {"count": "num_dets", "boxes": "boxes", "scores": "scores", "labels": "labels"},
            {
                "count": "num_detections",
                "boxes": "detection_boxes",
                "scores": "detection_scores",
                "labels": "detection_classes",
            },
        ),
    ),
    "mmdetection": DetectionLayout(
        source="MMDetection by MMDeploy: x0, y0, x1, y1 in pixels and the score; labels",
        forms=({"detections": "[N, K, 5]", "labels": "[N, K]"},),
        fields={**_columns(box=_BOX, score=4), "label": Field("labels")},
        names=({"detections": "dets", "labels": "labels"},),
    ),
    "onnx-nms": DetectionLayout(
        source="ONNX's NonMaxSuppression and what it chose from: y0, x0, y1, x1 in pixels",
        forms=({"indices": "[S, 3]", "boxes": "[N, B, 4]", "scores": "[N, C, B]"},),
        fields={"box": Field("boxes"), "score": Field("scores"), "label": Field("indices")},
        names=({"indices": "selected_indices", "boxes": "boxes", "scores": "scores"},),
        options={"order": "yxyx"},
        is_dense=True,
    ),
}
"""By the name that `--detections` takes."""
