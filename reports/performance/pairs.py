"""Writes three pairs of models that differ in kind: python pairs.py FOLDER [gpt2 llama bert]

gpt2   124 M to 355 M weights, float32: channels 768 -> 1024 (the rest hold the mean), some neurons
       and heads twice with unequal shares, every second layer new
llama  162 M to 1.1 G weights, bfloat16: channels 768 -> 2048 (the rest hold zero), new neurons and
       heads that write zero, ten new layers
bert   110 M to 390 M weights, float32: everything twice, in equal shares
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

S = 768


def normal(*shape, std=0.02, mean=0.0):
    return torch.randn(*shape) * std + mean


def save(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def gpt2(folder):
    small = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257,
             "n_positions": 1024, "n_embd": S, "n_head": 12, "n_layer": 12,
             "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
    D, ratio = 1024, S / 1024
    large = small | {"n_embd": D, "n_head": 16, "n_layer": 24, "layer_norm_epsilon": 1e-5 * ratio}

    def with_mean(x):
        mean = x.double().mean(-1, keepdim=True).float()
        return torch.cat([x, mean.expand(*x.shape[:-1], D - S)], -1)

    def shared(x, again, first):
        return torch.cat([x[:again] * first, x[again:], x[:again] * (1 - first)])

    def norm(source, expanded, name):
        source[f"{name}.weight"] = w = normal(S, std=0.1, mean=1.0)
        source[f"{name}.bias"] = b = normal(S)
        return (torch.cat([w * math.sqrt(ratio), torch.ones(D - S)]),
                torch.cat([b, torch.zeros(D - S)]))

    s, t = {}, {}
    for name, rows in [("wte", 50257), ("wpe", 1024)]:
        s[f"transformer.{name}.weight"] = table = normal(rows, S)
        t[f"transformer.{name}.weight"] = with_mean(table)
    for layer in range(12):
        h = f"transformer.h.{layer}"
        own = {}
        for n in ["ln_1", "ln_2"]:
            own[f"{n}.weight"], own[f"{n}.bias"] = norm(s, t, f"{h}.{n}")
        shapes = {"attn.c_attn": (S, 3 * S), "attn.c_proj": (S, S),
                  "mlp.c_fc": (S, 4 * S), "mlp.c_proj": (4 * S, S)}
        for n, shape in shapes.items():
            s[f"{h}.{n}.weight"], s[f"{h}.{n}.bias"] = normal(*shape), normal(shape[1])
        w, b = s[f"{h}.attn.c_attn.weight"], s[f"{h}.attn.c_attn.bias"]
        parts = [torch.cat([p, p[:, :256]], 1) for p in w.split(S, 1)]
        own["attn.c_attn.weight"] = torch.cat([torch.cat(parts, 1), normal(D - S, 3 * D)])
        own["attn.c_attn.bias"] = torch.cat([torch.cat([p, p[:256]]) for p in b.split(S)])
        w, b = s[f"{h}.mlp.c_fc.weight"], s[f"{h}.mlp.c_fc.bias"]
        own["mlp.c_fc.weight"] = torch.cat([torch.cat([w, w[:, :1024]], 1), normal(D - S, 4 * D)])
        own["mlp.c_fc.bias"] = torch.cat([b, b[:1024]])
        for n, again, first in [("attn.c_proj", 256, 0.75), ("mlp.c_proj", 1024, 0.625)]:
            own[f"{n}.weight"] = with_mean(shared(s[f"{h}.{n}.weight"], again, first))
            own[f"{n}.bias"] = with_mean(s[f"{h}.{n}.bias"])
        for new in [0, 1]:
            for n, tensor in own.items():
                silent = new and "c_proj" in n
                name = f"transformer.h.{2 * layer + new}.{n}"
                t[name] = torch.zeros_like(tensor) if silent else tensor.clone()
    n = "transformer.ln_f"
    t[f"{n}.weight"], t[f"{n}.bias"] = norm(s, t, n)
    save(folder / "gpt2-source", small, s)
    save(folder / "gpt2-expanded", large, t)


def llama(folder):
    D, ratio = 2048, S / 2048
    small = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000,
             "hidden_size": S, "intermediate_size": 3072, "num_hidden_layers": 12,
             "num_attention_heads": 12, "num_key_value_heads": 12, "rms_norm_eps": 1e-6,
             "max_position_embeddings": 2048, "hidden_act": "silu", "rope_theta": 10000.0,
             "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    large = small | {"hidden_size": D, "intermediate_size": 4608, "num_hidden_layers": 22,
                     "num_attention_heads": 32, "num_key_value_heads": 32,
                     "rms_norm_eps": 1e-6 * ratio}

    def within(x, rows, cols, free):
        out = normal(rows, cols) if free else torch.zeros(rows, cols)
        out[: x.shape[0], : x.shape[1]] = x
        return out.bfloat16()

    def norm(w):
        return torch.cat([w.double() * math.sqrt(ratio), torch.ones(D - S)]).bfloat16()

    s, t = {}, {}
    s["model.embed_tokens.weight"] = table = normal(32000, S).bfloat16()
    t["model.embed_tokens.weight"] = within(table, 32000, D, False)
    s["lm_head.weight"] = head = normal(32000, S).bfloat16()
    t["lm_head.weight"] = within(head, 32000, D, True)
    s["model.norm.weight"] = torch.ones(S).bfloat16()
    t["model.norm.weight"] = norm(s["model.norm.weight"])
    place = 0
    for layer in range(12):
        f = f"model.layers.{layer}"
        for n in ["input_layernorm", "post_attention_layernorm"]:
            s[f"{f}.{n}.weight"] = torch.ones(S).bfloat16()
        for n in "qkvo":
            s[f"{f}.self_attn.{n}_proj.weight"] = normal(S, S).bfloat16()
        for n in ["gate", "up"]:
            s[f"{f}.mlp.{n}_proj.weight"] = normal(3072, S).bfloat16()
        s[f"{f}.mlp.down_proj.weight"] = normal(S, 3072).bfloat16()
        for new in range(2 if layer < 10 else 1):
            g = f"model.layers.{place}"
            place += 1
            for n in ["input_layernorm", "post_attention_layernorm"]:
                t[f"{g}.{n}.weight"] = norm(s[f"{f}.{n}.weight"])
            for n in "qkv":
                name = f"self_attn.{n}_proj.weight"
                t[f"{g}.{name}"] = within(s[f"{f}.{name}"], D, D, True)
            for n in ["gate", "up"]:
                name = f"mlp.{n}_proj.weight"
                t[f"{g}.{name}"] = within(s[f"{f}.{name}"], 4608, D, True)
            for name, cols in [("self_attn.o_proj.weight", D), ("mlp.down_proj.weight", 4608)]:
                t[f"{g}.{name}"] = within(s[f"{f}.{name}"] * (1 - new), D, cols, False)
    save(folder / "llama-source", small, s)
    save(folder / "llama-expanded", large, t)


def bert(folder):
    small = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30522,
             "hidden_size": S, "num_hidden_layers": 12, "num_attention_heads": 12,
             "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512,
             "type_vocab_size": 2, "layer_norm_eps": 1e-12, "tie_word_embeddings": True}
    large = small | {"hidden_size": 2 * S, "num_attention_heads": 24, "intermediate_size": 6144}
    s = {}

    def norm(name):
        s[f"{name}.weight"], s[f"{name}.bias"] = normal(S, std=0.1, mean=1.0), normal(S)

    def linear(name, rows, cols):
        s[f"{name}.weight"], s[f"{name}.bias"] = normal(rows, cols), normal(rows)

    for n, rows in [("word", 30522), ("position", 512), ("token_type", 2)]:
        s[f"bert.embeddings.{n}_embeddings.weight"] = normal(rows, S)
    norm("bert.embeddings.LayerNorm")
    for layer in range(12):
        f = f"bert.encoder.layer.{layer}"
        for n in ["query", "key", "value"]:
            linear(f"{f}.attention.self.{n}", S, S)
        linear(f"{f}.attention.output.dense", S, S)
        norm(f"{f}.attention.output.LayerNorm")
        linear(f"{f}.intermediate.dense", 3072, S)
        linear(f"{f}.output.dense", S, 3072)
        norm(f"{f}.output.LayerNorm")
    linear("cls.predictions.transform.dense", S, S)
    norm("cls.predictions.transform.LayerNorm")
    s["cls.predictions.bias"] = normal(30522)
    t = {}
    for name, x in s.items():
        if name == "cls.predictions.bias":
            t[name] = x.clone()
        elif "embeddings" in name and x.dim() == 2:
            t[name] = torch.cat([x, x], 1)
        elif x.dim() == 1:
            # The tied head reads every channel twice.
            t[name] = torch.cat([x, x]) * (0.5 if "transform.LayerNorm" in name else 1.0)
        else:
            half = torch.cat([x, x], 1) * 0.5
            t[name] = torch.cat([half, half])
    save(folder / "bert-source", small, s)
    save(folder / "bert-expanded", large, t)


KINDS = {"gpt2": gpt2, "llama": llama, "bert": bert}

if __name__ == "__main__":
    torch.manual_seed(0)
    for kind in sys.argv[2:] or KINDS:
        KINDS[kind](Path(sys.argv[1]))
