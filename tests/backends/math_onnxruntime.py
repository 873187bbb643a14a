"""Graphs of ONNX, run by ONNX Runtime. An operation is run on stand-ins that write down what is done
with them; what was written down is a model, in ONNX's protocol buffers."""

import numpy as np
import onnxruntime

# Of the protocol buffers of ONNX: element types, and the versions of the format and operators.
ELEMENTS = {"float32": 1, "int64": 7, "bool": 9, "float64": 11}
IR_VERSION, OPERATORS = 8, 18
INTEGER, INTEGERS = 2, 7


def number(field, value):
    return varint(field << 3) + varint(value)


def varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes(found) + bytes([value])


def message(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name, array):
    dims = b"".join(number(1, size) for size in array.shape)
    raw = message(9, np.ascontiguousarray(array).tobytes())
    return dims + number(2, ELEMENTS[array.dtype.name]) + message(8, name) + raw


def value(name, dtype, shape=None):
    kind = number(1, ELEMENTS[dtype.name])
    if shape is not None:
        kind += message(2, b"".join(message(1, number(1, size)) for size in shape))
    return message(1, name) + message(2, message(1, kind))


def attribute(name, given):
    if isinstance(given, int):
        return message(1, name) + number(3, given) + number(20, INTEGER)
    return message(1, name) + b"".join(number(8, one) for one in given) + number(20, INTEGERS)


class Symbol:
    """A stand-in for an array."""

    def __init__(self, graph, name):
        self.graph, self.name = graph, name

    def __add__(self, other):
        return self.graph.node("Add", self, other)

    def __sub__(self, other):
        return self.graph.node("Sub", self, other)

    def __mul__(self, other):
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other):
        return self.graph.node("Div", self, other)

    def __matmul__(self, other):
        return self.graph.node("MatMul", self, other)

    def __neg__(self):
        return self.graph.node("Neg", self)

    __radd__, __rmul__ = __add__, __mul__


class Graph:
    def __init__(self, dtype):
        self.dtype, self.count = dtype, 0
        self.nodes, self.constants = b"", b""

    def fresh(self):
        self.count += 1
        return f"t{self.count}"

    def constant(self, array):
        name = self.fresh()
        self.constants += message(5, tensor(name, array))
        return Symbol(self, name)

    def node(self, kind, *read, **attributes):
        read = [x if isinstance(x, Symbol) else self.constant(np.array(x, self.dtype)) for x in read]
        name = self.fresh()
        text = b"".join(message(1, x.name) for x in read) + message(2, name) + message(4, kind)
        text += b"".join(message(5, attribute(k, given)) for k, given in attributes.items())
        self.nodes += message(1, text)
        return Symbol(self, name)

    def model(self, inputs, outputs):
        values = b"".join(message(11, value(k, x.dtype, x.shape)) for k, x in inputs.items())
        values += b"".join(message(12, value(y.name, self.dtype)) for y in outputs.values())
        graph = self.nodes + message(2, "case") + self.constants + values
        version = message(1, "") + number(2, OPERATORS)
        return number(1, IR_VERSION) + message(7, graph) + message(8, version)


class Library:
    name = f"onnxruntime {onnxruntime.__version__}"
    providers = [
        provider
        for provider in ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if provider in onnxruntime.get_available_providers()
    ]
    device = providers[0].removesuffix("ExecutionProvider").lower()
    # Its CPU kernels lack the error function and the cosine in f64.
    dtypes = ["f32", "f16", "bf16"]

    def __init__(self):
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = 1
        self.options.log_severity_level = 3

    def run(self, function, arrays):
        self.graph = Graph(self.dtype)
        outputs = function({name: Symbol(self.graph, name) for name in arrays})
        symbols = {name: y for name, y in outputs.items() if isinstance(y, Symbol)}
        if not symbols:
            return outputs
        # What is given back as it came needs a node too.
        symbols = {name: self.graph.node("Identity", y) for name, y in symbols.items()}
        model = self.graph.model(arrays, symbols)
        session = onnxruntime.InferenceSession(model, self.options, providers=self.providers)
        found = session.run([y.name for y in symbols.values()], arrays)
        return {**outputs, **dict(zip(symbols, found))}

    def array(self, values):
        return self.graph.constant(np.array(values, self.dtype))

    def whole(self, values):
        return self.graph.constant(np.array(values, np.int64))

    def transpose(self, x, axes):
        return self.graph.node("Transpose", x, perm=axes)

    def reshape(self, x, shape):
        return self.graph.node("Reshape", x, self.whole(shape))

    def concat(self, parts, axis):
        return self.graph.node("Concat", *parts, axis=axis)

    def take(self, x, index, axis):
        return self.graph.node("Gather", x, self.whole(index), axis=axis)

    def sum(self, x, axis):
        return self.graph.node("ReduceSum", x, self.whole([axis]), keepdims=1)

    def max(self, x, axis):
        return self.graph.node("ReduceMax", x, self.whole([axis]), keepdims=1)

    def positive(self, x):
        return self.graph.node("Greater", x, 0.0)

    def where(self, condition, x, y):
        if not isinstance(condition, Symbol):
            condition = self.graph.constant(np.array(condition))
        return self.graph.node("Where", condition, x, y)


def function(kind):
    return lambda self, x: self.graph.node(kind, x)


for name in ["Exp", "Sqrt", "Tanh", "Sin", "Cos", "Erf"]:
    setattr(Library, name.lower(), function(name))
