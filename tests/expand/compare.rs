//! The comparison of an expansion with its source.

use lemon_check::checkpoint::Checkpoint;
use lemon_check::forward::{Input, Output, Outputs, Real, run_batch};
use lemon_check::model::Model;

/// A checkpoint and what it means.
pub type Of<'a> = (&'a Checkpoint, &'a Model);

/// Largest difference of any output, as a fraction of the spread of the source's. Of hidden outputs
/// the first channels are compared: there E is the identity.
pub fn difference(source: Of, expanded: Of, inputs: &[Input]) -> f64 {
    let (model, run) = (expanded.1, |of: Of| run_batch::<f64>(of.0, of.1, inputs).unwrap());
    let (wanted, got) = (run(source), run(expanded));
    assert!(!wanted.is_empty() && wanted.len() == got.len());
    let mut worst = 0.0f64;
    for (wanted, got) in wanted.iter().zip(&got) {
        assert_eq!(wanted.outputs.len(), got.outputs.len());
        for ((wanted, got), about) in wanted.outputs.iter().zip(&got.outputs).zip(&model.outputs) {
            let same_width = got.values.ncols() == wanted.values.ncols();
            assert!(same_width || !about.fixed, "{}", about.name);
            worst = worst.max(difference_of(wanted, got));
        }
    }
    worst
}

/// Each meaningful number that a source returned, and what its expansion returned for it.
pub fn pairs<R: Real>(wanted: &[Outputs<f64>], got: &[Outputs<R>]) -> Vec<(f64, f64)> {
    let mut pairs = Vec::new();
    for (wanted, got) in wanted.iter().zip(got) {
        for (wanted, got) in wanted.outputs.iter().zip(&got.outputs) {
            let rows = (0..wanted.values.nrows()).filter(|row| wanted.meaningful[*row]);
            for row in rows {
                let numbers = wanted.values.row(row).into_iter().zip(got.values.row(row));
                pairs.extend(numbers.map(|(want, got)| (*want, got.to_f64())));
            }
        }
    }
    pairs
}

fn difference_of(wanted: &Output<f64>, got: &Output<f64>) -> f64 {
    let rows = (0..wanted.values.nrows()).filter(|row| wanted.meaningful[*row]);
    let (mut low, mut high, mut worst) = (f64::INFINITY, f64::NEG_INFINITY, 0.0f64);
    for row in rows {
        for (want, got) in wanted.values.row(row).iter().zip(got.values.row(row)) {
            (low, high) = (low.min(*want), high.max(*want));
            worst = worst.max((want - got).abs());
        }
    }
    // A norm of one channel returns one value, or two: then as a fraction of that.
    let (spread, size) = (high - low, high.abs().max(low.abs()));
    let spread = if spread > 1e-6 * size { spread } else { size };
    // One without a weight returns nothing but zeros, of numbers whose size is 1 elsewhere.
    let spread = if spread == 0.0 { 1.0 } else { spread };
    assert!(spread.is_finite(), "{} compares nothing", wanted.name);
    if worst == 0.0 { 0.0 } else { worst / spread }
}
