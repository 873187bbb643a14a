//! The answer to "does the expanded model compute exactly what the source computed?".
//!
//! [`check`] holds the equations of [`crate::certify`] against the weights. Where they all hold,
//! that is a proof for every input, and the verdict. Where one fails, or cannot be judged, it looks
//! for an input on which the two models differ, since the equations are sufficient and not
//! necessary. A sample of inputs never makes a verdict *lossless*.

mod compatible;
mod convolutional;
mod decide;
mod divergence;
mod eps;
mod image_map;
mod probes;
mod sample;
mod shorten;
mod witness;

pub use convolutional::CONVNET_PIXELS;
pub use decide::{Detail, Evidence, Verdict};
pub use divergence::Divergence;
pub use eps::EpsLimit;
pub use probes::{Probe, random_image};
pub use witness::{Effect, Witness};

use crate::certify::{self, Certificate, Unknown};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::convolutional::is_convolutional;
use crate::model::{self, Model, Sizes};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Effects on outputs are measured for expanded models of at most so many weights; that takes
/// about a second.
pub const MEASURED_UP_TO: u64 = 50_000_000;

/// A finished check: the verdict and everything it rests on.
#[derive(Clone, Debug)]
pub struct Check {
    /// The answer.
    pub verdict: Verdict,
    /// How exactly the equations hold, where all do, or all but those of ε.
    pub detail: Option<Detail>,
    /// What the verdict rests on; `None` where it is undecided.
    pub evidence: Option<Evidence>,
    /// The small model.
    pub source: Subject,
    /// The large model.
    pub expanded: Subject,
    /// The equations.
    pub certificate: Certificate,
    /// Inputs on which the models differ, if any were looked for and found.
    pub witness: Option<Witness>,
    /// The smallest error of the outputs, relative to their spread, that a forward pass on the
    /// stored weights can tell from their rounding; `None` where none was run.
    pub forward_resolution: Option<f64>,
    /// How many inputs were tried in search of a witness.
    pub inputs_tried: usize,
    /// Where only ε conditions fail: how much they can matter.
    pub eps_limits: Vec<EpsLimit>,
    /// For a lossless pair of at most [`MEASURED_UP_TO`] weights: how far its outputs are apart.
    pub effect: Option<Effect>,
}

/// One of the two models, as far as a report needs it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The file or folder.
    pub path: PathBuf,
    /// The configuration's file where the user named one; [`check`] leaves it `None`.
    pub config: Option<PathBuf>,
    /// The family's `model_type`.
    pub family: &'static str,
    /// Its sizes.
    pub sizes: Sizes,
    /// Floating-point numbers stored.
    pub weights: u64,
    /// The number formats they are stored in: `float32`.
    pub dtypes: Vec<&'static str>,
    /// Stored tensors that are no parameters and that nothing reads.
    pub buffers: Vec<String>,
}

impl Subject {
    fn new(checkpoint: &Checkpoint, model: &Model) -> Self {
        Subject::of(checkpoint, model.family.name, model.sizes.clone(), model.buffers.clone())
    }

    fn of(
        checkpoint: &Checkpoint,
        family: &'static str,
        sizes: Sizes,
        buffers: Vec<String>,
    ) -> Self {
        let floats = checkpoint.tensors().values().filter_map(|t| Some((t.dtype?, t)));
        let mut dtypes: Vec<_> = floats.clone().map(|(dtype, _)| dtype).collect();
        dtypes.sort();
        dtypes.dedup();
        Subject {
            path: checkpoint.path().to_path_buf(),
            config: None,
            family,
            sizes,
            weights: floats.map(|(_, t)| t.len() as u64).sum(),
            dtypes: dtypes.into_iter().map(|d| d.config_name()).collect(),
            buffers,
        }
    }
}

/// Whether inputs are looked for on which two models differ, where no proof says that there are
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WitnessSearch {
    /// Yes: a forward pass on some takes longer than the equations do.
    #[default]
    Find,
    /// No: equations that fail leave it undecided, for they are sufficient and not necessary.
    None,
}

/// Called with the bytes of weights that are done, and how many there are.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Checks whether `expanded` computes exactly what `source` computes, for every input.
///
/// # Errors
/// An error means that there is no verdict:
/// - a model is of a family, or has a field or layout, that is not implemented
/// - a model contradicts itself: a tensor is missing, of another shape than its configuration says,
///   or holds NaN or an infinity; an output overflows
/// - the two cannot be source and expansion: `expanded` is smaller, or reads or returns other
///   things (another vocabulary, image size, number of classes)
pub fn check(source: &Checkpoint, expanded: &Checkpoint, progress: Progress) -> Result<Check> {
    check_with(source, expanded, WitnessSearch::Find, progress)
}

/// [`check`], with or without a search for a witness.
///
/// # Errors
/// As [`check`].
pub fn check_with(
    source: &Checkpoint,
    expanded: &Checkpoint,
    search: WitnessSearch,
    progress: Progress,
) -> Result<Check> {
    if [source, expanded].iter().any(|checkpoint| is_convolutional(checkpoint.config())) {
        return convolutional::check(source, expanded, search);
    }
    let models = (model::describe(source)?, model::describe(expanded)?);
    compatible::refuse(source, &models.0, expanded, &models.1)?;
    let pair = ((source, &models.0), (expanded, &models.1));
    let mut certificate = certify::certify(pair.0, pair.1, progress)?;
    add_strangers(&mut certificate, pair.0, "source");
    add_strangers(&mut certificate, pair.1, "expanded");

    let subjects = (Subject::new(source, &models.0), Subject::new(expanded, &models.1));
    let mut effect = None;
    let mut found = witness::Search::default();
    if !certificate.proves_lossless() {
        if search == WitnessSearch::Find {
            found = witness::search(pair, &certificate)?;
        }
    } else if subjects.1.weights <= MEASURED_UP_TO {
        effect = witness::effect(pair.0, pair.1)?;
        doubt(&mut certificate, &mut found, pair)?;
    }
    let eps_limits = eps::limits(&certificate, pair.1)?;
    let decision = decide::decide(&certificate, found.witness.is_some(), found.resolution);
    Ok(Check {
        verdict: decision.verdict,
        detail: decision.detail,
        evidence: decision.evidence,
        source: subjects.0,
        expanded: subjects.1,
        certificate,
        witness: found.witness,
        forward_resolution: found.resolution.map(|resolution| resolution.coarsest),
        inputs_tried: found.inputs,
        eps_limits,
        effect,
    })
}

/// What is unknown where outputs differ though every equation holds.
pub(crate) const DOUBTED: &str = "outputs";

/// Two oracles must agree: where the equations hold and yet outputs differ by more than rounding
/// explains, there is no proof to rely on.
fn doubt(
    certificate: &mut Certificate,
    found: &mut witness::Search,
    (source, expanded): (sample::Described, sample::Described),
) -> Result<()> {
    let tried = witness::outputs(source, expanded, &[], sample::DOUBT_LIMIT)?;
    let fitted = image_map::search(source, expanded, &[], sample::DOUBT_LIMIT)?;
    if tried.shown.is_none() && fitted.witness.is_none() {
        return Ok(());
    }
    certificate.unknown.push(Unknown {
        subject: DOUBTED.into(),
        reason:
            "every equation holds, but outputs differ by more than the rounding of the weights \
                 explains: please report this pair"
                .into(),
    });
    found.inputs = tried.inputs + fitted.inputs;
    found.resolution = sample::both(tried.resolution, fitted.resolution);
    Ok(())
}

/// Tensors that no part of the model reads: whatever they are for, it is not in the equations.
fn add_strangers(
    certificate: &mut Certificate,
    (checkpoint, model): (&Checkpoint, &Model),
    which: &str,
) {
    // A subject is a name, or says one in backticks.
    let subjects = certificate.unknown.iter().map(|unknown| &unknown.subject);
    let told: BTreeSet<&str> = subjects.flat_map(|subject| subject.split('`')).collect();
    let strangers = model.strangers(checkpoint).into_iter().filter(|name| !told.contains(name));
    let unknown: Vec<Unknown> = strangers
        .map(|name| Unknown {
            subject: name.to_string(),
            reason: format!("no part of the {which} {} model reads this tensor", model.family.name),
        })
        .collect();
    certificate.unknown.extend(unknown);
}
