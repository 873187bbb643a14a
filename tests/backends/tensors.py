"""Safetensors files: read into numpy arrays, half precision as float32; written in the format that
is asked for."""

import json

import numpy as np

FORMATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64}
NAMES = {"f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16"}


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = about["data_offsets"]
        kept = np.frombuffer(data[start + first : start + last], FORMATS[about["dtype"]])
        found[name] = widened(kept, about["dtype"]).reshape(about["shape"])
    return found


def write(path, arrays, dtype):
    header, parts, place = {}, [], 0
    for name, array in arrays.items():
        array = np.asarray(array)
        stored = "I64" if array.dtype.kind == "i" else NAMES[dtype]
        part = np.ascontiguousarray(narrowed(array, stored)).tobytes()
        offsets = [place, place + len(part)]
        header[name] = {"dtype": stored, "shape": list(array.shape), "data_offsets": offsets}
        parts.append(part)
        place += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(parts))


def widened(array, stored):
    if stored == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if stored == "F16" else array


def narrowed(array, stored):
    if stored != "BF16":
        return array.astype(FORMATS[stored])
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    # To nearest, ties to even.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(number, dtype):
    """A number as the format holds it."""
    stored = NAMES[dtype]
    return float(widened(narrowed(np.array([number]), stored), stored)[0])
