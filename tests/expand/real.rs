//! Trained weights: all-MiniLM-L6-v2, if `LEMON_REAL_WEIGHTS` names its folder (see
//! `tests/real_weights.rs`).

use super::compare::difference;
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::expand::{Options, Target, expand};
use lemon_check::forward::Input;
use lemon_check::model::describe;
use std::path::Path;

#[test]
fn minilm_doubled_computes_what_minilm_computes() {
    let Some(folder) = std::env::var_os("LEMON_REAL_WEIGHTS") else {
        println!("skipped: LEMON_REAL_WEIGHTS does not name a folder with the MiniLM model");
        return;
    };
    let source = Checkpoint::open(Path::new(&folder), None).unwrap();
    let model = describe(&source).unwrap();
    let target = Target {
        hidden: Some(768),
        heads: Some(24),
        intermediate: Some(3072),
        ..Target::default()
    };
    let inputs = [Input::tokens([101, 2023, 2003, 1037, 3231, 102])];
    // Stored as f32, the shares of copies are rounded: a few units of 6e-8 through six layers.
    for (dtype, tolerance) in [(Dtype::F64, 1e-12), (Dtype::F32, 1e-6)] {
        let options = Options { target: target.clone(), dtype: Some(dtype), ..Options::default() };
        let expanded = expand(&source, &model, &options).unwrap();
        let of_expanded = (&expanded, &describe(&expanded).unwrap());
        let worst = difference((&source, &model), of_expanded, &inputs);
        println!("{dtype:?}: {worst:.1e} of the spread");
        assert!(worst < tolerance, "{dtype:?}: {worst:e}");
    }
}
