"""Golden cases of more image models, and their numpy implementations: HF DeiT and ViT, timm's ViT and DeiT.

Used by make_goldens.py, which makes and checks them like its own.
"""

import numpy as np
from make_goldens import ACTIVATIONS, VIT, attention, layer_norm, linear, patches, strip, unpack

TIMM = dict(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=5)

CASES = {
    # Hugging Face
    "deit-class": dict(
        cls="DeiTForImageClassification", inputs=[8, 8],
        config=dict(VIT, hidden_act="gelu_new", num_labels=5)),
    "deit-teacher": dict(
        cls="DeiTForImageClassificationWithTeacher", inputs=[(3, 8, 12)] * 2,
        config=dict(VIT, image_size=[8, 12], hidden_size=16, num_attention_heads=4, num_hidden_layers=3,
                    qkv_bias=False, hidden_act="relu", layer_norm_eps=1e-3, num_labels=4)),
    "deit-model": dict(
        cls="DeiTModel", inputs=[8, 8],
        config=dict(VIT, hidden_size=16, num_attention_heads=2, pooler_act="relu")),
    "vit-model-wide": dict(
        cls="ViTModel", inputs=[(1, 12, 8)] * 2,
        config=dict(VIT, image_size=[12, 8], patch_size=[4, 4], num_channels=1, hidden_act="silu",
                    pooler_act="gelu")),
    # timm
    "timm-registers": dict(
        cls="timm", architecture="vit_small_patch14_reg4_dinov2", inputs=[(3, 8, 12)] * 2,
        config=dict(TIMM, img_size=(8, 12))),
    "timm-gap": dict(
        cls="timm", architecture="vit_base_patch16_reg4_gap_256", inputs=[8, 8],
        config=dict(TIMM, mlp_ratio=2.5)),
    "timm-gap-norm-first": dict(
        cls="timm", architecture="vit_base_patch16_gap_224", inputs=[8, 8],
        config=dict(TIMM, reg_tokens=1, proj_bias=False, depth=3)),
    "timm-mean-of-all": dict(
        cls="timm", architecture="eva_large_patch14_196", inputs=[8, 8],
        config=dict(TIMM, pool_include_prefix=True, act_layer="gelu_tanh")),
    "timm-clip": dict(
        cls="timm", architecture="vit_base_patch32_clip_224", inputs=[(1, 8, 8)] * 2,
        config=dict(TIMM, in_chans=1, qk_norm=True)),
    "timm-post-res-norm": dict(
        cls="timm", architecture="vit_base_patch16_rpn_224", inputs=[8, 8],
        config=TIMM),
    "timm-features": dict(
        cls="timm", architecture="vit_tiny_patch16_224", inputs=[8, 8],
        config=dict(TIMM, num_classes=0, final_norm=False, pos_embed="none", act_layer="relu")),
    "timm-distilled": dict(
        cls="timm", architecture="deit_tiny_distilled_patch16_224", inputs=[8, 8],
        config=dict(TIMM, qkv_bias=False)),
    "timm-deit3": dict(
        cls="timm", architecture="deit3_small_patch16_224", inputs=[8, 8],
        config=dict(TIMM, embed_dim=16, num_heads=2)),
    "timm-dynamic": dict(
        cls="timm", architecture="test_vit", inputs=[8, 8],
        config=dict(TIMM, act_layer="silu", fc_norm=True)),
}

# The arguments of timm's architectures that `model_args` does not repeat.
TIMM_ARGUMENTS = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": dict(init_values=1e-5, reg_tokens=4, no_embed_class=True),
    "vit_base_patch16_reg4_gap_256": dict(class_token=False, no_embed_class=True, global_pool="avg", reg_tokens=4),
    "vit_base_patch16_gap_224": dict(class_token=False, global_pool="avg", fc_norm=False),
    "eva_large_patch14_196": dict(global_pool="avg"),
    "vit_base_patch32_clip_224": dict(pre_norm=True, eps=1e-5),
    "vit_base_patch16_rpn_224": dict(qkv_bias=False, class_token=False, global_pool="avg", post=True),
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": dict(no_embed_class=True, init_values=1e-6),
    "test_vit": dict(mlp_ratio=3),
}


def with_mean(cls, distilled):
    return {"cls_logits": cls, "distillation_logits": distilled, "logits": (cls + distilled) / 2}


def numpy_timm(c, w, entry):
    args = {"eps": 1e-6, "global_pool": "token", **TIMM_ARGUMENTS[c["architecture"]], **c["model_args"]}
    eps, heads, dim = args["eps"], args["num_heads"], args["embed_dim"]
    act = {"gelu_tanh": ACTIVATIONS["gelu_new"], **ACTIVATIONS}[args.get("act_layer", "gelu")]
    kernel = w["patch_embed.proj.weight"]
    x = patches(unpack(entry["pixels"]), args["patch_size"]) @ kernel.reshape(len(kernel), -1).T
    x = x if args.get("pre_norm") else x + w["patch_embed.proj.bias"]
    front = [w[name][0] for name in ("cls_token", "dist_token", "reg_token") if name in w]
    if args.get("no_embed_class"):
        x = np.concatenate(front + [x + w["pos_embed"][0]])
    else:
        x = np.concatenate(front + [x])
        x = x if args.get("pos_embed") == "none" else x + w["pos_embed"][0]
    if args.get("pre_norm"):
        x = layer_norm(x, w, "norm_pre", eps)
    allowed = np.ones((len(x), len(x)), dtype=bool)
    post = args.get("post", False)

    def each_head(x, key):
        if f"{key}.weight" not in w:
            return x
        return layer_norm(x.reshape(len(x), heads, -1), w, key, eps).reshape(x.shape)

    for i in range(args["depth"]):
        p = f"blocks.{i}"
        y = x if post else layer_norm(x, w, f"{p}.norm1", eps)
        q, k, v = np.split(linear(y, w, f"{p}.attn.qkv"), 3, axis=-1)
        q, k = each_head(q, f"{p}.attn.q_norm"), each_head(k, f"{p}.attn.k_norm")
        y = linear(attention(q, k, v, heads, heads, (dim // heads) ** -0.5, allowed), w, f"{p}.attn.proj")
        y = layer_norm(y, w, f"{p}.norm1", eps) if post else y
        x = x + y * w.get(f"{p}.ls1.gamma", 1.0)
        y = x if post else layer_norm(x, w, f"{p}.norm2", eps)
        y = linear(act(linear(y, w, f"{p}.mlp.fc1")), w, f"{p}.mlp.fc2")
        y = layer_norm(y, w, f"{p}.norm2", eps) if post else y
        x = x + y * w.get(f"{p}.ls2.gamma", 1.0)
    assert ("norm.weight" in w) + ("fc_norm.weight" in w) == args.get("final_norm", True)
    x = layer_norm(x, w, "norm", eps) if "norm.weight" in w else x
    if "head_dist.weight" in w:
        return with_mean(linear(x[0], w, "head"), linear(x[1], w, "head_dist"))
    skip = 0 if args.get("pool_include_prefix") else sum(map(len, front))
    x = x[0] if args["global_pool"] == "token" else x[skip:].mean(0)
    x = layer_norm(x, w, "fc_norm", eps) if "fc_norm.weight" in w else x
    return {"logits": linear(x, w, "head")} if "head.weight" in w else {"features": x}


def numpy_vit(c, w, entry):
    teacher, head = "cls_classifier.weight" in w, "classifier.weight" in w
    w = strip(strip(w, "vit."), "deit.")
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    kernel = w["embeddings.patch_embeddings.projection.weight"]
    x = patches(unpack(entry["pixels"]), kernel.shape[-1]) @ kernel.reshape(len(kernel), -1).T
    x = x + w["embeddings.patch_embeddings.projection.bias"]
    front = [w[f"embeddings.{n}"][0] for n in ("cls_token", "distillation_token") if f"embeddings.{n}" in w]
    x = np.concatenate(front + [x]) + w["embeddings.position_embeddings"][0]
    allowed = np.ones((len(x), len(x)), dtype=bool)
    for i in range(c["num_hidden_layers"]):
        p = f"encoder.layer.{i}"
        y = layer_norm(x, w, f"{p}.layernorm_before", eps)
        q, k, v = (linear(y, w, f"{p}.attention.attention.{n}") for n in ("query", "key", "value"))
        a = attention(q, k, v, heads, heads, (c["hidden_size"] // heads) ** -0.5, allowed)
        x = x + linear(a, w, f"{p}.attention.output.dense")
        y = layer_norm(x, w, f"{p}.layernorm_after", eps)
        x = x + linear(act(linear(y, w, f"{p}.intermediate.dense")), w, f"{p}.output.dense")
    x = layer_norm(x, w, "layernorm", eps)
    if teacher:
        return with_mean(linear(x[0], w, "cls_classifier"), linear(x[1], w, "distillation_classifier"))
    if head:
        return {"logits": linear(x[0], w, "classifier")}
    pooler = {"tanh": np.tanh, **ACTIVATIONS}[c["pooler_act"]]
    return {"last_hidden_state": x, "pooler_output": pooler(linear(x[0], w, "pooler.dense"))}


NUMPY_MODELS = {"vit": numpy_vit, "deit": numpy_vit, "timm": numpy_timm}
