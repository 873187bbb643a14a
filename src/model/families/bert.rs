//! BERT: Post-LN encoder with learnt positions and token types; alone (with or without pooler) or
//! with the masked-word head, whose decoder is tied to the token table, and for pre-training the
//! next-sentence head. Under the same `model_type` there is the Pre-LN form of LEMON's own code.
//!
//! Names: `bert.encoder.layer.0.attention.self.query.weight`, with or without `bert.`.

use super::{Catalog, Family, Fields, bert_pre_norm};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::{BertParts, WordOutput};
use crate::model::*;

pub(super) static BERT: Family =
    Family { name: "bert", fields: Fields::USUAL, describe, configure: configure_encoder };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let parts = BertParts::read(config, catalog, &["bert.", ""])?;
    if bert_pre_norm::is_pre_norm(&parts)? {
        return bert_pre_norm::describe(parts);
    }
    let norm = parts.norm(&format!("{}embeddings.LayerNorm", parts.prefix));
    let embedding = parts.embedding(Positions::EVERY, Some(norm))?;
    let layers = (0..parts.sizes.layers).map(|index| parts.post_norm_layer(index)).collect();
    let (outputs, names) = outputs(&parts)?;
    Ok(parts.model(&BERT, embedding, layers, outputs, names))
}

type Names = (Vec<Alias>, Vec<String>);

fn outputs(parts: &BertParts) -> Result<(Vec<Output>, Names)> {
    let (config, catalog, hidden) = (parts.config, parts.catalog, &parts.hidden);
    let head = "cls.predictions";
    let transform = format!("{head}.transform");
    if !catalog.has(&format!("{transform}.dense.weight")) {
        return Ok((parts.hidden_outputs(Vec::new()), Default::default()));
    }
    let steps = vec![
        Step::Linear(parts.linear(&format!("{transform}.dense"), hidden, hidden)),
        Step::Activation(parts.activation()),
        Step::Norm(parts.norm(&format!("{transform}.LayerNorm"))),
    ];
    let WordOutput { steps, aliases, mut buffers } = parts.word_output(head, steps)?;
    let mut outputs = vec![Output { name: "logits", steps, fixed: true }];
    if is_architecture(config, "BertForPreTraining")? {
        let two = Dim::new(2, "2");
        let mut steps = parts.pooler();
        steps.push(Step::Linear(parts.linear("cls.seq_relationship", &two, hidden)));
        outputs.push(Output { name: "seq_relationship_logits", steps, fixed: true });
    } else {
        // `BertForMaskedLM` computes neither pooler nor next-sentence head, which files written
        // for pre-training also carry.
        buffers.extend(catalog.ending_in(&[
            "pooler.dense.weight",
            "pooler.dense.bias",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
        ]));
    }
    Ok((outputs, (aliases, buffers)))
}
