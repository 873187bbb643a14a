//! Random inputs for a model.

use super::random::Draw;
use crate::forward::Input;
use crate::model::{Input as Expected, Model, Op};
use ndarray::Array3;

/// The longest sequence that is made where no position table says one.
const LONGEST: usize = 12;
/// The longest that is made to have all distances that relative positions part.
const FARTHEST: usize = 40;

/// Tokens past the end of a window.
const BEYOND: usize = 2;

/// A handful of inputs, each there to show something: a single token; the longest sequence, which
/// reads the last row of the position table, is longer than a window, and ends in the last word;
/// token types; padding on the right and on the left. For an image model two images, one of them
/// of one colour.
pub fn random(model: &Model, rng: &mut impl Draw) -> Vec<Input> {
    let Expected::Tokens { vocabulary, positions, types } = model.embedding.input else {
        return images(model, rng);
    };
    let usual = LONGEST.max(vocabulary).max(window(model).map_or(0, |size| size + BEYOND));
    let longest = positions.unwrap_or(usual).min(usual).min(FARTHEST);
    let mut words = |count: usize| (0..count).map(|_| rng.below(vocabulary)).collect::<Vec<_>>();
    let single = words(1);
    let mut long = words(longest);
    if let Some(last) = long.last_mut() {
        *last = vocabulary - 1;
    }
    let (right, left) = (words(longest.min(5)), words(longest.min(4)));
    let kinds: Vec<usize> = (0..longest).map(|_| rng.below(types.max(1))).collect();
    let hidden = |count: usize, visible: &dyn Fn(usize) -> bool| {
        (count > 1).then(|| (0..count).map(visible).collect())
    };
    let padding = 1 + rng.below(right.len().saturating_sub(1).max(1));
    let masks = (hidden(right.len(), &|i| i < padding), hidden(left.len(), &|i| i > 0));
    let typed = (types > 0).then_some(kinds);
    let all = vec![
        Input::tokens(single),
        Input::tokens(long.clone()),
        Input::Tokens { ids: long, mask: None, types: typed, positions: None },
        Input::Tokens { ids: right, mask: masks.0, types: None, positions: None },
        Input::Tokens { ids: left, mask: masks.1, types: None, positions: None },
    ];
    for_both(model, all)
}

/// Inputs that are one step smaller, the boldest steps first: fewer tokens, no mask, no types, the
/// first token of the vocabulary; of an image all pixels black. The same models read them.
pub fn smaller(input: &Input) -> Vec<Input> {
    let mut found = Vec::new();
    match input {
        Input::Tokens { ids, mask, types, positions } => {
            for count in shorter(ids.len()) {
                let cut = |list: &Option<Vec<usize>>| list.as_ref().map(|l| l[..count].to_vec());
                let mask = mask.as_ref().map(|mask| mask[..count].to_vec());
                let (types, positions) = (cut(types), cut(positions));
                found.push(Input::Tokens { ids: ids[..count].to_vec(), mask, types, positions });
            }
            let with = |ids: &[usize]| Input::Tokens {
                ids: ids.to_vec(),
                mask: mask.clone(),
                types: types.clone(),
                positions: positions.clone(),
            };
            found.extend(plainer(ids).iter().map(|ids| with(ids)));
            if mask.is_some() || types.is_some() || positions.is_some() {
                found.push(Input::tokens(ids.clone()));
            }
        }
        Input::Pair { ids, mask, decoder_ids, decoder_mask } => {
            let cut = |mask: &Option<Vec<bool>>, count: usize| {
                mask.as_ref().map(|mask| mask[..count].to_vec())
            };
            found.extend(shorter(ids.len()).into_iter().map(|count| Input::Pair {
                ids: ids[..count].to_vec(),
                mask: cut(mask, count),
                decoder_ids: decoder_ids.clone(),
                decoder_mask: decoder_mask.clone(),
            }));
            found.extend(shorter(decoder_ids.len()).into_iter().map(|count| Input::Pair {
                ids: ids.clone(),
                mask: mask.clone(),
                decoder_ids: decoder_ids[..count].to_vec(),
                decoder_mask: cut(decoder_mask, count),
            }));
            if mask.is_some() || decoder_mask.is_some() {
                found.push(Input::pair(ids.clone(), decoder_ids.clone()));
            }
        }
        Input::Image { pixels } => {
            let black = Array3::zeros(pixels.dim());
            found.extend((*pixels != black).then_some(Input::Image { pixels: black }));
        }
    }
    // A sequence of padding alone says nothing.
    found.retain(|input| match input {
        Input::Tokens { mask, .. } => shows(mask),
        Input::Pair { mask, decoder_mask, .. } => shows(mask) && shows(decoder_mask),
        Input::Image { .. } => true,
    });
    found
}

fn shows(mask: &Option<Vec<bool>>) -> bool {
    mask.as_ref().is_none_or(|mask| mask.contains(&true))
}

fn shorter(count: usize) -> Vec<usize> {
    [1, count / 2, count - 1].into_iter().filter(|c| (1..count).contains(c)).collect()
}

/// The ids with one or all of them 0.
fn plainer(ids: &[usize]) -> Vec<Vec<usize>> {
    let zero = |place: usize| {
        let mut ids = ids.to_vec();
        ids[place] = 0;
        ids
    };
    let others = (0..ids.len()).filter(|place| ids[*place] != 0);
    let all = others.clone().count() > 1;
    all.then(|| vec![0; ids.len()]).into_iter().chain(others.map(zero)).collect()
}

/// Has the encoder of an encoder–decoder read each input too, backwards, and the decoder the input.
fn for_both(model: &Model, inputs: Vec<Input>) -> Vec<Input> {
    let pair = |input: Input| match input {
        Input::Tokens { ids, mask, .. } if model.encoder.is_some() => Input::Pair {
            ids: ids.iter().rev().copied().collect(),
            mask: mask.clone().map(|mask| mask.into_iter().rev().collect()),
            decoder_ids: ids,
            decoder_mask: mask,
        },
        input => input,
    };
    inputs.into_iter().map(pair).collect()
}

/// Inputs that read every row of every table, where the model's tables are small: words in order,
/// in sequences as long as the positions allow, through all token types and distances. At most
/// `limit` inputs.
pub fn covering(model: &Model, limit: usize, rng: &mut impl Draw) -> Vec<Input> {
    let Expected::Tokens { vocabulary, positions, types } = model.embedding.input else {
        return images(model, rng);
    };
    let longest = positions.unwrap_or_else(|| distances(model).max(window(model).unwrap_or(0)));
    let order = rng.permutation(vocabulary);
    let count = vocabulary.div_ceil(longest).max(types).min(limit);
    let sequence = |index: usize| {
        let ids = (0..longest).map(|i| order[(index * longest + i) % vocabulary]).collect();
        let kinds = (types > 0).then(|| (0..longest).map(|i| (index + i) % types).collect());
        Input::Tokens { ids, mask: None, types: kinds, positions: None }
    };
    for_both(model, (0..count).map(sequence).collect())
}

/// The largest window of attention.
fn window(model: &Model) -> Option<usize> {
    let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let windows = branches.filter_map(|branch| match &branch.op {
        Op::Attention(attention) => attention.window.map(|window| window.size),
        _ => None,
    });
    windows.filter(|size| size + BEYOND <= FARTHEST).max()
}

/// A length at which two positions have each distance that some pair of positions is judged by.
fn distances(model: &Model) -> usize {
    let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let farthest = branches.filter_map(|branch| match &branch.op {
        Op::Attention(attention) => attention.relative.as_ref().map(|bias| bias.max_distance + 1),
        _ => None,
    });
    farthest.fold(LONGEST, usize::max).min(FARTHEST)
}

fn images(model: &Model, rng: &mut impl Draw) -> Vec<Input> {
    let Expected::Image { channels, height, width, .. } = model.embedding.input else {
        return Vec::new();
    };
    let shape = (channels, height, width);
    let noise = Array3::from_shape_simple_fn(shape, || rng.normal());
    let flat = Array3::from_elem(shape, rng.normal());
    vec![Input::Image { pixels: noise }, Input::Image { pixels: flat }]
}
