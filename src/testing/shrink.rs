//! Smaller cases that still fail.

use super::source::{SourceCase, WeightStyle};
use super::target::{FreeParts, TargetCase};
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::{Input, Sizes};
use serde_json::{Map, Value};

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
        match simpler(&best).find(|candidate| fails(candidate)) {
            Some(candidate) => best = candidate,
            None => break,
        }
    }
    best
}

/// The cases that are one step simpler than `case`, the boldest steps first; none if the case is
/// not legal. Each costs less (`cost`), so no chain of steps returns to where it was.
pub fn simpler(case: &PairCase) -> impl Iterator<Item = PairCase> + use<> {
    let before = cost(case).ok();
    let candidates = match case.0.model() {
        Err(_) => Vec::new(),
        Ok(model) => [
            smaller_targets(case, &model.sizes),
            smaller_sources(case),
            plain(case),
            plainer_configurations(case),
        ]
        .concat(),
    };
    candidates.into_iter().filter_map(move |mut candidate| {
        forget_places(&mut candidate);
        (cost(&candidate).ok()? < before?).then_some(candidate)
    })
}

/// The sources that are one step simpler than `source`, the boldest steps first.
pub fn simpler_sources(source: &SourceCase) -> impl Iterator<Item = SourceCase> + use<> {
    let sizes = source.model().ok().map(|model| model.sizes);
    let same = sizes.map(|sizes| TargetCase::unchanged(&sizes, FreeParts::Zero, 0));
    let before = source.clone();
    let pairs = same.into_iter().flat_map(move |same| simpler(&(before.clone(), same)));
    let before = source.clone();
    pairs.map(|(simpler, _)| simpler).filter(move |simpler| *simpler != before)
}

/// What a case costs: target sizes, then weights and pixels, then settings that are not plain, then
/// words.
///
/// # Errors
/// If the source is no legal case.
fn cost((source, target): &PairCase) -> Result<[usize; 5]> {
    let model = source.model()?;
    let weights = model.lenses().into_iter().map(|lens| lens.rows().saturating_mul(lens.cols()));
    let pixels = match model.embedding.input {
        Input::Image { height, width, .. } => height.saturating_mul(width),
        Input::Tokens { .. } => 0,
    };
    let mut target_sizes: usize = TARGET_SIZES.iter().map(|size| *size(&mut target.clone())).sum();
    target_sizes += target.experts.unwrap_or(0);
    let settings = [
        target.free != FreeParts::Zero,
        target.cancel,
        target.insert_after.is_some(),
        target.seed != 0,
        source.seed != 0,
        source.dtype != Dtype::F64,
        source.weights != WeightStyle::Random,
        model.sizes.norm_eps.is_some_and(|eps| eps != PLAIN_EPS),
    ];
    let switches = leaves(&source.config).iter().filter(|(_, v)| **v == Value::Bool(true)).count();
    let names = source.stored.len() + source.buffers.len();
    Ok([
        target_sizes,
        weights.fold(pixels.saturating_add(model.sizes.layers), usize::saturating_add),
        settings.into_iter().filter(|set| *set).count() + switches + names,
        leaves(&source.config).len(),
        leaves(&source.config).iter().map(|(_, value)| value.to_string().len()).sum(),
    ])
}

/// An ε that hides nothing and is no extreme.
const PLAIN_EPS: f64 = 1e-5;

/// Settings made plain.
fn plain(case: &PairCase) -> Vec<PairCase> {
    let changes: [fn(&mut PairCase); 10] = [
        |(_, target)| target.free = FreeParts::Zero,
        |(_, target)| target.cancel = false,
        |(_, target)| target.insert_after = None,
        |(_, target)| target.seed = 0,
        |(source, target)| {
            let experts = source.model().ok().and_then(|model| model.sizes.experts);
            target.experts = experts.map(|count| count.all);
        },
        |(source, _)| source.seed = 0,
        |(source, _)| source.dtype = Dtype::F64,
        |(source, _)| source.weights = WeightStyle::Random,
        |(source, _)| source.buffers.clear(),
        |(source, _)| {
            let _ = source.resize(|sizes| sizes.norm_eps = sizes.norm_eps.map(|_| PLAIN_EPS));
        },
    ];
    let mut found: Vec<PairCase> = changes.iter().map(|change| changed(case, change)).collect();
    found.extend(case.0.stored.iter().map(|name| {
        changed(case, |(source, _)| {
            source.stored.remove(name);
        })
    }));
    found
}

fn changed(case: &PairCase, change: impl Fn(&mut PairCase)) -> PairCase {
    let mut case = case.clone();
    change(&mut case);
    case
}

type SourceSize = fn(&mut Sizes) -> &mut usize;
type TargetSize = fn(&mut TargetCase) -> &mut usize;

const SOURCE_SIZES: [SourceSize; 6] = [
    |sizes| &mut sizes.layers,
    |sizes| &mut sizes.intermediate,
    |sizes| &mut sizes.heads,
    |sizes| &mut sizes.kv_heads,
    |sizes| &mut sizes.head_dim,
    |sizes| &mut sizes.hidden,
];

const TARGET_SIZES: [TargetSize; 6] = [
    |target| &mut target.layers,
    |target| &mut target.intermediate,
    |target| &mut target.heads,
    |target| &mut target.kv_heads,
    |target| &mut target.head_dim,
    |target| &mut target.hidden,
];

/// Target sizes towards the source's.
fn smaller_targets(case: &PairCase, sizes: &Sizes) -> Vec<PairCase> {
    let mut found = Vec::new();
    for (target_size, source_size) in TARGET_SIZES.iter().zip(SOURCE_SIZES) {
        let least = *source_size(&mut sizes.clone());
        let now = *target_size(&mut case.1.clone());
        for size in [least, now.min(least + 1), now.saturating_sub(1)] {
            found.push(changed(case, |(source, target)| {
                *target_size(target) = size;
                tie_target(source, target);
            }));
        }
    }
    found
}

/// Source sizes towards one; and one layer less on both sides.
fn smaller_sources(case: &PairCase) -> Vec<PairCase> {
    let mut found = Vec::new();
    let mut add = |change: &dyn Fn(&mut Sizes), fewer_layers: usize| {
        found.push(changed(case, |(source, target)| {
            let tied = ties(source);
            let resized = source.resize(|sizes| {
                change(sizes);
                tied.apply(&mut sizes.hidden, sizes.heads, &mut sizes.kv_heads, sizes.head_dim);
            });
            // A case that cannot be resized stays as it is, and is no candidate.
            if resized.is_ok() {
                target.layers = target.layers.saturating_sub(fewer_layers);
            }
        }));
    };
    for size in SOURCE_SIZES {
        for least in [1, 2] {
            add(&|sizes| *size(sizes) = (*size(sizes)).min(least), 0);
        }
        add(&|sizes| *size(sizes) = size(sizes).saturating_sub(1).max(1), 0);
    }
    // Query heads are whole groups, so that both numbers must change at once.
    for (fewer_kv, fewer_in_group) in [(1, 0), (0, 1)] {
        add(
            &|sizes| {
                let group = (sizes.heads / sizes.kv_heads.max(1)).saturating_sub(fewer_in_group);
                sizes.kv_heads = sizes.kv_heads.saturating_sub(fewer_kv).max(1);
                sizes.heads = sizes.kv_heads * group.max(1);
            },
            0,
        );
    }
    add(&|sizes| sizes.layers = sizes.layers.saturating_sub(1).max(1), 1);
    found
}

/// The configuration without one of its fields, with one switch off, or with one number smaller.
fn plainer_configurations(case: &PairCase) -> Vec<PairCase> {
    let mut found = Vec::new();
    for (place, value) in leaves(&case.0.config) {
        let mut add = |replacement: Option<Value>| {
            found.push(changed(case, |(source, _)| {
                replace(&mut source.config, &place, replacement.clone());
            }));
        };
        add(None);
        match value {
            Value::Bool(true) => add(Some(false.into())),
            Value::Number(number) => {
                for smaller in number.as_u64().into_iter().flat_map(|n| [1, 2, n.max(1) - 1]) {
                    add(Some(smaller.into()));
                }
            }
            _ => {}
        }
    }
    found
}

/// A place in a configuration: a field, perhaps in a section, perhaps an element of its list.
type Place = (String, Option<String>, Option<usize>);

/// Every value of a configuration and of its sections that is no section itself.
fn leaves(config: &Map<String, Value>) -> Vec<(Place, &Value)> {
    let mut found = Vec::new();
    for (field, value) in config {
        match value {
            Value::Object(section) => {
                for (inner, value) in section {
                    add_leaves(field, Some(inner), value, &mut found);
                }
            }
            _ => add_leaves(field, None, value, &mut found),
        }
    }
    found
}

fn add_leaves<'a>(
    field: &str,
    inner: Option<&String>,
    value: &'a Value,
    found: &mut Vec<(Place, &'a Value)>,
) {
    let place = |index| (field.to_string(), inner.cloned(), index);
    match value {
        Value::Array(list) => {
            found.extend(list.iter().enumerate().map(|(i, value)| (place(Some(i)), value)));
        }
        _ => found.push((place(None), value)),
    }
}

/// Replaces what lies at a place; `None` removes the field.
fn replace(config: &mut Map<String, Value>, place: &Place, value: Option<Value>) {
    let (field, inner, index) = place;
    let (section, key) = match inner {
        None => (config, field),
        Some(inner) => match config.get_mut(field) {
            Some(Value::Object(section)) => (section, inner),
            _ => return,
        },
    };
    match (value, index, section.get_mut(key)) {
        (None, ..) => {
            section.shift_remove(key);
        }
        (Some(value), Some(index), Some(Value::Array(list))) => list[*index] = value,
        (Some(value), ..) => {
            section.insert(key.clone(), value);
        }
    }
}

/// Which sizes follow others in a family that has no fields for them.
struct Ties {
    width: bool,
    kv_heads: bool,
}

fn ties(source: &SourceCase) -> Ties {
    let fields = source.family().ok().map(|family| &family.fields);
    Ties {
        width: fields.is_some_and(|fields| fields.head_dim.is_none()),
        kv_heads: fields.is_some_and(|fields| fields.kv_heads.is_none()),
    }
}

impl Ties {
    fn apply(&self, hidden: &mut usize, heads: usize, kv_heads: &mut usize, head_dim: usize) {
        if self.kv_heads {
            *kv_heads = heads;
        }
        if self.width {
            *hidden = heads.saturating_mul(head_dim);
        }
    }
}

fn tie_target(source: &SourceCase, target: &mut TargetCase) {
    let TargetCase { hidden, heads, kv_heads, head_dim, .. } = target;
    ties(source).apply(hidden, *heads, kv_heads, *head_dim);
}

/// Named places of new layers are dropped where there are no longer as many.
fn forget_places((source, target): &mut PairCase) {
    let Some(layers) = source.model().ok().map(|model| model.sizes.layers) else { return };
    let added = target.layers.saturating_sub(layers);
    let fits =
        |places: &Vec<usize>| places.len() == added && places.iter().all(|place| *place <= layers);
    target.insert_after = target.insert_after.take().filter(fits);
}
