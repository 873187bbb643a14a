//! Cases of operations: small, explicit, and made smaller.

use super::{OPERATIONS, Operation};
use crate::testing::random::Draw;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Standard normal.
    Normal,
    /// About 30: a mean that cancels.
    Offset,
    /// A hundred times as large: what overflows an exponential.
    Large,
    /// A thousandth as large: where ε shows.
    Small,
    /// Mostly zeros.
    Sparse,
    /// All equal.
    Equal,
}

const STYLES: [Style; 6] =
    [Style::Normal, Style::Offset, Style::Large, Style::Small, Style::Sparse, Style::Equal];

/// Sizes at the edges of tiles, warps and vectors.
const EDGES: [usize; 19] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 65];

/// More steps than any case needs.
const STEPS_LIMIT: usize = 300;

/// Everything that reproduces one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpCase {
    /// The operation's name.
    pub op: String,
    /// Its sizes by name.
    pub sizes: BTreeMap<String, usize>,
    /// What is on.
    pub on: BTreeSet<String>,
    /// How numbers are drawn.
    pub numbers: Style,
    /// Seed of the numbers.
    pub seed: u64,
}

impl OpCase {
    /// A random case, biased to the edges.
    pub fn random(operation: &Operation, rng: &mut impl Draw) -> OpCase {
        let mut sizes = BTreeMap::new();
        for size in operation.sizes {
            let edges: Vec<usize> =
                EDGES.into_iter().filter(|edge| (size.least..=size.most).contains(edge)).collect();
            let small = size.most.min(size.least + 4);
            let drawn = match rng.below(8) {
                0 | 1 => rng.between(size.least, size.most),
                2..=4 => rng.between(size.least, small),
                _ => rng.pick(&edges),
            };
            sizes.insert(size.name.to_string(), drawn);
        }
        let on = operation.switches.iter().filter(|_| rng.chance(0.5)).map(|s| s.to_string());
        OpCase {
            op: operation.name.to_string(),
            sizes,
            on: on.collect(),
            numbers: if rng.chance(0.5) { Style::Normal } else { rng.pick(&STYLES) },
            seed: rng.next_u64() >> 11,
        }
    }

    /// Whether a case from outside has the operation's sizes, within its limits, and only switches
    /// that it has.
    pub fn is_legal(&self) -> bool {
        let Some(operation) = Operation::named(&self.op) else { return false };
        let fits = |size: &super::Size| {
            let given = self.sizes.get(size.name);
            given.is_some_and(|given| (size.least..=size.most).contains(given))
        };
        self.sizes.len() == operation.sizes.len()
            && operation.sizes.iter().all(fits)
            && self.on.iter().all(|name| operation.switches.contains(&name.as_str()))
    }

    /// The smallest case found, from this one on, for which `fails` still returns true.
    pub fn smallest(self, mut fails: impl FnMut(&OpCase) -> bool) -> OpCase {
        let mut best = self;
        for _ in 0..STEPS_LIMIT {
            match best.simpler().into_iter().find(|candidate| fails(candidate)) {
                Some(candidate) => best = candidate,
                None => break,
            }
        }
        best
    }

    /// The cases that are one step simpler, the boldest steps first.
    fn simpler(&self) -> Vec<OpCase> {
        let mut found = Vec::new();
        let mut add = |change: &dyn Fn(&mut OpCase)| {
            let mut case = self.clone();
            change(&mut case);
            if case != *self && !found.contains(&case) {
                found.push(case);
            }
        };
        let operation = OPERATIONS.iter().find(|operation| operation.name == self.op);
        let sizes = || operation.into_iter().flat_map(|operation| operation.sizes);
        add(&|case| {
            for size in sizes() {
                case.sizes.insert(size.name.to_string(), size.least);
            }
        });
        add(&|case| {
            for size in sizes() {
                let half = case.sizes[size.name].midpoint(size.least);
                case.sizes.insert(size.name.to_string(), half);
            }
        });
        for size in sizes() {
            let (now, least) = (self.sizes[size.name], size.least);
            for smaller in [least, least + 1, now.midpoint(least), now.saturating_sub(1)] {
                if (least..now).contains(&smaller) {
                    add(&|case| {
                        case.sizes.insert(size.name.to_string(), smaller);
                    });
                }
            }
        }
        for name in &self.on {
            add(&|case| {
                case.on.remove(name);
            });
        }
        for style in STYLES.into_iter().filter(|style| *style < self.numbers) {
            add(&|case| case.numbers = style);
        }
        for seed in 0..self.seed.min(4) {
            add(&|case| case.seed = seed);
        }
        found
    }
}
