//! Rotary heads that are no multiple of the source's: the base of the frequencies follows.

use super::{checked, load, with_config};
use lemon_check::check::Verdict;
use lemon_check::checkpoint::Checkpoint;
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::describe;
use serde_json::{Value, json};

const TURNED: [&str; 12] = [
    "llama-untied",
    "llama-gqa",
    "llama-linear",
    "llama-llama3",
    "mistral-window",
    "mistral-tied",
    "mixtral-lm",
    "qwen2-window",
    "qwen2-tied",
    "gemma-lm",
    "gemma2-window",
    "olmo-lm",
];

fn with_heads(source: &Checkpoint, head_dim: usize) -> Checkpoint {
    let model = describe(source).unwrap();
    let target = Target { head_dim: Some(head_dim), ..Target::default() };
    let options = Options { target, ..Options::default() };
    expand(source, &model, &options).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn assert_lossless(case: &str, source: &Checkpoint, expanded: &Checkpoint) {
    let check = checked(source, expanded);
    assert_eq!(check.verdict, Verdict::Lossless, "{case}: {:?}", check.certificate);
    let apart = check.effect.unwrap().relative;
    assert!(apart < 1e-9, "{case}: {apart:e}");
}

/// The base that a configuration says, wherever it says it.
fn base(checkpoint: &Checkpoint) -> f64 {
    let config = checkpoint.config();
    let inside = config.get("rope_parameters").and_then(|section| section.get("rope_theta"));
    inside.or(config.get("rope_theta")).and_then(Value::as_f64).unwrap()
}

#[test]
fn heads_that_are_no_multiple_get_a_base_that_keeps_the_frequencies() {
    for case in TURNED {
        let source = load(case);
        let size = describe(&source).unwrap().sizes.head_dim;
        for larger in [size + 2, 3 * size - 2] {
            let expanded = with_heads(&source, larger);
            let wanted = base(&source).powf(larger as f64 / size as f64);
            assert_eq!(base(&expanded), wanted, "{case} {larger}");
            assert_lossless(case, &source, &expanded);
        }
    }
}

#[test]
fn multiples_keep_their_base() {
    for case in TURNED {
        let source = load(case);
        let expanded = with_heads(&source, 2 * describe(&source).unwrap().sizes.head_dim);
        assert_eq!(base(&expanded), base(&source), "{case}");
        assert_lossless(case, &source, &expanded);
    }
}

#[test]
fn configurations_of_version_4_get_their_base_where_they_have_it() {
    for (case, scaling) in [
        ("llama-untied", Value::Null),
        ("llama-untied", json!({ "type": "linear", "factor": 4.0 })),
        ("mixtral-lm", Value::Null),
    ] {
        let source = load(case);
        let mut config = source.config().clone();
        config.remove("rope_parameters");
        config.set("rope_theta", 500);
        config.set("rope_scaling", scaling.clone());
        let old = with_config(&source, config);
        let size = describe(&old).unwrap().sizes.head_dim;
        let expanded = with_heads(&old, size + 2);
        assert!(expanded.config().get("rope_parameters").is_none());
        assert_eq!(expanded.config().json()["rope_scaling"], scaling);
        assert_eq!(base(&expanded), 500f64.powf((size + 2) as f64 / size as f64));
        assert_lossless(case, &old, &expanded);
    }
}

#[test]
fn a_base_that_no_field_says_is_the_familys() {
    for (case, theta) in [("llama-untied", 1e4), ("mixtral-lm", 1e6), ("gemma-lm", 1e4)] {
        let source = load(case);
        let mut config = source.config().clone();
        config.remove("rope_parameters");
        let silent = with_config(&source, config);
        let size = describe(&silent).unwrap().sizes.head_dim;
        let expanded = with_heads(&silent, size + 2);
        assert_eq!(base(&expanded), f64::powf(theta, (size + 2) as f64 / size as f64), "{case}");
        assert_lossless(case, &silent, &expanded);
    }
}

#[test]
fn partial_rotary_positions_keep_their_base_and_their_channels() {
    for (case, hidden_follows) in
        [("phi3-partial", false), ("stablelm-lm", true), ("gpt-neox-parallel", true)]
    {
        let source = load(case);
        let sizes = describe(&source).unwrap().sizes;
        let target = Target {
            head_dim: (!hidden_follows).then_some(sizes.head_dim + 3),
            hidden: hidden_follows.then_some(sizes.heads * (sizes.head_dim + 3)),
            ..Target::default()
        };
        let options = Options { target, ..Options::default() };
        let expanded = expand(&source, &describe(&source).unwrap(), &options).unwrap();
        assert_eq!(describe(&expanded).unwrap().sizes.head_dim, sizes.head_dim + 3);
        assert_lossless(case, &source, &expanded);
    }
}

#[test]
fn a_base_that_did_not_follow_is_caught() {
    for case in ["llama-untied", "gemma2-window"] {
        let source = load(case);
        let size = describe(&source).unwrap().sizes.head_dim;
        let expanded = with_heads(&source, size + 2);
        let mut config = expanded.config().clone();
        config.set("rope_parameters", source.config().get("rope_parameters").unwrap().clone());
        let check = checked(&source, &with_config(&expanded, config));
        assert_eq!(check.verdict, Verdict::NotLossless, "{case}");
    }
}
