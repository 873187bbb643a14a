//! Refusing pairs that cannot be a source and its expansion.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Input, Model, Output, Step};

/// Families that describe the same computation under other names.
const SAME: [[&str; 2]; 2] = [["vit", "vit_timm"], ["deit", "vit_timm"]];

/// # Errors
/// If the expanded model is of another family, smaller, or reads or returns other things.
pub(super) fn refuse(
    source: &Checkpoint,
    small: &Model,
    expanded: &Checkpoint,
    large: &Model,
) -> Result<()> {
    let refusal = smaller(source, small, large)
        .or_else(|| other_family(small, large))
        .or_else(|| other_input(small, large))
        .or_else(|| other_outputs(small, large));
    match refusal {
        Some(error) => Err(error.at(expanded.path())),
        None => Ok(()),
    }
}

fn smaller(source: &Checkpoint, small: &Model, large: &Model) -> Option<Error> {
    let sizes = [
        ("hidden size", large.sizes.hidden, small.sizes.hidden),
        ("number of layers", large.sizes.layers, small.sizes.layers),
    ];
    let (what, got, least) = sizes.into_iter().find(|(_, got, least)| got < least)?;
    let problem = format!(
        "the expanded model's {what} is {got}, smaller than the source's {least} ({})",
        source.path().display()
    );
    let advice = "were the arguments swapped? The order is: lemon-check SOURCE EXPANDED, the \
                  small model first";
    Some(Error::bad_input(problem).help(advice))
}

fn other_family(small: &Model, large: &Model) -> Option<Error> {
    let pair = [small.family.name, large.family.name];
    if pair[0] == pair[1] || SAME.iter().any(|same| pair.iter().all(|f| same.contains(f))) {
        return None;
    }
    let problem = format!("a {} is held against a {}", pair[1], pair[0]);
    Some(Error::unsupported(problem).help("compare two models of one family"))
}

fn other_input(small: &Model, large: &Model) -> Option<Error> {
    let (read, wanted) = (large.embedding.input, small.embedding.input);
    if large.encoder.is_some() != small.encoder.is_some() {
        let words = |model: &Model| if model.encoder.is_some() { "two sequences" } else { "one" };
        let problem = format!("it reads {}, but the source {}", words(large), words(small));
        let advice = "compare two encoder–decoders, or two encoders";
        return Some(Error::bad_input(problem).help(advice));
    }
    if read == wanted {
        return None;
    }
    let problem = format!("it reads {}, but the source {}", words(read), words(wanted));
    let advice = "an expansion keeps what goes in: vocabulary, positions, token types, image size";
    Some(Error::bad_input(problem).help(advice))
}

fn words(input: Input) -> String {
    match input {
        Input::Tokens { vocabulary, positions, types } => {
            let positions = match positions {
                Some(positions) => format!(", at most {positions} positions"),
                None => String::new(),
            };
            let types = if types == 0 { String::new() } else { format!(", {types} token types") };
            format!("{vocabulary} token ids{positions}{types}")
        }
        Input::Image { channels, height, width, patch } => {
            format!("images of {channels}×{height}×{width} in patches of {patch}")
        }
    }
}

fn other_outputs(small: &Model, large: &Model) -> Option<Error> {
    let advice = "compare models with the same head, or both without one";
    let shapes = |model: &Model| -> Vec<String> { model.outputs.iter().map(shape).collect() };
    let (returned, wanted) = (shapes(large), shapes(small));
    if returned == wanted {
        return None;
    }
    let problem =
        format!("it returns {}, but the source {}", returned.join(", "), wanted.join(", "));
    Some(Error::bad_input(problem).help(advice))
}

/// An output in words, without the width where that may change.
fn shape(output: &Output) -> String {
    let width = output.steps.iter().rev().find_map(|step| match step {
        Step::Linear(linear) => Some(linear.weight.rows()),
        _ => None,
    });
    match width {
        Some(width) if output.fixed => format!("`{}` of width {width}", output.name),
        _ => format!("`{}`", output.name),
    }
}
