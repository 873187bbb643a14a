//! Whole models, composed of the kernels: everything stays on the device from the embedding to the
//! outputs. The host reads the configuration, and computes constants from it.

mod bert;
mod gpt2;
mod llama;

use crate::device::{Array, Device};
use crate::failure::{Failure, Result, error};
use crate::kernels::{self, Function, Heads, Norm, Visible};
use crate::tensors::{self, Format, Output, Outputs, Tensors};
use serde_json::{Map, Value};
use std::path::Path;

/// The families whose models it runs.
pub const FAMILIES: [&str; 7] = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "bert"];

/// What is asked of a model.
pub struct Request<'a> {
    /// The family's name.
    pub family: &'a str,
    /// The number format of the weights.
    pub format: Format,
    /// A folder with `config.json` and `model.safetensors`.
    pub model: &'a Path,
    /// A file of tensors.
    pub inputs: &'a Path,
    /// The outputs that are asked for.
    pub returns: &'a [&'a str],
}

/// Runs a model; returns what is asked for, and the residual stream.
///
/// # Errors
/// If the family is none of these, or the model or what it reads is not as it should be.
pub fn answer(device: &Device, request: &Request) -> Result<Outputs> {
    let config = tensors::bytes(&request.model.join("config.json"))?;
    let config = serde_json::from_slice(&config).map_err(|e| error(format!("config.json: {e}")))?;
    let weights = tensors::bytes(&request.model.join("model.safetensors"))?;
    let inputs = tensors::bytes(request.inputs)?;
    let inputs = Tensors::parse(&inputs)?;
    let tokens = inputs.shape("input_ids")?.iter().product();
    if tokens == 0 {
        return Err(error("`input_ids` is empty"));
    }
    let masked = inputs.has("attention_mask");
    let mask = || inputs.upload_integers(device, "attention_mask", Some(tokens), (0, 1));
    let mut net = Net {
        device,
        config,
        weights: Tensors::parse(&weights)?,
        inputs: &inputs,
        tokens,
        mask: masked.then(mask).transpose()?,
        format: request.format,
        returns: request.returns,
        outputs: Outputs::new(),
        layers: 0,
    };
    match request.family {
        "gpt2" => gpt2::run(&mut net)?,
        "llama" | "mistral" | "qwen2" | "qwen3" => llama::run(&mut net)?,
        "gemma" => llama::run_gemma(&mut net)?,
        "bert" => bert::run(&mut net)?,
        other => return Err(Failure::Unsupported(format!("the family `{other}`"))),
    }
    Ok(net.outputs)
}

/// A model and what it reads.
struct Net<'a> {
    device: &'a Device,
    config: Map<String, Value>,
    weights: Tensors<'a>,
    inputs: &'a Tensors<'a>,
    tokens: usize,
    mask: Option<Array>,
    format: Format,
    returns: &'a [&'a str],
    outputs: Outputs,
    /// How often the stream was kept.
    layers: usize,
}

impl Net<'_> {
    /// A field of the configuration that is there and not null.
    fn field(&self, name: &str) -> Option<&Value> {
        self.config.get(name).filter(|value| !value.is_null())
    }

    fn maybe_count(&self, name: &str) -> Result<Option<usize>> {
        count(self.field(name), name)
    }

    fn count(&self, name: &str) -> Result<usize> {
        self.maybe_count(name)?.ok_or_else(|| error(format!("config.json has no `{name}`")))
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        number(self.field(name), name, default)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.field(name).and_then(Value::as_bool).unwrap_or(default)
    }

    fn word<'b>(&'b self, name: &str, default: &'b str) -> &'b str {
        self.field(name).and_then(Value::as_str).unwrap_or(default)
    }

    /// The prefix, if the name is stored with it.
    fn prefix<'b>(&self, prefix: &'b str, name: &str) -> &'b str {
        if self.weights.has(&format!("{prefix}{name}")) { prefix } else { "" }
    }

    fn asks_for(&self, output: &str) -> bool {
        self.returns.contains(&output)
    }

    /// Returns a tensor, if it is asked for.
    fn put(&mut self, name: &str, array: &Array) {
        if self.asks_for(name) {
            self.outputs.push((name.to_string(), Output::Numbers(array.clone())));
        }
    }

    /// Returns the stream behind the embedding or the next layer too.
    fn keep(&mut self, stream: &Array) {
        let name = format!("hidden.{}", self.layers);
        self.outputs.push((name, Output::Numbers(stream.clone())));
        self.layers += 1;
    }

    fn vector(&self, name: &str, count: usize) -> Result<Array> {
        self.weights.upload_shaped(self.device, name, &[count])
    }

    /// Rows of a table by whole numbers of the input, times `scale`.
    fn rows(&self, table: &str, ids: &str, scale: f32) -> Result<Array> {
        let table = self.weights.upload_matrix(self.device, table)?;
        let range = (0, table.rows() as i64 - 1);
        let ids = self.inputs.upload_integers(self.device, ids, Some(self.tokens), range)?;
        kernels::embedding(self.device, &table, &ids, scale)
    }

    /// The first rows of a table, one for each token.
    fn first_rows(&self, table: &str) -> Result<Array> {
        let name = table;
        let table = self.weights.upload_matrix(self.device, name)?;
        if table.rows() < self.tokens {
            return Err(error(format!("`{name}` has less rows than there are tokens")));
        }
        let ids: Vec<i32> = (0..self.tokens as i32).collect();
        let ids = self.device.upload(bytemuck::cast_slice(&ids), &[self.tokens])?;
        kernels::embedding(self.device, &table, &ids, 1.0)
    }

    /// `name.weight` and, where it is stored, `name.bias`. A weight lies as `[out, in]`, or if it
    /// is `transposed` as `[in, out]`.
    fn linear(&self, x: &Array, name: &str, transposed: bool) -> Result<Array> {
        let bias = format!("{name}.bias");
        let bias = self.weights.has(&bias).then_some(bias);
        self.affine(x, &format!("{name}.weight"), bias.as_deref(), transposed)
    }

    fn affine(
        &self,
        x: &Array,
        weight: &str,
        bias: Option<&str>,
        transposed: bool,
    ) -> Result<Array> {
        let name = weight;
        let weight = self.weights.upload_matrix(self.device, name)?;
        let (inputs, outputs) = match transposed {
            true => (weight.rows(), weight.columns()),
            false => (weight.columns(), weight.rows()),
        };
        if inputs != x.columns() {
            return Err(error(format!("`{name}` reads {inputs} channels of {}", x.columns())));
        }
        let bias = bias.map(|bias| self.vector(bias, outputs)).transpose()?;
        kernels::linear(self.device, x, &weight, bias.as_ref(), transposed)
    }

    /// LayerNorm, whose weight and bias some checkpoints call gamma and beta.
    fn layer_norm(&self, x: &Array, name: &str, eps: f64) -> Result<Array> {
        let old = self.weights.has(&format!("{name}.gamma"));
        let parts = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let [weight, bias] = parts.map(|part| self.vector(&format!("{name}.{part}"), x.columns()));
        let (weight, bias) = (weight?, bias?);
        let norm = Norm {
            centred: true,
            weight: Some(&weight),
            bias: Some(&bias),
            eps: eps as f32,
            offset: 0.0,
        };
        kernels::norm(self.device, x, x.columns(), &norm)
    }

    /// RMSNorm of pieces of so many channels, times offset + weight.
    fn rms_norm(
        &self,
        x: &Array,
        name: &str,
        channels: usize,
        (eps, offset): (f64, f32),
    ) -> Result<Array> {
        let weight = self.vector(&format!("{name}.weight"), channels)?;
        if !x.columns().is_multiple_of(channels) {
            return Err(error(format!("`{name}` normalises {channels} of {}", x.columns())));
        }
        let norm =
            Norm { centred: false, weight: Some(&weight), bias: None, eps: eps as f32, offset };
        kernels::norm(self.device, x, channels, &norm)
    }

    /// Attention of tokens to tokens.
    fn attention(
        &self,
        [query, key, value]: [&Array; 3],
        heads: Heads,
        scale: f64,
        (causal, window): (bool, Option<usize>),
    ) -> Result<Array> {
        let Heads { heads: count, kv_heads, head_dim } = heads;
        let widths = [count, kv_heads, kv_heads].map(|heads| heads * head_dim);
        if [query, key, value].map(Array::columns) != widths || !count.is_multiple_of(kv_heads) {
            return Err(error(format!("queries, keys and values are not {widths:?} wide")));
        }
        let visible = Visible { mask: self.mask.as_ref(), causal, window };
        let logits = (scale as f32, None);
        kernels::attention(self.device, [query, key, value], heads, logits, visible)
    }

    fn function(&self, function: Function, x: &Array) -> Result<Array> {
        kernels::one(self.device, function, x, 0.0)
    }

    fn add(&self, x: &Array, z: &Array) -> Result<Array> {
        self.both(Function::Add, x, z)
    }

    fn both(&self, function: Function, x: &Array, z: &Array) -> Result<Array> {
        match x.shape == z.shape {
            true => kernels::two(self.device, function, x, z),
            false => Err(error(format!("{:?} and {:?} differ", x.shape, z.shape))),
        }
    }

    /// The outputs of a decoder, by its last norm: words by its own head or by the `table`.
    fn words_or_hidden(&mut self, x: &Array, table: &str, tied: bool) -> Result<()> {
        self.put("last_hidden_state", x);
        if self.asks_for("logits") {
            let tied = self.flag("tie_word_embeddings", tied);
            let head = if tied { table } else { "lm_head.weight" };
            let logits = self.affine(x, head, None, false)?;
            self.put("logits", &logits);
        }
        Ok(())
    }
}

/// A whole number of at least one, if it is given.
fn count(value: Option<&Value>, name: &str) -> Result<Option<usize>> {
    let Some(value) = value else { return Ok(None) };
    match value.as_u64().filter(|count| (1..=i32::MAX as u64).contains(count)) {
        Some(count) => Ok(Some(count as usize)),
        None => Err(error(format!("config.json: `{name}` is no count: {value}"))),
    }
}

fn number(value: Option<&Value>, name: &str, default: f64) -> Result<f64> {
    let Some(value) = value else { return Ok(default) };
    let number = value.as_f64();
    number.ok_or_else(|| error(format!("config.json: `{name}` is no number: {value}")))
}
