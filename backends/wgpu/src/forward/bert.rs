//! BERT: norms behind the branches, three tables, attention to all positions.

use super::Net;
use crate::device::Array;
use crate::failure::{Result, error};
use crate::kernels::{self, Function, Heads};

pub(super) fn run(net: &mut Net) -> Result<()> {
    let prefix = net.prefix("bert.", "embeddings.word_embeddings.weight");
    let (hidden, heads) = (net.count("hidden_size")?, net.count("num_attention_heads")?);
    let layers = net.count("num_hidden_layers")?;
    let eps = net.number("layer_norm_eps", 1e-12)?;
    let function = Function::named(net.word("hidden_act", "gelu"))?;
    if !hidden.is_multiple_of(heads) {
        return Err(error("`num_attention_heads` does not divide `hidden_size`"));
    }
    let counts = Heads { heads, kv_heads: heads, head_dim: hidden / heads };
    let mut x = embedded(net, prefix)?;
    x = net.layer_norm(&x, &format!("{prefix}embeddings.LayerNorm"), eps)?;
    net.keep(&x);
    for layer in 0..layers {
        let name = format!("{prefix}encoder.layer.{layer}");
        let part = |part: &str| net.linear(&x, &format!("{name}.attention.self.{part}"), false);
        let (query, key, value) = (part("query")?, part("key")?, part("value")?);
        let scale = (counts.head_dim as f64).powf(-0.5);
        let mixed = net.attention([&query, &key, &value], counts, scale, (false, None))?;
        let mixed = net.linear(&mixed, &format!("{name}.attention.output.dense"), false)?;
        x = net.add(&x, &mixed)?;
        x = net.layer_norm(&x, &format!("{name}.attention.output.LayerNorm"), eps)?;
        let neurons = net.linear(&x, &format!("{name}.intermediate.dense"), false)?;
        let neurons = net.function(function, &neurons)?;
        x = net.add(&x, &net.linear(&neurons, &format!("{name}.output.dense"), false)?)?;
        x = net.layer_norm(&x, &format!("{name}.output.LayerNorm"), eps)?;
        net.keep(&x);
    }
    net.put("last_hidden_state", &x);
    pooled(net, &x, prefix)?;
    if net.asks_for("logits") {
        let logits = words(net, &x, prefix, function, eps)?;
        net.put("logits", &logits);
    }
    Ok(())
}

/// Words, positions and types, summed in this order.
fn embedded(net: &Net, prefix: &str) -> Result<Array> {
    let table = |kind: &str| format!("{prefix}embeddings.{kind}_embeddings.weight");
    let words = net.rows(&table("word"), "input_ids", 1.0)?;
    let x = net.add(&words, &net.first_rows(&table("position"))?)?;
    let kinds = match net.inputs.has("token_type_ids") {
        true => net.rows(&table("token_type"), "token_type_ids", 1.0)?,
        false => {
            let name = table("token_type");
            let table = net.weights.upload_matrix(net.device, &name)?;
            let zeros = net.device.upload(&vec![0; 4 * net.tokens], &[net.tokens])?;
            kernels::embedding(net.device, &table, &zeros, 1.0)?
        }
    };
    net.add(&x, &kinds)
}

/// What is made of the first token.
fn pooled(net: &mut Net, x: &Array, prefix: &str) -> Result<()> {
    let relation = "seq_relationship_logits";
    if !net.asks_for("pooler_output") && !net.asks_for(relation) {
        return Ok(());
    }
    let zero = net.device.upload(&[0; 4], &[1])?;
    let first = kernels::embedding(net.device, x, &zero, 1.0)?;
    let dense = net.linear(&first, &format!("{prefix}pooler.dense"), false)?;
    let pooled = net.function(Function::Tanh, &dense)?;
    net.put("pooler_output", &pooled);
    if net.asks_for(relation) {
        let logits = net.linear(&pooled, "cls.seq_relationship", false)?;
        net.put(relation, &logits);
    }
    Ok(())
}

fn words(net: &Net, x: &Array, prefix: &str, function: Function, eps: f64) -> Result<Array> {
    let head = "cls.predictions";
    let x = net.linear(x, &format!("{head}.transform.dense"), false)?;
    let x = net.function(function, &x)?;
    let x = net.layer_norm(&x, &format!("{head}.transform.LayerNorm"), eps)?;
    let (shared, own) = (format!("{head}.bias"), format!("{head}.decoder.bias"));
    if net.flag("tie_word_embeddings", true) {
        let table = format!("{prefix}embeddings.word_embeddings.weight");
        return net.affine(&x, &table, Some(&shared), false);
    }
    let bias = if net.weights.has(&own) { own } else { shared };
    net.affine(&x, &format!("{head}.decoder.weight"), Some(&bias), false)
}
