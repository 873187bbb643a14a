//! T5: Pre-RMSNorm encoder–decoder with relative position bias, no factor on the attention's
//! logits, plain or gated MLP, no biases. Also its encoder alone, and without a head.
//!
//! Names: `encoder.block.0.layer.0.SelfAttention.q.weight`; the second layer of a decoder's block
//! is `EncDecAttention`; the last one of any block is `DenseReluDense`.
//!
//! [`Sizes::layers`] are the decoder's where there is one; the encoder then grows by as many.

mod layers;

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;
use layers::Parts;

pub(super) static T5: Family = Family {
    name: "t5",
    fields: Fields {
        hidden: "d_model",
        heads: "num_heads",
        intermediate: "d_ff",
        layers: "num_decoder_layers",
        kv_heads: None,
        head_dim: Some("d_kv"),
        norm_eps: Some("layer_norm_epsilon"),
    },
    describe,
    configure,
};

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    // What cannot be read is refused when the result is described.
    if is_encoder(config).unwrap_or(false) {
        config.set("num_layers", sizes.layers);
    } else if let (Ok(encoder), Ok(decoder)) = (config.layers("num_layers"), decoder_layers(config))
    {
        config.set("num_layers", (encoder + sizes.layers).saturating_sub(decoder));
        config.set("num_decoder_layers", sizes.layers);
    }
    config.set("d_model", sizes.hidden);
    config.set("num_heads", sizes.heads);
    config.set("d_kv", sizes.head_dim);
    config.set("d_ff", sizes.intermediate);
    if let Some(eps) = sizes.norm_eps {
        config.set("layer_norm_epsilon", eps);
    }
}

fn is_encoder(config: &Config) -> Result<bool> {
    Ok(is_architecture(config, "T5EncoderModel")? || !config.flag_or("is_encoder_decoder", true)?)
}

fn decoder_layers(config: &Config) -> Result<usize> {
    match config.get("num_decoder_layers") {
        Some(_) => config.layers("num_decoder_layers"),
        None => config.layers("num_layers"),
    }
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    known_architecture(config)?;
    let parts = Parts::read(config)?;
    let alone = is_encoder(config)?;
    let encoder_layers = config.layers("num_layers")?;
    let layers = if alone { encoder_layers } else { decoder_layers(config)? };
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let table = Lens::matrix("shared.weight", vocabulary.clone(), [parts.hidden.clone()]);
    let embedding = Embedding::of_tables(
        Input::Tokens { vocabulary: vocabulary.size, positions: None, types: 0 },
        vec![Table::plain(TableIndex::Token, table.clone())],
    );
    let mut repeated = vec!["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    let last = |stack: &str| parts.norm(format!("{stack}.final_layer_norm"));
    let stack = if alone { "encoder" } else { "decoder" };
    let mut steps = vec![Step::Norm(last(stack))];
    let fixed = !alone && !is_architecture(config, "T5Model")?;
    if fixed {
        let (tied, scaled) = head(config, catalog)?;
        steps.extend(scaled.then(|| Step::Scale((parts.hidden.size as f64).powf(-0.5))));
        repeated.extend(tied.then_some(HEAD));
        let untied = Lens::matrix(HEAD, vocabulary, [parts.hidden.clone()]);
        let weight = if tied { table.clone() } else { untied };
        steps.push(Step::Linear(Linear { weight, bias: None }));
    }
    let name = if fixed { "logits" } else { "last_hidden_state" };
    let aliases = repeated.into_iter().filter(|name| catalog.has(name));
    Ok(Model {
        family: &T5,
        layers: parts.layers(stack, layers),
        encoder: (!alone).then(|| {
            Box::new(Encoder {
                embedding: embedding.clone(),
                layers: parts.layers("encoder", encoder_layers),
                norm: last("encoder"),
            })
        }),
        embedding,
        outputs: vec![Output { name, steps, fixed }],
        aliases: aliases.map(|n| Alias { name: n.into(), of: table.name().into() }).collect(),
        // Left over in old files; read by nothing.
        buffers: catalog.ending_in(&["layer.1.EncDecAttention.relative_attention_bias.weight"]),
        sizes: Sizes {
            hidden: parts.hidden.size,
            heads: parts.heads.size,
            kv_heads: parts.heads.size,
            head_dim: parts.head_dim.size,
            intermediate: parts.inner.size,
            layers,
            experts: None,
            norm_eps: Some(parts.eps),
        },
    })
}

const HEAD: &str = "lm_head.weight";

/// Whether the head is the token table, and whether what it reads is divided by `sqrt(d_model)`.
///
/// Version 5 writes `scale_decoder_outputs` and always `tie_word_embeddings`: a head that is
/// stored is then the head. Version 4 had one field for both.
fn head(config: &Config, catalog: &Catalog) -> Result<(bool, bool)> {
    let tied = config.flag_or("tie_word_embeddings", true)?;
    Ok(match config.get("scale_decoder_outputs") {
        Some(_) => (!catalog.has(HEAD), config.flag_or("scale_decoder_outputs", true)?),
        None => (tied, tied),
    })
}

/// # Errors
/// If `architectures` names another class, whose head is not implemented.
fn known_architecture(config: &Config) -> Result<()> {
    let known = ["T5ForConditionalGeneration", "T5WithLMHeadModel", "T5EncoderModel", "T5Model"];
    for class in known {
        if config.get("architectures").is_none() || is_architecture(config, class)? {
            return Ok(());
        }
    }
    let problem = format!("only {} are implemented", known.join(", "));
    Err(config.unsupported("architectures", problem))
}
