//! ViT as Hugging Face has it: Pre-LN image encoder with class token, learnt positions and separate
//! query, key and value.
//!
//! Names: `vit.encoder.layer.0.attention.attention.query.weight`, with or without `vit.`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;

pub(super) static VIT: Family = Family {
    name: "vit",
    fields: Fields {
        hidden: "hidden_size",
        heads: "num_attention_heads",
        intermediate: "intermediate_size",
        layers: "num_hidden_layers",
        kv_heads: None,
        head_dim: None,
        norm_eps: Some("layer_norm_eps"),
    },
    describe,
    configure: configure_encoder,
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let sizes = encoder_sizes(config, Some(1e-12))?;
    let eps = config.positive_or("layer_norm_eps", 1e-12)?;
    let hidden = Dim::new(sizes.hidden, "hidden_size");
    let inner = Dim::new(sizes.intermediate, "intermediate_size");
    let image = config.size_or("image_size", 224)?;
    let patch = config.size_or("patch_size", 16)?;
    let channels = config.size_or("num_channels", 3)?;
    let activation = activation(config, "hidden_act", "gelu")?;
    let biased = config.flag_or("qkv_bias", true)?;
    let prefix = catalog.prefix(&["vit.", ""], "embeddings.cls_token")?;
    let norm = |name: String| Norm::layer(&name, &hidden, eps, VIT.fields.norm_eps);
    let layer = |index: usize| {
        let name = format!("{prefix}encoder.layer.{index}");
        let part = |which: &str, output: &Dim, input: &Dim, bias: bool| {
            Linear::named(&format!("{name}.{which}"), output, input, bias)
        };
        let projections = [
            part("attention.attention.query", &hidden, &hidden, biased),
            part("attention.attention.key", &hidden, &hidden, biased),
            part("attention.attention.value", &hidden, &hidden, biased),
            part("attention.output.dense", &hidden, &hidden, true),
        ];
        let attention = Attention::plain(projections, sizes.heads, sizes.head_dim);
        let mlp = Mlp {
            up: part("intermediate.dense", &inner, &hidden, true),
            gate: None,
            down: part("output.dense", &hidden, &inner, true),
            activation,
        };
        vec![
            Sublayer::pre_norm(
                norm(format!("{name}.layernorm_before")),
                Op::Attention(Box::new(attention)),
            ),
            Sublayer::pre_norm(norm(format!("{name}.layernorm_after")), Op::Mlp(Box::new(mlp))),
        ]
    };
    let embedding = ImageNames {
        class_token: format!("{prefix}embeddings.cls_token"),
        positions: format!("{prefix}embeddings.position_embeddings"),
        patch: format!("{prefix}embeddings.patch_embeddings.projection"),
    }
    .embedding(config, &hidden, channels, (image, image), patch)?;
    let last = Step::Norm(norm(format!("{prefix}layernorm")));
    Ok(Model {
        family: VIT.name,
        embedding,
        layers: (0..sizes.layers).map(layer).collect(),
        encoder: None,
        outputs: outputs(config, catalog, prefix, &hidden, last)?,
        aliases: Vec::new(),
        buffers: catalog.ending_in(&["embeddings.mask_token"]),
        sizes,
    })
}

fn outputs(
    config: &Config,
    catalog: &Catalog,
    prefix: &str,
    hidden: &Dim,
    last: Step,
) -> Result<Vec<Output>> {
    if catalog.has("classifier.weight") {
        let classes = Dim::new(classes(config)?, "num_labels");
        let head = Step::Linear(Linear::named("classifier", &classes, hidden, true));
        let steps = vec![last, Step::Position(0), head];
        return Ok(vec![Output { name: "logits", steps, fixed: true }]);
    }
    let mut outputs =
        vec![Output { name: "last_hidden_state", steps: vec![last.clone()], fixed: false }];
    let pooler = format!("{prefix}pooler.dense");
    if catalog.has(&format!("{pooler}.weight")) {
        if config.size_or("pooler_output_size", hidden.size)? != hidden.size {
            let problem = "a pooler of another size than hidden_size is not implemented";
            return Err(config.unsupported("pooler_output_size", problem));
        }
        let dense = Step::Linear(Linear::named(&pooler, hidden, hidden, true));
        let activation = Step::Activation(activation(config, "pooler_act", "tanh")?);
        let steps = vec![last, Step::Position(0), dense, activation];
        outputs.push(Output { name: "pooler_output", steps, fixed: false });
    }
    Ok(outputs)
}

/// The number of classes: `num_labels`, or how many names `id2label` has; 2 where neither is there.
fn classes(config: &Config) -> Result<usize> {
    if let Some(count) = config.size_opt("num_labels")? {
        return Ok(count);
    }
    match config.section("id2label")? {
        Some(labels) if !labels.json().is_empty() => Ok(labels.json().len()),
        Some(_) => Err(Error::bad_input("it names no class").at(config.origin()).field("id2label")),
        None => Ok(2),
    }
}
