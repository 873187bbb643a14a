"""A backend for `lemon-check crosscheck`: python3 serve.py LIBRARY [MISTAKE]

LIBRARY is numpy, jax, onnxruntime or torch. With MISTAKE, a name in mistakes.py, it has only the
operations, models or expansions with that mistake. The protocol is described in
src/backend/protocol.rs.
"""

import importlib
import json
import sys
import traceback

import numpy as np

import expand
import forward
import ops
import rules
import tensors

PROTOCOL = 1


class Inputs:
    """What an operation reads: floating-point tensors as arrays of the library, whole numbers and
    attributes as they are."""

    def __init__(self, arrays, stored, attributes):
        self.arrays, self.stored, self.attributes = arrays, stored, attributes

    def __contains__(self, name):
        return name in self.stored

    def __getitem__(self, name):
        return self.arrays[name]

    def get(self, name):
        return self.arrays.get(name)

    def values(self, name):
        """The tensor as numpy holds it, for choices that depend on values."""
        return self.stored[name]

    def attribute(self, name, default=None):
        return self.attributes.get(name, default)

    def changed(self, arrays=None, stored=None, attributes=None, without=()):
        """The same with others of these, or without some."""
        keep = lambda old, new: {k: v for k, v in {**old, **(new or {})}.items() if k not in without}
        return Inputs(
            keep(self.arrays, arrays), keep(self.stored, stored), keep(self.attributes, attributes)
        )


def answer(library, operations, request):
    function = operations.get(request["op"])
    if function is None:
        return {"unsupported": f"no operation {request['op']}"}
    stored = tensors.read(request["inputs"])
    numbers = {name: array for name, array in stored.items() if array.dtype.kind == "f"}

    def run(arrays):
        return function(library, Inputs(arrays, stored, request["attributes"]))

    # Half precision is storage; numbers are computed with in f32.
    library.dtype = np.dtype(np.float64 if request["dtype"] == "f64" else np.float32)
    tensors.write(request["outputs"], library.run(run, numbers), request["dtype"])
    return {"ok": True}


class Backend:
    """What can be asked: operations by name, and families of models and of expansions."""

    def __init__(self, library, operations, models, expander):
        self.library, self.operations = library, operations
        self.models, self.expander = models, expander


def reply(backend, request):
    library = backend.library
    if request["request"] == "hello":
        return {
            "protocol": PROTOCOL, "name": ", ".join([library.name, *backend.models.libraries]),
            "device": library.device, "dtypes": library.dtypes,
            "ops": sorted(backend.operations), "forward": sorted(backend.models.families),
            "expand": sorted(backend.expander.families),
        }
    if request["request"] == "op":
        return answer(library, backend.operations, request)
    if request["request"] == "forward":
        return backend.models.answer(library, request)
    if request["request"] == "expand":
        return backend.expander.answer(request)
    return {"unsupported": request["request"]}


def serve(backend):
    for line in sys.stdin:
        request = json.loads(line)
        try:
            said = reply(backend, request)
        except Exception as problem:
            traceback.print_exc()
            said = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps({"id": request["id"], **said}), flush=True)


def main():
    library = importlib.import_module(f"math_{sys.argv[1]}").Library()
    operations = {**ops.OPERATIONS, **rules.OPERATIONS}
    models = library.models() if hasattr(library, "models") else forward.Models([])
    expander = library.expander() if hasattr(library, "expander") else expand.Expander([])
    if len(sys.argv) > 2:
        import mistakes

        operations = mistakes.MISTAKES.get(sys.argv[2], {})
        parts, families = mistakes.FORWARD.get(sys.argv[2], (forward.Parts(), []))
        models = forward.Models(families, parts)
        wrong, families = mistakes.EXPAND.get(sys.argv[2], (expand.Rules(), []))
        expander = expand.Expander(families, wrong)
    serve(Backend(library, operations, models, expander))


if __name__ == "__main__":
    main()
