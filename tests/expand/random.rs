//! Random models of every family, expanded to random sizes.

use super::compare::difference;
use lemon_check::checkpoint::Dtype;
use lemon_check::expand::{Free, NewLayers, Options, Target, expand};
use lemon_check::model::{Sizes, describe};
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, SourceCase, TargetCase, WeightStyle, inputs};

/// Pairs per family.
const CASES: u64 = 200;

/// The difference of one random pair, as a fraction of the spread of the outputs, and what shows
/// it.
fn pair(architecture: Architecture, seed: u64) -> (f64, String) {
    let mut rng = generator(seed);
    let source = SourceCase::random(architecture, &mut rng);
    let target = TargetCase::random(&source, &mut rng);
    let to_json = |part: serde_json::Result<String>| part.unwrap();
    let (from, to) = (serde_json::to_string(&source), serde_json::to_string(&target));
    let shown = format!("{}\n{}", to_json(from), to_json(to));
    let checkpoint = source.build().unwrap();
    let model = describe(&checkpoint).unwrap();
    // One channel has no variance, so that every LayerNorm multiplies by 1/sqrt(ε) what rounding
    // puts off the image of E: free numbers, which let it grow, drown the output after a few norms.
    let single = model.sizes.hidden == 1;
    let free = if single { Free::Equal } else { target.options().free };
    let new_layers = if single { NewLayers::Zero } else { target.options().new_layers };
    let options = Options { free, new_layers, dtype: Some(Dtype::F64), ..target.options() };
    let expanded = expand(&checkpoint, &model, &options).unwrap_or_else(|e| panic!("{e}\n{shown}"));
    let expanded_model = describe(&expanded).unwrap_or_else(|e| panic!("{e}\n{shown}"));
    let inputs = inputs::random(&model, &mut rng);
    (difference((&checkpoint, &model), (&expanded, &expanded_model), &inputs), shown)
}

#[test]
fn hundreds_of_random_pairs_of_every_family_are_lossless() {
    for architecture in Architecture::ALL {
        for seed in 0..CASES {
            let (worst, shown) = pair(architecture, seed);
            assert!(worst < 1e-9, "{worst:e} with seed {seed}: {shown}");
        }
    }
}

#[test]
fn free_numbers_do_not_drown_a_deep_model() {
    for seed in 0..6 {
        let mut source = SourceCase::random(Architecture::Gpt2, &mut generator(seed));
        let grow = |sizes: &mut Sizes| {
            (sizes.hidden, sizes.heads, sizes.kv_heads, sizes.head_dim) = (8, 2, 2, 4);
            (sizes.intermediate, sizes.layers) = (16, 24);
        };
        source.resize(grow).unwrap();
        (source.dtype, source.weights) = (Dtype::F64, WeightStyle::Random);
        let checkpoint = source.build().unwrap();
        let model = describe(&checkpoint).unwrap();
        let (hidden, heads, new_layers) = match seed % 2 {
            0 => (21, 3, NewLayers::Zero),
            _ => (20, 4, NewLayers::Cancel),
        };
        let target = Target {
            hidden: Some(hidden),
            heads: Some(heads),
            intermediate: Some(43),
            layers: Some(30),
            ..Target::default()
        };
        let options = Options { target, new_layers, ..Options::default() };
        let expanded = expand(&checkpoint, &model, &options).unwrap();
        let inputs = inputs::random(&model, &mut generator(seed));
        let of_expanded = (&expanded, &describe(&expanded).unwrap());
        let worst = difference((&checkpoint, &model), of_expanded, &inputs);
        assert!(worst < 1e-9, "{worst:e} with seed {seed}");
    }
}
