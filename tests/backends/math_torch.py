"""Tensors of torch; on the GPU where there is one."""

import importlib.util

import numpy as np
import torch

import forward


class Library:
    name = f"torch {torch.__version__}"
    on = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.cuda.get_device_name() if on == "cuda" else on
    dtypes = ["f32", "f64", "f16", "bf16"]

    exp, sqrt, tanh = map(staticmethod, [torch.exp, torch.sqrt, torch.tanh])
    sin, cos, erf = map(staticmethod, [torch.sin, torch.cos, torch.erf])
    transpose, reshape = staticmethod(torch.permute), staticmethod(torch.reshape)

    def models(self):
        """Those of transformers, if it is there."""
        if importlib.util.find_spec("transformers") is None:
            return forward.Models([])
        import forward_transformers

        return forward_transformers.Models()

    def run(self, function, arrays):
        outputs = function({name: self.array(array) for name, array in arrays.items()})
        return {name: np.asarray(getattr(y, "cpu", lambda: y)()) for name, y in outputs.items()}

    def array(self, values):
        return torch.from_numpy(np.array(values, self.dtype)).to(self.on)

    def concat(self, parts, axis):
        return torch.cat(parts, axis)

    def take(self, x, index, axis):
        return torch.index_select(x, axis, torch.from_numpy(np.array(index)).to(self.on))

    def sum(self, x, axis):
        return torch.sum(x, axis, keepdim=True)

    def max(self, x, axis):
        return torch.amax(x, axis, keepdim=True)

    def positive(self, x):
        return x > 0

    def where(self, condition, x, y):
        if isinstance(condition, np.ndarray):
            condition = torch.from_numpy(np.array(condition)).to(self.on)
        return torch.where(condition, x, y)
