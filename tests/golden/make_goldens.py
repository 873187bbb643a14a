#!/usr/bin/env python3
"""Write the golden test data next to this file.

    python tests/golden/make_goldens.py          # rewrite every case, then check all of it
    python tests/golden/make_goldens.py --only vit-hf  # rewrite only these, then check all of it
    python tests/golden/make_goldens.py --check  # only re-check the files that are there (needs only numpy and safetensors)

Each case is a folder with
    model.safetensors  float64 weights, under the names `save_pretrained` / timm's `save_for_hf` give
    config.json        byte for byte as those functions write it
    golden.json        inputs and the outputs that the Python model computes for them

Every parameter is random (norm weights 1 + 0.3 n, embeddings 0.5 n, the rest 0.3 n), so that no zero bias
or unit weight hides a mistake. Everything is computed in float64: the places where the libraries go
through float32 are replaced (see `remove_float32`), and a dispatch mode fails the run if any operation
still produces a float32 value. Afterwards the files are read back and every output is recomputed by an
independent numpy implementation (bottom of this file), which must agree to 1e-12.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.dont_write_bytecode = True  # every folder here is a case
import decoders
import encoders_and_others
from numpy_parts import ACTIVATIONS, attention, conv1d, gelu_erf, layer_norm, linear, masks, rms_norm, strip

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-12


# ----------------------------------------------------------------------------------------------------
# The cases. `config` is what is passed to the configuration class (or to timm.create_model);
# `inputs` describes the sequences, see `make_inputs`.
# ----------------------------------------------------------------------------------------------------

def tokens(length, pad=0, types=False):
    """A sequence of `length` random token ids. With `pad`, the last `pad` of them are masked out; other keys
    that a case may add: `left`, the first so many are; `mask`, a mask is given even if it hides nothing;
    `inside`, the places of tokens that are the padding token."""
    return {"length": length, "pad": pad, "types": types}


LM_INPUTS = [tokens(7), tokens(8, pad=3), tokens(1)]
BERT_INPUTS = [tokens(7), tokens(6, types=True), tokens(9, pad=4, types=True)]

GPT2 = dict(vocab_size=29, n_positions=10, n_embd=12, n_layer=2, n_head=3, bos_token_id=1, eos_token_id=2)
BERT = dict(vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
            max_position_embeddings=10, type_vocab_size=2)
LLAMA = dict(vocab_size=27, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
             max_position_embeddings=32)
VIT = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, image_size=8,
           patch_size=4, num_channels=3)


def rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


CASES = {
    # GPT-2
    "gpt2-lm": dict(
        cls="GPT2LMHeadModel", inputs=LM_INPUTS,
        config=dict(GPT2, activation_function="gelu_new", n_inner=None)),
    "gpt2-inner-relu": dict(
        cls="GPT2LMHeadModel", inputs=LM_INPUTS,
        config=dict(GPT2, n_embd=16, n_head=4, n_layer=3, n_inner=40, activation_function="relu",
                    layer_norm_epsilon=1e-3, scale_attn_by_inverse_layer_idx=True,
                    reorder_and_upcast_attn=False)),
    "gpt2-no-scale": dict(
        cls="GPT2LMHeadModel", inputs=LM_INPUTS,
        config=dict(GPT2, n_embd=12, n_head=2, scale_attn_weights=False, activation_function="gelu")),
    "gpt2-base": dict(
        cls="GPT2Model", inputs=LM_INPUTS,
        config=dict(GPT2, n_embd=16, n_head=4)),
    # BERT
    "bert-model": dict(
        cls="BertModel", inputs=BERT_INPUTS,
        config=dict(BERT, hidden_act="gelu")),
    "bert-mlm": dict(
        cls="BertForMaskedLM", inputs=BERT_INPUTS,
        config=dict(BERT, hidden_act="gelu_new", type_vocab_size=3)),
    "bert-mlm-relu": dict(
        cls="BertForMaskedLM", inputs=BERT_INPUTS,
        config=dict(BERT, hidden_size=16, num_attention_heads=4, num_hidden_layers=3, intermediate_size=24,
                    hidden_act="relu", layer_norm_eps=1e-3, tie_word_embeddings=False)),
    # Llama
    "llama-untied": dict(
        cls="LlamaForCausalLM", inputs=LM_INPUTS,
        config=dict(LLAMA, tie_word_embeddings=False, rope_parameters=rope(500.0))),
    "llama-tied": dict(
        cls="LlamaForCausalLM", inputs=LM_INPUTS,
        config=dict(LLAMA, tie_word_embeddings=True, num_hidden_layers=3)),
    "llama-gqa": dict(
        cls="LlamaForCausalLM", inputs=LM_INPUTS,
        config=dict(LLAMA, num_attention_heads=6, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-3)),
    "llama-bias": dict(
        cls="LlamaForCausalLM", inputs=LM_INPUTS,
        config=dict(LLAMA, hidden_size=16, num_attention_heads=4, num_key_value_heads=1, attention_bias=True,
                    mlp_bias=True, hidden_act="gelu_pytorch_tanh", rope_parameters=rope(50.0))),
    "llama-base": dict(
        cls="LlamaModel", inputs=LM_INPUTS,
        config=dict(LLAMA, num_attention_heads=2, num_key_value_heads=1)),
    # ViT, Hugging Face
    "vit-hf": dict(
        cls="ViTForImageClassification", inputs=[8, 8],
        config=dict(VIT, qkv_bias=True, hidden_act="gelu", num_labels=5)),
    "vit-hf-nobias": dict(
        cls="ViTForImageClassification", inputs=[12, 12],
        config=dict(VIT, image_size=12, hidden_size=16, num_attention_heads=4, num_hidden_layers=3,
                    qkv_bias=False, hidden_act="relu", layer_norm_eps=1e-3, num_labels=4)),
    "vit-model": dict(
        cls="ViTModel", inputs=[8, 8],
        config=dict(VIT, hidden_size=16, num_attention_heads=2)),
    # ViT, timm
    "vit-timm": dict(
        cls="timm", inputs=[8, 8],
        config=dict(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, mlp_ratio=3,
                    num_classes=5)),
    "vit-timm-nobias": dict(
        cls="timm", inputs=[12, 12],
        config=dict(img_size=12, patch_size=4, embed_dim=16, depth=3, num_heads=4, mlp_ratio=2,
                    num_classes=7, qkv_bias=False)),
}
TIMM_ARCHITECTURE = "vit_tiny_patch16_224"


# ----------------------------------------------------------------------------------------------------
# Making the files (torch, transformers, timm)
# ----------------------------------------------------------------------------------------------------

def remove_float32():
    """Replace every place in the models used here that goes through float32."""
    import torch.nn.functional as F

    # Eager attention of ViT and DeiT: softmax(scores, dtype=torch.float32).
    softmax = F.softmax

    def softmax_same_dtype(input, dim=None, _stacklevel=3, dtype=None):
        return softmax(input, dim=dim, dtype=input.dtype)

    F.softmax = softmax_same_dtype
    decoders.remove_float32()
    encoders_and_others.remove_float32()
    importlib.import_module("t5").remove_float32()


def float64_only():
    """A dispatch mode that fails on any operation with a floating point result that is not float64."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Float64Only(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point:
                    assert leaf.dtype == torch.float64, f"{func} gives {leaf.dtype}"
            return result

    return Float64Only()


def rng_for(name, what):
    return np.random.default_rng(zlib.crc32(f"lemon-check {name} {what}".encode()))


def randomize(model, name):
    """Overwrite every parameter, in the order of named_parameters (tied ones come once)."""
    import torch
    from torch import nn

    norms, embeddings = set(), set()
    for module_name, module in model.named_modules():
        kind = type(module).__name__
        # (Gemma's weights are what is added to 1.)
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)) or kind == "T5LayerNorm" \
                or kind.endswith("RMSNorm") and not kind.startswith("Gemma"):
            norms.add(f"{module_name}.weight")
        if isinstance(module, nn.Embedding):
            embeddings.add(f"{module_name}.weight")
    rng = rng_for(name, "weights")
    for key, parameter in model.named_parameters():
        values = rng.standard_normal(tuple(parameter.shape))
        last = key.rsplit(".", 1)[-1]
        if key in norms:
            values = 1.0 + 0.3 * values
        elif key in embeddings or last in ("cls_token", "pos_embed", "position_embeddings"):
            values = 0.5 * values
        else:
            values = 0.3 * values
        assert parameter.dtype == torch.float64, key
        parameter.data.copy_(torch.from_numpy(values))
    for key, buffer in model.named_buffers():  # the running statistics of BatchNorm
        values = rng.standard_normal(tuple(buffer.shape))
        if key.endswith("running_mean"):
            buffer.data.copy_(torch.from_numpy(values))
        elif key.endswith("running_var"):
            buffer.data.copy_(torch.from_numpy(np.exp(values)))


def make_inputs(name, case):
    """The inputs as they are written in golden.json, one entry per sequence or image."""
    rng = rng_for(name, "inputs")
    inputs = []
    for spec in case["inputs"]:
        if not isinstance(spec, dict):  # an image of this size
            pixels = rng.standard_normal((3, spec, spec) if isinstance(spec, int) else spec)
            inputs.append({"pixels": pack(pixels)})
            continue
        length, pad = spec["length"], spec["pad"]
        # Padding positions hold random ids too: attending to them would show.
        entry = {"input_ids": rng.integers(3, case["config"]["vocab_size"], length).tolist()}
        for place in spec.get("inside", ()):
            entry["input_ids"][place] = case["config"]["pad_token_id"]
        left = spec.get("left", 0)
        if pad or left or spec.get("mask"):
            entry["attention_mask"] = [0] * left + [1] * (length - pad - left) + [0] * pad
        if "decoder" in spec:
            length, pad = spec["decoder"], spec["decoder_pad"]
            entry["decoder_input_ids"] = rng.integers(0, case["config"]["vocab_size"], length).tolist()
            if pad:
                entry["decoder_attention_mask"] = [1] * (length - pad) + [0] * pad
        if spec.get("types"):
            entry["token_type_ids"] = [i * case["config"]["type_vocab_size"] // length for i in range(length)]
        inputs.append(entry)
    return inputs


def pack(array):
    array = np.asarray(array)
    assert array.dtype == np.float64 and np.isfinite(array).all()
    return {"shape": list(array.shape), "data": array.ravel().tolist()}


def unpack(entry):
    return np.array(entry["data"], dtype=np.float64).reshape(entry["shape"])


def run(model, entry):
    """The outputs of the model for one input, batch dimension dropped."""
    import torch

    with torch.no_grad(), float64_only(), decoders.in_float64(model):
        if "pixels" in entry:
            pixels = torch.from_numpy(unpack(entry["pixels"]))[None]
            result = model(pixels)
        else:
            result = model(**{key: torch.tensor([value]) for key, value in entry.items()})
        if hasattr(model, "head_dist"):  # timm returns the mean of both heads
            features = model.forward_features(pixels)
            both = {"cls_logits": model.head(features[:, 0]), "distillation_logits": model.head_dist(features[:, 1])}
            assert torch.equal(result, (both["cls_logits"] + both["distillation_logits"]) / 2)
            result = {**both, "logits": result}
    if isinstance(result, torch.Tensor):  # timm
        result = {"logits" if model.num_classes else "features": result}
    names = ("logits", "last_hidden_state", "pooler_output", "cls_logits", "distillation_logits")
    names = [n for n in (*names, "features") if result.get(n) is not None]
    return {n: pack(result[n][0].numpy()) for n in names}


def class_of(case):
    import transformers

    return getattr(transformers, case["cls"], None) or getattr(encoders_and_others, case["cls"])()


def build(case, config):
    """A model of the case's class with float64 parameters (values to be overwritten)."""
    import timm

    if "build" in case:
        return case["build"](config).double().eval()
    if case["cls"] == "timm":
        return timm.create_model(case.get("architecture", TIMM_ARCHITECTURE), pretrained=False, **config).double().eval()
    cls = class_of(case)
    config = cls.config_class(**config)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = cls(config).double().eval()
    if "untie" in case:
        import torch
        head = getattr(model, case["untie"])
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


def save(model, case, folder):
    """config.json and model.safetensors as the library writes them."""
    if "save" in case:
        return case["save"](model, case["config"], folder)
    with tempfile.TemporaryDirectory() as scratch:
        if case["cls"] == "timm":
            from timm.models import save_for_hf
            # model_args is explicit: older timm 1.0.x versions do not record the arguments of create_model.
            save_for_hf(model, scratch, model_args=case["config"], safe_serialization=True)
        else:
            model.save_pretrained(scratch, **case.get("save", {}))
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(scratch, file), folder / file)


def reload(case, folder):
    """Load the folder again with the library itself."""
    import timm
    import torch

    if "build" in case:
        model = build(case, case["config"])
        model.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(folder / "model.safetensors").items()})
        return model
    if case["cls"] == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True, dtype=torch.float64).eval()
    cls = class_of(case)
    model, info = cls.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                      experts_implementation="eager", output_loading_info=True)
    # (BERT's decoder.bias is tied to predictions.bias and legitimately not in the file.)
    assert not info["unexpected_keys"] and not info["missing_keys"], info
    return model.eval()


def write_golden(path, versions, inputs, outputs):
    """One line per input and per output; floats in Python's shortest form, which reads back exactly."""
    lines = lambda entries: ",\n  ".join(json.dumps(e, separators=(",", ":")) for e in entries)
    path.write_text(
        '{"versions": ' + json.dumps(versions)
        + ',\n "inputs": [\n  ' + lines(inputs)
        + '],\n "outputs": [\n  ' + lines(outputs) + "]}\n")


def make(only):
    # MKL otherwise picks code by CPU and memory alignment, which changes last digits.
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    import safetensors
    import timm
    import torch
    import transformers
    from timm.layers import set_fused_attn

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    set_fused_attn(False)  # timm: plain matmul / softmax / matmul
    remove_float32()
    versions = {
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "timm": timm.__version__,
        "safetensors": safetensors.__version__, "numpy": np.__version__,
    }
    print(versions)
    for name, case in CASES.items():
        if only and name not in only:
            continue
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)  # (the initial values are all overwritten)
        model = build(case, case["config"])
        randomize(model, name)
        save(model, case, folder)
        inputs = make_inputs(name, case)
        outputs = [run(model, entry) for entry in inputs]
        write_golden(folder / "golden.json", versions, inputs, outputs)

        # The files alone must give the same model again.
        again = reload(case, folder)
        for entry, expected in zip(inputs, outputs):
            for key, value in run(again, entry).items():
                difference = np.abs(unpack(value) - unpack(expected[key])).max()
                assert difference < TOLERANCE, f"{name}: {key} is {difference} off after loading"


# ----------------------------------------------------------------------------------------------------
# Independent recomputation: numpy only, from the files only. Knows nothing of torch.
# ----------------------------------------------------------------------------------------------------

def numpy_gpt2(c, w, entry):
    head = any(k.startswith("transformer.") for k in w)
    w = strip(w, "transformer.")
    ids, allowed = entry["input_ids"], masks(entry, causal=True)
    act, eps, d = ACTIVATIONS[c["activation_function"]], c["layer_norm_epsilon"], c["n_embd"]
    x = w["wte.weight"][ids] + w["wpe.weight"][:len(ids)]
    for i in range(c["n_layer"]):
        scale = (d // c["n_head"]) ** -0.5 if c["scale_attn_weights"] else 1.0
        if c["scale_attn_by_inverse_layer_idx"]:
            scale /= i + 1
        q, k, v = np.split(conv1d(layer_norm(x, w, f"h.{i}.ln_1", eps), w, f"h.{i}.attn.c_attn"), 3, axis=-1)
        a = attention(q, k, v, c["n_head"], c["n_head"], scale, allowed)
        x = x + conv1d(a, w, f"h.{i}.attn.c_proj")
        m = act(conv1d(layer_norm(x, w, f"h.{i}.ln_2", eps), w, f"h.{i}.mlp.c_fc"))
        x = x + conv1d(m, w, f"h.{i}.mlp.c_proj")
    x = layer_norm(x, w, "ln_f", eps)
    return {"logits": x @ w["wte.weight"].T} if head else {"last_hidden_state": x}


def numpy_bert(c, w, entry):
    if c["architectures"][0].startswith("mod"):
        return encoders_and_others.numpy_pre_norm_bert(c, w, entry)
    head = any(k.startswith("cls.") for k in w)
    w = strip(w, "bert.")
    ids, allowed = entry["input_ids"], masks(entry, causal=False)
    types = entry.get("token_type_ids", [0] * len(ids))
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    e = "embeddings"
    x = (w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][types]
         + w[f"{e}.position_embeddings.weight"][:len(ids)])
    x = layer_norm(x, w, f"{e}.LayerNorm", eps)
    for i in range(c["num_hidden_layers"]):
        p = f"encoder.layer.{i}"
        q, k, v = (linear(x, w, f"{p}.attention.self.{n}") for n in ("query", "key", "value"))
        a = attention(q, k, v, heads, heads, (c["hidden_size"] // heads) ** -0.5, allowed)
        x = layer_norm(x + linear(a, w, f"{p}.attention.output.dense"), w, f"{p}.attention.output.LayerNorm", eps)
        y = linear(act(linear(x, w, f"{p}.intermediate.dense")), w, f"{p}.output.dense")
        x = layer_norm(x + y, w, f"{p}.output.LayerNorm", eps)
    if not head:
        return {"last_hidden_state": x, "pooler_output": np.tanh(linear(x[0], w, "pooler.dense"))}
    p = "cls.predictions"
    y = layer_norm(act(linear(x, w, f"{p}.transform.dense")), w, f"{p}.transform.LayerNorm", eps)
    decoder = w[f"{e}.word_embeddings.weight" if c["tie_word_embeddings"] else f"{p}.decoder.weight"]
    # Untied, the file holds decoder.bias (which is used) beside predictions.bias (which is not).
    return {"logits": y @ decoder.T + w[f"{p}.bias" if c["tie_word_embeddings"] else f"{p}.decoder.bias"]}


def patches(pixels, size):
    """(3, H, W) -> (patches in row order, 3 * size * size), each flattened as (channel, row, column)."""
    c, h, w = pixels.shape
    grid = pixels.reshape(c, h // size, size, w // size, size).transpose(1, 3, 0, 2, 4)
    return grid.reshape(-1, c * size * size)


NUMPY_MODELS = {"gpt2": numpy_gpt2, "bert": numpy_bert}

# More families, in files of their own. They use the parts above, whether this file is run or imported.
sys.modules["make_goldens"] = sys.modules[__name__]
for module in ("images", "decoders", "encoders_and_others", "resnets", "t5"):
    module = importlib.import_module(module)
    CASES.update(module.CASES)
    NUMPY_MODELS.update(module.NUMPY_MODELS)


def numpy_model(config):
    family = config.get("model_type", config.get("architecture"))
    return NUMPY_MODELS[family if family in NUMPY_MODELS else "timm"]


def check():
    worst_of_all = 0.0
    for name in CASES:
        folder = HERE / name
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        golden = json.loads((folder / "golden.json").read_text())
        assert all(t.dtype == np.float64 for k, t in weights.items() if not k.endswith("num_batches_tracked")), name
        model = numpy_model(config)
        worst = 0.0
        assert len(golden["inputs"]) == len(golden["outputs"]) == len(CASES[name]["inputs"])
        for entry, expected in zip(golden["inputs"], golden["outputs"]):
            result = model(config, weights, entry)
            assert result.keys() == expected.keys(), (name, result.keys(), expected.keys())
            for key, value in result.items():
                want = unpack(expected[key])
                assert value.shape == want.shape, (name, key)
                worst = max(worst, float(np.abs(value - want).max()))
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:16} {size / 1000:6.1f} kB   largest difference to numpy {worst:.1e}")
        assert worst < TOLERANCE, name
        worst_of_all = max(worst_of_all, worst)
    print(f"all {len(CASES)} cases agree with numpy, largest difference {worst_of_all:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only re-check the existing files")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="rewrite only these cases")
    arguments = parser.parse_args()
    if not arguments.check:
        make(arguments.only)
    check()


if __name__ == "__main__":
    sys.exit(main())
