//! The Pre-LN BERT of LEMON's own code (`modBertForMaskedLM`, Wang et al., ICLR 2024, §5.2): BERT
//! with its norms in front of attention and MLP, none behind the embedding, one behind the last
//! layer, and a masked-word head that is the decoder alone.
//!
//! Names: BERT's, with `bert.encoder.layer.0.attention.LayerNorm.weight`,
//! `bert.encoder.layer.0.intermediate.LayerNorm.weight` and `bert.encoder.ln_f.weight`.

use super::bert::BERT;
use crate::error::Result;
use crate::model::parts::{BertParts, WordOutput};
use crate::model::*;

/// Whether a model of BERT's configuration is of this form: its class or its last norm says so.
pub(super) fn is_pre_norm(parts: &BertParts) -> Result<bool> {
    Ok(parts.catalog.has(&format!("{}encoder.ln_f.weight", parts.prefix))
        || is_architecture(parts.config, "modBertForMaskedLM")?)
}

pub(super) fn describe(parts: BertParts) -> Result<Model> {
    let embedding = parts.embedding(Positions::EVERY, None)?;
    let layer = |index: usize| {
        let norm = |part: &str| parts.norm(&parts.in_layer(index, part));
        let [attention, mlp] = parts.ops(index);
        vec![
            Sublayer::pre_norm(norm("attention.LayerNorm"), attention),
            Sublayer::pre_norm(norm("intermediate.LayerNorm"), mlp),
        ]
    };
    let layers = (0..parts.sizes.layers).map(layer).collect();
    let last = vec![Step::Norm(parts.norm(&format!("{}encoder.ln_f", parts.prefix)))];
    let head = "cls.predictions";
    let stored = ["bias", "decoder.bias"].map(|part| format!("{head}.{part}"));
    if !stored.iter().any(|name| parts.catalog.has(name)) {
        let outputs = parts.hidden_outputs(last);
        return Ok(parts.model(&BERT, embedding, layers, outputs, Default::default()));
    }
    let WordOutput { steps, aliases, buffers } = parts.word_output(head, last)?;
    let outputs = vec![Output { name: "logits", steps, fixed: true }];
    Ok(parts.model(&BERT, embedding, layers, outputs, (aliases, buffers)))
}
