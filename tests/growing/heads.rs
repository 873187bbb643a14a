//! Heads of more than one part: DeiT's two with their mean, classifiers with a hidden layer.

use super::post_norm::changed;
use super::{checked, load, printed, run};
use lemon_check::check::Verdict;
use lemon_check::checkpoint::Checkpoint;
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::describe;

fn wider(source: &Checkpoint, layers: usize) -> Checkpoint {
    let model = describe(source).unwrap();
    let sizes = &model.sizes;
    let target = Target {
        hidden: Some(2 * sizes.hidden),
        heads: Some(2 * sizes.heads),
        intermediate: Some(2 * sizes.intermediate + 1),
        layers: Some(sizes.layers + layers),
        ..Target::default()
    };
    expand(source, &model, &Options { target, ..Options::default() }).unwrap()
}

#[test]
fn two_heads_and_their_mean_are_proven() {
    for case in ["deit-teacher", "timm-distilled"] {
        let source = load(case);
        let names: Vec<&str> =
            describe(&source).unwrap().outputs.iter().map(|output| output.name).collect();
        assert_eq!(names, ["cls_logits", "distillation_logits", "logits"]);
        let check = checked(&source, &wider(&source, 1));
        assert_eq!(check.verdict, Verdict::Lossless, "{case}: {:?}", check.certificate);
        assert!(check.effect.unwrap().relative < 1e-9);
    }
}

#[test]
fn heads_that_are_wrong_in_opposite_ways_are_caught() {
    let source = load("deit-teacher");
    let one = changed(&wider(&source, 1), "cls_classifier.bias", |_, v| v + 0.1);
    let both = changed(&one, "distillation_classifier.bias", |_, v| v - 0.1);
    for wrong in [one, both] {
        let check = checked(&source, &wrong);
        assert_eq!(check.verdict, Verdict::NotLossless);
        assert_eq!(check.certificate.failures[0].tensor, "cls_classifier.bias");
    }
}

#[test]
fn the_mean_is_printed_with_the_heads() {
    let text = printed(run(&["logits", "tests/golden/deit-teacher", "--pixels", "random:0"]), 0);
    let printed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let data = |at: usize| printed["outputs"][at]["data"].as_array().unwrap();
    assert_eq!(printed["outputs"][2]["name"], "logits");
    for ((a, b), mean) in data(0).iter().zip(data(1)).zip(data(2)) {
        let half = (a.as_f64().unwrap() + b.as_f64().unwrap()) / 2.0;
        assert!((half - mean.as_f64().unwrap()).abs() < 1e-14);
    }
}

#[test]
fn classifiers_of_sequences_and_other_names_of_roberta_grow() {
    for case in ["roberta-classes", "distilbert-classes", "xlm-roberta-mlm", "camembert-model"] {
        let source = load(case);
        let expanded = wider(&source, 0);
        let named = |checkpoint: &Checkpoint| checkpoint.config().get("model_type").cloned();
        assert_eq!(named(&expanded), named(&source));
        let check = checked(&source, &expanded);
        assert_eq!(check.verdict, Verdict::Lossless, "{case}: {:?}", check.certificate);
        // Hidden channels are held against their source in the tests of all golden models.
        assert!(check.effect.is_none_or(|effect| effect.relative < 1e-9), "{case}");
    }
}

#[test]
fn a_classifier_that_forgot_its_share_is_caught() {
    for (case, name) in [
        ("roberta-classes", "classifier.out_proj.weight"),
        ("distilbert-classes", "pre_classifier.bias"),
    ] {
        let source = load(case);
        let wrong = changed(&wider(&source, 0), name, |at, v| if at == 1 { v + 0.1 } else { v });
        assert_eq!(checked(&source, &wrong).verdict, Verdict::NotLossless, "{case}");
    }
}
