//! What is asked of every golden model.

use super::golden::Case;
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::{Model, family_of};

/// Whether the family fixes the head size to hidden / heads.
pub fn is_head_size_fixed(case: &Case) -> bool {
    family_of(case.checkpoint.config()).unwrap().fields.head_dim.is_none()
}

/// Norms of the stream itself.
pub fn is_post_norm(model: &Model) -> bool {
    model.layers.iter().flatten().any(|sublayer| sublayer.post_norm.is_some())
}

/// Norms behind attention or MLP, in front of the sum.
pub fn has_norms_behind(model: &Model) -> bool {
    let mut branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    branches.any(|branch| branch.post_norm.is_some())
}

/// Widths, heads, neurons and experts, each with a name for messages.
pub fn widths(case: &Case) -> Vec<(&'static str, Target)> {
    let sizes = &case.model.sizes;
    let (hidden, heads, head_dim) = (sizes.hidden, sizes.heads, sizes.head_dim);
    let keep = Target::default;
    let neurons = Some(2 * sizes.intermediate + 3);
    let wide = |factor: usize| Target {
        hidden: Some(factor * hidden),
        heads: Some(factor * heads),
        ..keep()
    };
    let mut targets = vec![
        ("same", keep()),
        ("neurons", Target { intermediate: neurons, ..keep() }),
        ("double", wide(2)),
        ("triple and neurons", Target { intermediate: neurons, ..wide(3) }),
    ];
    targets.extend(match is_head_size_fixed(case) {
        true => fixed(heads, head_dim, neurons),
        false => free(case),
    });
    if let Some(count) = sizes.experts {
        let experts = |factor: usize| Some(factor * count.all);
        targets.push(("double experts", Target { experts: experts(2), ..keep() }));
        let all = Target { experts: experts(3), hidden: Some(hidden + 3), ..keep() };
        targets.push(("triple experts and width", Target { intermediate: neurons, ..all }));
    }
    targets
}

/// Where hidden is heads times head size.
fn fixed(heads: usize, head_dim: usize, neurons: Option<usize>) -> Vec<(&'static str, Target)> {
    let of = |heads: usize, head_dim: usize| Target {
        hidden: Some(heads * head_dim),
        heads: Some(heads),
        ..Target::default()
    };
    let both = of(heads + 2, head_dim + 2);
    vec![
        ("one more head", of(heads + 1, head_dim)),
        ("many more heads", of(2 * heads + 1, head_dim)),
        ("larger heads", of(heads, head_dim + 2)),
        ("double heads", of(heads, 2 * head_dim)),
        ("more and larger heads", Target { intermediate: neurons, ..both }),
    ]
}

/// Where hidden, heads and head size are apart.
fn free(case: &Case) -> Vec<(&'static str, Target)> {
    let sizes = &case.model.sizes;
    let keep = Target::default;
    let groups = family_of(case.checkpoint.config()).unwrap().fields.kv_heads.is_some();
    let all = Target {
        hidden: Some(2 * sizes.hidden + 3),
        heads: Some(3 * sizes.heads),
        kv_heads: groups.then_some(sizes.heads),
        intermediate: Some(sizes.intermediate + 7),
        ..keep()
    };
    let head_dim = Some(3 * sizes.head_dim);
    vec![
        ("indivisible", Target { hidden: Some(sizes.hidden + 5), ..keep() }),
        ("more heads", Target { heads: Some(2 * sizes.heads), ..keep() }),
        ("all key/value heads", Target { kv_heads: Some(sizes.heads), ..keep() }),
        ("double heads", Target { head_dim: Some(2 * sizes.head_dim), ..keep() }),
        ("larger heads", Target { head_dim: Some(sizes.head_dim + 2), ..keep() }),
        ("everything", all.clone()),
        ("everything and triple heads", Target { head_dim, ..all }),
    ]
}

/// A deeper model in which all neurons and heads have second copies; wider where that is lossless,
/// and if it can be, not by a multiple.
pub fn deeper(case: &Case) -> Target {
    let sizes = &case.model.sizes;
    let of = |hidden: usize, heads: usize| Target {
        hidden: Some(hidden),
        heads: Some(heads),
        kv_heads: (sizes.heads != sizes.kv_heads).then_some(heads),
        intermediate: Some(2 * sizes.intermediate),
        layers: Some(sizes.layers + 3),
        ..Target::default()
    };
    let choices = [
        of(2 * sizes.hidden + 2 * sizes.head_dim, 2 * sizes.heads + 2),
        of(2 * sizes.hidden, 2 * sizes.heads),
        of(sizes.hidden, 2 * sizes.heads),
    ];
    let lossless = |target: &Target| {
        let options = Options { target: target.clone(), ..Options::default() };
        expand(&case.checkpoint, &case.model, &options).is_ok()
    };
    choices.into_iter().find(lossless).unwrap_or_else(|| panic!("{} cannot grow", case.name))
}
