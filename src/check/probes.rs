//! Inputs on which two models are compared.

use crate::certify::{Failure, Reach};
use crate::forward::Input;
use crate::model::{Input as Expected, Model, Op};
use ndarray::Array3;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens of the longest probe.
const LONGEST: usize = 16;
/// Tokens of the longest probe that is tried whatever it costs: past a small window.
pub(super) const LONG: usize = 128;
/// Failures that get a probe of their own.
const FAILURES: usize = 6;
/// Random images.
const IMAGES: u64 = 2;

/// An input, with what is needed to make it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What both models read.
    pub input: Input,
    /// The seed of [`random_image`] that made the image.
    pub image_seed: Option<u64>,
}

impl Probe {
    fn tokens(ids: Vec<usize>, types: Option<Vec<usize>>, positions: Option<Vec<usize>>) -> Self {
        Probe { input: Input::Tokens { ids, mask: None, types, positions }, image_seed: None }
    }

    /// Has the ids begin with this one.
    fn beginning_with(mut self, id: usize) -> Self {
        if let Input::Tokens { ids, .. } = &mut self.input {
            ids[0] = id;
        }
        self
    }

    /// Has an encoder read random ids, as many as the decoder reads: `ids` of the probe.
    fn behind_encoder(self, writer: &Writer, rng: &mut ChaCha8Rng) -> Self {
        match self.input {
            Input::Tokens { ids, .. } if writer.has_encoder => {
                let read = Writer { longest: ids.len(), ..*writer }.ids(ids.len(), rng);
                Probe { input: Input::pair(read, ids), image_seed: None }
            }
            input => Probe { input, ..self },
        }
    }

    fn image(shape: [usize; 3], seed: u64) -> Self {
        let pixels = random_image(shape, seed);
        Probe { input: Input::Image { pixels }, image_seed: Some(seed) }
    }
}

/// An image of noise, each pixel uniform in [-2, 2): `[channels, height, width]`, row by row.
///
/// A seed means the same image in every later version: the generator is ChaCha8 (`rand_chacha`,
/// `seed_from_u64`), and each pixel is made of the upper 53 bits of one word.
pub fn random_image(shape: [usize; 3], seed: u64) -> Array3<f64> {
    let mut rng = generator(seed);
    let pixel = || (rng.next_u64() >> 11) as f64 * 2f64.powi(-51) - 2.0;
    Array3::from_shape_simple_fn(shape, pixel)
}

fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Tokens past the end of a window.
const BEYOND: usize = 4;

/// Tokens of the smallest window of attention, or the distance from which on relative positions
/// look alike, if there is one.
fn smallest_window(model: &Model) -> Option<usize> {
    let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let windows = branches.filter_map(|branch| match &branch.op {
        Op::Attention(attention) => {
            let distance = attention.relative.as_ref().map(|bias| bias.max_distance);
            attention.window.map(|window| window.size).or(distance)
        }
        _ => None,
    });
    windows.min()
}

/// A few inputs and `more`, the shortest first: what reaches `failures`, a single token, several
/// tokens, more tokens than a window has; for image models random images. None has more than
/// `most` tokens. Those that are more begin with words from all over the vocabulary: what comes
/// first is seen by all others, and may be all that a neuron answers to.
pub(super) fn probes(model: &Model, failures: &[Failure], more: usize, most: usize) -> Vec<Probe> {
    let writer = match model.embedding.input {
        Expected::Image { channels, height, width, .. } => {
            let shape = [channels, height, width];
            return (0..IMAGES + more as u64).map(|seed| Probe::image(shape, seed)).collect();
        }
        Expected::Tokens { vocabulary, positions, types } => Writer {
            vocabulary,
            longest: positions.unwrap_or(LONGEST).min(LONGEST),
            most,
            table: positions,
            types,
            has_encoder: model.encoder.is_some(),
        },
    };
    let mut rng = generator(0);
    let mut reaches: Vec<Reach> = Vec::new();
    for failure in failures {
        if reaches.len() < FAILURES && !reaches.contains(&failure.reach) {
            reaches.push(failure.reach);
        }
    }
    let mut probes = vec![writer.random(1, &mut rng), writer.random(4, &mut rng)];
    probes.extend(reaches.into_iter().filter_map(|reach| writer.reaching(reach, 8, &mut rng)));
    probes.push(writer.random(LONGEST, &mut rng));
    let words = (0..more).map(|index| index * writer.vocabulary / more);
    probes.extend(words.map(|word| writer.random(LONGEST, &mut rng).beginning_with(word)));
    probes.extend(smallest_window(model).and_then(|window| writer.longer(window, &mut rng)));
    probes.into_iter().map(|probe| probe.behind_encoder(&writer, &mut rng)).collect()
}

/// At least `count` inputs of `length` tokens, half of them reaching a failure or past a window, of
/// up to `most` tokens where only longer ones do; or as many images.
pub(super) fn many(
    model: &Model,
    failures: &[Failure],
    count: usize,
    (length, most): (usize, usize),
) -> Vec<Probe> {
    let writer = match model.embedding.input {
        Expected::Image { channels, height, width, .. } => {
            let shape = [channels, height, width];
            return (0..count as u64).map(|seed| Probe::image(shape, seed)).collect();
        }
        Expected::Tokens { vocabulary, positions, types } => Writer {
            vocabulary,
            longest: positions.unwrap_or(length).min(length),
            most,
            table: positions,
            types,
            has_encoder: model.encoder.is_some(),
        },
    };
    let mut rng = generator(1);
    let mut reaches: Vec<Reach> = failures.iter().take(FAILURES).map(|f| f.reach).collect();
    reaches.extend(smallest_window(model).map(Reach::Longer));
    let mut next = reaches.iter().cycle();
    (0..count)
        .map(|index| {
            let reach = if index % 2 == 0 { next.next() } else { None };
            reach
                .and_then(|reach| writer.reaching(*reach, length, &mut rng))
                .unwrap_or_else(|| writer.random(length, &mut rng))
                .behind_encoder(&writer, &mut rng)
        })
        .collect()
}

/// Writes token sequences for one model.
struct Writer {
    vocabulary: usize,
    /// Longest sequence written, but where only longer ones reach what is looked for.
    longest: usize,
    /// Longest sequence written in any case.
    most: usize,
    /// Rows of the position table.
    table: Option<usize>,
    types: usize,
    has_encoder: bool,
}

impl Writer {
    fn ids(&self, length: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let length = length.clamp(1, self.longest.max(1));
        (0..length).map(|_| rng.random_range(0..self.vocabulary)).collect()
    }

    /// Random ids, and random types where there are any.
    fn random(&self, length: usize, rng: &mut ChaCha8Rng) -> Probe {
        let ids = self.ids(length, rng);
        let types =
            (self.types > 1).then(|| ids.iter().map(|_| rng.random_range(0..self.types)).collect());
        Probe::tokens(ids, types, None)
    }

    /// Random ids, more than `count`; `None` where that is too many.
    fn longer(&self, count: usize, rng: &mut ChaCha8Rng) -> Option<Probe> {
        let most = self.table.unwrap_or(self.most).min(self.most);
        let length = count.saturating_add(BEYOND).min(most);
        let longer = Writer { longest: length, ..*self };
        (length > count).then(|| longer.random(length, rng))
    }

    /// A sequence that reaches a failure; `None` where that names something the model has not.
    fn reaching(&self, reach: Reach, length: usize, rng: &mut ChaCha8Rng) -> Option<Probe> {
        let mut ids = self.ids(length, rng);
        let place = rng.random_range(0..ids.len());
        match reach {
            Reach::Any | Reach::Epsilon => Some(self.random(length, rng)),
            Reach::Longer(count) => self.longer(count, rng),
            Reach::Token(id) => {
                *ids.get_mut(place).filter(|_| id < self.vocabulary)? = id;
                Some(Probe::tokens(ids, None, None))
            }
            Reach::TokenType(kind) => (kind < self.types).then(|| {
                let types = (0..ids.len())
                    .map(|at| if at == place { kind } else { rng.random_range(0..self.types) })
                    .collect();
                Probe::tokens(ids, Some(types), None)
            }),
            Reach::Position(position) => {
                (position < self.table?).then(|| {
                    // The last tokens up to that position; nothing says that they must begin at 0.
                    let count = ids.len().min(position + 1);
                    let positions = (position + 1 - count..=position).collect();
                    Probe::tokens(ids[..count].to_vec(), None, Some(positions))
                })
            }
        }
    }
}
