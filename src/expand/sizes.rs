//! The sizes of the expanded model: what follows from what was asked for, and which sizes can be
//! lossless.

use super::advice::{EPS_LIMITED, Refusal};
use super::rules::{copy_heads, rotary_channels};
use super::stream::{is_post_norm, only_multiples};
use super::{Options, Target};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::{Attention, Catalog, ExpertCount, Family, Model, Op, Sizes};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What the source's family makes of sizes.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The family.
    pub family: &'a Family,
    /// The source's configuration.
    pub config: &'a Config,
    /// The source's tensors.
    pub catalog: &'a Catalog<'a>,
}

/// What decides which sizes are possible.
pub(super) struct Limits<'a> {
    pub family: &'a Family,
    pub source: &'a Sizes,
    /// Why hidden must be a multiple; `None` where it need not be.
    pub only_multiples: Option<&'static str>,
    /// Widths of tables with a projection to the stream.
    projected: Vec<usize>,
    /// Norms of the stream itself, unless what is only eps-limited is allowed: layers stay.
    post_norm: bool,
    /// Norms of queries and keys: head_dim stays.
    head_norms: bool,
    rotary: Frequencies<'a>,
}

/// Which head sizes keep the frequencies of rotary positions. The family decides: it may keep the
/// number of channels that are turned.
struct Frequencies<'a> {
    context: Context<'a>,
    source: Option<&'a Attention>,
    sizes: &'a Sizes,
    /// What is known of each head size.
    known: RefCell<BTreeMap<usize, bool>>,
}

impl Frequencies<'_> {
    /// Whether every channel finds its place among `head_dim`.
    fn fit(&self, head_dim: usize) -> bool {
        let Some(source) = self.source.filter(|a| a.rotary.is_some()) else { return true };
        if head_dim > LARGEST {
            return false;
        }
        let mut known = self.known.borrow_mut();
        *known.entry(head_dim).or_insert_with(|| {
            let expanded = self.described(head_dim);
            let rotary = expanded.as_ref().and_then(|attention| attention.rotary.as_ref());
            let sizes = (source.head_dim, head_dim);
            source.rotary.as_ref().zip(rotary).is_some_and(|(from, to)| {
                rotary_channels(&from.frequencies, &to.frequencies, sizes).is_some()
            })
        })
    }

    /// Attention as the family describes it with heads of this size, in a model of one layer.
    fn described(&self, head_dim: usize) -> Option<Attention> {
        let Context { family, config, catalog } = self.context;
        let sizes = self.sizes;
        let hidden = match family.fields.head_dim {
            Some(_) => sizes.hidden,
            None => sizes.heads.saturating_mul(head_dim),
        };
        let mut config = config.clone();
        let sizes = Sizes { hidden, head_dim, layers: 1, ..sizes.clone() };
        (family.configure)(&mut config, &sizes, &[0]);
        let model = (family.describe)(&config, catalog).ok()?;
        first_attention(&model).cloned()
    }
}

fn first_attention(model: &Model) -> Option<&Attention> {
    model.layers.iter().flatten().flat_map(|s| &s.branches).find_map(|branch| match &branch.op {
        Op::Attention(attention) => Some(&**attention),
        _ => None,
    })
}

/// The sizes that `options` ask for, with the source's ε.
///
/// # Errors
/// Refuses sizes that cannot be lossless and names the nearest that can and of which `refusal` has
/// nothing to say.
pub(super) fn resolve(
    context: &Context,
    model: &Model,
    options: &Options,
    refusal: Refusal,
) -> Result<Sizes> {
    let target = &options.target;
    let (source, attention) = (&model.sizes, first_attention(model));
    let limits = Limits {
        family: context.family,
        source,
        only_multiples: only_multiples(model),
        projected: model
            .embedding
            .tables
            .iter()
            .filter_map(|table| table.projection.as_ref().map(|_| table.lens.cols()))
            .collect(),
        post_norm: is_post_norm(model) && !options.allow_eps_limited,
        head_norms: attention.is_some_and(|a| a.head_norms.is_some()),
        rotary: Frequencies {
            context: *context,
            source: attention,
            sizes: source,
            known: RefCell::default(),
        },
    };
    let sizes = limits.follow(target);
    match limits.problem(&sizes, target) {
        None => Ok(sizes),
        Some((field, problem)) => {
            let mut help = limits.advice(target, refusal);
            if limits.post_norm && field == context.family.fields.layers {
                help += EPS_LIMITED;
            }
            Err(Error::refused(problem).field(field).help(help))
        }
    }
}

impl Limits<'_> {
    /// Fills in what was not asked for.
    pub fn follow(&self, target: &Target) -> Sizes {
        let source = self.source;
        let hidden = target.hidden.unwrap_or(source.hidden);
        let heads = target.heads.unwrap_or(source.heads);
        let grouped = source.kv_heads != source.heads;
        let fixed = self.family.fields.head_dim.is_none();
        Sizes {
            hidden,
            heads,
            kv_heads: target.kv_heads.unwrap_or(if grouped { source.kv_heads } else { heads }),
            head_dim: match target.head_dim {
                Some(size) => size,
                None if fixed => hidden / heads.max(1),
                None => source.head_dim,
            },
            intermediate: target.intermediate.unwrap_or(source.intermediate),
            layers: target.layers.unwrap_or(source.layers),
            experts: source.experts.map(|count| {
                let all = target.experts.unwrap_or(count.all);
                // Rounded, so that what is no multiple is not taken for one.
                ExpertCount { all, active: all.saturating_mul(count.active) / count.all }
            }),
            norm_eps: source.norm_eps,
        }
    }

    /// The field that makes `sizes` impossible and why.
    fn problem(&self, sizes: &Sizes, target: &Target) -> Option<(&'static str, String)> {
        self.out_of_range(sizes, target)
            .or_else(|| self.stream_problem(sizes))
            .or_else(|| self.head_problem(sizes))
            .or_else(|| self.rotary_problem(sizes))
            .or_else(|| self.group_problem(sizes))
            .or_else(|| self.expert_problem(target))
    }

    /// Whether what `target` asks for is possible: whether there is no [`Limits::problem`]. That of
    /// rotary positions, for which a model is described, is looked for last.
    pub fn works(&self, target: &Target) -> bool {
        let sizes = self.follow(target);
        self.out_of_range(&sizes, target).is_none()
            && self.stream_problem(&sizes).is_none()
            && self.head_problem(&sizes).is_none()
            && self.group_problem(&sizes).is_none()
            && self.expert_problem(target).is_none()
            && self.rotary_problem(&sizes).is_none()
    }

    fn out_of_range(&self, sizes: &Sizes, target: &Target) -> Option<(&'static str, String)> {
        self.all_out_of_range(sizes, target).next()
    }

    fn all_out_of_range(
        &self,
        sizes: &Sizes,
        target: &Target,
    ) -> impl Iterator<Item = (&'static str, String)> {
        let (fields, source) = (&self.family.fields, self.source);
        let head_dim = fields.head_dim.unwrap_or("head_dim");
        let all = [
            (fields.hidden, sizes.hidden, source.hidden),
            (fields.heads, sizes.heads, source.heads),
            (fields.intermediate, sizes.intermediate, source.intermediate),
            (fields.layers, sizes.layers, source.layers),
            (fields.kv_heads.unwrap_or("kv_heads"), sizes.kv_heads, source.kv_heads),
            (head_dim, target.head_dim.unwrap_or(source.head_dim), source.head_dim),
        ];
        let layers = fields.layers;
        all.into_iter().filter_map(move |(field, got, least)| {
            let problem = match got {
                _ if got < least => format!("{got} is smaller than the source's {least}"),
                _ if got > LARGEST || field == layers && got > MOST_LAYERS => {
                    format!("{got} is more than any model has")
                }
                _ => return None,
            };
            Some((field, problem))
        })
    }

    fn stream_problem(&self, sizes: &Sizes) -> Option<(&'static str, String)> {
        let (fields, source) = (&self.family.fields, self.source);
        if let Some(reason) = self.only_multiples
            && !sizes.hidden.is_multiple_of(source.hidden)
        {
            let problem = format!(
                "{reason} allow only multiples of {}, and {} is none",
                source.hidden, sizes.hidden
            );
            return Some((fields.hidden, problem));
        }
        if self.projected.contains(&sizes.hidden) && sizes.hidden != source.hidden {
            let problem = format!(
                "a table of {} channels has a projection to the stream only where the stream has \
                 another width",
                sizes.hidden
            );
            return Some((fields.hidden, problem));
        }
        (self.post_norm && sizes.layers != source.layers).then(|| {
            let problem = "norms of the stream itself (Post-LN) allow no new layer: it would be \
                           exact only up to its ε over the variance";
            (fields.layers, problem.to_string())
        })
    }

    fn head_problem(&self, sizes: &Sizes) -> Option<(&'static str, String)> {
        let (fields, source) = (&self.family.fields, self.source);
        let Sizes { hidden, heads, head_dim, .. } = *sizes;
        match fields.head_dim {
            None if hidden != heads.saturating_mul(head_dim) => {
                let problem = format!(
                    "this family needs heads that divide the hidden size, and {heads} heads of \
                     {head_dim} channels do not make {hidden}"
                );
                Some((fields.heads, problem))
            }
            None if head_dim < source.head_dim => {
                let problem = format!(
                    "{heads} heads leave {head_dim} channels for each, and the source has {}",
                    source.head_dim
                );
                Some((fields.heads, problem))
            }
            _ if self.head_norms && head_dim != source.head_dim => {
                let problem = format!(
                    "norms of queries and keys (QK-norm) see every channel of a head, so that \
                     heads stay at {} channels",
                    source.head_dim
                );
                Some((fields.head_dim.unwrap_or(fields.heads), problem))
            }
            _ => None,
        }
    }

    fn rotary_problem(&self, sizes: &Sizes) -> Option<(&'static str, String)> {
        let fields = &self.family.fields;
        (!self.rotary.fit(sizes.head_dim)).then(|| {
            let problem = match sizes.head_dim % 2 {
                1 => {
                    format!("rotary positions turn pairs, and {} channels are none", sizes.head_dim)
                }
                _ => format!(
                    "rotary positions turn {} channels at frequencies that {} channels lack, \
                     whatever the base",
                    self.source.head_dim, sizes.head_dim
                ),
            };
            (fields.head_dim.unwrap_or(fields.heads), problem)
        })
    }

    /// What keeps query heads from finding the key/value heads that they read.
    fn group_problem(&self, sizes: &Sizes) -> Option<(&'static str, String)> {
        let (fields, source) = (&self.family.fields, self.source);
        let Sizes { heads, kv_heads, .. } = *sizes;
        let Some(field) = fields.kv_heads else {
            let problem = format!("this family has no key/value heads of their own: {kv_heads}");
            return (kv_heads != heads).then_some((fields.heads, problem));
        };
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("{heads} query heads cannot share {kv_heads} key/value heads");
            return Some((field, problem));
        }
        let from = (source.heads, source.kv_heads);
        copy_heads(from, (heads, kv_heads)).is_none().then(|| {
            let problem = format!(
                "the {} query heads cannot all find a copy of the key/value head that they read \
                 among {kv_heads} key/value heads with {} readers each",
                source.heads,
                heads / kv_heads
            );
            (field, problem)
        })
    }

    fn expert_problem(&self, target: &Target) -> Option<(&'static str, String)> {
        let problem = match (target.experts, self.source.experts) {
            (None, _) => return None,
            (Some(_), None) => "this model has no experts".to_string(),
            (Some(wanted), Some(count)) => match wanted {
                0 => format!("0 is smaller than the source's {}", count.all),
                _ if wanted > MOST_EXPERTS => format!("{wanted} is more than any model has"),
                _ if wanted.is_multiple_of(count.all) => return None,
                _ => format!(
                    "each of the {} experts must be copied as often as the others, and {wanted} is \
                     no multiple",
                    count.all
                ),
            },
        };
        Some((EXPERTS, problem))
    }

    /// Whether some heads may suit this width.
    pub fn width_is_possible(&self, hidden: usize, wanted: &Sizes) -> bool {
        let sizes = Sizes { hidden, ..wanted.clone() };
        hidden >= self.source.hidden && self.stream_problem(&sizes).is_none()
    }

    /// How many conditions `target` breaks. One size out of range counts for more than all others,
    /// which suppose that there is none.
    pub fn problems(&self, target: &Target) -> usize {
        let sizes = self.follow(target);
        let out = self.all_out_of_range(&sizes, target).count();
        if out > 0 {
            return 8 + out;
        }
        let broken = [
            self.stream_problem(&sizes),
            self.head_problem(&sizes),
            self.group_problem(&sizes),
            self.expert_problem(target),
            self.rotary_problem(&sizes),
        ];
        broken.into_iter().flatten().count()
    }
}

/// Refuses models that no memory holds.
///
/// # Errors
/// If the model has more than 2³⁶ numbers.
pub(super) fn check_count(expanded: &Model) -> Result<()> {
    let sizes = expanded.lenses().into_iter().map(|l| l.rows().saturating_mul(l.cols()));
    let count = sizes.fold(0, usize::saturating_add);
    if count <= LARGEST_COUNT {
        return Ok(());
    }
    let problem = format!("the expanded model would have {count} numbers, too many to hold");
    Err(Error::refused(problem).help("ask for smaller sizes"))
}

/// No size of a model is larger.
pub(super) const LARGEST: usize = 1 << 24;
/// No model has more layers; the readers of configurations agree.
pub(super) const MOST_LAYERS: usize = 1 << 12;
/// No model has more experts in a layer.
const MOST_EXPERTS: usize = 1 << 12;
/// What the number of experts is called in messages.
const EXPERTS: &str = "num_local_experts";
/// No expansion has more numbers.
const LARGEST_COUNT: usize = 1 << 36;
