"""Arrays of numpy."""

import math

import numpy as np

import expand
import forward


class Library:
    name = f"numpy {np.__version__}"
    device = "cpu"
    dtypes = ["f32", "f64", "f16", "bf16"]
    models = forward.Models
    expander = expand.Expander

    exp, sqrt, tanh, sin, cos = map(staticmethod, [np.exp, np.sqrt, np.tanh, np.sin, np.cos])
    transpose, reshape = staticmethod(np.transpose), staticmethod(np.reshape)
    concat, take = staticmethod(np.concatenate), staticmethod(np.take)

    def run(self, function, arrays):
        with np.errstate(all="ignore"):
            return function(arrays)

    def array(self, values):
        return np.asarray(values, self.dtype)

    def erf(self, x):
        return np.vectorize(math.erf, otypes=[x.dtype])(x)

    def sum(self, x, axis):
        return np.sum(x, axis, keepdims=True)

    def max(self, x, axis):
        return np.max(x, axis, keepdims=True)

    def positive(self, x):
        return x > 0

    def where(self, condition, x, y):
        return np.where(condition, x, np.asarray(y, x.dtype))
