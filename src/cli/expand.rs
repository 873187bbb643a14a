//! `lemon-check expand SOURCE OUT`

mod resnet;

use super::check::Allowed;
use super::output::to_stdout;
use super::protect::refuse_out;
use crate::check::check;
use crate::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use crate::error::{Result, printable};
use crate::expand::{Free, Options, Target, expand};
use crate::model::convolutional::is_convolutional;
use crate::model::{self, Sizes};
use crate::report::{eps_words, shell_path};
use clap::{Args, ValueEnum};
use resnet::ResnetArguments;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct ExpandArguments {
    /// The model to expand: a .safetensors file, an index, or a folder
    source: PathBuf,
    /// Where to: a folder, or a .safetensors file that then carries its configuration
    out: PathBuf,
    /// Channels of the residual stream [default: the source's]
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Query heads per layer [default: the source's]
    #[arg(long, value_name = "N")]
    num_attention_heads: Option<usize>,
    /// Key/value heads per layer [default: the source's; without grouped queries the query heads]
    #[arg(long, value_name = "N")]
    num_key_value_heads: Option<usize>,
    /// Channels per head [default: the source's, or hidden size / heads]
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
    /// Neurons of the feed-forward network [default: the source's]
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// Number of layers [default: the source's]; of an encoder–decoder, of the decoder: the encoder
    /// grows by as many
    #[arg(long, value_name = "N")]
    num_hidden_layers: Option<usize>,
    /// Experts per layer; as many times more of them are active [default: the source's]
    #[arg(long, value_name = "N")]
    num_local_experts: Option<usize>,
    #[command(flatten)]
    resnet: ResnetArguments,
    /// Seed of the free numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What the numbers become that losslessness leaves free
    #[arg(long, value_enum, default_value = "projection")]
    free: FreeName,
    /// Number format of the weights [default: the source's]
    #[arg(long, value_enum)]
    dtype: Option<DtypeName>,
    /// Also insert layers into a Post-LN model, which is equal but for the ε of norms
    #[arg(long, value_enum)]
    allow: Option<Allowed>,
    /// The source's configuration, if it is not found beside the weights
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FreeName {
    /// Random, so that copies of neurons and heads differ in training (LEMON)
    Projection,
    /// Equal shares for all copies (Net2Net)
    Equal,
    /// All to the first copy, zero to the others
    Zero,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeName {
    F64,
    F32,
    F16,
    Bf16,
}

/// Expands the source, writes it, and says what was written; returns the exit code.
///
/// # Errors
/// If OUT holds the source or another model, the source cannot be read, no lossless expansion is
/// known, or it cannot be written.
pub(super) fn run(arguments: ExpandArguments) -> Result<u8> {
    refuse_out(&arguments.out, &arguments.source)?;
    let source = Checkpoint::open(&arguments.source, arguments.config.as_deref())?;
    let target = Target {
        hidden: arguments.hidden_size,
        heads: arguments.num_attention_heads,
        kv_heads: arguments.num_key_value_heads,
        head_dim: arguments.head_dim,
        intermediate: arguments.intermediate_size,
        layers: arguments.num_hidden_layers,
        experts: arguments.num_local_experts,
    };
    let options = Options {
        free: match arguments.free {
            FreeName::Projection => Free::Projection,
            FreeName::Equal => Free::Equal,
            FreeName::Zero => Free::Zero,
        },
        seed: arguments.seed,
        dtype: arguments.dtype.map(|name| match name {
            DtypeName::F64 => Dtype::F64,
            DtypeName::F32 => Dtype::F32,
            DtypeName::F16 => Dtype::F16,
            DtypeName::Bf16 => Dtype::Bf16,
        }),
        allow_eps_limited: arguments.allow == Some(Allowed::EpsLimited),
        ..Options::default()
    };
    let done = match is_convolutional(source.config()) {
        true => arguments.resnet.expand(&source, &target, &options)?,
        false => {
            arguments.resnet.refuse()?;
            transformer(&source, Options { target, ..options })?
        }
    };
    let Done { checkpoint: expanded, mut changes, limits } = done;
    save(&arguments.out, expanded.config(), expanded.tensors(), SHARD_LIMIT)?;
    changes.extend(format_change(&source, &expanded));
    let changes = if changes.is_empty() { "nothing changed".into() } else { changes.join(", ") };
    let out = arguments.out.display().to_string();
    to_stdout(&format!("wrote {}: {changes}\n", printable(&out)))?;
    for line in &limits {
        to_stdout(&format!("  {line}\n"))?;
    }
    let mut command =
        format!("lemon-check {} {}", shell_path(&arguments.source), shell_path(&arguments.out));
    if !limits.is_empty() {
        command += " --allow eps-limited";
    }
    if let Some(config) = &arguments.config {
        command += &format!(" --source-config {}", shell_path(config));
    }
    to_stdout(&format!("  check it with: {command}\n"))?;
    Ok(0)
}

/// An expansion.
struct Done {
    checkpoint: Checkpoint,
    /// Which sizes changed, in words.
    changes: Vec<String>,
    /// In which way it is not lossless, in lines of words; none where it is.
    limits: Vec<String>,
}

fn transformer(source: &Checkpoint, options: Options) -> Result<Done> {
    let small = model::describe(source)?;
    let checkpoint = expand(source, &small, &options)?;
    let large = model::describe(&checkpoint)?;
    let limits = match options.allow_eps_limited {
        true => limits(source, &checkpoint)?,
        false => Vec::new(),
    };
    Ok(Done { changes: changes(&small.sizes, &large.sizes), checkpoint, limits })
}

/// How far an expansion may be from its source, as a check finds it.
fn limits(source: &Checkpoint, expanded: &Checkpoint) -> Result<Vec<String>> {
    let limits = check(source, expanded, &|_, _| ())?.eps_limits;
    let Some(first) = limits.first() else { return Ok(Vec::new()) };
    let worst = limits.iter().fold(first, |a, b| if b.change > a.change { b } else { a });
    let mut lines = vec!["not lossless but eps-limited: new layers normalise again".to_string()];
    lines.extend(eps_words(worst));
    Ok(lines)
}

/// What changed, in words: `hidden 384 → 768, heads 12 → 24`.
fn changes(small: &Sizes, large: &Sizes) -> Vec<String> {
    let sizes = [
        ("hidden", small.hidden, large.hidden),
        ("heads", small.heads, large.heads),
        ("key/value heads", small.kv_heads, large.kv_heads),
        ("head size", small.head_dim, large.head_dim),
        ("neurons", small.intermediate, large.intermediate),
        ("layers", small.layers, large.layers),
        ("experts", small.experts.map_or(0, |e| e.all), large.experts.map_or(0, |e| e.all)),
    ];
    let grouped = small.kv_heads != small.heads || large.kv_heads != large.heads;
    let changed = sizes
        .into_iter()
        .filter(|(name, from, to)| from != to && (grouped || *name != "key/value heads"));
    changed.map(|(name, from, to)| format!("{name} {from} → {to}")).collect()
}

/// The number formats before and after, where they differ: `float32 → bfloat16`.
fn format_change(small: &Checkpoint, large: &Checkpoint) -> Option<String> {
    let formats = |checkpoint: &Checkpoint| {
        let formats: BTreeSet<Dtype> =
            checkpoint.tensors().values().filter_map(|tensor| tensor.dtype).collect();
        formats.into_iter().map(Dtype::config_name).collect::<Vec<_>>().join(" and ")
    };
    let (from, to) = (formats(small), formats(large));
    (from != to).then(|| format!("{from} → {to}"))
}
