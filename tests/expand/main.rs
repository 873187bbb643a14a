//! Expansions compute what their sources compute: golden models through the reference forward pass
//! in f64, to 1e-9 of the spread of the outputs.

mod compare;
mod files;
mod golden;
mod random;
mod real;
mod refusals;
mod targets;

use compare::difference;
use golden::{Case, cases};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use lemon_check::error::Class;
use lemon_check::expand::{Free, NewLayers, Options, Target, expand};
use lemon_check::model::{Lens, Op, describe};
use ndarray::{Array2, ArrayView1};
use targets::{deeper, has_norms_behind, is_post_norm, widths};

/// Which widths are refused: a sum that a LayerNorm reads behind another norm allows only multiples
/// (Post-LN, Post-Res-Norm, CLIP's norm of the embedding); norms of queries and keys keep the head
/// size; nothing makes up for a larger table as a head behind a norm without a weight; key/value
/// heads must divide the heads; a projection of a table as wide as the stream would be none; hidden
/// channels that are returned, with nothing to make up for η, are the source's at multiples only.
const REFUSED: [(&str, &[&str]); 11] = [
    ("opt-base", &["larger heads"]),
    ("bert-mlm bert-mlm-relu bert-model roberta-mlm roberta-mlm-relu roberta-model", &ODD_WIDTHS),
    ("roberta-classes xlm-roberta-mlm camembert-model distilbert-classes", &ODD_WIDTHS),
    ("distilbert-mlm distilbert-mlm-relu distilbert-model", &ODD_WIDTHS),
    ("opt-post-norm timm-clip timm-post-res-norm timm-features", &ODD_WIDTHS),
    ("timm-clip phi-qk-norm", &["double heads"]),
    ("phi-qk-norm", &ODD_WIDTHS),
    (
        "qwen3-base qwen3-tied qwen3-window",
        &["double heads", "larger heads", "everything and triple heads"],
    ),
    ("olmo-base", &["indivisible", "everything", "everything and triple heads"]),
    ("olmo-bias", &WIDTHS),
    ("stablelm-parallel", &["one more head", "many more heads"]),
];
const ODD_WIDTHS: [&str; 4] =
    ["one more head", "many more heads", "larger heads", "more and larger heads"];
const WIDTHS: [&str; 5] =
    ["double", "triple and neurons", "indivisible", "everything", "everything and triple heads"];

const FREE: [Free; 3] = [Free::Projection, Free::Equal, Free::Zero];

/// As [`check`]; where the expansion is refused, says so in a line, with what is asked for.
fn check_or_refused(case: &Case, name: &str, options: &Options) -> Option<String> {
    match expand(&case.checkpoint, &case.model, options) {
        Ok(_) => {
            check(case, name, options);
            None
        }
        Err(error) => {
            assert_eq!(error.class(), Class::Refused, "{} {name}: {error}", case.name);
            assert!(error.to_string().contains("help:"), "{error}");
            Some(format!("{} {name}", case.name))
        }
    }
}

fn check(case: &Case, name: &str, options: &Options) -> Checkpoint {
    let expanded = expand(&case.checkpoint, &case.model, options).unwrap();
    let model = describe(&expanded).unwrap();
    assert_eq!(model.strangers(&expanded), Vec::<&str>::new());
    let worst = difference((&case.checkpoint, &case.model), (&expanded, &model), &case.inputs);
    assert!(worst < 1e-9, "{} {name}: {worst:e} with {options:?}", case.name);
    expanded
}

#[test]
fn every_family_is_lossless_at_every_width_with_all_free_numbers() {
    let mut refused = Vec::new();
    for case in cases() {
        for (name, target) in widths(&case) {
            for free in FREE {
                let options = Options { target: target.clone(), free, ..Options::default() };
                refused.extend(check_or_refused(&case, name, &options));
            }
        }
    }
    refused.dedup();
    let expected = REFUSED.iter().flat_map(|(cases, targets)| {
        let pair = |case: &str, target: &str| format!("{case} {target}");
        cases.split(' ').flat_map(move |case| targets.iter().map(move |t| pair(case, t)))
    });
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    refused.sort();
    assert_eq!(refused, expected);
}

#[test]
fn new_layers_of_both_types_add_nothing() {
    for case in cases().iter().filter(|case| !is_post_norm(&case.model)) {
        let target = deeper(case);
        for new_layers in [NewLayers::Zero, NewLayers::Cancel] {
            if new_layers == NewLayers::Cancel && has_norms_behind(&case.model) {
                let options = Options { target: target.clone(), new_layers, ..Options::default() };
                let error = expand(&case.checkpoint, &case.model, &options).unwrap_err();
                assert!(error.to_string().contains("new layers of zeros"), "{error}");
                continue;
            }
            for insert_after in [None, Some(vec![0, case.model.sizes.layers, 1])] {
                for free in FREE {
                    let options = Options {
                        target: target.clone(),
                        free,
                        new_layers,
                        insert_after: insert_after.clone(),
                        seed: 5,
                        ..Options::default()
                    };
                    check(case, "deeper", &options);
                }
            }
        }
    }
}

#[test]
fn depth_alone_needs_nothing_else_to_grow() {
    for case in cases().iter().filter(|case| !is_post_norm(&case.model)) {
        let layers = Some(2 * case.model.sizes.layers + 1);
        let target = Target { layers, ..Target::default() };
        check(case, "deeper alone", &Options { target, ..Options::default() });
    }
}

#[test]
fn epsilon_is_scaled_by_eta_squared_and_survives_the_file() {
    let case = Case::load("gpt2-inner-relu");
    let target = Target { hidden: Some(20), heads: Some(5), ..Target::default() };
    let expanded = check(&case, "eps", &Options { target, ..Options::default() });
    assert_eq!(expanded.config().get("layer_norm_epsilon").unwrap().as_f64(), Some(1e-3 * 0.8));
    let folder = tempfile::tempdir().unwrap();
    for name in ["folder", "file.safetensors"] {
        let path = folder.path().join(name);
        save(&path, expanded.config(), expanded.tensors(), SHARD_LIMIT).unwrap();
        let opened = Checkpoint::open(&path, None).unwrap();
        assert_eq!(opened.config().json(), expanded.config().json());
        let of_file = (&opened, &describe(&opened).unwrap());
        let worst = difference((&case.checkpoint, &case.model), of_file, &case.inputs);
        assert!(worst < 1e-9, "{name}: {worst:e}");
    }
}

#[test]
fn an_expansion_with_the_sources_epsilon_is_not_lossless() {
    let case = Case::load("gpt2-inner-relu");
    let target = Target { hidden: Some(20), heads: Some(5), ..Target::default() };
    let expanded = check(&case, "eps", &Options { target, ..Options::default() });
    let mut config = expanded.config().clone();
    config.set("layer_norm_epsilon", 1e-3);
    let wrong = Checkpoint::in_memory("wrong", config, expanded.tensors().clone());
    let of_wrong = (&wrong, &describe(&wrong).unwrap());
    assert!(difference((&case.checkpoint, &case.model), of_wrong, &case.inputs) > 1e-6);
}

#[test]
fn timm_keeps_its_epsilon_by_scaling_the_stream() {
    let case = Case::load("vit-timm");
    let sizes = &case.model.sizes;
    let (hidden, heads) = (sizes.hidden + sizes.head_dim, sizes.heads + 1);
    let target = Target { hidden: Some(hidden), heads: Some(heads), ..Target::default() };
    let expanded = check(&case, "eps", &Options { target, ..Options::default() });
    let first = |c: &Checkpoint| describe(c).unwrap().embedding.prefix[0].read(c).unwrap();
    let ratio = first(&expanded)[[0, 0]] / first(&case.checkpoint)[[0, 0]];
    assert!((ratio - (hidden as f64 / sizes.hidden as f64).sqrt()).abs() < 1e-14);
}

#[test]
fn a_tied_head_stays_the_token_table_and_its_norm_is_divided_by_the_copies() {
    let case = Case::load("llama-tied");
    let hidden = Some(3 * case.model.sizes.hidden);
    let options = Options { target: Target { hidden, ..Target::default() }, ..Options::default() };
    let expanded = check(&case, "tied", &options);
    assert!(!expanded.has("lm_head.weight"));
    let norm = |c: &Checkpoint| c.tensor("model.norm.weight").unwrap().clone();
    let (small, large) = (norm(&case.checkpoint), norm(&expanded));
    let ratio = Dtype::F64.get(large.bytes(), 0) / Dtype::F64.get(small.bytes(), 0);
    assert!((ratio - 1.0 / 3.0).abs() < 1e-15);
}

/// The fan-out of each neuron of layer 0, `[hidden, intermediate]`.
fn fan_outs(checkpoint: &Checkpoint) -> Array2<f64> {
    let model = describe(checkpoint).unwrap();
    let mut ops = model.layers[0].iter().flat_map(|s| &s.branches).map(|b| &b.op);
    let down = ops.next_back().unwrap().linears().pop().unwrap().weight.clone();
    down.read(checkpoint).unwrap()
}

#[test]
fn only_the_projection_breaks_the_symmetry_of_copied_neurons() {
    for name in ["gpt2-lm", "bert-mlm", "llama-untied", "vit-hf"] {
        let case = Case::load(name);
        let neurons = case.model.sizes.intermediate;
        let target = Target { intermediate: Some(2 * neurons), ..Target::default() };
        for free in [Free::Projection, Free::Equal] {
            let options = Options { target: target.clone(), free, ..Options::default() };
            let fan_outs = fan_outs(&expand(&case.checkpoint, &case.model, &options).unwrap());
            let same = (0..neurons).filter(|n| fan_outs.column(*n) == fan_outs.column(n + neurons));
            assert_eq!(same.count(), if free == Free::Equal { neurons } else { 0 }, "{name}");
        }
    }
}

#[test]
fn no_new_head_channel_is_dead() {
    for (name, head_dim) in [("gpt2-lm", 7), ("llama-untied", 8)] {
        let case = Case::load(name);
        let sizes = &case.model.sizes;
        let target = Target {
            hidden: Some(sizes.heads * head_dim),
            head_dim: Some(head_dim),
            ..Target::default()
        };
        for free in FREE {
            let options = Options { target: target.clone(), free, ..Options::default() };
            let expanded = expand(&case.checkpoint, &case.model, &options).unwrap();
            let Op::Attention(attention) =
                describe(&expanded).unwrap().layers[0][0].branches[0].op.clone()
            else {
                panic!("attention comes first")
            };
            let rows = |lens: &Lens| lens.read(&expanded).unwrap();
            let (query, key) = (rows(&attention.query.weight), rows(&attention.key.weight));
            let is_zero = |row: ArrayView1<f64>| row.iter().all(|v| *v == 0.0);
            assert!(query.outer_iter().any(is_zero), "{name} {free:?}: new channels are hidden");
            assert!(!key.outer_iter().any(is_zero), "{name} {free:?}");
        }
    }
}

#[test]
fn a_seed_means_one_expansion() {
    let case = Case::load("llama-gqa");
    let target = Target { hidden: Some(17), intermediate: Some(31), ..Target::default() };
    let bytes = |seed| {
        let options = Options { target: target.clone(), seed, ..Options::default() };
        let expanded = expand(&case.checkpoint, &case.model, &options).unwrap();
        let tensors = expanded.tensors().values().map(|t| t.bytes().to_vec());
        tensors.collect::<Vec<_>>().concat()
    };
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
}

#[test]
fn the_number_format_is_the_one_asked_for_in_weights_and_configuration() {
    let case = Case::load("gpt2-lm");
    let options = Options { dtype: Some(Dtype::Bf16), ..Options::default() };
    let expanded = expand(&case.checkpoint, &case.model, &options).unwrap();
    assert!(expanded.tensors().values().all(|t| t.dtype == Some(Dtype::Bf16)));
    assert_eq!(expanded.config().get("dtype").unwrap(), "bfloat16");
}
