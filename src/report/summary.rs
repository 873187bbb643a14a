//! The parts of a report that describe models and witnesses.

use super::shell_path;
use crate::check::{Check, Divergence, Effect, Probe, Subject, Witness};
use crate::forward::Input;
use crate::model::Sizes;
use serde::Serialize;

/// One of the two models.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    /// The file or folder.
    pub path: String,
    /// The family's `model_type`.
    pub family: &'static str,
    /// Its sizes.
    pub sizes: SizeSummary,
    /// Floating-point numbers stored.
    pub weights: u64,
    /// The number formats they are stored in: `float32`.
    pub dtypes: Vec<&'static str>,
}

/// The sizes of a model, all counts; ε in squared units of the residual stream.
#[derive(Clone, Debug, Serialize)]
pub struct SizeSummary {
    /// Channels of the residual stream; of a ResNet's last stage.
    pub hidden: usize,
    /// Query heads per layer; 0 in a ResNet.
    pub heads: usize,
    /// Key/value heads per layer.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Neurons of the feed-forward network.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// The norms' ε where the configuration stores it.
    pub norm_eps: Option<f64>,
}

impl ModelSummary {
    pub(super) fn new(subject: &Subject) -> Self {
        let Sizes { hidden, heads, kv_heads, head_dim, intermediate, layers, norm_eps, .. } =
            subject.sizes;
        let sizes =
            SizeSummary { hidden, heads, kv_heads, head_dim, intermediate, layers, norm_eps };
        ModelSummary {
            path: subject.path.display().to_string(),
            family: subject.family,
            sizes,
            weights: subject.weights,
            dtypes: subject.dtypes.clone(),
        }
    }
}

/// Inputs on which the models differ.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WitnessSummary {
    /// One input for which a fixed output differs.
    Outputs {
        /// Token ids; `null` for an image.
        input_ids: Option<Vec<usize>>,
        /// What the decoder of an encoder–decoder reads.
        decoder_input_ids: Option<Vec<usize>>,
        /// Token types, where they are not all 0.
        token_type_ids: Option<Vec<usize>>,
        /// Positions, where they are not 0, 1, 2 …
        position_ids: Option<Vec<usize>>,
        /// `random:SEED`, as `--pixels` reads it; `null` for tokens.
        pixels: Option<String>,
        /// The output's name.
        output: &'static str,
        /// Row and channel of the largest difference.
        index: [usize; 2],
        /// What the source returns there.
        source: f64,
        /// What the expanded model returns there.
        expanded: f64,
        /// Largest difference relative to the spread of the source's output.
        relative: f64,
        /// How far the rounding of the stored weights moves the output, in its own units.
        noise: f64,
        /// The a that minimises |expanded − a·source|².
        best_fit_scale: Option<f64>,
        /// What that scale leaves of the difference, |expanded − a·source| / |expanded − source|:
        /// below [`EXPLAINED`](crate::compare::EXPLAINED) the text says that the expanded outputs
        /// are so many times the source's.
        left_by_best_fit: f64,
        /// Where on the way to the output the models part on this input; `null` where that cannot
        /// be told.
        diverges: Option<Divergence>,
        /// The commands that show it.
        replay: Box<[String; 2]>,
    },
    /// Many inputs for which no matrix maps the source's hidden channels to the expanded model's.
    NoLinearMap {
        /// The output's name.
        output: &'static str,
        /// How many inputs were run.
        inputs: usize,
        /// How many rows they gave.
        rows: usize,
        /// The expanded model's channel that is worst.
        channel: usize,
        /// What the best matrix leaves, relative to the channel's root mean square.
        relative: f64,
        /// How far rounding moves that, in the output's own units (root mean square).
        noise: f64,
        /// What the best matrix leaves, in the output's own units (root mean square).
        residual: f64,
    },
}

impl WitnessSummary {
    pub(super) fn new(witness: &Witness, check: &Check) -> Self {
        match witness {
            Witness::Outputs { probe, output, row, channel, difference, noise, diverges } => {
                let (ids, types, positions, decoder_ids) = match &probe.input {
                    Input::Tokens { ids, types, positions, .. } => {
                        (Some(ids.clone()), types.clone(), positions.clone(), None)
                    }
                    Input::Pair { ids, decoder_ids, .. } => {
                        (Some(ids.clone()), None, None, Some(decoder_ids.clone()))
                    }
                    Input::Image { .. } => (None, None, None, None),
                };
                WitnessSummary::Outputs {
                    input_ids: ids,
                    decoder_input_ids: decoder_ids,
                    token_type_ids: types,
                    position_ids: positions,
                    pixels: probe.image_seed.map(|seed| format!("random:{seed}")),
                    output,
                    index: [*row, *channel],
                    source: difference.expected,
                    expanded: difference.got,
                    relative: difference.relative,
                    noise: *noise,
                    best_fit_scale: difference.scale,
                    left_by_best_fit: difference.left,
                    diverges: *diverges,
                    replay: Box::new(
                        [&check.source, &check.expanded].map(|model| replay(model, probe)),
                    ),
                }
            }
            Witness::NoLinearMap { output, inputs, rows, channel, residual, noise, relative } => {
                WitnessSummary::NoLinearMap {
                    output,
                    inputs: *inputs,
                    rows: *rows,
                    channel: *channel,
                    relative: *relative,
                    noise: *noise,
                    residual: *residual,
                }
            }
        }
    }
}

/// The command that computes a model's outputs for `probe`.
fn replay(model: &Subject, probe: &Probe) -> String {
    let mut command = format!("lemon-check logits {}", shell_path(&model.path));
    if let Some(config) = &model.config {
        command += &format!(" --config {}", shell_path(config));
    }
    let flags = match &probe.input {
        Input::Tokens { ids, types, positions, .. } => vec![
            ("--input-ids", Some(ids)),
            ("--token-type-ids", types.as_ref()),
            ("--position-ids", positions.as_ref()),
        ],
        Input::Pair { ids, decoder_ids, .. } => {
            vec![("--input-ids", Some(ids)), ("--decoder-input-ids", Some(decoder_ids))]
        }
        Input::Image { .. } => Vec::new(),
    };
    for (flag, numbers) in flags {
        if let Some(numbers) = numbers {
            let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
            command += &format!(" {flag} \"{}\"", words.join(" "));
        }
    }
    if let Some(seed) = probe.image_seed {
        command += &format!(" --pixels random:{seed}");
    }
    command
}

/// How far the outputs of a lossless pair are apart, as measured.
#[derive(Clone, Debug, Serialize)]
pub struct EffectSummary {
    /// The output's name.
    pub output: &'static str,
    /// Largest difference relative to the spread of the source's output.
    pub relative: f64,
    /// How many inputs were run.
    pub inputs: usize,
}

impl From<Effect> for EffectSummary {
    fn from(effect: Effect) -> Self {
        let Effect { output, relative, inputs } = effect;
        EffectSummary { output, relative, inputs }
    }
}

/// Stored tensors that are no parameters, by model.
#[derive(Clone, Debug, Serialize)]
pub struct Ignored {
    /// Of the source.
    pub source: Vec<String>,
    /// Of the expanded model.
    pub expanded: Vec<String>,
}
