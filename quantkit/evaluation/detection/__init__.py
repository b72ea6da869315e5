"""Detections from raw outputs by a declared layout: decoded, without duplicates, matched with annotations, scored."""

from __future__ import annotations

from quantkit.evaluation.detection.average_precision import WeightedPrecision
from quantkit.evaluation.detection.declared import Declared, parse_layout
from quantkit.evaluation.detection.layouts import LAYOUTS, DetectionLayout
from quantkit.evaluation.detection.matching import IOU_THRESHOLDS, ImageMatches, match_images
from quantkit.evaluation.detection.suppression import suppress

__all__ = [
    "IOU_THRESHOLDS",
    "LAYOUTS",
    "Declared",
    "DetectionLayout",
    "ImageMatches",
    "WeightedPrecision",
    "match_images",
    "parse_layout",
    "suppress",
]
