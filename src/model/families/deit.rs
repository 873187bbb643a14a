//! DeiT as Hugging Face has it: ViT with a distillation token behind the class token, and a
//! classifier on one or on each of them: then `logits` are the mean of both.
//!
//! Names: `deit.embeddings.distillation_token`, the rest as in ViT.

use super::vit::Encoder;
use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;

pub(super) static DEIT: Family =
    Family { name: "deit", fields: Fields::USUAL, describe, configure: configure_encoder };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let encoder = Encoder::read(config, catalog, &["deit.", ""])?;
    let outputs = if catalog.has("cls_classifier.weight") {
        with_their_mean(
            encoder.classifier("cls_logits", "cls_classifier", 0)?,
            encoder.classifier("distillation_logits", "distillation_classifier", 1)?,
        )
    } else if catalog.has("classifier.weight") {
        vec![encoder.classifier("logits", "classifier", 0)?]
    } else {
        encoder.base()?
    };
    encoder.model(&DEIT, &["cls_token", "distillation_token"], outputs)
}

/// Two heads' logits, and `logits`: their mean.
pub(super) fn with_their_mean(class: Output, distilled: Output) -> Vec<Output> {
    let mut steps = class.steps.clone();
    steps.push(Step::MeanWith(distilled.steps.clone()));
    vec![class, distilled, Output { name: "logits", steps, fixed: true }]
}
