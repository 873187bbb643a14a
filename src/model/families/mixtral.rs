//! Mixtral: Mistral with a mixture of experts instead of the MLP.
//!
//! Names: `model.layers.0.block_sparse_moe.gate.weight` and, for each expert,
//! `…experts.0.w1.weight` (gate), `w3` (up), `w2` (down); or all experts of a layer in
//! `…mlp.experts.gate_up_proj` `[experts, 2·intermediate, hidden]` and `…mlp.experts.down_proj`,
//! behind `…mlp.gate.weight`.

use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::parts::decoder::{self, Decoder, Defaults, Layer};
use crate::model::parts::rotary::RotaryDefaults;
use crate::model::parts::windows::one_window;
use crate::model::*;

pub(super) static MIXTRAL: Family =
    Family { name: "mixtral", fields: decoder::FIELDS, describe, configure };

/// The base of the frequencies.
const THETA: f64 = 1e6;
/// More experts in all layers together than any model has.
const EXPERT_LIMIT: usize = 1 << 16;

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults = Defaults {
        class: "Mixtral",
        kv_heads: Some(8),
        eps: 1e-5,
        rotary: RotaryDefaults { theta: THETA, ..Defaults::LLAMA.rotary },
        ..Defaults::LLAMA
    };
    let mut decoder = Decoder::read(config, catalog, &MIXTRAL, defaults)?;
    let window = one_window(config, None)?;
    let count = expert_count(config, decoder.sizes.layers)?;
    decoder.sizes.experts = Some(count);
    let all = Dim::new(count.all, "num_local_experts");
    let (hidden, inner) = (decoder.hidden.clone(), decoder.inner.clone());
    let activation = decoder.activation;
    let fused = catalog.has(&decoder.layer(0).name("mlp.experts.gate_up_proj"));
    decoder.model(|layer| {
        let experts: Vec<Mlp> = match fused {
            true => stacked(layer, &all, &inner, &hidden, activation),
            false => (0..count.all).map(|expert| single(layer, expert)).collect(),
        };
        let router = if fused { "mlp.gate" } else { "block_sparse_moe.gate" };
        let router = layer.linear(router, &all, &hidden, false);
        let attention = Attention { window, ..layer.attention((false, false)) };
        let op = Experts { router, experts, active: count.active };
        layer.pre_norm(attention, Op::Experts(Box::new(op)))
    })
}

fn expert_count(config: &Config, layers: usize) -> Result<ExpertCount> {
    let (field, other) = ("num_local_experts", "num_experts");
    if let (Some(one), Some(two)) = (config.get(field), config.get(other))
        && one != two
    {
        let problem = format!("it is {two}, but `{field}`, another name of it, is {one}");
        return Err(Error::bad_input(problem).at(config.origin()).field(other));
    }
    let all = config.size_or(field, config.size_or(other, 8)?)?;
    let active = config.size_or("num_experts_per_tok", 2)?;
    if all.saturating_mul(layers) > EXPERT_LIMIT {
        let expected = format!("at most {EXPERT_LIMIT} experts in all layers");
        return Err(config.wrong(field, &expected, &all.into()));
    }
    if active > all {
        let expected = format!("at most {all}, the number of experts");
        return Err(config.wrong("num_experts_per_tok", &expected, &active.into()));
    }
    Ok(ExpertCount { all, active })
}

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    decoder::grow_base(config, sizes, None, THETA);
    decoder::configure(config, sizes, layers);
    if let Some(experts) = sizes.experts {
        config.remove("num_experts");
        config.set("num_local_experts", experts.all);
        config.set("num_experts_per_tok", experts.active);
    }
}

/// An expert with tensors of its own.
fn single(layer: &Layer, expert: usize) -> Mlp {
    let names =
        ["w1", "w3", "w2"].map(|which| format!("block_sparse_moe.experts.{expert}.{which}"));
    layer.mlp_named([&names[0], &names[1], &names[2]], false)
}

/// The experts of a layer whose tensors hold all of them.
fn stacked(
    layer: &Layer,
    all: &Dim,
    inner: &Dim,
    hidden: &Dim,
    activation: Activation,
) -> Vec<Mlp> {
    let lens = |part: &str, rows: &Dim, cols: &Dim| {
        Lens::stack(layer.name(part), all.clone(), rows.clone(), cols.clone())
    };
    let gate_up = lens("mlp.experts.gate_up_proj", &inner.times(2), hidden);
    let down = lens("mlp.experts.down_proj", hidden, inner);
    let part = |lens: &Lens, block: usize, rows: usize| Linear {
        weight: lens.clone().slice(block * rows, rows),
        bias: None,
    };
    let expert = |expert: usize| Mlp {
        gate: Some(part(&gate_up, 2 * expert, inner.size)),
        up: part(&gate_up, 2 * expert + 1, inner.size),
        down: part(&down, expert, hidden.size),
        activation,
    };
    (0..all.size).map(expert).collect()
}
