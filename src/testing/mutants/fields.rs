//! Mistakes in the configuration alone: every tensor is right, and means something else.

use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::checkpoint::Config;
use crate::model::{Model, Op, Sizes, describe, family_of};
use crate::testing::random::Draw;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Objects in a configuration in which fields may lie.
const SECTIONS: [&str; 3] = ["rope_parameters", "rope_scaling", "model_args"];

/// What a description says that a run depends on.
fn meaning(model: &Model) -> String {
    let Model { encoder, embedding, layers, outputs, .. } = model;
    format!("{encoder:?}{embedding:?}{layers:?}{outputs:?}")
}

/// The expansion with another configuration, where that describes another model that reads and
/// returns the same things.
fn configured(pair: &Pair, field: &str, change: impl FnOnce(&mut Config)) -> Change {
    let mut editor = pair.editor();
    change(editor.config());
    let Some(mutated) = editor.blame(field) else { return Ok(None) };
    let Ok(model) = describe(&mutated.checkpoint) else { return Ok(None) };
    let before = pair.expanded_model;
    let names = |model: &Model| model.outputs.iter().map(|output| output.name).collect::<Vec<_>>();
    let alike = names(&model) == names(before) && model.embedding.input == before.embedding.input;
    Ok((alike && meaning(&model) != meaning(before)).then_some(mutated))
}

/// One of these fields, at the top or in a section, with another value; `change` gives none where
/// there is none to give.
fn field(
    pair: &Pair,
    rng: &mut ChaCha8Rng,
    fields: &[&str],
    change: impl Fn(&Value, &mut ChaCha8Rng) -> Option<Value>,
) -> Change {
    let config = pair.expanded.config();
    let mut found = Vec::new();
    for field in fields {
        found.extend(config.get(field).map(|value| (None, *field, value)));
        for section in SECTIONS {
            let inside = config.get(section).and_then(|section| section.get(field));
            found.extend(inside.map(|value| (Some(section), *field, value)));
        }
    }
    let order = rng.permutation(found.len());
    first_that_changes(found, &order, |(section, field, value)| {
        let Some(value) = change(value, rng) else { return Ok(None) };
        configured(pair, field, |config| match section {
            None => config.set(field, value),
            Some(section) => {
                let mut inside = config.get(section).cloned().unwrap_or_default();
                inside[*field] = value;
                config.set(section, inside);
            }
        })
    })
}

fn times(value: &Value, factor: f64) -> Option<Value> {
    match value.as_u64() {
        Some(whole) if factor >= 1.0 => Some(((whole as f64 * factor) as u64).into()),
        _ => value.as_f64().map(|number| (number * factor).into()),
    }
}

fn flipped(value: &Value) -> Option<Value> {
    value.as_bool().map(|flag| (!flag).into())
}

fn one_more_or_less(value: &Value, rng: &mut ChaCha8Rng) -> Option<Value> {
    let size = value.as_u64()?;
    Some(if size > 1 && rng.chance(0.5) { size - 1 } else { size + 1 }.into())
}

pub(super) fn activation_replaced(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let fields = [
        "hidden_act",
        "hidden_activation",
        "activation_function",
        "activation",
        "act_layer",
        "feed_forward_proj",
    ];
    field(pair, rng, &fields, |value, rng| {
        let gated = if value.as_str()?.starts_with("gated-") { "gated-" } else { "" };
        Some(format!("{gated}{}", rng.pick(&["gelu", "relu", "silu", "tanh"])).into())
    })
}

pub(super) fn eps_tenfold(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let eps = family_of(pair.expanded.config())?.fields.norm_eps;
    field(pair, rng, &[eps.unwrap_or("eps")], |value, _| times(value, 10.0))
}

pub(super) fn rotary_base_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["rope_theta", "rotary_emb_base"], |value, _| times(value, 10.0))
}

pub(super) fn rotary_positions_halved(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let config = pair.expanded.config();
    let scaled = ["rope_parameters", "rope_scaling"].into_iter().any(|f| config.get(f).is_some());
    if scaled || pair.expanded_attentions().all(|attention| attention.rotary.is_none()) {
        return Ok(None);
    }
    let halved = json!({"rope_type": "linear", "factor": 2.0});
    configured(pair, "rope_scaling", |config| config.set("rope_scaling", halved))
}

pub(super) fn rotary_share_halved(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["partial_rotary_factor", "rotary_pct"], |value, _| times(value, 0.5))
}

/// The same rows cut into other heads.
fn recut(pair: &Pair, change: impl Fn(&mut Sizes) -> bool) -> Change {
    let family = family_of(pair.expanded.config())?;
    let mut sizes = pair.expanded_model.sizes.clone();
    if !change(&mut sizes) || sizes.heads < pair.source_model.sizes.heads {
        return Ok(None);
    }
    let layers: Vec<usize> = (0..sizes.layers).collect();
    configured(pair, family.fields.heads, |config| (family.configure)(config, &sizes, &layers))
}

pub(super) fn heads_merged(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    recut(pair, |sizes| {
        let even = sizes.heads.is_multiple_of(2) && sizes.kv_heads.is_multiple_of(2);
        (sizes.heads, sizes.kv_heads) = (sizes.heads / 2, sizes.kv_heads / 2);
        sizes.head_dim *= 2;
        even
    })
}

pub(super) fn heads_halved(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    recut(pair, |sizes| {
        let even = sizes.head_dim.is_multiple_of(2);
        (sizes.heads, sizes.kv_heads) = (2 * sizes.heads, 2 * sizes.kv_heads);
        sizes.head_dim /= 2;
        even
    })
}

pub(super) fn window_off_by_one(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["sliding_window"], one_more_or_less)
}

pub(super) fn window_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["sliding_window", "use_sliding_window", "layer_types"], |value, _| {
        Some(match value {
            Value::Array(types) => vec!["full_attention"; types.len()].into(),
            Value::Bool(true) => false.into(),
            _ => Value::Null,
        })
    })
}

pub(super) fn tying_flipped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["tie_word_embeddings"], |value, _| flipped(value))
}

pub(super) fn logit_factor_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let fields = ["scale_attn_weights", "scale_attn_by_inverse_layer_idx", "query_pre_attn_scalar"];
    field(pair, rng, &fields, |value, _| flipped(value).or_else(|| times(value, 2.0)))
}

pub(super) fn soft_cap_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let fields =
        ["attn_logit_softcapping", "final_logit_softcapping", "attention_softcap", "logit_softcap"];
    field(pair, rng, &fields, |value, _| times(value, 0.5))
}

pub(super) fn parallel_flipped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["use_parallel_residual"], |value, _| flipped(value))
}

pub(super) fn head_factor_flipped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["scale_decoder_outputs"], |value, _| flipped(value))
}

pub(super) fn farthest_distance_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    field(pair, rng, &["relative_attention_max_distance"], |value, _| times(value, 2.0))
}

pub(super) fn active_experts_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let experts = pair.branches().any(|branch| matches!(branch.op, Op::Experts(_)));
    let fields: &[&str] = if experts { &["num_experts_per_tok"] } else { &[] };
    field(pair, rng, fields, one_more_or_less)
}
