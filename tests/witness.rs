//! The inputs that show a difference: that they are short, say where the models part and by what
//! factor; and a check without a search for them.

use assert_cmd::Command;
use lemon_check::check::{Witness, check};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::forward::Input;
use lemon_check::model::{Model, Step, describe};
use lemon_check::report::{Demands, Report};
use lemon_check::testing::{Architecture, Editor, Models, Mutant, SourceCase, WeightStyle};
use serde_json::{Value, json};

const SOURCE: &str = "tests/data/source.safetensors";

fn command(expanded: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    let output = command.args([SOURCE, expanded]).args(more).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn report(expanded: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = command(expanded, &[&["--format", "json"], more].concat());
    (code, serde_json::from_str(&text).unwrap())
}

#[test]
fn equations_alone_blame_the_same_but_refute_nothing() {
    let broken = "tests/data/broken.safetensors";
    let (found, with) = report(broken, &[]);
    let (not_found, without) = report(broken, &["--witness", "none"]);
    assert_eq!((found, not_found), (Some(1), Some(3)));
    assert_eq!((&without["verdict"], &without["witness"]), (&"undecided".into(), &Value::Null));
    assert_eq!(without["inputs_tried"], 0);
    assert_eq!(without["failures"], with["failures"]);
    let (_, text) = command(broken, &["--witness", "none"]);
    assert!(text.contains("no input was tried"), "{text}");
}

#[test]
fn a_proof_needs_no_witness() {
    let expanded = "tests/data/expanded.safetensors";
    let (code, report) = report(expanded, &["--witness", "none"]);
    assert_eq!((code, &report["verdict"]), (Some(0), &"lossless".into()));
}

/// A random pair in f64.
fn pair(architecture: Architecture, seed: u64) -> Models {
    let adjust = |source: &mut SourceCase| {
        source.dtype = Dtype::F64;
        source.weights = WeightStyle::Random;
    };
    Models::random(architecture, seed, adjust).unwrap()
}

/// Witnesses of a change in random pairs that have fixed outputs, with the source.
fn inputs(architecture: Architecture, mutant: Mutant) -> Vec<(Model, Input)> {
    let mut found = Vec::new();
    for seed in 0..12 {
        let models = pair(architecture, seed);
        // A norm over a single channel returns its sign: some tokens show nothing.
        if models.source_model.sizes.hidden == 1 {
            continue;
        }
        let Some(mutated) = mutant.apply(&models.pair(), seed).unwrap() else { continue };
        let check = check(&models.source, &mutated.checkpoint, &|_, _| ()).unwrap();
        if let Some(Witness::Outputs { probe, .. }) = check.witness {
            found.push((models.source_model, probe.input));
        }
    }
    assert!(found.len() > 2, "{} witnesses", found.len());
    found
}

/// Whether the head reads the token table.
fn is_tied(model: &Model) -> bool {
    let table = &model.embedding.tables[0].lens;
    let steps = model.outputs.iter().flat_map(|output| &output.steps);
    let mut linears = steps.filter_map(|step| match step {
        Step::Linear(linear) => Some(&linear.weight),
        _ => None,
    });
    linears.any(|weight| weight == table)
}

#[test]
fn a_wrong_row_of_a_table_is_shown_by_a_single_token() {
    for (model, input) in inputs(Architecture::Llama, Mutant::TokenRowOverwritten) {
        let Input::Tokens { ids, .. } = input else { panic!("{input:?}") };
        assert_eq!(ids.len(), 1, "{ids:?}");
        // A tied head shows the row on any input.
        let last = model.embedding.tables[0].lens.rows() - 1;
        assert!(ids[0] == last || is_tied(&model), "{ids:?}");
    }
    for (_, input) in inputs(Architecture::T5, Mutant::TokenRowOverwritten) {
        let Input::Pair { ids, decoder_ids, .. } = input else { panic!("{input:?}") };
        assert_eq!((ids.len(), decoder_ids.len()), (1, 1), "{ids:?} {decoder_ids:?}");
    }
}

#[test]
fn a_lost_window_is_shown_by_few_tokens_and_most_of_them_are_alike() {
    for (_, input) in inputs(Architecture::Mistral, Mutant::WindowLost) {
        let Input::Tokens { ids, .. } = input else { panic!("{input:?}") };
        let others = ids.iter().filter(|id| **id != ids[0]).count();
        assert!(ids.len() <= 16 && others <= 3, "{ids:?}");
    }
}

#[test]
fn a_witness_says_in_which_layer_the_models_part() {
    let (_, found) = report("tests/data/broken.safetensors", &[]);
    let diverges = &found["witness"]["diverges"];
    assert_eq!((&diverges["at"], &diverges["layer"]), (&json!("layer"), &json!(1)));
    assert_eq!(diverges["source_layer"], 1);
    let (source, text) = (Checkpoint::open(SOURCE.as_ref(), None).unwrap(), "agree up to there");
    assert!(scaled_output(&source, 1.0, 0.5).contains(text));
}

/// What is said of the source against itself, with other factors on the weight and the bias of the
/// last norm.
fn scaled_output(source: &Checkpoint, weight: f64, bias: f64) -> String {
    let model = describe(source).unwrap();
    let mut editor = Editor::new(source, &model);
    let Some(Step::Norm(norm)) = model.outputs[0].steps.first() else { panic!("a norm") };
    for (lens, factor) in [(&norm.weight, weight), (&norm.bias, bias)] {
        editor.edit(lens.as_ref().unwrap(), |values| *values *= factor).unwrap();
    }
    let found = check(source, &editor.finish(), &|_, _| ()).unwrap();
    Report::new(found, Demands::default(), 0.0).text()
}

#[test]
fn a_scale_is_said_where_it_explains_the_difference() {
    let source = Checkpoint::open(SOURCE.as_ref(), None).unwrap();
    let scaled = scaled_output(&source, 2f64.sqrt(), 2f64.sqrt());
    assert!(scaled.contains("the expanded outputs are 1.4142 times the source's"), "{scaled}");
    let tiny = scaled_output(&source, 1.0001, 1.0001);
    assert!(tiny.contains("the expanded outputs are 1 + 1.0e-4 times"), "{tiny}");
    assert!(!scaled_output(&source, 1.0, 2.0).contains("times the source's"));
}
