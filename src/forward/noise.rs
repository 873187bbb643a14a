//! How much the rounding of stored weights moves the outputs.

use super::{Input, Outputs, Perturbation, Weights, run_batch, run_weights};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::Model;

/// How far one output moves when every weight is changed by up to some units of storage rounding.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// The output's name.
    pub name: &'static str,
    /// Largest change of any number of the output, over all inputs and seeds; in the output's own
    /// units.
    pub largest: f64,
    /// Largest absolute value of the output, to compare with; in the same units.
    pub scale: f64,
}

/// Measures, for each output, max |f(w + δ) − f(w)| over the inputs and the seeds, in f64. Each
/// weight's δ is uniform within `units` roundoffs of its stored format, see [`Perturbation`].
///
/// This is Monte Carlo arithmetic (Parker 1997) on the stored weights: a measured yardstick for
/// "equal up to storage rounding", not a bound.
///
/// # Errors
/// As [`super::run`], and if there is no input or no seed.
pub fn storage_noise(
    checkpoint: &Checkpoint,
    model: &Model,
    inputs: &[Input],
    units: f64,
    seeds: &[u64],
) -> Result<Vec<Noise>> {
    if inputs.is_empty() || seeds.is_empty() {
        return Err(Error::bad_input("storage noise was asked for without an input or a seed")
            .help("give at least one input and one seed"));
    }
    let exact = run_batch::<f64>(checkpoint, model, inputs)?;
    let mut noise: Vec<Noise> =
        model.outputs.iter().map(|o| Noise { name: o.name, largest: 0.0, scale: 0.0 }).collect();
    each_pair(&exact, &exact, &mut noise, |noise, value, _| {
        noise.scale = noise.scale.max(value.abs());
    });
    for &seed in seeds {
        let weights = Weights::perturbed(checkpoint, Perturbation { units, seed });
        let moved = run_weights::<f64>(&weights, model, inputs)?;
        each_pair(&exact, &moved, &mut noise, |noise, value, moved| {
            noise.largest = noise.largest.max((value - moved).abs());
        });
    }
    Ok(noise)
}

/// Calls `visit` for each meaningful number of each output. (All are finite: [`super::run`].)
fn each_pair(
    left: &[Outputs<f64>],
    right: &[Outputs<f64>],
    noise: &mut [Noise],
    visit: impl Fn(&mut Noise, f64, f64),
) {
    for (left, right) in left.iter().zip(right) {
        for ((left, right), noise) in left.outputs.iter().zip(&right.outputs).zip(&mut *noise) {
            let rows = left.values.outer_iter().zip(right.values.outer_iter());
            for ((left, right), _) in rows.zip(&left.meaningful).filter(|(_, kept)| **kept) {
                left.iter().zip(right).for_each(|(a, b)| visit(noise, *a, *b));
            }
        }
    }
}
