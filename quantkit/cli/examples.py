"""Examples at the end of each command's help. A test parses each of them."""

from __future__ import annotations

EXAMPLES = {
    "calibrate": (
        "quantkit calibrate model.onnx --data images/calib",
        "quantkit calibrate model.onnx --data images/calib --method percentile --exclude 'head*'",
        "quantkit calibrate yolov8n.onnx --data images/calib --preprocess yolo --target cpu",
    ),
    "quantize": (
        "quantkit quantize model.onnx",
        "quantkit quantize model.onnx --exclude Softmax --list-float",
    ),
    "evaluate": (
        "quantkit evaluate model.onnx --data images/val",
        "quantkit evaluate model.onnx --data images/val --max-drop 0.5pt --confident",
        "quantkit evaluate yolov8n.onnx --data val.txt --task detect --labels val.json --detections yolov8",
    ),
    "bench": (
        "quantkit bench model.onnx model.int8-cpu.onnx",
        "quantkit bench model.onnx --shapes input:8x3x224x224 --warm-up-ms 500 --duration 10 --export-times times.json",
    ),
    "sensitivity": (
        "quantkit sensitivity model.onnx --data images/calib",
        "quantkit sensitivity model.onnx --data images/calib --table model.calib.json --output model.sensitivity",
    ),
    "tune": (
        "quantkit tune model.onnx --data images/calib --val images/val --max-drop 0.5",
        "quantkit tune yolov8n.onnx --data calib.txt --val val.txt --task detect --labels val.json --detections yolov8",
    ),
    "build": (
        "quantkit build model.onnx --precision int8",
        "quantkit build model.onnx --precision int8 --target sm86,sm89",
        "quantkit build model.onnx --precision fp16 --opt-shapes input:8x3x224x224",
    ),
    "export triton": (
        "quantkit export triton model.onnx --engine model.int8.engine -o model_repository",
        "quantkit export triton model.int8.onnx --max-batch 8",
    ),
    "export deepstream": ("quantkit export deepstream model.onnx --batch-size 8",),
    "export trtexec": (
        "quantkit export trtexec model.int8.onnx --precision int8",
        "quantkit export trtexec model.onnx --precision int8 --calib model.calib --tensorrt-version 8.6.1",
    ),
    "inspect": (
        "quantkit inspect model.int8.onnx",
        "quantkit inspect model.int8.engine --measure",
        "quantkit inspect model.calib.json --sort amax --filter 'layer1*'",
    ),
    "compare": (
        "quantkit compare model.report/report.json --max-drop 1% --min-speedup 1.2",
        "quantkit compare model.report/report.json --gate mlperf-99 --junit gate.xml",
    ),
    "report": (
        "quantkit report model.report/report.json",
        "quantkit report t4=t4/report.json l4=l4/report.json --output joined.report",
    ),
    "doctor": ("quantkit doctor", "quantkit doctor --json"),
    "init": ("quantkit init model.onnx --data images/calib --val images/val",),
    "selftest": ("quantkit selftest model.onnx --data images/val",),
    "config": ("quantkit config calibrate", "quantkit config --config quantkit.toml"),
    "data check": (
        "quantkit data check model.onnx --data images/calib --against images/val",
        "quantkit data check model.onnx --data images/calib --preprocess imagenet --json",
    ),
    "cache show": (
        "quantkit cache show model.calib.json --sort amax",
        "quantkit cache show model.calib --filter 'layer1*'",
    ),
    "cache diff": (
        "quantkit cache diff model.calib.json other.calib.json",
        "quantkit cache diff calibration.cache model.calib --all",
    ),
    "cache verify": (
        "quantkit cache verify model.calib --model model.onnx",
        "quantkit cache verify model.calib --model model.onnx --data images/val --tensorrt-version 10.3.0",
    ),
    "cache convert": (
        "quantkit cache convert model.calib --to qdq --model model.onnx -o model.int8.onnx",
        "quantkit cache convert model.calib.json --to tensorrt --model model.onnx -o model.calib",
    ),
    "cache merge": (
        "quantkit cache merge part1/model.calib.stats part2/model.calib.stats -o model.calib.json",
        "quantkit cache merge part*/model.calib.stats -o model.calib.json --method mse",
    ),
}
"""By command: lines as typed in a shell. The first is what most people need."""
