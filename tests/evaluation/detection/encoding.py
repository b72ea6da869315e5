"""The reverse of decoding, written apart from it: what a model of each layout would give for known boxes."""

from __future__ import annotations

import numpy as np

SIDE = 64
STRIDES = (8, 16, 32)


def centres(corners):
    left, top, right, bottom = np.asarray(corners, np.float64).reshape(-1, 4).T
    return np.stack(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), axis=1)


def _one_hot(image, num_classes, rows):
    scores = np.zeros((rows, num_classes))
    scores[np.arange(len(image[2])), image[2]] = image[1]
    return scores


def _padded(values, rows):
    values = np.asarray(values, np.float64)
    return np.concatenate((values, np.zeros((rows - len(values), *values.shape[1:]))))


def _logit(p):
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


def _f(images):
    return np.stack(images).astype(np.float32)


def yolov5(images, num_classes, rows=40):
    out = []
    for corners, scores, classes in images:
        hot = _one_hot((corners, np.ones(len(classes)), classes), num_classes, rows)
        out.append(np.concatenate((_padded(centres(corners), rows), _padded(scores, rows)[:, None], hot), axis=1))
    return {"output": _f(out)}


def yolov8(images, num_classes, rows=40):
    return {
        "output0": _f(
            [np.concatenate((_padded(centres(i[0]), rows), _one_hot(i, num_classes, rows)), axis=1).T for i in images]
        )
    }


def yolox(images, num_classes, rows=None):
    out = []
    grid = [(x, y, s) for s in STRIDES for y in range(SIDE // s) for x in range(SIDE // s)]
    for corners, scores, classes in images:
        rows = np.zeros((len(grid), 5 + num_classes))
        for place, (box, score, index) in enumerate(zip(centres(corners), scores, classes, strict=True)):
            x, y, stride = grid[place]
            rows[place, :4] = box[0] / stride - x, box[1] / stride - y, *np.log(box[2:] / stride)
            rows[place, 4], rows[place, 5 + index] = score, 1
        out.append(rows)
    return {"output": _f(out)}


def yolov10(images, num_classes, rows=40):
    return {
        "output0": _f(
            [_padded(np.concatenate((c, s[:, None], k[:, None]), axis=1).reshape(-1, 6), rows) for c, s, k in images]
        )
    }


def yolov7_end2end(images, num_classes, rows=40):
    parts = [
        np.concatenate((np.full((len(s), 1), n), c, k[:, None], s[:, None]), axis=1).reshape(-1, 7)
        for n, (c, s, k) in enumerate(images)
    ]
    return {"output": np.concatenate(parts).astype(np.float32)}


def detr(images, num_classes, rows=40):
    logits = []
    for image in images:
        scores = _one_hot(image, num_classes, rows)
        nothing = 1 - scores.sum(axis=1, keepdims=True)
        logits.append(np.log(np.maximum(np.concatenate((scores, nothing), axis=1), 1e-12)))
    return {"pred_logits": _f(logits), "pred_boxes": _f([_padded(centres(i[0]) / SIDE, rows) for i in images])}


def deformable_detr(images, num_classes, rows=40):
    return {
        "logits": _f([_logit(_one_hot(i, num_classes, rows)) for i in images]),
        "pred_boxes": _f([_padded(centres(i[0]) / SIDE, rows) for i in images]),
    }


def rtdetr(images, num_classes, rows=40):
    return {
        "output0": _f(
            [
                np.concatenate((_padded(centres(i[0]) / SIDE, rows), _one_hot(i, num_classes, rows)), axis=1)
                for i in images
            ]
        )
    }


def _rows(images, rows, *, divide, first, order=(0, 1, 2, 3)):
    boxes = _f([_padded(np.reshape(c, (-1, 4))[:, list(order)] / divide, rows) for c, _, _ in images])
    labels = np.stack([_padded(k + first, rows) for _, _, k in images])
    return boxes, labels, _f([_padded(s, rows) for _, s, _ in images])


def rtdetr_original(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=1, first=0)
    return {"labels": labels.astype(np.int64), "boxes": boxes, "scores": scores}


def ssd(images, num_classes, rows=40):
    scores = []
    for image in images:
        hot = _one_hot(image, num_classes, rows)
        scores.append(np.concatenate((1 - hot.sum(axis=1, keepdims=True), hot), axis=1))
    return {"boxes": _f([_padded(i[0] / SIDE, rows) for i in images]), "scores": _f(scores)}


def ssd_no_background(images, num_classes, rows=40):
    return {
        "boxes": _f([_padded(i[0] / SIDE, rows) for i in images]),
        "scores": _f([_one_hot(i, num_classes, rows) for i in images]),
    }


def torchvision(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=1, first=1)
    return {"boxes": boxes, "labels": labels.astype(np.int64), "scores": scores}


def mlperf_ssd(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=SIDE, first=1)
    return {"bboxes": boxes, "labels": labels.astype(np.int64), "scores": scores}


def tensorflow(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=SIDE, first=1, order=(1, 0, 3, 2))
    counts = np.array([len(i[1]) for i in images], np.float32)
    # What lies beyond the count means nothing.
    for n, count in enumerate(counts.astype(int)):
        scores[n, count:] = 0.9
    return {
        "detection_boxes": boxes,
        "detection_classes": labels.astype(np.float32),
        "detection_scores": scores,
        "num_detections": counts,
    }


def efficient_nms(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=1, first=0)
    counts = np.array([[len(i[1])] for i in images], np.int32)
    return {
        "num_dets": counts,
        "det_boxes": boxes,
        "det_scores": scores,
        "det_classes": labels.astype(np.int32),
    }


def mmdetection(images, num_classes, rows=40):
    boxes, labels, scores = _rows(images, rows, divide=1, first=0)
    return {"dets": np.concatenate((boxes, scores[..., None]), axis=2), "labels": labels.astype(np.int64)}


def onnx_nms(images, num_classes, rows=40):
    indices = [(n, k, row) for n, image in enumerate(images) for row, k in enumerate(image[2])]
    return {
        "selected_indices": np.array(indices, np.int64).reshape(-1, 3),
        "boxes": _f([_padded(np.reshape(c, (-1, 4))[:, [1, 0, 3, 2]], rows) for c, _, _ in images]),
        "scores": _f([_one_hot(i, num_classes, rows).T for i in images]),
    }


ENCODERS = {
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolox": yolox,
    "yolov10": yolov10,
    "yolov7-end2end": yolov7_end2end,
    "detr": detr,
    "deformable-detr": deformable_detr,
    "rtdetr": rtdetr,
    "rtdetr-original": rtdetr_original,
    "ssd": ssd,
    "ssd-no-background": ssd_no_background,
    "torchvision": torchvision,
    "mlperf-ssd": mlperf_ssd,
    "tensorflow": tensorflow,
    "efficient-nms": efficient_nms,
    "mmdetection": mmdetection,
    "onnx-nms": onnx_nms,
}
