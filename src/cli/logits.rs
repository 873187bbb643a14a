//! `lemon-check logits MODEL`

use super::output::to_stdout;
use super::pixels;
use crate::check::CONVNET_PIXELS;
use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result};
use crate::forward::{Input, Real, Weights, run as forward, run_convnet};
use crate::model::convolutional::{describe_convnet, is_convolutional};
use crate::model::{self, Input as Expected, Model};
use crate::report::SCHEMA_VERSION;
use clap::{Args, ValueEnum};
use ndarray::Array1;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct LogitsArguments {
    /// The model: a .safetensors file, an index, or a folder
    model: PathBuf,
    /// Token ids: "101 2023 102"
    #[arg(long, value_name = "IDS", conflicts_with = "pixels")]
    input_ids: Option<String>,
    /// Token type ids, one for each token [default: 0]
    #[arg(long, value_name = "IDS", requires = "input_ids", conflicts_with = "pixels")]
    token_type_ids: Option<String>,
    /// Position ids, one for each token [default: 0 1 2 …]
    #[arg(long, value_name = "IDS", requires = "input_ids", conflicts_with = "pixels")]
    position_ids: Option<String>,
    /// For each token, 1 or, where it is padding, 0 [default: 1]
    #[arg(long, value_name = "BITS", requires = "input_ids", conflicts_with = "pixels")]
    attention_mask: Option<String>,
    /// What the decoder of an encoder–decoder reads; --input-ids is then for the encoder
    #[arg(long, value_name = "IDS", requires = "input_ids")]
    #[arg(conflicts_with_all = ["pixels", "token_type_ids", "position_ids"])]
    decoder_input_ids: Option<String>,
    /// For each of the decoder's tokens, 1 or, where it is padding, 0 [default: 1]
    #[arg(long, value_name = "BITS", requires = "decoder_input_ids")]
    decoder_attention_mask: Option<String>,
    /// An image: a JSON list [channel][row][column], a .safetensors file with one tensor, or
    /// random:SEED
    #[arg(long, value_name = "FILE")]
    pixels: Option<PathBuf>,
    /// Number format to compute in
    #[arg(long, value_enum, default_value = "f64")]
    dtype: Precision,
    /// The model's configuration, if it is not found beside the weights
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F64,
    F32,
}

/// Runs the model on the input and prints its outputs; returns the exit code.
///
/// # Errors
/// If the model or the input cannot be read, or they do not fit each other.
pub(super) fn run(arguments: LogitsArguments) -> Result<u8> {
    let checkpoint = Checkpoint::open(&arguments.model, arguments.config.as_deref())?;
    if is_convolutional(checkpoint.config()) {
        return run_resnet(&arguments, &checkpoint);
    }
    let model = model::describe(&checkpoint)?;
    let input = input(&arguments, &model).map_err(|e| e.at(&arguments.model))?;
    let text = match arguments.dtype {
        Precision::F64 => outputs::<f64>(&checkpoint, &model, &input),
        Precision::F32 => outputs::<f32>(&checkpoint, &model, &input),
    }
    .map_err(|e| e.at(&arguments.model))?;
    to_stdout(&text)?;
    Ok(0)
}

/// Like [`run`], for a ResNet, which reads images of any size.
fn run_resnet(arguments: &LogitsArguments, checkpoint: &Checkpoint) -> Result<u8> {
    let net = describe_convnet(checkpoint)?;
    let Some(file) = &arguments.pixels else {
        return Err(Error::new(Class::Usage, "a resnet reads an image: --pixels is missing")
            .help("write --pixels FILE, or --pixels random:0"));
    };
    let shape = [net.colours, CONVNET_PIXELS, CONVNET_PIXELS];
    let pixels = pixels::read(file, Some(shape), "resnet")?;
    let weights = Weights::new(checkpoint);
    let text = match arguments.dtype {
        Precision::F64 => run_convnet::<f64>(&weights, &net, &pixels).map(logits),
        Precision::F32 => run_convnet::<f32>(&weights, &net, &pixels).map(logits),
    }
    .map_err(|e| e.at(&arguments.model))?;
    to_stdout(&text)?;
    Ok(0)
}

/// The logits of a ResNet, as they are printed.
fn logits<R: Real + Serialize>(values: Array1<R>) -> String {
    let output = PrintedOutput {
        name: "logits",
        shape: [1, values.len()],
        data: values.to_vec(),
        meaningful: vec![true],
    };
    print("resnet", vec![output])
}

fn input(arguments: &LogitsArguments, model: &Model) -> Result<Input> {
    if let Some(file) = &arguments.pixels {
        let shape = match model.embedding.input {
            Expected::Image { channels, height, width, .. } => Some([channels, height, width]),
            Expected::Tokens { .. } => None,
        };
        return Ok(Input::Image { pixels: pixels::read(file, shape, model.family.name)? });
    }
    if arguments.input_ids.is_none() {
        return Err(no_input(model));
    }
    let list = |flag: &str, text: &Option<String>| {
        text.as_ref().map(|text| numbers(flag, text)).transpose()
    };
    let bits = |flag: &str, text: &Option<String>| -> Result<Option<Vec<bool>>> {
        let bits = list(flag, text)?;
        match bits.iter().flatten().find(|bit| **bit > 1) {
            Some(strange) => Err(usage(flag, &strange.to_string(), "0 or 1")),
            None => Ok(bits.map(|bits| bits.into_iter().map(|bit| bit == 1).collect())),
        }
    };
    let ids = list("--input-ids", &arguments.input_ids)?.unwrap_or_default();
    let mask = bits("--attention-mask", &arguments.attention_mask)?;
    if let Some(decoder_ids) = list("--decoder-input-ids", &arguments.decoder_input_ids)? {
        let decoder_mask = bits("--decoder-attention-mask", &arguments.decoder_attention_mask)?;
        return Ok(Input::Pair { ids, mask, decoder_ids, decoder_mask });
    }
    if model.encoder.is_some() {
        let problem = format!("a {} also reads token ids: --decoder-input-ids", model.family.name);
        return Err(Error::new(Class::Usage, problem).help("write --decoder-input-ids \"0 37\""));
    }
    Ok(Input::Tokens {
        ids,
        types: list("--token-type-ids", &arguments.token_type_ids)?,
        positions: list("--position-ids", &arguments.position_ids)?,
        mask,
    })
}

/// The error where no input is given.
fn no_input(model: &Model) -> Error {
    let (what, advice) = match model.embedding.input {
        Expected::Tokens { .. } => ("token ids: --input-ids", "write --input-ids \"101 2023 102\""),
        Expected::Image { .. } => {
            ("an image: --pixels", "write --pixels FILE, or --pixels random:0")
        }
    };
    let problem = format!("a {} reads {what} is missing", model.family.name);
    Error::new(Class::Usage, problem).help(advice)
}

/// Whole numbers with spaces, commas or both between them.
fn numbers(flag: &str, text: &str) -> Result<Vec<usize>> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
    words.map(|word| word.parse().map_err(|_| usage(flag, word, "a whole number"))).collect()
}

fn usage(flag: &str, got: &str, expected: &str) -> Error {
    Error::new(Class::Usage, format!("{flag}: expected {expected}, got `{got}`"))
        .help(format!("write {flag} \"1 0 1\": numbers with spaces between them"))
}

#[derive(Serialize)]
struct Printed<R> {
    schema_version: u32,
    family: &'static str,
    dtype: &'static str,
    outputs: Vec<PrintedOutput<R>>,
}

#[derive(Serialize)]
struct PrintedOutput<R> {
    name: &'static str,
    /// `[positions, channels]`.
    shape: [usize; 2],
    /// Row by row; each number reads back exactly.
    data: Vec<R>,
    /// For each row, whether it means anything: rows at padding do not.
    meaningful: Vec<bool>,
}

fn outputs<R: Real + Serialize>(
    checkpoint: &Checkpoint,
    model: &Model,
    input: &Input,
) -> Result<String> {
    let computed = forward::<R>(checkpoint, model, input)?;
    let outputs = computed.outputs.into_iter().map(|output| PrintedOutput {
        name: output.name,
        shape: output.values.dim().into(),
        data: output.values.into_iter().collect(),
        meaningful: output.meaningful,
    });
    Ok(print(model.family.name, outputs.collect()))
}

/// As JSON, with a newline at the end.
fn print<R: Real + Serialize>(family: &'static str, outputs: Vec<PrintedOutput<R>>) -> String {
    let printed = Printed { schema_version: SCHEMA_VERSION, family, dtype: R::NAME, outputs };
    serde_json::to_string(&printed).expect("outputs are finite numbers") + "\n"
}
