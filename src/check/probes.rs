//! Inputs on which two models are compared.

use crate::certify::{Failure, Reach};
use crate::forward::Input;
use crate::model::{Input as Expected, Model, Op};
use ndarray::Array3;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens of the longest probe.
const LONGEST: usize = 16;
/// Tokens of the longest probe that is made to reach far.
const FAR: usize = 512;
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

    /// Has an encoder read random ids, as many as the decoder reads: `ids` of the probe.
    fn behind_encoder(self, writer: &Writer, rng: &mut ChaCha8Rng) -> Self {
        match self.input {
            Input::Tokens { ids, .. } if writer.has_encoder => {
                let read = writer.ids(ids.len(), rng);
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

/// A few inputs and `more`, the shortest first: what reaches `failures`, a single token, several
/// tokens; for image models random images.
pub(super) fn probes(model: &Model, failures: &[Failure], more: usize) -> Vec<Probe> {
    let far = furthest_distance(model).map(|distance| (distance + 2).min(FAR));
    let writer = match model.embedding.input {
        Expected::Image { channels, height, width, .. } => {
            let shape = [channels, height, width];
            return (0..IMAGES + more as u64).map(|seed| Probe::image(shape, seed)).collect();
        }
        Expected::Tokens { vocabulary, positions, types } => Writer {
            vocabulary,
            longest: positions.unwrap_or(LONGEST).min(LONGEST).max(far.unwrap_or(0)),
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
    probes.extend((0..1 + more).map(|_| writer.random(LONGEST, &mut rng)));
    if let (Some(far), false) = (far, failures.is_empty()) {
        probes.push(writer.random(far, &mut rng));
    }
    probes.into_iter().map(|probe| probe.behind_encoder(&writer, &mut rng)).collect()
}

/// From which distance on all positions look alike; `None` without relative positions.
fn furthest_distance(model: &Model) -> Option<usize> {
    let encoder = model.encoder.iter().flat_map(|encoder| &encoder.layers);
    let sublayers = model.layers.iter().chain(encoder).flatten();
    let ops = sublayers.flat_map(|sublayer| &sublayer.branches).map(|branch| &branch.op);
    let distance = |op: &Op| match op {
        Op::Attention(attention) => attention.relative.as_ref().map(|bias| bias.max_distance),
        _ => None,
    };
    ops.filter_map(distance).max()
}

/// At least `count` inputs of `length` tokens, half of them reaching a failure; or as many images.
pub(super) fn many(model: &Model, failures: &[Failure], count: usize, length: usize) -> Vec<Probe> {
    let writer = match model.embedding.input {
        Expected::Image { channels, height, width, .. } => {
            let shape = [channels, height, width];
            return (0..count as u64).map(|seed| Probe::image(shape, seed)).collect();
        }
        Expected::Tokens { vocabulary, positions, types } => Writer {
            vocabulary,
            longest: positions.unwrap_or(length).min(length),
            table: positions,
            types,
            has_encoder: model.encoder.is_some(),
        },
    };
    let mut rng = generator(1);
    let reaches: Vec<Reach> = failures.iter().take(FAILURES).map(|f| f.reach).collect();
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
    /// Longest sequence written.
    longest: usize,
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

    /// A sequence that reaches a failure; `None` where that names something the model has not.
    fn reaching(&self, reach: Reach, length: usize, rng: &mut ChaCha8Rng) -> Option<Probe> {
        let mut ids = self.ids(length, rng);
        let place = rng.random_range(0..ids.len());
        match reach {
            Reach::Any | Reach::Epsilon => Some(self.random(length, rng)),
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
