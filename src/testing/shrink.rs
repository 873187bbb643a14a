//! Smaller cases that still fail.

use super::source::{Architecture, Biases, SourceCase, WeightStyle};
use super::target::{FreeParts, TargetCase};
use crate::checkpoint::Dtype;

/// More steps than any case of usual size needs.
const STEPS_LIMIT: usize = 1000;

/// A source and what it is to be expanded to.
pub type PairCase = (SourceCase, TargetCase);

/// The smallest case found, from `case` on, for which `fails` still returns true: sizes towards one
/// and towards each other, settings towards the plain ones. Tries one change at a time, so the same
/// case shrinks to the same case. `fails` must return false for a case that cannot be built: among
/// the candidates are illegal ones.
pub fn smallest(case: PairCase, mut fails: impl FnMut(&PairCase) -> bool) -> PairCase {
    let mut best = case;
    for _ in 0..STEPS_LIMIT {
        match simpler(&best).into_iter().find(|candidate| fails(candidate)) {
            Some(candidate) => best = candidate,
            None => break,
        }
    }
    best
}

/// The cases that are one step simpler than `case`, the boldest steps first. Each step lowers a
/// size or makes a setting plain, so no chain of steps returns to where it was.
pub fn simpler(case: &PairCase) -> Vec<PairCase> {
    let mut found: Vec<PairCase> = Vec::new();
    let mut add = |change: &dyn Fn(&mut SourceCase, &mut TargetCase)| {
        let mut changed = case.clone();
        change(&mut changed.0, &mut changed.1);
        tie_sizes(&mut changed);
        if changed != *case && !found.contains(&changed) {
            found.push(changed);
        }
    };
    for change in PLAIN {
        add(change);
    }
    for size in TARGET_SIZES {
        add(&|source, target| *size.1(target) = size.0(source));
        add(&|source, target| *size.1(target) = (*size.1(target)).min(size.0(source) + 1));
        add(&|_, target| *size.1(target) = size.1(target).saturating_sub(1));
    }
    for size in SOURCE_SIZES {
        for least in [1, 2] {
            add(&|source, _| *size(source) = (*size(source)).min(least));
        }
        add(&|source, _| *size(source) = size(source).saturating_sub(1));
    }
    add(&|source, target| {
        if source.layers > 1 {
            (source.layers, target.layers) = (source.layers - 1, target.layers.saturating_sub(1));
        }
    });
    found
}

type Change = fn(&mut SourceCase, &mut TargetCase);

/// Settings that are plain.
const PLAIN: &[Change] = &[
    |_, target| target.free = FreeParts::Zero,
    |_, target| target.cancel = false,
    |_, target| target.insert_after = None,
    |_, target| target.seed = 0,
    |source, _| source.seed = 0,
    |source, _| source.dtype = Dtype::F64,
    |source, _| source.weights = WeightStyle::Random,
    |source, _| source.stored_twice = false,
    |source, _| source.buffers = false,
    |source, _| source.old_norm_names = false,
    |source, _| source.tied = false,
    |source, _| source.scale_by_head = true,
    |source, _| source.scale_by_layer = false,
    |source, _| source.theta = 10_000.0,
    |source, _| {
        if source.architecture == Architecture::Llama {
            source.biases = Biases { qkv: true, attention: false, mlp: false };
        } else {
            source.biases.qkv = true;
        }
    },
    |source, _| {
        if source.architecture != Architecture::VitTimm {
            (source.eps, source.activation) = (1e-5, "relu".into());
        }
    },
    |source, _| {
        if let Some(image) = &mut source.image {
            (image.height, image.width, image.channels) = (image.patch, image.patch, 1);
        }
    },
];

type SourceSize = fn(&mut SourceCase) -> &mut usize;

const SOURCE_SIZES: &[SourceSize] = &[
    |source| &mut source.hidden,
    |source| &mut source.heads,
    |source| &mut source.kv_heads,
    |source| &mut source.head_dim,
    |source| &mut source.intermediate,
    |source| &mut source.vocabulary,
    |source| &mut source.positions,
    |source| &mut source.types,
];

type TargetSize = (fn(&SourceCase) -> usize, fn(&mut TargetCase) -> &mut usize);

const TARGET_SIZES: &[TargetSize] = &[
    (|source| source.layers, |target| &mut target.layers),
    (|source| source.intermediate, |target| &mut target.intermediate),
    (|source| source.heads, |target| &mut target.heads),
    (|source| source.kv_heads, |target| &mut target.kv_heads),
    (|source| source.head_dim, |target| &mut target.head_dim),
    (|source| source.hidden, |target| &mut target.hidden),
];

/// Where a family has fewer free sizes than the case has fields, makes the others follow; and named
/// places of new layers are dropped where there are no longer as many.
fn tie_sizes((source, target): &mut PairCase) {
    if source.architecture != Architecture::Llama {
        (source.kv_heads, source.hidden) = (source.heads, source.heads * source.head_dim);
        (target.kv_heads, target.hidden) = (target.heads, target.heads * target.head_dim);
    }
    let added = target.layers.saturating_sub(source.layers);
    let fits = |places: &Vec<usize>| {
        places.len() == added && places.iter().all(|place| *place <= source.layers)
    };
    target.insert_after = target.insert_after.take().filter(fits);
}
