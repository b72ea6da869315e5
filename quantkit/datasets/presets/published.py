"""The presets of published models, each with its source; the most common first."""

from __future__ import annotations

from quantkit.datasets.presets.preset import PRESETS, Preset

# torchvision, references/classification/presets.py: resize 256, crop 224, bilinear, mean and std of ImageNet.
PRESETS["imagenet"] = Preset(
    resize="crop",
    shorter_side_ratio=256 / 224,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    normalization="the mean and std of ImageNet",
)

# Ultralytics, data/augment.py: LetterBox pads with 114; pixels / 255. Its resize does not smooth, Pillow's does.
PRESETS["yolo"] = Preset(resize="letterbox", pad_value=114, scale=1 / 255)

# torchvision, transforms.ToTensor: pixels / 255.
PRESETS["unit"] = Preset(scale=1 / 255, normalization="no mean and std")

# Models that normalize by themselves: pixels from 0 to 255.
PRESETS["none"] = Preset(normalization="no mean and std")

# Keras, applications/imagenet_utils.py, mode "tf": x / 127.5 - 1.
PRESETS["tf"] = Preset(scale=1 / 127.5, mean=(1.0,), normalization="mean 1 and std 1")

# openai/CLIP, clip/clip.py, _transform: bicubic resize of the shorter side to the size, center crop.
PRESETS["clip"] = Preset(
    resize="crop",
    interpolation="bicubic",
    scale=1 / 255,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    normalization="the mean and std of CLIP",
)

# Keras, applications/imagenet_utils.py, mode "caffe": BGR minus the mean of ImageNet, not scaled.
PRESETS["caffe"] = Preset(color="BGR", mean=(103.939, 116.779, 123.68), normalization="the mean of ImageNet and no std")
