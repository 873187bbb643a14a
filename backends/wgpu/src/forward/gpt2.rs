//! GPT-2: norms in front of the branches, learnt positions, weights that lie as `[in, out]`, and
//! queries, keys and values in one.

use super::Net;
use crate::failure::{Result, error};
use crate::kernels::{self, Function, Heads};

pub(super) fn run(net: &mut Net) -> Result<()> {
    let prefix = net.prefix("transformer.", "wte.weight");
    let (hidden, heads) = (net.count("n_embd")?, net.count("n_head")?);
    let layers = net.count("n_layer")?;
    let eps = net.number("layer_norm_epsilon", 1e-5)?;
    let function = Function::named(net.word("activation_function", "gelu_new"))?;
    if !hidden.is_multiple_of(heads) {
        return Err(error("`n_head` does not divide `n_embd`"));
    }
    let counts = Heads { heads, kv_heads: heads, head_dim: hidden / heads };
    let table = format!("{prefix}wte.weight");
    let words = net.rows(&table, "input_ids", 1.0)?;
    let mut x = net.add(&words, &net.first_rows(&format!("{prefix}wpe.weight"))?)?;
    net.keep(&x);
    for layer in 0..layers {
        let name = format!("{prefix}h.{layer}");
        let read = net.layer_norm(&x, &format!("{name}.ln_1"), eps)?;
        let fused = net.linear(&read, &format!("{name}.attn.c_attn"), true)?;
        if fused.columns() != 3 * hidden {
            return Err(error(format!("`{name}.attn.c_attn` is not {} wide", 3 * hidden)));
        }
        let part = |part: usize| kernels::slice(net.device, &fused, part * hidden, hidden);
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let by_head = net.flag("scale_attn_weights", true);
        let mut scale = if by_head { (counts.head_dim as f64).powf(-0.5) } else { 1.0 };
        if net.flag("scale_attn_by_inverse_layer_idx", false) {
            scale /= (layer + 1) as f64;
        }
        let mixed = net.attention([&query, &key, &value], counts, scale, (true, None))?;
        x = net.add(&x, &net.linear(&mixed, &format!("{name}.attn.c_proj"), true)?)?;
        let read = net.layer_norm(&x, &format!("{name}.ln_2"), eps)?;
        let neurons = net.linear(&read, &format!("{name}.mlp.c_fc"), true)?;
        let neurons = net.function(function, &neurons)?;
        x = net.add(&x, &net.linear(&neurons, &format!("{name}.mlp.c_proj"), true)?)?;
        net.keep(&x);
    }
    let x = net.layer_norm(&x, &format!("{prefix}ln_f"), eps)?;
    net.words_or_hidden(&x, &table, true)
}
