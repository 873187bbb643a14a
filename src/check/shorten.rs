//! Making an input that shows a difference short, so that it can be read and replayed.
//!
//! An input is made smaller step by step: fewer tokens, then the same token everywhere, no token
//! types, positions from 0 on. A step is taken if the outputs still differ
//! - by more than rounding explains: the yardstick by which the first input was taken for a
//!   witness, measured anew;
//! - by at least a tenth, relative to the output's spread, of what the first input showed. Any
//!   input shows a little of most mistakes, and a witness that barely shows one convinces nobody.
//!
//! Each step runs both models once on a batch of inputs, so that weights are read once for all of
//! them, and all steps together may take [`SHORTENING_LIMIT`](super::sample::SHORTENING_LIMIT)
//! operations: a large model's witness may stay as long as it was found. Images have one size.

use super::probes::Probe;
use super::sample::{Compared, Described, Side, affordable};
use super::witness::Shown;
use crate::error::Result;
use crate::forward::Input;
use std::collections::BTreeSet;

/// Which part of the difference that was found must be left.
const KEPT: f64 = 0.1;

/// Up to so many tokens each single one is tried to be left out or replaced.
const FEW: usize = 16;

/// What makes smaller inputs of one, the boldest first; each is taken as often as it helps.
const STEPS: [fn(&Input) -> Vec<Input>; 3] = [shorter, without_one, plainer];

/// Shortens an input that shows a difference, in at most so many `operations`.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn shorten(
    pair: (Described, Described),
    found: Shown,
    mut operations: f64,
) -> Result<Shown> {
    let least = KEPT * found.compared.difference.relative;
    let mut best = found;
    for step in STEPS {
        loop {
            let inputs = step(&best.probe.input);
            let (count, cost) = affordable(pair, inputs.iter().map(positions), operations);
            if count == 0 {
                break;
            }
            operations -= cost;
            match first_that_shows(pair, &inputs[..count], best.output, least)? {
                Some(smaller) => best = smaller,
                None => break,
            }
        }
    }
    Ok(best)
}

/// The first input on which an output still differs, by at least so much of its spread.
fn first_that_shows(
    (source, expanded): (Described, Described),
    inputs: &[Input],
    output: usize,
    least: f64,
) -> Result<Option<Shown>> {
    let probe = |input: &Input| Probe { input: input.clone(), image_seed: None };
    let probes: Vec<Probe> = inputs.iter().map(probe).collect();
    let sides = (Side::run(source, &probes)?, Side::run(expanded, &probes)?);
    let shown = probes.into_iter().enumerate().map(|(index, probe)| {
        let compared = Compared::of(&sides, index, output);
        Shown { probe, output, compared }
    });
    let mut shown = shown.filter(|Shown { compared, .. }| {
        compared.differs() && compared.difference.relative >= least
    });
    Ok(shown.next())
}

/// Positions that a model computes on.
fn positions(input: &Input) -> usize {
    (0..SEQUENCES).map(|sequence| tokens(input, sequence).len()).sum()
}

/// What an encoder and a decoder read, at most.
const SEQUENCES: usize = 2;

/// The tokens of one of an input's sequences; none where there is no such sequence.
fn tokens(input: &Input, sequence: usize) -> &[usize] {
    match (input, sequence) {
        (Input::Tokens { ids, .. } | Input::Pair { ids, .. }, 0) => ids,
        (Input::Pair { decoder_ids, .. }, 1) => decoder_ids,
        _ => &[],
    }
}

/// The input with only these places of one sequence.
fn keep(input: &Input, sequence: usize, places: &[usize]) -> Input {
    fn at<T: Clone>(list: &[T], places: &[usize]) -> Vec<T> {
        places.iter().map(|place| list[*place].clone()).collect()
    }
    let mut input = input.clone();
    match (&mut input, sequence) {
        (Input::Tokens { ids, mask, types, positions }, 0) => {
            *ids = at(ids, places);
            *mask = mask.as_ref().map(|mask| at(mask, places));
            *types = types.as_ref().map(|types| at(types, places));
            *positions = positions.as_ref().map(|positions| at(positions, places));
        }
        (Input::Pair { ids, mask, .. }, 0)
        | (Input::Pair { decoder_ids: ids, decoder_mask: mask, .. }, 1) => {
            *ids = at(ids, places);
            *mask = mask.as_ref().map(|mask| at(mask, places));
        }
        _ => {}
    }
    input
}

/// The beginning and the end of each sequence, the shortest first.
fn shorter(input: &Input) -> Vec<Input> {
    let mut found = Vec::new();
    for sequence in 0..SEQUENCES {
        let count = tokens(input, sequence).len();
        let places: Vec<usize> = (0..count).collect();
        for length in lengths(count) {
            found.push(keep(input, sequence, &places[..length]));
            found.push(keep(input, sequence, &places[count - length..]));
        }
    }
    found.sort_by_key(positions);
    found
}

/// Lengths below `count` that double up to its half, and halve the distance to it from there on.
fn lengths(count: usize) -> BTreeSet<usize> {
    let powers = (0..usize::BITS).map(|bit| 1 << bit).take_while(|power| *power < count);
    powers.flat_map(|power| [power, count - power]).collect()
}

/// The input without one token.
fn without_one(input: &Input) -> Vec<Input> {
    let mut found = Vec::new();
    for sequence in 0..SEQUENCES {
        let count = tokens(input, sequence).len();
        // The first and the last are left out by `shorter`.
        for gone in (1..count.saturating_sub(1)).filter(|_| count <= FEW) {
            let places: Vec<usize> = (0..count).filter(|place| *place != gone).collect();
            found.push(keep(input, sequence, &places));
        }
    }
    found
}

/// The input with plain types and positions, and with a sequence's first token in place of others:
/// of all, of each half, of one.
fn plainer(input: &Input) -> Vec<Input> {
    let mut found = without_lists(input);
    for sequence in 0..SEQUENCES {
        let ids = tokens(input, sequence);
        let others: Vec<usize> = (1..ids.len()).filter(|place| ids[*place] != ids[0]).collect();
        let halves = others.split_at(others.len() / 2);
        let single = others.chunks(1).filter(|_| ids.len() <= FEW);
        for places in [&others[..], halves.0, halves.1].into_iter().chain(single) {
            if !places.is_empty() {
                found.push(with_first(input, sequence, places));
            }
        }
    }
    found
}

/// The input with the first token of a sequence at these places too.
fn with_first(input: &Input, sequence: usize, places: &[usize]) -> Input {
    let mut input = input.clone();
    if let (Input::Tokens { ids, .. } | Input::Pair { ids, .. }, 0)
    | (Input::Pair { decoder_ids: ids, .. }, 1) = (&mut input, sequence)
    {
        places.iter().for_each(|place| ids[*place] = ids[0]);
    }
    input
}

/// The input without token types, and without positions, if it has some.
fn without_lists(input: &Input) -> Vec<Input> {
    let Input::Tokens { ids, mask, types, positions } = input else { return Vec::new() };
    let with = |types: Option<Vec<usize>>, positions: Option<Vec<usize>>| Input::Tokens {
        ids: ids.clone(),
        mask: mask.clone(),
        types,
        positions,
    };
    let mut found = Vec::new();
    if types.is_some() {
        found.push(with(None, positions.clone()));
    }
    if positions.is_some() {
        found.push(with(types.clone(), None));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(inputs: &[Input]) -> Vec<&[usize]> {
        inputs.iter().map(|input| tokens(input, 0)).collect()
    }

    #[test]
    fn the_beginning_and_the_end_are_tried_the_shortest_first() {
        assert_eq!(lengths(1), BTreeSet::new());
        assert_eq!(lengths(12), [1, 2, 4, 8, 10, 11].into());
        let input = Input::Tokens {
            ids: vec![7, 8, 9],
            mask: None,
            types: None,
            positions: Some(vec![4, 5, 6]),
        };
        let found = shorter(&input);
        assert_eq!(ids(&found), [&[7][..], &[9], &[7, 8], &[8, 9]]);
        let Input::Tokens { positions, .. } = &found[3] else { panic!("{:?}", found[3]) };
        assert_eq!(positions.as_deref(), Some(&[5, 6][..]));
    }

    #[test]
    fn both_sequences_of_an_encoder_and_decoder_are_shortened() {
        let found = shorter(&Input::pair([1, 2], [3, 4]));
        let pairs: Vec<_> = found.iter().map(|i| (tokens(i, 0), tokens(i, 1))).collect();
        let (one, two) = ((&[1][..], &[3, 4][..]), (&[2][..], &[3, 4][..]));
        let (three, four) = ((&[1, 2][..], &[3][..]), (&[1, 2][..], &[4][..]));
        assert_eq!(pairs, [one, two, three, four]);
    }

    #[test]
    fn tokens_in_the_middle_are_left_out_or_become_the_first() {
        let input = Input::tokens([5, 6, 7, 8]);
        assert_eq!(ids(&without_one(&input)), [[5, 7, 8], [5, 6, 8]]);
        let all = [[5, 5, 5, 5], [5, 5, 7, 8], [5, 6, 5, 5]];
        let single = [[5, 5, 7, 8], [5, 6, 5, 8], [5, 6, 7, 5]];
        assert_eq!(ids(&plainer(&input)), [all, single].concat());
        assert!(plainer(&Input::tokens([5, 5])).is_empty());
    }
}
