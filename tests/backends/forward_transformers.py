"""Whole models as Hugging Face's transformers run them. Only how they are loaded, what they are
given and what is kept of what they return is written here."""

import contextlib
import gc
import json
import os

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError

import tensors

# What requests call otherwise than the classes do.
RETURNED = {"prediction_logits": "logits"}
# Classes that the library no longer has under this name.
RENAMED = {"T5WithLMHeadModel": "T5ForConditionalGeneration"}
FAMILIES = [
    "bert", "deit", "distilbert", "gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral",
    "mixtral", "olmo", "opt", "phi", "phi3", "qwen2", "qwen3", "roberta", "stablelm", "t5", "vit",
]


class Models:
    """The families, and the libraries that run them."""

    def __init__(self):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.libraries = [f"transformers {transformers.__version__}"]
        self.families = list(FAMILIES)
        # Models hold themselves in cycles; what is there now is not looked through each time.
        gc.freeze()

    def answer(self, library, request):
        """Runs the model that a request names, and writes what it returns."""
        if request["family"] not in self.families:
            return {"unsupported": f"no family {request['family']}"}
        if class_name(request) is None:
            return {"unsupported": "its configuration names no class"}
        try:
            self.run(library, request)
        except StrictDataclassClassValidationError as refusal:
            # Llama's heads must divide the width, even where they do not make it.
            return {"unsupported": str(refusal)}
        finally:
            gc.collect()
        return {"ok": True}

    def run(self, library, request):
        wide = request["dtype"] == "f64"
        dtype = torch.float64 if wide else torch.float32
        inputs = read_inputs(request["inputs"], dtype, library.on)
        with float32_means_float64() if wide else contextlib.nullcontext(), torch.no_grad():
            model = load(request, dtype).to(library.on).eval()
            round_factors(model, request["dtype"])
            stream = Stream(model)
            found = {**returned(model, inputs), **stream.kept}
        asked = [name for name in found if name in request["returns"] or name in stream.kept]
        arrays = {name: found[name].cpu().numpy() for name in asked}
        tensors.write(request["outputs"], arrays, request["dtype"])


@contextlib.contextmanager
def float32_means_float64():
    """Code computes in f64 where it says f32, whatever its weights are in: norms, softmax, rotary
    positions, routers."""
    kept = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept


def read_inputs(path, dtype, device):
    """What a model is given, with a dimension for the batch."""
    given = {name: torch.from_numpy(np.array(x))[None] for name, x in tensors.read(path).items()}
    return {
        name: x.to(device, dtype if x.is_floating_point() else None) for name, x in given.items()
    }


def config_of(request):
    with open(os.path.join(request["model"], "config.json")) as file:
        return json.load(file)


def class_name(request):
    """The class that a configuration names."""
    names = config_of(request).get("architectures")
    return RENAMED.get(names[0], names[0]) if names else None


def load(request, dtype):
    folder, found = request["model"], getattr(transformers, class_name(request))
    config = found.config_class.from_pretrained(folder)
    if (getattr(config, "pad_token_id", None) or 0) >= getattr(config, "vocab_size", 1):
        # Phi3 has a padding token of its own where none is said, which small tables lack.
        config.pad_token_id = None
    model, about = found.from_pretrained(
        folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True,
        attn_implementation="eager", experts_implementation="eager",
    )
    # It draws what the folder lacks. A pooler is no matter where none is asked for.
    lacks = [name for name in about["missing_keys"] if not is_spare(name, request)]
    assert not lacks, f"the folder lacks {lacks}"
    return model


def is_spare(name, request):
    return "pooler." in name and "pooler_output" not in request["returns"]


def round_factors(model, dtype):
    """Gemma rounds a factor to the format of its weights; where they are stored in half precision,
    what computes with them in f32 must not lose that."""
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale.fill_(tensors.rounded(module.scalar_embed_scale, dtype))


class Stream:
    """The residual stream in front of each layer of a model, and behind the last one, in `kept`."""

    def __init__(self, model):
        self.kept = {}
        layers = layers_of(model)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self.keep_read(index), with_kwargs=True)
        layers[-1].register_forward_hook(self.keep_written(len(layers)))

    def keep_read(self, index):
        def keep(layer, positional, named):
            x = positional[0] if positional else named["hidden_states"]
            self.kept[f"hidden.{index}"] = rows(x)

        return keep

    def keep_written(self, index):
        def keep(layer, read, written):
            x = written if isinstance(written, torch.Tensor) else written[0]
            self.kept[f"hidden.{index}"] = rows(x)

        return keep


def layers_of(model):
    """The layers of a model; of an encoder-decoder, the decoder's, which come last."""
    lists = {
        name: module for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
    }
    outer = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    return lists[outer[-1]]


def rows(x):
    """`[positions, channels]`, without the dimension of the batch."""
    return x.reshape(-1, x.shape[-1])


def returned(model, inputs):
    """All that a model returns under the names of requests."""
    found = model(**inputs)
    named = {RETURNED.get(name, name): x for name, x in found.items()}
    return {name: rows(x) for name, x in named.items() if isinstance(x, torch.Tensor)}
