//! Names of the optional tensors that a case stores.

use super::{Architecture, Head, SourceCase};
use std::collections::BTreeSet;

/// The family's prefix, where the case has one.
fn prefix(case: &SourceCase) -> &'static str {
    match (case.prefixed, case.architecture) {
        (true, Architecture::Gpt2) => "transformer.",
        (true, Architecture::Bert) => "bert.",
        (true, Architecture::Llama) => "model.",
        (true, Architecture::Vit) => "vit.",
        _ => "",
    }
}

/// The names by which a family recognises prefix, heads and stored repetitions.
pub(super) fn optional(case: &SourceCase) -> BTreeSet<String> {
    let prefix = prefix(case);
    let twice = case.tied && case.stored_twice;
    let mut names = BTreeSet::new();
    let mut add = |wanted: bool, name: String| {
        if wanted {
            names.insert(name);
        }
    };
    match case.architecture {
        Architecture::Gpt2 => {
            add(true, format!("{prefix}wte.weight"));
            add(twice, "lm_head.weight".into());
        }
        Architecture::Llama => {
            add(true, format!("{prefix}embed_tokens.weight"));
            add(twice, "lm_head.weight".into());
        }
        Architecture::Bert => {
            let words = case.head == Head::Words;
            add(true, format!("{prefix}embeddings.word_embeddings.weight"));
            add(case.old_norm_names, format!("{prefix}embeddings.LayerNorm.gamma"));
            add(case.head == Head::Pooled, format!("{prefix}pooler.dense.weight"));
            add(words, "cls.predictions.transform.dense.weight".into());
            add(words && twice, "cls.predictions.decoder.weight".into());
            add(words && (twice || !case.tied), "cls.predictions.decoder.bias".into());
        }
        Architecture::Vit => {
            add(true, format!("{prefix}embeddings.cls_token"));
            add(case.head == Head::Classes, "classifier.weight".into());
            add(case.head == Head::Pooled, format!("{prefix}pooler.dense.weight"));
        }
        Architecture::VitTimm => add(true, "blocks.0.attn.qkv.weight".into()),
    }
    names
}

/// Names and shapes of tensors that the model does not read.
pub(super) fn buffers(case: &SourceCase) -> Vec<(String, Vec<usize>)> {
    let prefix = prefix(case);
    let mut found = Vec::new();
    // Untied, the library stores the bias that it does not use as well.
    if case.architecture == Architecture::Bert && case.head == Head::Words && !case.tied {
        found.push(("cls.predictions.bias".to_string(), vec![case.vocabulary]));
    }
    if !case.buffers {
        return found;
    }
    let layers = 0..case.layers;
    match case.architecture {
        Architecture::Gpt2 => found.extend(layers.map(|i| {
            (format!("{prefix}h.{i}.attn.bias"), vec![1, 1, case.positions, case.positions])
        })),
        Architecture::Llama => found.extend(layers.map(|i| {
            (format!("{prefix}layers.{i}.self_attn.rotary_emb.inv_freq"), vec![case.head_dim / 2])
        })),
        Architecture::Vit => {
            found.push((format!("{prefix}embeddings.mask_token"), vec![1, 1, case.hidden]));
        }
        Architecture::Bert | Architecture::VitTimm => {}
    }
    found
}
