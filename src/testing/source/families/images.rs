//! Image encoders.

use super::super::draw::{ANY_HEAD, Drawn, Rng, Shape, activation, edge, eps, prefix};
use crate::testing::random::Draw;
use serde_json::{Map, Value, json};

/// What an image model reads, in pixels.
struct Image {
    channels: usize,
    height: usize,
    width: usize,
    patch: usize,
}

fn image(square: bool, rng: Rng) -> Image {
    let patch = edge(1, 4, rng);
    // Now and then the last pixels fill no patch.
    let mut side = || patch * rng.between(1, 3) + if rng.chance(0.2) { patch / 2 } else { 0 };
    let (height, other) = (side(), side());
    let width = if square { height } else { other };
    Image { channels: edge(1, 3, rng), height, width, patch }
}

/// Names of classes, as Hugging Face writes them; two are its default, which it does not write.
fn label(config: &mut Value, classes: usize) {
    if classes != 2 {
        let labels: Map<String, Value> =
            (0..classes).map(|i| (i.to_string(), format!("LABEL_{i}").into())).collect();
        config["id2label"] = labels.into();
    }
}

/// An image encoder with Hugging Face's fields: classes where `classes` says so.
fn encoder(class: &str, model_type: &str, classes: bool, rng: Rng) -> (Drawn, &'static str) {
    let shape = Shape::square(ANY_HEAD, rng);
    let image = image(false, rng);
    let side = json!([image.height, image.width]);
    let prefix = if model_type == "deit" { prefix("deit.", rng) } else { prefix("vit.", rng) };
    let mut config = json!({
        "architectures": [class],
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "image_size": if image.height == image.width { image.height.into() } else { side },
        "intermediate_size": shape.intermediate(rng),
        "layer_norm_eps": eps(rng),
        "model_type": model_type,
        "num_attention_heads": shape.heads,
        "num_channels": image.channels,
        "num_hidden_layers": edge(1, 3, rng),
        "patch_size": image.patch,
        "pooler_act": rng.pick(&["tanh", "tanh", "relu"]),
        "pooler_output_size": shape.hidden,
        "qkv_bias": rng.chance(0.7),
    });
    if classes {
        label(&mut config, edge(2, 20, rng));
    }
    let mut drawn = Drawn::new(config, format!("{prefix}embeddings.cls_token"));
    if rng.chance(0.2) {
        drawn.buffer(format!("{prefix}embeddings.mask_token"), &[1, 1, shape.hidden]);
    }
    (drawn, prefix)
}

pub(super) fn vit(rng: Rng) -> Drawn {
    let (classes, pooled) =
        rng.pick(&[(true, false), (true, false), (false, false), (false, true)]);
    let class = if classes { "ViTForImageClassification" } else { "ViTModel" };
    let (mut drawn, prefix) = encoder(class, "vit", classes, rng);
    drawn.store(classes, "classifier.weight");
    drawn.store(pooled, format!("{prefix}pooler.dense.weight"));
    drawn
}

pub(super) fn deit(rng: Rng) -> Drawn {
    let (class, heads, pooled) = rng.pick(&[
        ("DeiTForImageClassification", 1, false),
        ("DeiTForImageClassificationWithTeacher", 2, false),
        ("DeiTModel", 0, false),
        ("DeiTModel", 0, true),
    ]);
    let (mut drawn, prefix) = encoder(class, "deit", heads > 0, rng);
    drawn.store(heads == 1, "classifier.weight");
    drawn.store(heads == 2, "cls_classifier.weight");
    drawn.store(pooled, format!("{prefix}pooler.dense.weight"));
    drawn
}

pub(super) fn vit_timm(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let image = image(false, rng);
    let classes = edge(2, 20, rng);
    let mut arguments = json!({
        "img_size": [image.height, image.width],
        "patch_size": image.patch,
        "num_classes": classes,
        "qkv_bias": rng.chance(0.7),
        "in_chans": image.channels,
        "global_pool": "token",
        "embed_dim": shape.hidden,
        "depth": edge(1, 3, rng),
        "num_heads": shape.heads,
        "mlp_ratio": ratio(shape.intermediate(rng), shape.hidden),
    });
    let architecture = rng.pick(&[
        "vit_tiny_patch16_224",
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_rpn_224",
    ]);
    // A distilled model has one head for each token and no variants.
    if !architecture.contains("distilled") {
        variants(&mut arguments, rng);
    }
    if architecture.contains("rpn") {
        pool_patches(&mut arguments);
    }
    let config = json!({
        "architecture": architecture,
        "num_classes": classes,
        "num_features": shape.hidden,
        "global_pool": arguments["global_pool"].clone(),
        "model_args": arguments,
    });
    Drawn::new(config, "blocks.0.attn.qkv.weight")
}

/// Means over the patches, and so no class token.
fn pool_patches(arguments: &mut Value) {
    arguments["global_pool"] = "avg".into();
    arguments["class_token"] = false.into();
}

/// Changes some of the arguments with which timm builds a model.
fn variants(arguments: &mut Value, rng: Rng) {
    for (field, probability) in [
        ("qk_norm", 0.3),
        ("proj_bias", 0.8),
        ("no_embed_class", 0.3),
        ("pre_norm", 0.2),
        ("final_norm", 0.85),
    ] {
        arguments[field] = rng.chance(probability).into();
    }
    let activation = rng.pick(&["gelu_tanh", "relu", "silu", "tanh"]);
    for (field, probability, value) in [
        ("init_values", 0.3, Value::from(1e-5)),
        ("reg_tokens", 0.3, rng.between(1, 3).into()),
        ("act_layer", 0.4, activation.into()),
        ("pos_embed", 0.2, "none".into()),
        ("fc_norm", 0.3, rng.chance(0.5).into()),
    ] {
        if rng.chance(probability) {
            arguments[field] = value;
        }
    }
    if rng.chance(0.35) {
        arguments["global_pool"] = "avg".into();
        arguments["pool_include_prefix"] = rng.chance(0.3).into();
        arguments["class_token"] = rng.chance(0.7).into();
    }
}

/// A ratio of which timm, which truncates, makes this many neurons.
fn ratio(neurons: usize, hidden: usize) -> f64 {
    (neurons as f64 + 0.25) / hidden as f64
}
