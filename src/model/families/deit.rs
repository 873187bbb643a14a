//! DeiT as Hugging Face has it: ViT with a distillation token behind the class token, and a
//! classifier on one or on each of them.
//!
//! Names: `deit.embeddings.distillation_token`, the rest as in ViT.

use super::vit::{Encoder, FIELDS};
use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;

pub(super) static DEIT: Family =
    Family { name: "deit", fields: FIELDS, describe, configure: configure_encoder };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let encoder = Encoder::read(config, catalog, &["deit.", ""])?;
    let outputs = if catalog.has("cls_classifier.weight") {
        // `DeiTForImageClassificationWithTeacher` also returns the mean of these two as `logits`.
        vec![
            encoder.classifier("cls_logits", "cls_classifier", 0)?,
            encoder.classifier("distillation_logits", "distillation_classifier", 1)?,
        ]
    } else if catalog.has("classifier.weight") {
        vec![encoder.classifier("logits", "classifier", 0)?]
    } else {
        encoder.base()?
    };
    encoder.model(&DEIT, &["cls_token", "distillation_token"], outputs)
}
