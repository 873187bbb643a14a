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

pub(super) fn vit(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let image = image(true, rng);
    let (classes, pooled) =
        rng.pick(&[(true, false), (true, false), (false, false), (false, true)]);
    let prefix = prefix("vit.", rng);
    let mut config = json!({
        "architectures": [if classes { "ViTForImageClassification" } else { "ViTModel" }],
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "image_size": image.height,
        "intermediate_size": shape.intermediate(rng),
        "layer_norm_eps": eps(rng),
        "model_type": "vit",
        "num_attention_heads": shape.heads,
        "num_channels": image.channels,
        "num_hidden_layers": edge(1, 3, rng),
        "patch_size": image.patch,
        "pooler_act": "tanh",
        "pooler_output_size": shape.hidden,
        "qkv_bias": rng.chance(0.7),
    });
    if classes {
        label(&mut config, edge(2, 20, rng));
    }
    let mut drawn = Drawn::new(config, format!("{prefix}embeddings.cls_token"));
    drawn.store(classes, "classifier.weight");
    drawn.store(pooled, format!("{prefix}pooler.dense.weight"));
    if rng.chance(0.2) {
        drawn.buffer(format!("{prefix}embeddings.mask_token"), &[1, 1, shape.hidden]);
    }
    drawn
}

pub(super) fn vit_timm(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let image = image(false, rng);
    let classes = edge(2, 20, rng);
    let config = json!({
        "architecture": "vit_tiny_patch16_224",
        "num_classes": classes,
        "num_features": shape.hidden,
        "global_pool": "token",
        "model_args": {
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
        },
    });
    Drawn::new(config, "blocks.0.attn.qkv.weight")
}

/// A ratio of which timm, which truncates, makes this many neurons.
fn ratio(neurons: usize, hidden: usize) -> f64 {
    (neurons as f64 + 0.25) / hidden as f64
}
