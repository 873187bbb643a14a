//! New layers in Post-LN models: refused, or eps-limited where that is allowed.

use super::{checked, golden, load, printed, run, with_config};
use lemon_check::check::{Check, Detail, EpsLimit, Verdict};
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::expand::rules::norms_in_a_row;
use lemon_check::expand::{Free, NewLayers, Options, Target, expand};
use lemon_check::forward::{Input, run_batch};
use lemon_check::model::describe;
use tempfile::TempDir;

const CASES: [&str; 9] = [
    "roberta-classes",
    "distilbert-classes",
    "bert-mlm",
    "bert-model",
    "roberta-mlm",
    "roberta-model",
    "distilbert-mlm",
    "distilbert-model",
    "opt-post-norm",
];

fn deeper(source: &Checkpoint, more: usize, options: Options) -> Checkpoint {
    let model = describe(source).unwrap();
    let layers = Some(model.sizes.layers + more);
    let target = Target { layers, ..options.target.clone() };
    let options = Options { target, allow_eps_limited: true, ..options };
    expand(source, &model, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// The limits of a pair that only ε tells apart.
#[track_caller]
fn limits(check: Check) -> Vec<EpsLimit> {
    assert_eq!(check.detail, Some(Detail::EpsLimited), "{:#?}", check.certificate);
    assert_eq!(check.verdict, Verdict::NotLossless);
    assert!(!check.eps_limits.is_empty());
    check.eps_limits
}

/// The ε of the norms of a model's layers.
fn eps(checkpoint: &Checkpoint) -> f64 {
    describe(checkpoint).unwrap().layers[0][0].post_norm.as_ref().unwrap().eps
}

#[test]
fn new_layers_make_a_pair_that_only_epsilon_tells_apart() {
    for case in CASES {
        let source = load(case);
        for more in [1, 3] {
            let limits = limits(checked(&source, &deeper(&source, more, Options::default())));
            let norms = |limit: &EpsLimit| {
                let words: Vec<&str> = limit.field.split(' ').collect();
                words[2].parse::<usize>().unwrap_or_else(|_| panic!("{}", limit.field))
            };
            for limit in limits {
                let row = norms_in_a_row(eps(&source), norms(&limit));
                assert!((limit.got / row.eps - 1.0).abs() < 1e-12, "{case}: {limit:?}");
                assert_eq!(limit.right, eps(&source), "{case}");
                let at = |v: f64| (((v + limit.right) / (v + limit.got)).sqrt() - 1.0).abs();
                assert!((limit.change / at(limit.smallest_variance) - 1.0).abs() < 1e-9);
                assert!(limit.smallest_variance > 0.0 && limit.change < limit.bound);
            }
        }
    }
}

#[test]
fn width_heads_and_cancelling_layers_go_with_it() {
    for case in CASES {
        let source = load(case);
        let sizes = describe(&source).unwrap().sizes;
        let target = Target {
            hidden: Some(2 * sizes.hidden),
            heads: Some(2 * sizes.heads),
            intermediate: Some(2 * sizes.intermediate),
            ..Target::default()
        };
        for (new_layers, free) in
            [(NewLayers::Zero, Free::Projection), (NewLayers::Cancel, Free::Equal)]
        {
            let options =
                Options { target: target.clone(), new_layers, free, ..Options::default() };
            limits(checked(&source, &deeper(&source, 2, options)));
        }
    }
}

/// The largest difference of the logits for a few tokens.
fn apart(source: &Checkpoint, expanded: &Checkpoint) -> f64 {
    let inputs = [Input::tokens(vec![3, 7, 1, 9, 4]), Input::tokens(vec![8])];
    let run = |checkpoint: &Checkpoint| {
        run_batch::<f64>(checkpoint, &describe(checkpoint).unwrap(), &inputs).unwrap()
    };
    let outputs = run(source).into_iter().zip(run(expanded));
    let largest = outputs.map(|(a, b)| {
        let difference = &a.outputs[0].values - &b.outputs[0].values;
        difference.iter().fold(0.0f64, |most, v| most.max(v.abs()))
    });
    largest.fold(0.0, f64::max)
}

#[test]
fn outputs_differ_in_proportion_to_epsilon() {
    for case in ["bert-mlm", "roberta-mlm"] {
        let source = load(case);
        let at = |eps: f64| {
            let mut config = source.config().clone();
            config.set("layer_norm_eps", eps);
            let source = with_config(&source, config);
            apart(&source, &deeper(&source, 2, Options::default()))
        };
        let (coarse, fine) = (at(1e-5), at(1e-7));
        assert!(coarse > 1e-7, "{case}: {coarse:e}");
        assert!((coarse / fine / 100.0 - 1.0).abs() < 0.01, "{case}: {coarse:e} {fine:e}");
        assert!(at(1e-15) < 1e-12, "{case}");
    }
}

/// `expanded` with every number of a tensor changed.
pub fn changed(
    expanded: &Checkpoint,
    name: &str,
    change: impl Fn(usize, f64) -> f64,
) -> Checkpoint {
    let mut tensors = expanded.tensors().clone();
    let old = &tensors[name];
    let values: Vec<f64> =
        (0..old.len()).map(|at| change(at, Dtype::F64.get(old.bytes(), at))).collect();
    let tensor = Tensor::from_values(Dtype::F64, old.shape.clone(), values);
    tensors.insert(name.into(), tensor);
    Checkpoint::in_memory("changed", expanded.config().clone(), tensors)
}

#[test]
fn what_else_is_wrong_in_a_new_layer_is_not_forgiven() {
    let source = load("bert-mlm");
    let expanded = deeper(&source, 1, Options::default());
    let layer = |index: usize, part: &str| format!("bert.encoder.layer.{index}.{part}");
    // Layers 0 and 1 are the source's, 2 is new: it normalises what layer 1 hands it plain.
    let last = layer(2, "output.LayerNorm");
    let between = layer(1, "output.LayerNorm");
    let silent = checked(&source, &expanded);
    limits(silent);
    type Change = fn(usize, f64) -> f64;
    let changes: [(String, Change); 6] = [
        (format!("{between}.weight"), |at, v| if at == 1 { v + 0.1 } else { v }),
        (format!("{between}.bias"), |at, v| if at == 1 { v + 0.1 } else { v }),
        (format!("{last}.weight"), |_, v| v * 1.001),
        (format!("{last}.bias"), |at, v| if at == 0 { v + 0.1 } else { v }),
        (layer(2, "output.dense.bias"), |at, v| if at == 3 { v + 0.1 } else { v }),
        (layer(2, "attention.output.dense.weight"), |at, v| if at == 5 { v + 0.1 } else { v }),
    ];
    for (name, change) in changes {
        let check = checked(&source, &changed(&expanded, &name, change));
        assert_eq!(check.verdict, Verdict::NotLossless, "{name}");
        assert_eq!(check.detail, None, "{name}");
    }
}

#[test]
fn a_gain_that_does_not_make_up_for_the_norms_in_a_row_is_caught() {
    let source = load("bert-mlm");
    let expanded = deeper(&source, 1, Options::default());
    let gain = norms_in_a_row(eps(&source), 3).gain;
    assert!(gain < 1.0 - 1e-13);
    let name = "bert.encoder.layer.2.output.LayerNorm.weight";
    let check = checked(&source, &changed(&expanded, name, |_, v| v * gain));
    assert_ne!(check.verdict, Verdict::Lossless);
    assert_eq!(check.detail, None, "{:?}", check.certificate.failures);
}

#[test]
fn a_common_shift_and_another_gain_between_two_norms_are_no_mistake() {
    let source = load("bert-mlm");
    let expanded = deeper(&source, 1, Options::default());
    let between = "bert.encoder.layer.1.output.LayerNorm";
    let shifted = changed(&expanded, &format!("{between}.bias"), |_, _| 0.7);
    limits(checked(&source, &shifted));
}

#[test]
fn layers_that_are_merely_repeated_are_not_lossless() {
    let source = load("bert-mlm");
    let expanded = deeper(&source, 1, Options::default());
    let mut tensors = expanded.tensors().clone();
    for name in source.tensors().keys().filter(|name| name.contains("layer.1.")) {
        let copy = source.tensors()[name].clone();
        tensors.insert(name.replace("layer.1.", "layer.2."), copy.clone());
        tensors.insert(name.clone(), copy);
    }
    let stacked = Checkpoint::in_memory("stacked", expanded.config().clone(), tensors);
    let check = checked(&source, &stacked);
    assert_eq!((check.verdict, check.detail), (Verdict::NotLossless, None));
}

#[test]
fn a_new_layer_in_front_of_all_is_refused() {
    let source = load("bert-mlm");
    let model = describe(&source).unwrap();
    let options = Options {
        target: Target { layers: Some(model.sizes.layers + 1), ..Target::default() },
        insert_after: Some(vec![0]),
        allow_eps_limited: true,
        ..Options::default()
    };
    let message = expand(&source, &model, &options).unwrap_err().to_string();
    assert!(message.contains("behind the first layer or later"), "{message}");
}

#[test]
fn the_command_line_refuses_new_layers_unless_they_are_allowed_and_says_what_they_cost() {
    let folder = TempDir::new().unwrap();
    let (source, out) = (golden("bert-mlm"), folder.path().join("large"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let layers = ["expand", source, out, "--num-hidden-layers", "4"];
    let message = printed(run(&layers), 3);
    for part in ["--num-hidden-layers 2", "--allow eps-limited", "sqrt((v + ε)/v) - 1"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    let text = printed(run(&[&layers[..], &["--allow", "eps-limited"]].concat()), 0);
    for part in ["layers 2 → 4", "not lossless but eps-limited", "at v = 0", "smallest variance"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let verdict = printed(run(&[source, out]), 1);
    assert!(verdict.starts_with("not lossless (eps-limited): "), "{verdict}");
    printed(run(&[source, out, "--allow", "eps-limited"]), 0);
}
