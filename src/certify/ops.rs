//! What attention and MLP write, channel by channel.

use super::bounded::{Bounded, Stored};
use super::fields::OtherCode;
use super::pattern::patterns;
use super::reader::{Folded, Reader};
use super::writes::{Keys, Writes};
use crate::error::{Error, Result};
use crate::model::{Activation, Attention, Mlp, Op};
use ndarray::{Array2, ArrayView1, Axis};

/// Reads what `op` writes, as a function of the source's stream.
pub(super) fn writes(reader: &Reader, op: &Op) -> Result<Writes> {
    match op {
        Op::Attention(attention) => attention_writes(reader, attention),
        Op::Mlp(mlp) => mlp_writes(reader, mlp),
        Op::Experts(_) => Err(Error::unsupported("no equation is known for a mixture of experts")),
    }
}

/// A neuron's key is its folded row with its bias; with a gate, the gate's, and `up` is linear.
pub(super) fn mlp_writes(reader: &Reader, mlp: &Mlp) -> Result<Writes> {
    let key = reader.fold(mlp.gate.as_ref().unwrap_or(&mlp.up))?.joined();
    let linear = match &mlp.gate {
        Some(_) => {
            let up = reader.fold(&mlp.up)?.joined();
            let own = (0..up.rows()).collect();
            Some((up, own))
        }
        None => None,
    };
    let scale = layer_scale(reader)?;
    Ok(Writes {
        keys: Keys::Rows(key),
        homogeneous: mlp.activation == Activation::Relu,
        linear,
        fan_out: reader.side.stored(&mlp.down.weight)?,
        bias: scaled(reader.side.bias(&mlp.down)?, &scale),
        scale,
    })
}

/// A value channel's key is its head's pattern. The rows of a softmax sum to one, so the value bias
/// adds the constant `Σ_h W_O^h b_V^h` to the output bias.
fn attention_writes(reader: &Reader, attention: &Attention) -> Result<Writes> {
    let query = reader.fold(&attention.query)?;
    let others = reader.keys(attention);
    let key = others.fold(&attention.key)?;
    let Folded { weight: values, bias: value_bias } = others.fold(&attention.value)?;
    let fan_out = reader.side.stored(&attention.output.weight)?;
    let of: Vec<usize> = value_rows(attention);
    let mut constants = Bounded::zeros(of.len(), 1);
    for (channel, row) in of.iter().enumerate() {
        constants.value[[channel, 0]] = value_bias.value[[*row, 0]];
        constants.variance[[channel, 0]] = value_bias.variance[[*row, 0]];
    }
    let mut bias = fan_out.apply(&constants).plus(&reader.side.bias(&attention.output)?);
    if others.norm.is_some() {
        bias.variance += &rounding_of_writes(&fan_out, (&values, &of));
    }
    let scale = layer_scale(reader)?;
    let patterns = patterns(reader, attention, &query, &key)?;
    Ok(Writes {
        homogeneous: false,
        keys: Keys::Patterns(patterns, attention.head_dim),
        linear: Some((values, of)),
        fan_out,
        bias: scaled(bias, &scale),
        scale,
    })
}

/// What rounding leaves of the products that are added to each row, `[hidden, 1]`, squared: that of
/// the largest of them. A constant that is smaller than this is none: a value bias that was moved
/// to where fan-outs cancel leaves one.
///
/// What a norm returns is as long as it is wide, whatever its direction, so that a value is blurred
/// at least by the finest number of its row. A coarser one may be read by nothing: the channel in
/// front of it may be zero for every input.
fn rounding_of_writes(fan_out: &Stored, (values, of): (&Bounded, &[usize])) -> Array2<f64> {
    let finest = |row: ArrayView1<f64>| row.iter().fold(f64::INFINITY, |least, v| least.min(*v));
    let finest = values.variance.map_axis(Axis(1), |row| row.len() as f64 * finest(row));
    let largest = |row: ArrayView1<f64>| {
        row.iter().zip(of).map(|(w, of)| w * w * finest[*of]).fold(0.0, f64::max)
    };
    fan_out.value.map_axis(Axis(1), largest).insert_axis(Axis(1))
}

/// LayerScale multiplies all that a branch writes: `diag(scale) W_T E_in = E diag(scale) W_S`, and
/// the bias likewise, so it is folded into the writer before anything else.
fn layer_scale(reader: &Reader) -> Result<Option<Bounded>> {
    reader.scale.map(|lens| reader.side.read(lens)).transpose()
}

pub(super) fn scaled(bias: Bounded, scale: &Option<Bounded>) -> Bounded {
    match scale {
        Some(scale) => bias.times_rows(scale),
        None => bias,
    }
}

/// For each channel of the heads, laid end to end, the row of the value projection.
pub(super) fn value_rows(attention: &Attention) -> Vec<usize> {
    let (size, group) = (attention.head_dim, attention.heads / attention.kv_heads);
    (0..attention.heads * size).map(|c| c / size / group * size + c % size).collect()
}

/// Fields that name the activation of an MLP.
const ACTIVATION: &[&str] = &[
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "activation",
    "act_layer",
    "feed_forward_proj",
];
const DISTANCES: &[&str] = &["relative_attention_max_distance", "relative_attention_num_buckets"];
const SOFTCAP: &[&str] = &["attn_logit_softcapping", "attention_softcap"];

/// Why two ops cannot be compared at all, if they cannot.
pub(super) fn incomparable(source: &Op, expanded: &Op) -> Option<OtherCode> {
    let other = |reason: &str| Some(OtherCode { reason: reason.into(), fields: &[] });
    match (source, expanded) {
        (Op::Mlp(s), Op::Mlp(t)) => other_mlp(s, t),
        (Op::Attention(s), Op::Attention(t)) => {
            if s.causal != t.causal {
                return other("only one of the two is causal");
            }
            if s.reads_encoder != t.reads_encoder {
                return other("only one of the two reads what the encoder returns");
            }
            let distances = |attention: &Attention| {
                let bias = attention.relative.as_ref()?;
                Some((bias.table.rows(), bias.max_distance, bias.two_sided))
            };
            if distances(s) != distances(t) {
                let reason = "the two put distances between positions into other buckets".into();
                return Some(OtherCode { reason, fields: DISTANCES });
            }
            if s.rotary.is_some() != t.rotary.is_some() {
                return other("only one of the two has rotary positions");
            }
            other_logits(s, t)
        }
        (Op::Experts(s), Op::Experts(t)) => match (s.experts.first(), t.experts.first()) {
            (Some(s), Some(t)) => other_mlp(s, t),
            _ => other("a mixture has no experts"),
        },
        _ => other("the two sublayers are of different kinds"),
    }
}

fn other_mlp(s: &Mlp, t: &Mlp) -> Option<OtherCode> {
    let reason = if s.activation != t.activation {
        let (s, t) = (s.activation, t.activation);
        format!("the activation is {s:?} in the source, here {t:?}")
    } else if s.gate.is_some() != t.gate.is_some() {
        "only one of the two is gated".into()
    } else {
        return None;
    };
    Some(OtherCode { reason, fields: ACTIVATION })
}

/// What two attentions do to their logits `l` must be one function of `l`: no equation is known
/// between two soft caps, or between a norm of queries and none.
fn other_logits(s: &Attention, t: &Attention) -> Option<OtherCode> {
    if s.softcap != t.softcap {
        let words = |cap: Option<f64>| match cap {
            Some(cap) => format!("{cap}"),
            None => "none".to_string(),
        };
        let (s, t) = (words(s.softcap), words(t.softcap));
        let reason = format!("the soft cap on attention logits is {s} in the source, here {t}");
        return Some(OtherCode { reason, fields: SOFTCAP });
    }
    match (&s.head_norms, &t.head_norms) {
        (None, None) => None,
        (Some(s), Some(t)) if s.query.kind == t.query.kind && s.key.kind == t.key.kind => None,
        _ => {
            let reason = "the norms of queries and keys are of different kinds".into();
            Some(OtherCode { reason, fields: &[] })
        }
    }
}
