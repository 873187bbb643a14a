"""Cases of GPT-NeoX, OPT, Phi, RoBERTa, DistilBERT and the Pre-LN BERT of LEMON's own code.

`make_goldens.py` writes and checks them; see its first lines.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from numpy_parts import ACTIVATIONS, attention, gelu_erf, layer_norm, linear, masks, strip


def tokens(length, **special):
    return {"length": length, "pad": 0, "types": False, **special}


LM_INPUTS = [tokens(7), tokens(8, pad=3), tokens(9, left=2), tokens(1)]
NEOX = dict(vocab_size=27, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
            max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
OPT = dict(vocab_size=29, hidden_size=12, ffn_dim=20, num_hidden_layers=2, num_attention_heads=3,
           max_position_embeddings=10, pad_token_id=1, bos_token_id=2, eos_token_id=2)
# Without a mask, OPT makes one of float32.
OPT_INPUTS = [tokens(7, mask=True), tokens(8, pad=3), tokens(9, left=2, pad=1), tokens(10, left=4)]
PHI = dict(vocab_size=27, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
           max_position_embeddings=32)
ROBERTA = dict(vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
               max_position_embeddings=12, type_vocab_size=2, pad_token_id=1)
ROBERTA_INPUTS = [tokens(7), tokens(10), tokens(9, types=True, left=2, inside=[0, 1]),
                  tokens(8, pad=3, inside=[5, 6, 7]), tokens(8, types=True, inside=[0, 3, 4], pad=1)]
DISTILBERT = dict(vocab_size=31, dim=12, n_layers=2, n_heads=3, hidden_dim=20, max_position_embeddings=10)
DISTILBERT_INPUTS = [tokens(7), tokens(9, pad=4), tokens(8, left=3)]
BERT = dict(vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
            max_position_embeddings=10, type_vocab_size=2)
BERT_INPUTS = [tokens(7), tokens(6, types=True), tokens(9, pad=4, types=True), tokens(8, left=3)]
CASES = {
    # GPT-NeoX
    "gpt-neox-parallel": dict(
        cls="GPTNeoXForCausalLM", inputs=LM_INPUTS,
        config=dict(NEOX, rotary_pct=0.5)),
    "gpt-neox-sequential": dict(
        cls="GPTNeoXForCausalLM", inputs=LM_INPUTS,
        config=dict(NEOX, hidden_size=20, num_attention_heads=2, num_hidden_layers=3, rotary_pct=0.25,
                    rotary_emb_base=50, use_parallel_residual=False, attention_bias=False, hidden_act="relu",
                    layer_norm_eps=1e-3, tie_word_embeddings=True)),
    "gpt-neox-base": dict(
        cls="GPTNeoXModel", inputs=LM_INPUTS,
        config=dict(NEOX, hidden_size=12, num_attention_heads=2, rotary_pct=1.0, hidden_act="gelu_fast")),
    # OPT
    "opt-lm": dict(
        cls="OPTForCausalLM", inputs=OPT_INPUTS,
        config=OPT),
    "opt-post-norm": dict(
        cls="OPTForCausalLM", inputs=OPT_INPUTS,
        config=dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=8, activation_function="gelu")),
    "opt-no-bias": dict(
        cls="OPTForCausalLM", inputs=OPT_INPUTS,
        config=dict(OPT, num_hidden_layers=3, enable_bias=False, layer_norm_elementwise_affine=False,
                    _remove_final_layer_norm=True, tie_word_embeddings=False)),
    "opt-base": dict(
        cls="OPTModel", inputs=OPT_INPUTS,
        config=dict(OPT, hidden_size=16, num_attention_heads=2, word_embed_proj_dim=20)),
    # Phi
    "phi-lm": dict(
        cls="PhiForCausalLM", inputs=LM_INPUTS,
        config=PHI),
    "phi-qk-norm": dict(
        cls="PhiForCausalLM", inputs=LM_INPUTS,
        config=dict(PHI, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, qk_layernorm=True,
                    layer_norm_eps=1e-3, hidden_act="relu", tie_word_embeddings=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.75})),
    "phi-base": dict(
        cls="PhiModel", inputs=LM_INPUTS,
        config=dict(PHI, hidden_size=12, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3,
                    partial_rotary_factor=0.4)),
    # RoBERTa
    "roberta-mlm": dict(
        cls="RobertaForMaskedLM", inputs=ROBERTA_INPUTS,
        config=dict(ROBERTA, hidden_act="gelu_new")),
    "roberta-mlm-relu": dict(
        cls="RobertaForMaskedLM", inputs=[tokens(8, inside=[2, 3]), tokens(9, left=2, pad=1)],
        config=dict(ROBERTA, num_hidden_layers=3, pad_token_id=4, max_position_embeddings=14, type_vocab_size=1,
                    hidden_act="relu", layer_norm_eps=1e-3, tie_word_embeddings=False)),
    "roberta-model": dict(
        cls="RobertaModel", inputs=ROBERTA_INPUTS,
        config=dict(ROBERTA, pad_token_id=0, hidden_size=16, num_attention_heads=2)),
    "roberta-classes": dict(
        cls="RobertaForSequenceClassification", inputs=ROBERTA_INPUTS,
        config=dict(ROBERTA, num_labels=3)),
    # The same under other names
    "xlm-roberta-mlm": dict(
        cls="XLMRobertaForMaskedLM", inputs=ROBERTA_INPUTS,
        config=dict(ROBERTA, type_vocab_size=1, layer_norm_eps=1e-5)),
    "camembert-model": dict(
        cls="CamembertModel", inputs=ROBERTA_INPUTS,
        config=dict(ROBERTA, hidden_act="relu")),
    # DistilBERT
    "distilbert-mlm": dict(
        cls="DistilBertForMaskedLM", inputs=DISTILBERT_INPUTS,
        config=DISTILBERT),
    "distilbert-mlm-relu": dict(
        cls="DistilBertForMaskedLM", inputs=DISTILBERT_INPUTS,
        config=dict(DISTILBERT, dim=16, n_heads=2, n_layers=3, activation="relu", sinusoidal_pos_embds=True,
                    tie_word_embeddings=False)),
    "distilbert-classes": dict(
        cls="DistilBertForSequenceClassification", inputs=DISTILBERT_INPUTS,
        config=dict(DISTILBERT, num_labels=4)),
    "distilbert-model": dict(
        cls="DistilBertModel", inputs=DISTILBERT_INPUTS,
        config=DISTILBERT),
    # The Pre-LN BERT of LEMON's own code
    "bert-pre-norm": dict(
        cls="modBertForMaskedLM", inputs=BERT_INPUTS,
        config=dict(BERT, num_hidden_layers=3)),
    "bert-pre-norm-model": dict(
        cls="modBertModel", inputs=BERT_INPUTS,
        config=dict(BERT, hidden_size=16, num_attention_heads=2, hidden_act="gelu_new", layer_norm_eps=1e-3)),
}


def remove_float32():
    """Rotary embeddings: inv_freq, the angles, cos and sin are float32 (eager softmax is replaced elsewhere)."""
    import torch
    from transformers.models.gpt_neox import modeling_gpt_neox
    from transformers.models.phi import modeling_phi

    def inverse_frequencies(config, **_):
        parameters = config.rope_parameters
        assert parameters["rope_type"] == "default"
        size = int(config.hidden_size // config.num_attention_heads * parameters["partial_rotary_factor"])
        exponent = torch.arange(0, size, 2, dtype=torch.float64) / size
        return 1.0 / (parameters["rope_theta"] ** exponent), 1.0

    def rotary(self, x, position_ids):
        inv_freq, scaling = inverse_frequencies(self.config)
        angles = position_ids[..., None].to(torch.float64) * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * scaling, angles.sin() * scaling

    for cls in (modeling_gpt_neox.GPTNeoXRotaryEmbedding, modeling_phi.PhiRotaryEmbedding):
        cls.compute_default_rope_parameters = staticmethod(inverse_frequencies)
        cls.forward = torch.no_grad()(rotary)


# ----------------------------------------------------------------------------------------------------
# The Pre-LN BERT, which the library does not have: written from its description, under the names of LEMON's code.
# ----------------------------------------------------------------------------------------------------

def modBertForMaskedLM():
    return pre_norm_bert("modBertForMaskedLM")


def modBertModel():
    return pre_norm_bert("modBertModel")


def pre_norm_bert(name):
    """The class `name`: BERT with norms in front of attention and MLP, none behind the embedding and one last;
    `modBertForMaskedLM` has the decoder alone as its head, `modBertModel` a pooler."""
    import torch
    from torch import nn
    from transformers import BertConfig
    from transformers.activations import ACT2FN

    def named(**modules):
        return nn.ModuleDict(modules)

    class Encoder(nn.Module):
        def __init__(self, c):
            super().__init__()
            d, inner = c.hidden_size, c.intermediate_size
            norm = lambda: nn.LayerNorm(d, eps=c.layer_norm_eps)
            self.embeddings = named(
                word_embeddings=nn.Embedding(c.vocab_size, d),
                position_embeddings=nn.Embedding(c.max_position_embeddings, d),
                token_type_embeddings=nn.Embedding(c.type_vocab_size, d))
            self.encoder = named(ln_f=norm(), layer=nn.ModuleList(named(
                attention=named(
                    LayerNorm=norm(), output=named(dense=nn.Linear(d, d)),
                    self=named(query=nn.Linear(d, d), key=nn.Linear(d, d), value=nn.Linear(d, d))),
                intermediate=named(LayerNorm=norm(), dense=nn.Linear(d, inner)),
                output=named(dense=nn.Linear(inner, d))) for _ in range(c.num_hidden_layers)))
            self.act, self.heads = ACT2FN[c.hidden_act], c.num_attention_heads

        def forward(self, ids, mask, types):
            e, count = self.embeddings, ids.shape[1]
            x = (e["word_embeddings"](ids) + e["token_type_embeddings"](types)
                 + e["position_embeddings"](torch.arange(count))[None])
            for layer in self.encoder["layer"]:
                a = layer["attention"]
                y = a["LayerNorm"](x)
                q, k, v = (a["self"][n](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                           for n in ("query", "key", "value"))
                scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(mask[:, None, None] == 0, -torch.inf)
                y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
                x = x + a["output"]["dense"](y)
                y = layer["intermediate"]["dense"](layer["intermediate"]["LayerNorm"](x))
                x = x + layer["output"]["dense"](self.act(y))
            return self.encoder["ln_f"](x)

    class PreNormBert(nn.Module):
        config_class = BertConfig

        def __init__(self, config):
            super().__init__()
            self.config, self.masked = config, name == "modBertForMaskedLM"
            d = config.hidden_size
            body = Encoder(config)
            if self.masked:
                self.bert = body
                self.cls = named(predictions=nn.Module())
                self.cls["predictions"].bias = nn.Parameter(torch.zeros(config.vocab_size))
            else:
                for child, module in body.named_children():
                    setattr(self, child, module)
                self.pooler = named(dense=nn.Linear(d, d))
            self.body = [body]  # (in a list: its names come from above)

        def forward(self, input_ids, attention_mask=None, token_type_ids=None):
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = self.body[0](input_ids, mask, types)
            if not self.masked:
                return {"last_hidden_state": x, "pooler_output": self.pooler["dense"](x[:, 0]).tanh()}
            return {"logits": x @ self.bert.embeddings["word_embeddings"].weight.T + self.cls["predictions"].bias}

        def save_pretrained(self, folder):
            config = dict(self.config.to_dict(), architectures=[name], dtype="float64")
            Path(folder, "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            weights = {key: value.detach().numpy() for key, value in self.state_dict().items()}
            save_file(weights, Path(folder, "model.safetensors"), metadata={"format": "pt"})

        @classmethod
        def from_pretrained(cls, folder, **_):
            model = cls(BertConfig.from_pretrained(folder)).double()
            weights = load_file(Path(folder, "model.safetensors"))
            model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
            return model, {"unexpected_keys": [], "missing_keys": []}

    return PreNormBert


# ----------------------------------------------------------------------------------------------------
# Independent recomputation, as at the end of make_goldens.py.
# ----------------------------------------------------------------------------------------------------

def partly_rotated(c, count):
    """The function that turns the first channels of a head, at positions 0, 1, 2, ..."""
    parameters = c["rope_parameters"]
    assert parameters["rope_type"] == "default"
    size = int(c["hidden_size"] // c["num_attention_heads"] * parameters["partial_rotary_factor"])
    angles = np.outer(np.arange(count), parameters["rope_theta"] ** -(np.arange(0, size, 2) / size))
    cos, sin = np.cos(angles), np.sin(angles)

    def rotate(x):
        a, b = x[:, :size // 2], x[:, size // 2:size]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[:, size:]], axis=-1)

    return rotate


def numpy_gpt_neox(c, w, entry):
    head = next((k for k in ("embed_out.weight", "lm_head.weight") if k in w), None)
    with_head = any(k.startswith("gpt_neox.") for k in w)
    w = strip(w, "gpt_neox.")
    ids, allowed = entry["input_ids"], masks(entry, causal=True)
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    size = c["hidden_size"] // heads
    rotate = partly_rotated(c, len(ids))
    x = w["embed_in.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"layers.{i}"
        y = linear(layer_norm(x, w, f"{p}.input_layernorm", eps), w, f"{p}.attention.query_key_value")
        y = y.reshape(len(ids), heads, 3, size)
        q, k, v = (y[:, :, which].reshape(len(ids), heads * size) for which in range(3))
        a = attention(q, k, v, heads, heads, size**-0.5, allowed, rotate)
        a = linear(a, w, f"{p}.attention.dense")
        read = x if c["use_parallel_residual"] else x + a
        y = act(linear(layer_norm(read, w, f"{p}.post_attention_layernorm", eps), w, f"{p}.mlp.dense_h_to_4h"))
        x = x + a + linear(y, w, f"{p}.mlp.dense_4h_to_h")
    x = layer_norm(x, w, "final_layer_norm", eps)
    if not with_head:
        return {"last_hidden_state": x}
    return {"logits": x @ w["embed_in.weight" if c["tie_word_embeddings"] else head].T}


def numpy_opt(c, w, entry):
    with_head = any(k.startswith("model.") for k in w)
    w = strip(strip(w, "model."), "decoder.")
    ids, allowed = entry["input_ids"], masks(entry, causal=True)
    act, heads = ACTIVATIONS[c["activation_function"]], c["num_attention_heads"]
    first = c["do_layer_norm_before"]
    seen = np.array(entry["attention_mask"])

    def norm(x, key):
        if not c["layer_norm_elementwise_affine"]:
            ones = np.ones(x.shape[-1])
            return layer_norm(x, {"n.weight": ones, "n.bias": 0 * ones}, "n", 1e-5)
        return layer_norm(x, w, key, 1e-5)

    x = w["embed_tokens.weight"][ids]
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(x, w, "project_in")
    x = x + w["embed_positions.weight"][np.cumsum(seen) * seen + 1]
    for i in range(c["num_hidden_layers"]):
        p = f"layers.{i}"
        y = norm(x, f"{p}.self_attn_layer_norm") if first else x
        q, k, v = (linear(y, w, f"{p}.self_attn.{n}_proj") for n in "qkv")
        a = attention(q, k, v, heads, heads, (c["hidden_size"] // heads) ** -0.5, allowed)
        x = x + linear(a, w, f"{p}.self_attn.out_proj")
        x = x if first else norm(x, f"{p}.self_attn_layer_norm")
        y = norm(x, f"{p}.final_layer_norm") if first else x
        x = x + linear(act(linear(y, w, f"{p}.fc1")), w, f"{p}.fc2")
        x = x if first else norm(x, f"{p}.final_layer_norm")
    if first and not c.get("_remove_final_layer_norm", False):
        x = norm(x, "final_layer_norm")
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(x, w, "project_out")
    if not with_head:
        return {"last_hidden_state": x}
    return {"logits": x @ w["embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T}


def numpy_phi(c, w, entry):
    with_head = any(k.startswith("model.") for k in w)
    w = strip(w, "model.")
    ids, allowed = entry["input_ids"], masks(entry, causal=True)
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    size = c["hidden_size"] // heads
    rotate = partly_rotated(c, len(ids))
    x = w["embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"layers.{i}"
        y = layer_norm(x, w, f"{p}.input_layernorm", eps)
        q, k, v = (linear(y, w, f"{p}.self_attn.{n}_proj") for n in "qkv")
        if c["qk_layernorm"]:
            by_head = lambda z, n: layer_norm(z.reshape(len(ids), -1, size), w, f"{p}.self_attn.{n}_layernorm", eps)
            q, k = (by_head(z, n).reshape(len(ids), -1) for z, n in ((q, "q"), (k, "k")))
        a = attention(q, k, v, heads, c["num_key_value_heads"], size**-0.5, allowed, rotate)
        x = x + linear(a, w, f"{p}.self_attn.dense") + linear(act(linear(y, w, f"{p}.mlp.fc1")), w, f"{p}.mlp.fc2")
    x = layer_norm(x, w, "final_layernorm", eps)
    if not with_head:
        return {"last_hidden_state": x}
    matrix = w["embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
    return {"logits": x @ matrix.T + w["lm_head.bias"]}


def numpy_bert_like(c, w, entry, positions, embedded, first, last, head):
    """BERT, RoBERTa and the Pre-LN BERT: `first` puts the norms in front."""
    ids, allowed = entry["input_ids"], masks(entry, causal=False)
    types = entry.get("token_type_ids", [0] * len(ids))
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    e = "embeddings"
    x = (w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][types]
         + w[f"{e}.position_embeddings.weight"][positions])
    x = layer_norm(x, w, embedded, eps) if embedded else x
    for i in range(c["num_hidden_layers"]):
        p = f"encoder.layer.{i}"
        y = layer_norm(x, w, f"{p}.attention.LayerNorm", eps) if first else x
        q, k, v = (linear(y, w, f"{p}.attention.self.{n}") for n in ("query", "key", "value"))
        a = attention(q, k, v, heads, heads, (c["hidden_size"] // heads) ** -0.5, allowed)
        x = x + linear(a, w, f"{p}.attention.output.dense")
        x = x if first else layer_norm(x, w, f"{p}.attention.output.LayerNorm", eps)
        y = layer_norm(x, w, f"{p}.intermediate.LayerNorm", eps) if first else x
        x = x + linear(act(linear(y, w, f"{p}.intermediate.dense")), w, f"{p}.output.dense")
        x = x if first else layer_norm(x, w, f"{p}.output.LayerNorm", eps)
    x = layer_norm(x, w, last, eps) if last else x
    if not head:
        return {"last_hidden_state": x, "pooler_output": np.tanh(linear(x[0], w, "pooler.dense"))}
    return {"logits": head(x)}


def numpy_roberta(c, w, entry):
    with_head, classes = "lm_head.dense.weight" in w, "classifier.out_proj.weight" in w
    w = strip(w, "roberta.")
    pad = c["pad_token_id"]
    real = np.array(entry["input_ids"]) != pad
    tied = c["tie_word_embeddings"]

    def head(x):
        y = layer_norm(gelu_erf(linear(x, w, "lm_head.dense")), w, "lm_head.layer_norm", c["layer_norm_eps"])
        decoder = w["embeddings.word_embeddings.weight" if tied else "lm_head.decoder.weight"]
        return y @ decoder.T + w["lm_head.bias" if tied else "lm_head.decoder.bias"]

    def classify(x):
        return linear(np.tanh(linear(x[0], w, "classifier.dense")), w, "classifier.out_proj")

    return numpy_bert_like(c, w, entry, np.cumsum(real) * real + pad, "embeddings.LayerNorm", False, None,
                           classify if classes else head if with_head else None)


def numpy_pre_norm_bert(c, w, entry):
    with_head = "cls.predictions.bias" in w
    w = strip(w, "bert.")
    head = lambda x: x @ w["embeddings.word_embeddings.weight"].T + w["cls.predictions.bias"]
    return numpy_bert_like(c, w, entry, np.arange(len(entry["input_ids"])), None, True, "encoder.ln_f",
                           head if with_head else None)


def numpy_distilbert(c, w, entry):
    with_head = "vocab_transform.weight" in w
    w = strip(w, "distilbert.")
    ids, allowed = entry["input_ids"], masks(entry, causal=False)
    act, heads = ACTIVATIONS[c["activation"]], c["n_heads"]
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:len(ids)]
    x = layer_norm(x, w, "embeddings.LayerNorm", 1e-12)
    for i in range(c["n_layers"]):
        p = f"transformer.layer.{i}"
        q, k, v = (linear(x, w, f"{p}.attention.{n}_lin") for n in "qkv")
        a = attention(q, k, v, heads, heads, (c["dim"] // heads) ** -0.5, allowed)
        x = layer_norm(x + linear(a, w, f"{p}.attention.out_lin"), w, f"{p}.sa_layer_norm", 1e-12)
        y = linear(act(linear(x, w, f"{p}.ffn.lin1")), w, f"{p}.ffn.lin2")
        x = layer_norm(x + y, w, f"{p}.output_layer_norm", 1e-12)
    if "pre_classifier.weight" in w:
        return {"logits": linear(np.maximum(linear(x[0], w, "pre_classifier"), 0), w, "classifier")}
    if not with_head:
        return {"last_hidden_state": x}
    y = layer_norm(act(linear(x, w, "vocab_transform")), w, "vocab_layer_norm", 1e-12)
    matrix = w["embeddings.word_embeddings.weight" if c["tie_word_embeddings"] else "vocab_projector.weight"]
    return {"logits": y @ matrix.T + w["vocab_projector.bias"]}


NUMPY_MODELS = {"gpt_neox": numpy_gpt_neox, "opt": numpy_opt, "phi": numpy_phi, "roberta": numpy_roberta,
                "xlm-roberta": numpy_roberta, "camembert": numpy_roberta,
                "distilbert": numpy_distilbert}
