//! RoBERTa: BERT whose positions count the tokens that are not padding, and begin behind the row
//! of the padding token's number; with its own names for the masked-word head and the classifier.
//! XLM-RoBERTa and CamemBERT are the same under names of their own.
//!
//! Names: `roberta.encoder.layer.0.attention.self.query.weight`, with or without `roberta.`, and
//! `lm_head.dense.weight`.

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::parts::{BertParts, WordOutput};
use crate::model::*;

pub(super) static ROBERTA: Family =
    Family { name: "roberta", fields: Fields::USUAL, describe, configure: configure_encoder };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let parts = BertParts::read(config, catalog, &["roberta.", ""])?;
    let norm = parts.norm(&format!("{}embeddings.LayerNorm", parts.prefix));
    let embedding = parts.embedding(positions(config)?, Some(norm))?;
    let layers = (0..parts.sizes.layers).map(|index| parts.post_norm_layer(index)).collect();
    if catalog.has("classifier.out_proj.weight") {
        let outputs = vec![classifier(&parts)?];
        return Ok(parts.model(&ROBERTA, embedding, layers, outputs, Default::default()));
    }
    let head = "lm_head";
    if !catalog.has(&format!("{head}.dense.weight")) {
        let outputs = parts.hidden_outputs(Vec::new());
        return Ok(parts.model(&ROBERTA, embedding, layers, outputs, Default::default()));
    }
    let steps = vec![
        Step::Linear(parts.linear(&format!("{head}.dense"), &parts.hidden, &parts.hidden)),
        // Whatever `hidden_act` is.
        Step::Activation(Activation::GeluErf),
        Step::Norm(parts.norm(&format!("{head}.layer_norm"))),
    ];
    let WordOutput { steps, aliases, mut buffers } = parts.word_output(head, steps)?;
    // `RobertaForMaskedLM` computes no pooler, which the files that were published also carry.
    buffers.extend(catalog.ending_in(&["pooler.dense.weight", "pooler.dense.bias"]));
    let outputs = vec![Output { name: "logits", steps, fixed: true }];
    Ok(parts.model(&ROBERTA, embedding, layers, outputs, (aliases, buffers)))
}

/// The classes of a sequence, from its first token (`RobertaForSequenceClassification`).
fn classifier(parts: &BertParts) -> Result<Output> {
    let classes = Dim::new(class_count(parts.config)?, "num_labels");
    let linear = |name: &str, output: &Dim| {
        Step::Linear(parts.linear(&format!("classifier.{name}"), output, &parts.hidden))
    };
    let steps = vec![
        Step::Position(0),
        linear("dense", &parts.hidden),
        Step::Activation(Activation::Tanh),
        linear("out_proj", &classes),
    ];
    Ok(Output { name: "logits", steps, fixed: true })
}

/// Padding has the row of its own number, the first other token the row behind it.
fn positions(config: &Config) -> Result<Positions> {
    const FIELD: &str = "pad_token_id";
    let padding = match config.json().get(FIELD) {
        None => 1,
        // A null is no default: the library's code cannot run without a padding token.
        Some(value) => match value.as_u64() {
            Some(id) if id < 1 << 24 => id as usize,
            _ => return Err(config.wrong(FIELD, "a token id", value)),
        },
    };
    let rows = config.size("max_position_embeddings")?;
    if padding + 1 >= rows {
        let problem = format!("positions begin at row {}, and there are {rows}", padding + 1);
        return Err(Error::bad_input(problem).at(config.origin()).field(FIELD));
    }
    Ok(Positions { count: Count::OtherThan(padding), offset: padding + 1 })
}
