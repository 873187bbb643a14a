"""Arrays of jax, compiled by XLA; on the GPU where there is one."""

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")


class Library:
    name = f"jax {jax.__version__}"
    device = jax.devices()[0].device_kind
    dtypes = ["f32", "f64", "f16", "bf16"]

    exp, sqrt, tanh, sin, cos = map(staticmethod, [jnp.exp, jnp.sqrt, jnp.tanh, jnp.sin, jnp.cos])
    erf, transpose = staticmethod(jax.scipy.special.erf), staticmethod(jnp.transpose)
    reshape, concat = staticmethod(jnp.reshape), staticmethod(jnp.concatenate)

    def run(self, function, arrays):
        whole = {}

        def traced(arrays):
            outputs = function(arrays)
            whole.update((name, y) for name, y in outputs.items() if isinstance(y, np.ndarray))
            return {name: y for name, y in outputs.items() if name not in whole}

        outputs = jax.jit(traced)(arrays)
        return {name: np.asarray(y) for name, y in {**outputs, **whole}.items()}

    def array(self, values):
        return jnp.asarray(values, self.dtype)

    def take(self, x, index, axis):
        return jnp.take(x, np.asarray(index), axis, mode="clip")

    def sum(self, x, axis):
        return jnp.sum(x, axis, keepdims=True)

    def max(self, x, axis):
        return jnp.max(x, axis, keepdims=True)

    def positive(self, x):
        return x > 0

    def where(self, condition, x, y):
        return jnp.where(condition, x, y)
