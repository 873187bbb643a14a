//! Random legal targets of an expansion.

use super::random::Draw;
use super::source::{Architecture, SourceCase};
use crate::expand::{Free, NewLayers, Options, Target};
use serde::{Deserialize, Serialize};

/// How the free parts of an expansion are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeParts {
    /// The projection of a random initialisation: breaks symmetry.
    Projection,
    /// Net2Net: equal shares, nothing random.
    Equal,
    /// Zeros wherever they are allowed.
    Zero,
}

/// Everything that reproduces one expansion of a source: the sizes and the free choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetCase {
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Neurons of the feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Whether new layers end in fan-outs that cancel, instead of zeros.
    pub cancel: bool,
    /// For each new layer, how many of the source's come before it; an even spread where this is
    /// `None`.
    pub insert_after: Option<Vec<usize>>,
    /// How the free parts are filled.
    pub free: FreeParts,
    /// Seed of the free choices.
    pub seed: u64,
}

impl TargetCase {
    /// The target that changes no size.
    pub fn unchanged(source: &SourceCase, free: FreeParts, seed: u64) -> TargetCase {
        TargetCase {
            hidden: source.hidden,
            heads: source.heads,
            kv_heads: source.kv_heads,
            head_dim: source.head_dim,
            intermediate: source.intermediate,
            layers: source.layers,
            cancel: false,
            insert_after: None,
            free,
            seed,
        }
    }

    /// A random target that can be reached without loss: no size shrinks; Post-LN grows by whole
    /// factors and keeps its depth; under rotary positions the head size grows by whole factors;
    /// every query head of the source finds a place beside a copy of its key/value head.
    ///
    /// # Panics
    /// If the source has no heads or another size of zero, which no legal case has.
    pub fn random(source: &SourceCase, rng: &mut impl Draw) -> TargetCase {
        let free = rng.pick(&[
            FreeParts::Projection,
            FreeParts::Projection,
            FreeParts::Equal,
            FreeParts::Zero,
        ]);
        let mut target = TargetCase::unchanged(source, free, rng.next_u64() >> 11);
        if rng.chance(0.5) {
            target.intermediate += rng.between(1, 2 * source.intermediate + 1);
        }
        if source.architecture != Architecture::Bert && rng.chance(0.4) {
            target.layers += rng.between(1, 2);
        }
        if rng.chance(0.75) {
            match source.architecture {
                Architecture::Bert => grow_by_whole_factor(source, &mut target, rng),
                Architecture::Llama => grow_apart(source, &mut target, rng),
                _ => grow_together(source, &mut target, rng),
            }
        }
        let added = target.layers - source.layers;
        if added > 0 {
            target.cancel = target.has_second_copies(source) && rng.chance(0.6);
            if rng.chance(0.5) {
                let places = (0..added).map(|_| rng.below(source.layers + 1));
                target.insert_after = Some(places.collect());
            }
        }
        target
    }

    /// A target that cannot be reached without loss, and why, for testing refusals.
    ///
    /// # Panics
    /// If the source has no heads or another size of zero, which no legal case has.
    pub fn impossible(source: &SourceCase, rng: &mut impl Draw) -> (TargetCase, &'static str) {
        let plain = TargetCase::unchanged(source, FreeParts::Projection, 0);
        let mut choices = Vec::new();
        let mut add = |why, change: &dyn Fn(&mut TargetCase)| {
            let mut target = plain.clone();
            change(&mut target);
            choices.push((target, why));
        };
        add("fewer neurons than the source", &|t| t.intermediate -= 1);
        add("fewer layers than the source", &|t| t.layers -= 1);
        match source.architecture {
            Architecture::Bert => {
                add("a new layer in a Post-LN model", &|t| t.layers += 1);
                if source.hidden > 1 {
                    add("Post-LN at a width that is no multiple", &|t| {
                        t.head_dim = 1 + source.head_dim;
                        t.heads = source.heads + usize::from(source.head_dim == 1);
                        t.heads += usize::from((t.heads * t.head_dim) % source.hidden == 0);
                        (t.kv_heads, t.hidden) = (t.heads, t.heads * t.head_dim);
                    });
                }
            }
            Architecture::Llama => {
                add("a rotary head size that is no multiple", &|t| {
                    t.head_dim = if source.head_dim == 2 { 3 } else { source.head_dim + 2 };
                });
                add("query heads that key/value heads do not divide", &|t| {
                    (t.heads, t.kv_heads) = (2 * source.heads + 1, 2 * source.kv_heads);
                });
                for (heads, kv_heads) in head_choices(source, false) {
                    add("groups in which a query head finds no place", &|t| {
                        (t.heads, t.kv_heads) = (heads, kv_heads);
                    });
                }
            }
            _ => add("heads that do not divide the width", &|t| t.hidden += 1),
        }
        rng.pick(&choices)
    }

    /// Whether every neuron and every channel of every head has a second copy, so that fan-outs can
    /// cancel.
    fn has_second_copies(&self, source: &SourceCase) -> bool {
        let places = self.kv_heads / source.kv_heads * (self.heads / self.kv_heads);
        let heads = places / (source.heads / source.kv_heads);
        heads * (self.head_dim / source.head_dim) >= 2
            && self.intermediate >= 2 * source.intermediate
    }

    /// The request to [`crate::expand::expand`].
    pub fn options(&self) -> Options {
        Options {
            target: Target {
                hidden: Some(self.hidden),
                heads: Some(self.heads),
                kv_heads: Some(self.kv_heads),
                head_dim: Some(self.head_dim),
                intermediate: Some(self.intermediate),
                layers: Some(self.layers),
                experts: None,
            },
            free: match self.free {
                FreeParts::Projection => Free::Projection,
                FreeParts::Equal => Free::Equal,
                FreeParts::Zero => Free::Zero,
            },
            seed: self.seed,
            new_layers: if self.cancel { NewLayers::Cancel } else { NewLayers::Zero },
            insert_after: self.insert_after.clone(),
            dtype: None,
        }
    }

    /// Whether the width is a whole multiple of the source's.
    pub fn divides(&self, source: &SourceCase) -> bool {
        self.hidden.is_multiple_of(source.hidden)
    }
}

/// Width is heads times head size: more heads, larger heads, or both.
fn grow_together(source: &SourceCase, target: &mut TargetCase, rng: &mut impl Draw) {
    let which = rng.below(3);
    if which != 1 {
        target.heads += rng.between(1, 2 * source.heads);
    }
    if which != 0 {
        target.head_dim += rng.between(1, source.head_dim + 1);
    }
    target.kv_heads = target.heads;
    target.hidden = target.heads * target.head_dim;
}

/// Post-LN: twice or three times the width, cut into any number of heads that are not smaller.
fn grow_by_whole_factor(source: &SourceCase, target: &mut TargetCase, rng: &mut impl Draw) {
    target.hidden = source.hidden * rng.between(2, 3);
    let fits = |heads: &usize| {
        target.hidden.is_multiple_of(*heads) && target.hidden / heads >= source.head_dim
    };
    let choices: Vec<usize> = (source.heads..=target.hidden).filter(fits).collect();
    // All of the growth as heads always fits.
    target.heads = rng.pick(&choices);
    target.kv_heads = target.heads;
    target.head_dim = target.hidden / target.heads;
}

/// Llama: width, heads, key/value heads and head size grow each for itself.
fn grow_apart(source: &SourceCase, target: &mut TargetCase, rng: &mut impl Draw) {
    if rng.chance(0.7) {
        target.hidden += rng.between(1, 2 * source.hidden);
    }
    if rng.chance(0.4) {
        target.head_dim *= rng.between(2, 3);
    }
    if rng.chance(0.6) {
        let choices = head_choices(source, true);
        (target.heads, target.kv_heads) = rng.pick(&choices);
    }
}

/// Query and key/value head counts up to three times the source's for which every query head of
/// the source finds a place, or for which one finds none: there is a group of `heads/kv_heads`
/// places for each copy of a key/value head, of which each has at least ⌊kv_heads_T / kv_heads_S⌋.
fn head_choices(source: &SourceCase, possible: bool) -> Vec<(usize, usize)> {
    let group = source.heads / source.kv_heads;
    let mut choices = Vec::new();
    for kv_heads in source.kv_heads..=source.heads.max(2 * source.kv_heads) {
        for heads in (source.heads..=3 * source.heads).filter(|h| h.is_multiple_of(kv_heads)) {
            let fits = kv_heads / source.kv_heads * (heads / kv_heads) >= group;
            if fits == possible {
                choices.push((heads, kv_heads));
            }
        }
    }
    choices
}
