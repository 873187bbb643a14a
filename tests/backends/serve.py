"""A backend for `lemon-check crosscheck`: python3 serve.py LIBRARY [MISTAKE]

LIBRARY is numpy, jax, onnxruntime or torch. With MISTAKE, a name in mistakes.py, it has only the
operations or families with that mistake. The protocol is described in src/backend/protocol.rs.
"""

import importlib
import json
import sys
import traceback

import numpy as np

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
    """What can be asked: operations and families of models by name, and the parts of the latter."""

    def __init__(self, library, operations, families, parts):
        self.library, self.operations = library, operations
        self.families, self.parts = families, parts


def reply(backend, request):
    library = backend.library
    if request["request"] == "hello":
        return {
            "protocol": PROTOCOL, "name": library.name, "device": library.device,
            "dtypes": library.dtypes, "ops": sorted(backend.operations),
            "forward": sorted(backend.families),
        }
    if request["request"] == "op":
        return answer(library, backend.operations, request)
    if request["request"] == "forward":
        return forward.answer(library, backend.families, backend.parts, request)
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
    families = forward.FAMILIES if hasattr(library, "runs_models") else {}
    parts = forward.Parts()
    if len(sys.argv) > 2:
        import mistakes

        operations = mistakes.MISTAKES.get(sys.argv[2], {})
        parts, names = mistakes.FORWARD.get(sys.argv[2], (parts, []))
        families = {name: forward.FAMILIES[name] for name in names}
    serve(Backend(library, operations, families, parts))


if __name__ == "__main__":
    main()
