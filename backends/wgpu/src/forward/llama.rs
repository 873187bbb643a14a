//! Llama, Mistral, Qwen 2 and 3, and Gemma: RMSNorms in front of the branches, rotary positions,
//! gated networks. Which biases and which norms of heads there are, the weights tell.

use super::{Net, count, number};
use crate::device::Array;
use crate::failure::{Failure, Result};
use crate::kernels::{self, Function, Heads};
use serde_json::Value;
use std::f64::consts::PI;

pub(super) fn run(net: &mut Net) -> Result<()> {
    let function = Function::named(net.word("hidden_act", "silu"))?;
    decoder(net, &Family { offset: 0.0, scale: 1.0, tied: false, function })
}

/// Its norms multiply by 1 + weight, and its table is scaled by what its format holds.
pub(super) fn run_gemma(net: &mut Net) -> Result<()> {
    let function = match net.word("hidden_act", "gelu") {
        // It has always computed GELU by tanh under this name.
        "gelu" => Function::GeluTanh,
        other => Function::named(other)?,
    };
    let scale = net.format.rounded((net.count("hidden_size")? as f64).sqrt());
    decoder(net, &Family { offset: 1.0, scale, tied: true, function })
}

/// In what families differ.
struct Family {
    /// What is added to the weights of norms.
    offset: f32,
    /// A factor of the embedding.
    scale: f32,
    /// Whether the head is the table, where the configuration does not say.
    tied: bool,
    function: Function,
}

fn decoder(net: &mut Net, family: &Family) -> Result<()> {
    let prefix = net.prefix("model.", "embed_tokens.weight");
    let (hidden, heads) = (net.count("hidden_size")?, net.count("num_attention_heads")?);
    let kv_heads = net.maybe_count("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = net.maybe_count("head_dim")?.unwrap_or(hidden / heads);
    let counts = Heads { heads, kv_heads, head_dim };
    let norm = (net.number("rms_norm_eps", 1e-6)?, family.offset);
    let turns = frequencies(net, head_dim)?;
    let layers = net.count("num_hidden_layers")?;
    let table = format!("{prefix}embed_tokens.weight");
    let mut x = net.rows(&table, "input_ids", family.scale)?;
    net.keep(&x);
    for layer in 0..layers {
        let name = format!("{prefix}layers.{layer}");
        let read = net.rms_norm(&x, &format!("{name}.input_layernorm"), hidden, norm)?;
        let by_head = |part: &str| {
            let name = format!("{name}.self_attn.{part}");
            let projected = net.linear(&read, &format!("{name}_proj"), false)?;
            match net.weights.has(&format!("{name}_norm.weight")) {
                true => net.rms_norm(&projected, &format!("{name}_norm"), head_dim, norm),
                false => Ok(projected),
            }
        };
        let turned = |x: Array| kernels::rotary(net.device, &x, &turns, head_dim, None);
        let (query, key, value) = (turned(by_head("q")?)?, turned(by_head("k")?)?, by_head("v")?);
        let scale = (head_dim as f64).powf(-0.5);
        let seen = (true, window(net, layer)?);
        let mixed = net.attention([&query, &key, &value], counts, scale, seen)?;
        x = net.add(&x, &net.linear(&mixed, &format!("{name}.self_attn.o_proj"), false)?)?;
        let read = net.rms_norm(&x, &format!("{name}.post_attention_layernorm"), hidden, norm)?;
        let gate = net.linear(&read, &format!("{name}.mlp.gate_proj"), false)?;
        let gate = net.function(family.function, &gate)?;
        let up = net.linear(&read, &format!("{name}.mlp.up_proj"), false)?;
        let neurons = net.both(Function::Multiply, &gate, &up)?;
        x = net.add(&x, &net.linear(&neurons, &format!("{name}.mlp.down_proj"), false)?)?;
        net.keep(&x);
    }
    let x = net.rms_norm(&x, &format!("{prefix}norm"), hidden, norm)?;
    net.words_or_hidden(&x, &table, family.tied)
}

/// Radians by which each pair is turned from one position to the next.
fn frequencies(net: &Net, head_dim: usize) -> Result<Array> {
    let settings = net.field("rope_parameters").or_else(|| net.field("rope_scaling"));
    let setting = |name: &str| settings.and_then(|settings| settings.get(name));
    let theta = setting("rope_theta").or_else(|| net.field("rope_theta"));
    let theta = number(theta, "rope_theta", 10_000.0)?;
    let given = |name: &str| number(setting(name), name, 1.0);
    let kind = setting("rope_type").or_else(|| setting("type")).and_then(Value::as_str);
    let pairs = head_dim / 2;
    let plain = |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64);
    let scaled: Box<dyn Fn(f64) -> f64> = match kind.unwrap_or("default") {
        "default" => Box::new(|turn| turn),
        "linear" => {
            let factor = given("factor")?;
            Box::new(move |turn| turn / factor)
        }
        "llama3" => {
            let (low, high) = (given("low_freq_factor")?, given("high_freq_factor")?);
            let (factor, original) = (given("factor")?, given("original_max_position_embeddings")?);
            Box::new(move |turn| {
                // Turns in the original context: with many, a frequency is kept.
                let turns = original * turn / (2.0 * PI);
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                turn * (kept + (1.0 - kept) / factor)
            })
        }
        other => return Err(Failure::Unsupported(format!("rotary positions of type `{other}`"))),
    };
    let turns: Vec<f32> = (0..pairs).map(|pair| scaled(plain(pair)) as f32).collect();
    net.device.upload(bytemuck::cast_slice(&turns), &[pairs])
}

/// How many positions a layer sees, itself included; all of them where there is none.
fn window(net: &Net, layer: usize) -> Result<Option<usize>> {
    let slides = net.word("model_type", "") == "mistral";
    if !net.flag("use_sliding_window", slides) {
        return Ok(None);
    }
    let here = match net.field("layer_types") {
        Some(kinds) => kinds.get(layer).and_then(Value::as_str) == Some("sliding_attention"),
        None => {
            let first = net.field("max_window_layers").and_then(Value::as_u64);
            layer as u64 >= first.unwrap_or(0)
        }
    };
    if here { count(net.field("sliding_window"), "sliding_window") } else { Ok(None) }
}
