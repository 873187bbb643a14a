"""Golden cases of residual convolutional networks: HF's ResNet, and timm's with torchvision's names.

Used by make_goldens.py, which makes and checks them like its own. torchvision writes no config.json: that of
its case is written here, in the form that lemon_check::model::convolutional describes.
"""

import json

import numpy as np
from make_goldens import linear, strip, unpack

RESNET = dict(embedding_size=6, hidden_sizes=[8, 12], depths=[2, 2], num_labels=5)


def build_timm(config):
    """torchvision's ResNet as timm implements it: the names and the computation are the same."""
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, layers=config["depths"], channels=[n // 4 for n in config["hidden_sizes"]],
                  base_width=config["width_per_group"], num_classes=config["num_classes"])


def save_timm(model, config, folder):
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2))


CASES = {
    "resnet-bottleneck": dict(
        cls="ResNetForImageClassification", inputs=[(3, 17, 20)] * 2,
        config=dict(RESNET, layer_type="bottleneck")),
    "resnet-strided": dict(
        cls="ResNetForImageClassification", inputs=[(1, 20, 17)] * 2,
        config=dict(RESNET, layer_type="bottleneck", downsample_in_first_stage=True,
                    downsample_in_bottleneck=True, num_channels=1)),
    "resnet-basic": dict(
        cls="ResNetForImageClassification", inputs=[(3, 17, 20)] * 2,
        config=dict(RESNET, layer_type="basic", hidden_sizes=[6, 10], depths=[2, 1])),
    "resnet-torchvision": dict(
        cls="torchvision", inputs=[(3, 17, 20)] * 2, build=build_timm, save=save_timm,
        config=dict(architecture="resnet50", hidden_sizes=[8, 12, 8, 16], depths=[2, 1, 1, 1], width_per_group=96,
                    num_classes=5)),
}


def convolve(x, w, conv, norm, stride):
    """(in, h, w) -> (out, h', w'), padded by half the kernel, then BatchNorm with its running statistics."""
    kernel = w[f"{conv}.weight"]
    out, size = len(kernel), kernel.shape[-1]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    y = np.einsum("ihwyx,oiyx->ohw", windows, kernel)
    mean, var, gamma, beta = (w[f"{norm}.{n}"].reshape(out, 1, 1)
                              for n in ("running_mean", "running_var", "weight", "bias"))
    return (y - mean) / np.sqrt(var + 1e-5) * gamma + beta


def numpy_resnet(c, w, entry):
    torchvision, w = "conv1.weight" in w, strip(w, "resnet.")
    conv, norm = ("conv1", "bn1") if torchvision else (f"embedder.embedder.{n}" for n in ("convolution", "normalization"))
    x = np.maximum(convolve(unpack(entry["pixels"]), w, conv, norm, 2), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
    bottleneck = c.get("layer_type", "bottleneck") == "bottleneck"
    for stage, depth in enumerate(c["depths"]):
        for block in range(depth):
            stride = 1 if block else 2 if stage or c.get("downsample_in_first_stage") else 1
            first = not bottleneck or c.get("downsample_in_bottleneck", False)
            strides = [stride, 1, 1] if first else [1, stride, 1]
            y = x
            for i in range(3 if bottleneck else 2):
                p = f"layer{stage + 1}.{block}" if torchvision else f"encoder.stages.{stage}.layers.{block}.layer.{i}"
                names = (f"{p}.conv{i + 1}", f"{p}.bn{i + 1}") if torchvision else (f"{p}.convolution", f"{p}.normalization")
                y = convolve(np.maximum(y, 0) if i else y, w, *names, strides[i])
            p = f"layer{stage + 1}.{block}" if torchvision else f"encoder.stages.{stage}.layers.{block}"
            names = (f"{p}.downsample.0", f"{p}.downsample.1") if torchvision else (
                f"{p}.shortcut.convolution", f"{p}.shortcut.normalization")
            x = np.maximum(y + (convolve(x, w, *names, stride) if f"{names[0]}.weight" in w else x), 0)
    return {"logits": linear(x.mean((1, 2)), w, "fc" if torchvision else "classifier.1")}


NUMPY_MODELS = {"resnet": numpy_resnet, "resnet50": numpy_resnet}
