//! A soft cap on the outputs, and a projection in front of the head.

use super::pair::{Half, Pair, random};
use lemon_check::model::{Linear, Step};
use ndarray::Array2;

fn capped(cap: f64) -> impl Fn(&mut Half) {
    move |half| half.model.outputs[0].steps.push(Step::Softcap(cap))
}

#[test]
fn capped_outputs_are_proven() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        pair.both(capped(3.0)).is_proven();
    }
}

#[test]
fn another_cap_on_the_outputs_is_unknown() {
    let mut pair = Pair::llama();
    capped(3.0)(&mut pair.source);
    capped(3.1)(&mut pair.expanded);
    pair.is_unknown("soft cap is 3 in the source, here 3.1");
}

#[test]
fn a_capped_head_that_is_off_is_caught_and_named() {
    let pair = Pair::llama().both(capped(3.0)).but(|half| {
        let Step::Linear(head) = half.model.outputs[0].steps[1].clone() else { panic!("a head") };
        half.spoil(&head.weight, 4, 2);
    });
    let failure = pair.is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), ("lm_head.weight", vec![4, 2]));
}

/// Takes the last norm away and puts a head of these shares behind the stream: two copies, then the
/// residue, which holds the mean.
fn bare(pair: Pair, residue: [f64; 3]) -> Pair {
    let rows = random(11, 6, 61);
    let wide = Array2::from_shape_fn((11, 15), |(i, j)| match j {
        0..6 => 0.7 * rows[[i, j]],
        6..12 => 0.3 * rows[[i, j - 6]],
        _ => residue[j - 12] * (i as f64 + 1.0),
    });
    let put = |half: &mut Half| {
        let matrix = if half.model.sizes.hidden == 6 { &rows } else { &wide };
        let Some(Step::Linear(head)) = half.model.outputs[0].steps.pop() else { panic!("a head") };
        let Some(Step::Norm(norm)) = half.model.outputs[0].steps.pop() else { panic!("a norm") };
        norm.lenses().for_each(|lens| half.remove(lens.name()));
        let weight = half.store(head.weight.name(), matrix);
        half.model.outputs[0].steps = vec![Step::Linear(Linear { weight, bias: None })];
    };
    pair.both(put)
}

#[test]
fn a_head_without_a_norm_reads_the_mean() {
    bare(Pair::gpt2(), [0.5, -0.5, 0.0]).is_proven();
    bare(Pair::gpt2(), [0.5, -0.4, 0.0]).is_caught();
    // On a zero-expanded stream what is read there is zero.
    bare(Pair::llama(), [0.5, -0.4, 0.3]).is_proven();
}

/// Makes the head a projection to four channels and a head of these.
fn projected(half: &mut Half) {
    let Step::Linear(head) = half.model.outputs[0].steps[1].clone() else { panic!("a head") };
    // The first four words' rows are a projection; what the words are made of is drawn.
    let rows = half.read(&head.weight);
    let four = Array2::from_shape_fn((4, rows.ncols()), |at| rows[at]);
    half.remove(head.weight.name());
    let (out, words) = (half.store("out.weight", &four), half.store("words", &random(11, 4, 51)));
    let linear = |weight| Step::Linear(Linear { weight, bias: None });
    half.model.outputs[0].steps.truncate(1);
    half.model.outputs[0].steps.extend([linear(out), linear(words)]);
}

#[test]
fn a_projection_in_front_of_the_head_is_proven() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        pair.both(projected).is_proven();
    }
}

#[test]
fn a_projection_in_front_of_the_head_that_is_off_is_caught_and_named() {
    for name in ["out.weight", "words"] {
        let pair = Pair::llama().both(projected).but(|half| {
            let steps = half.model.outputs[0].steps.clone();
            let lenses = steps.iter().filter_map(|step| match step {
                Step::Linear(linear) => Some(&linear.weight),
                _ => None,
            });
            let lens = lenses.into_iter().find(|lens| lens.name() == name).unwrap();
            half.spoil(lens, 2, 1);
        });
        let failure = pair.is_caught();
        assert_eq!((failure.tensor.as_str(), failure.index), (name, vec![2, 1]));
    }
}
