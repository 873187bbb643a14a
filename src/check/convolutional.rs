//! Checking residual convolutional networks.

use super::decide::decide;
use super::probes::{Probe, random_image};
use super::sample::{Resolution, both};
use super::{Check, Effect, MEASURED_UP_TO, Subject, Witness, WitnessSearch};
use crate::certify::{Unknown, certify_convnets};
use crate::checkpoint::Checkpoint;
use crate::compare::{COMPUTING_FLOOR, Difference, NOISE_FACTOR, Spread};
use crate::error::{Error, Result};
use crate::forward::{Input, Perturbation, Weights, run_convnet};
use crate::model::Sizes;
use crate::model::convolutional::{ConvNet, describe_convnet, is_convolutional};
use ndarray::Array3;

/// Pixels per side of the images that are tried: the networks take any size.
pub const CONVNET_PIXELS: usize = 64;

/// Images that are tried.
const IMAGES: u64 = 3;

/// Checks whether `expanded` computes exactly what `source` computes, for every image.
///
/// # Errors
/// As [`super::check`].
pub(super) fn check(
    source: &Checkpoint,
    expanded: &Checkpoint,
    witness_search: WitnessSearch,
) -> Result<Check> {
    if let Some(other) = [source, expanded].into_iter().find(|c| !is_convolutional(c.config())) {
        let problem = "a resnet and a model that is none are held against each other";
        return Err(Error::unsupported(problem)
            .at(other.path())
            .help("compare two models of one family"));
    }
    let nets = (describe_convnet(source)?, describe_convnet(expanded)?);
    let pair = ((source, &nets.0), (expanded, &nets.1));
    refuse(pair.0.1, pair.1.1).map_err(|e| e.at(expanded.path()))?;
    let mut certificate = certify_convnets(pair.0, pair.1)?;
    let subjects = (subject(pair.0), subject(pair.1));
    let proven = certificate.proves_lossless();
    let mut found = Found::default();
    let looks = match proven {
        true => subjects.1.weights <= MEASURED_UP_TO,
        false => witness_search == WitnessSearch::Find,
    };
    if looks {
        found = search(pair.0, pair.1)?;
    }
    if proven && found.witness.is_some() {
        let reason = "every equation holds, but logits differ by more than the rounding of the \
                      weights explains: please report this pair";
        certificate.unknown.push(Unknown { subject: "logits".into(), reason: reason.into() });
        found.witness = None;
    }
    let decision = decide(&certificate, found.witness.is_some(), found.resolution);
    let effect = Effect { output: LOGITS, relative: found.apart, inputs: found.images };
    Ok(Check {
        verdict: decision.verdict,
        detail: decision.detail,
        evidence: decision.evidence,
        source: subjects.0,
        expanded: subjects.1,
        effect: (proven && found.images > 0).then_some(effect),
        certificate,
        witness: found.witness,
        forward_resolution: found.resolution.filter(|_| !proven).map(|r| r.coarsest),
        inputs_tried: if proven { 0 } else { found.images },
        eps_limits: Vec::new(),
    })
}

/// The name of what a network returns.
const LOGITS: &str = "logits";

fn refuse(small: &ConvNet, large: &ConvNet) -> Result<()> {
    let read = |net: &ConvNet| (net.colours, net.head.weight.rows());
    if read(small) != read(large) {
        let ((a, b), (c, d)) = (read(large), read(small));
        let problem = format!("it maps {a} colours to {b} classes, the source {c} to {d}");
        return Err(Error::bad_input(problem).help("compare networks with the same head"));
    }
    let pairs = small.sizes.stages.iter().zip(&large.sizes.stages);
    let shrunk = |s: usize, t: usize| t < s;
    let smaller = shrunk(small.sizes.stem, large.sizes.stem)
        || pairs.into_iter().any(|(s, t)| shrunk(s.outer, t.outer) || shrunk(s.blocks, t.blocks));
    match smaller {
        false => Ok(()),
        true => Err(Error::bad_input("one of its sizes is smaller than the source's").help(
            "were the arguments swapped? The order is: lemon-check SOURCE EXPANDED, the small \
             model first",
        )),
    }
}

/// The sizes, as far as a report has words for them: channels of the last stage, in and outside
/// its blocks, and all blocks.
fn subject((checkpoint, net): (&Checkpoint, &ConvNet)) -> Subject {
    let last = net.sizes.stages.last();
    let sizes = Sizes {
        hidden: last.map_or(0, |stage| stage.outer),
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        intermediate: last.map_or(0, |stage| stage.inner),
        layers: net.sizes.stages.iter().map(|stage| stage.blocks).sum(),
        experts: None,
        norm_eps: None,
    };
    Subject::of(checkpoint, "resnet", sizes, net.buffers.clone())
}

/// What comparing logits came to.
#[derive(Default)]
struct Found {
    witness: Option<Witness>,
    resolution: Option<Resolution>,
    /// Largest difference relative to the spread of the source's logits.
    apart: f64,
    images: usize,
}

/// Runs both networks on random images.
fn search(source: (&Checkpoint, &ConvNet), expanded: (&Checkpoint, &ConvNet)) -> Result<Found> {
    let mut found = Found::default();
    for seed in 0..IMAGES {
        let pixels = random_image([source.1.colours, CONVNET_PIXELS, CONVNET_PIXELS], seed);
        let (small, large) = (logits(source, &pixels)?, logits(expanded, &pixels)?);
        let difference = Difference::between(&small.values, &large.values);
        let size = small.values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let noise = small.noise + large.noise;
        let threshold = NOISE_FACTOR * noise + COMPUTING_FLOOR * size;
        let resolution = Spread::of(&small.values).units(threshold);
        found.resolution = both(found.resolution, Resolution::of(resolution));
        found.apart = found.apart.max(difference.relative);
        found.images += 1;
        if difference.largest > threshold && found.witness.is_none() {
            let probe = Probe { input: Input::Image { pixels }, image_seed: Some(seed) };
            found.witness = Some(Witness::Outputs {
                probe: Box::new(probe),
                output: LOGITS,
                row: 0,
                channel: difference.at,
                difference,
                noise,
                diverges: None,
            });
        }
    }
    Ok(found)
}

/// Logits, and how far the rounding of the stored weights moves them.
struct Logits {
    values: Vec<f64>,
    noise: f64,
}

fn logits((checkpoint, net): (&Checkpoint, &ConvNet), pixels: &Array3<f64>) -> Result<Logits> {
    let run =
        |weights: Weights| Ok::<_, Error>(run_convnet::<f64>(&weights, net, pixels)?.to_vec());
    let values = run(Weights::new(checkpoint))?;
    let mut noise = 0.0f64;
    for seed in 0..2 {
        let moved = run(Weights::perturbed(checkpoint, Perturbation { units: 1.0, seed }))?;
        let apart = values.iter().zip(&moved).map(|(a, b)| (a - b).abs());
        noise = apart.fold(noise, f64::max);
    }
    Ok(Logits { values, noise })
}
