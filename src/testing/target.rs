//! Random legal targets of an expansion.

use super::random::Draw;
use super::source::SourceCase;
use crate::expand::{Free, NewLayers, Options, Target};
use crate::model::{Lens, Model, NormKind, Op, Sizes, Step};
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

impl FreeParts {
    /// All of them.
    pub const ALL: [FreeParts; 3] = [FreeParts::Projection, FreeParts::Equal, FreeParts::Zero];
}

impl From<FreeParts> for Free {
    fn from(free: FreeParts) -> Free {
        match free {
            FreeParts::Projection => Free::Projection,
            FreeParts::Equal => Free::Equal,
            FreeParts::Zero => Free::Zero,
        }
    }
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
    /// Experts, where there are any; as many times more of them are active.
    pub experts: Option<usize>,
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
    /// The target that changes no size of a source of these `sizes`.
    pub fn unchanged(sizes: &Sizes, free: FreeParts, seed: u64) -> TargetCase {
        TargetCase {
            hidden: sizes.hidden,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            intermediate: sizes.intermediate,
            layers: sizes.layers,
            experts: sizes.experts.map(|count| count.all),
            cancel: false,
            insert_after: None,
            free,
            seed,
        }
    }

    /// A random target that can be reached without loss: no size shrinks; where norms of the
    /// stream allow nothing else, it grows by whole factors, and where they are norms of its sums
    /// it keeps its depth; heads keep what norms and rotary positions see; every query head of the
    /// source finds a place beside a copy of its key/value head.
    ///
    /// # Panics
    /// If the source is no legal case.
    pub fn random(source: &SourceCase, rng: &mut impl Draw) -> TargetCase {
        let limits = Limits::of(source);
        let sizes = &limits.sizes;
        let free = rng.pick(&[
            FreeParts::Projection,
            FreeParts::Projection,
            FreeParts::Equal,
            FreeParts::Zero,
        ]);
        let mut target = TargetCase::unchanged(sizes, free, rng.next_u64() >> 11);
        if rng.chance(0.5) {
            target.intermediate += rng.between(1, 2 * sizes.intermediate + 1);
        }
        if !limits.post_norm && rng.chance(0.4) {
            target.layers += rng.between(1, 2);
        }
        if rng.chance(0.4) {
            let factor = rng.between(2, 3);
            target.experts = target.experts.map(|experts| factor * experts);
        }
        if rng.chance(0.75) {
            limits.grow_width(&mut target, rng);
        }
        let added = target.layers - sizes.layers;
        if added > 0 {
            let can = !limits.norms_behind && target.has_second_copies(sizes);
            target.cancel = can && rng.chance(0.6);
            if rng.chance(0.5) {
                let places = (0..added).map(|_| rng.below(sizes.layers + 1));
                target.insert_after = Some(places.collect());
            }
        }
        target
    }

    /// A target that cannot be reached without loss, and why, for testing refusals.
    ///
    /// # Panics
    /// If the source is no legal case.
    pub fn impossible(source: &SourceCase, rng: &mut impl Draw) -> (TargetCase, &'static str) {
        let limits = Limits::of(source);
        let sizes = &limits.sizes;
        let plain = TargetCase::unchanged(sizes, FreeParts::Projection, 0);
        let mut choices = Vec::new();
        let mut add = |why, change: &dyn Fn(&mut TargetCase)| {
            let mut target = plain.clone();
            change(&mut target);
            choices.push((target, why));
        };
        add("fewer neurons than the source", &|t| t.intermediate -= 1);
        add("fewer layers than the source", &|t| t.layers -= 1);
        if limits.post_norm {
            add("a new layer in a Post-LN model", &|t| t.layers += 1);
        }
        if limits.width == Width::Multiples && sizes.hidden > 1 {
            add("a width that is no multiple", &|t| {
                // One channel more, or as many as there are heads, of which each has several.
                match (limits.free_width, sizes.head_dim) {
                    (true, _) => t.hidden += 1,
                    (false, 1) => (t.heads, t.hidden) = (sizes.heads + 1, sizes.hidden + 1),
                    (false, _) => {
                        t.head_dim = sizes.head_dim + 1;
                        t.hidden = sizes.hidden + sizes.heads;
                    }
                }
                t.kv_heads = if limits.grouped { t.kv_heads } else { t.heads };
            });
        } else if !limits.free_width {
            add("heads that do not divide the width", &|t| t.hidden += 1);
        }
        if limits.free_width && limits.head_dim == HeadDim::Pairs {
            let head_dim = sizes.head_dim + 1;
            if !turns_alike(source, head_dim) {
                add("a rotary head size that is odd", &|t| t.head_dim = head_dim);
            }
        }
        if limits.free_width && limits.head_dim == HeadDim::Same {
            add("larger heads under norms of queries and keys", &|t| t.head_dim *= 2);
        }
        if sizes.experts.is_some_and(|count| count.all > 1) {
            add("experts that are not multiplied evenly", &|t| {
                t.experts = t.experts.map(|experts| experts + 1);
            });
        }
        if limits.grouped {
            let tied = |t: &mut TargetCase, heads, kv_heads| {
                (t.heads, t.kv_heads) = (heads, kv_heads);
                if !limits.free_width {
                    t.hidden = heads * t.head_dim;
                }
            };
            add("query heads that key/value heads do not divide", &|t| {
                tied(t, 2 * sizes.heads + 1, 2 * sizes.kv_heads);
            });
            for (heads, kv_heads) in head_choices(sizes, false) {
                add("groups in which a query head finds no place", &|t| tied(t, heads, kv_heads));
            }
        }
        rng.pick(&choices)
    }

    /// Whether every neuron and every channel of every head has a second copy, so that fan-outs can
    /// cancel.
    fn has_second_copies(&self, source: &Sizes) -> bool {
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
                experts: self.experts,
            },
            free: self.free.into(),
            seed: self.seed,
            new_layers: if self.cancel { NewLayers::Cancel } else { NewLayers::Zero },
            insert_after: self.insert_after.clone(),
            dtype: None,
            allow_eps_limited: false,
        }
    }

    /// Whether the width is a whole multiple of the source's.
    pub fn divides(&self, source: &Sizes) -> bool {
        self.hidden.is_multiple_of(source.hidden)
    }
}

/// What growth without loss is possible, read off the description of the source.
struct Limits {
    sizes: Sizes,
    /// Norms write the sums of the stream.
    post_norm: bool,
    /// Norms stand behind branches.
    norms_behind: bool,
    /// Key/value heads are counted apart from query heads.
    grouped: bool,
    /// The width is not heads times head size.
    free_width: bool,
    width: Width,
    head_dim: HeadDim,
    /// Widths of tables with a projection to the stream, which then has another width.
    projected: Vec<usize>,
}

/// How the stream can grow.
#[derive(Clone, Copy, PartialEq)]
enum Width {
    Any,
    /// LayerNorms read what norms write, or hidden channels are returned larger by a factor.
    Multiples,
    /// A tied head behind a norm that stores nothing.
    Same,
}

/// How heads can grow.
#[derive(Clone, Copy, PartialEq)]
enum HeadDim {
    Any,
    /// Rotary positions turn all channels.
    Pairs,
    /// Norms of queries and keys see all channels.
    Same,
}

impl Limits {
    fn of(source: &SourceCase) -> Limits {
        let legal = source.family().and_then(|family| Ok((family, source.model()?)));
        let (family, model) = legal.unwrap_or_else(|e| panic!("no legal case: {e}"));
        let sublayers = || model.layers.iter().flatten();
        let mut branches = sublayers().flat_map(|sublayer| &sublayer.branches);
        Limits {
            post_norm: sublayers().any(|sublayer| sublayer.post_norm.is_some()),
            norms_behind: branches.any(|branch| branch.post_norm.is_some()),
            grouped: family.fields.kv_heads.is_some(),
            free_width: family.fields.head_dim.is_some(),
            width: Width::of(&model),
            head_dim: HeadDim::of(&model),
            projected: {
                let tables = model.embedding.tables.iter();
                tables.filter(|t| t.projection.is_some()).map(|t| t.lens.cols()).collect()
            },
            sizes: model.sizes,
        }
    }

    /// Grows width, heads and head size.
    fn grow_width(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        match (self.width, self.free_width) {
            (Width::Multiples, _) => self.grow_by_whole_factor(target, rng),
            (Width::Any, true) => self.grow_apart(target, rng),
            (Width::Any, false) => self.grow_together(target, rng),
            (Width::Same, true) => {
                self.grow_apart(target, rng);
                target.hidden = self.sizes.hidden;
            }
            (Width::Same, false) => {}
        }
        if self.projected.contains(&target.hidden) {
            let sizes = &self.sizes;
            (target.hidden, target.head_dim) = (sizes.hidden, sizes.head_dim);
            (target.heads, target.kv_heads) = (sizes.heads, sizes.kv_heads);
        }
    }

    /// Width is heads times head size: more heads, larger heads, or both.
    fn grow_together(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        let which = rng.below(3);
        if which != 1 || self.head_dim == HeadDim::Same {
            self.grow_heads(target, rng);
        }
        if which != 0 {
            self.grow_head_dim(target, rng);
        }
        target.hidden = target.heads * target.head_dim;
    }

    /// Width, heads, key/value heads and head size grow each for itself.
    fn grow_apart(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        if rng.chance(0.7) {
            target.hidden += rng.between(1, 2 * self.sizes.hidden);
        }
        if rng.chance(0.4) {
            self.grow_head_dim(target, rng);
        }
        if rng.chance(0.6) {
            self.grow_heads(target, rng);
        }
    }

    fn grow_heads(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        if self.grouped {
            let choices = head_choices(&self.sizes, true);
            (target.heads, target.kv_heads) = rng.pick(&choices);
        } else {
            target.heads += rng.between(1, 2 * self.sizes.heads);
            target.kv_heads = target.heads;
        }
    }

    fn grow_head_dim(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        match self.head_dim {
            HeadDim::Any => target.head_dim += rng.between(1, self.sizes.head_dim + 1),
            HeadDim::Pairs => target.head_dim += 2 * rng.between(1, self.sizes.head_dim),
            HeadDim::Same => {}
        }
    }

    /// Twice or three times the width, cut into any number of heads that are not smaller, where
    /// heads may be larger at all and share no keys.
    fn grow_by_whole_factor(&self, target: &mut TargetCase, rng: &mut impl Draw) {
        let factor = rng.between(2, 3);
        target.hidden = factor * self.sizes.hidden;
        if self.grouped {
            (target.heads, target.kv_heads) =
                (factor * self.sizes.heads, factor * self.sizes.kv_heads);
            return;
        }
        let fits = |heads: &usize| {
            target.hidden.is_multiple_of(*heads) && target.hidden / heads >= self.sizes.head_dim
        };
        let all_as_heads = vec![factor * self.sizes.heads];
        let choices: Vec<usize> = match self.head_dim {
            HeadDim::Any => (self.sizes.heads..=target.hidden).filter(fits).collect(),
            HeadDim::Pairs | HeadDim::Same => all_as_heads,
        };
        target.heads = rng.pick(&choices);
        target.kv_heads = target.heads;
        target.head_dim = target.hidden / target.heads;
    }
}

impl Width {
    fn of(model: &Model) -> Width {
        let sublayers = || model.layers.iter().flatten();
        let branches = || sublayers().flat_map(|sublayer| &sublayer.branches);
        let sums = || sublayers().filter_map(|sublayer| sublayer.post_norm.as_ref());
        let behind = branches().filter_map(|branch| branch.post_norm.as_ref());
        let norms_write = model.embedding.norm.iter().chain(sums()).chain(behind).next().is_some();
        let mut norms_of_steps = model.outputs.iter().flat_map(|output| {
            output.steps.iter().enumerate().filter_map(|(index, step)| match step {
                Step::Norm(norm) => Some((&output.steps[..index], norm)),
                _ => None,
            })
        });
        let reads_stream = |before: &[Step]| {
            before.iter().all(|s| matches!(s, Step::Position(_) | Step::MeanFrom(_)))
        };
        // A norm behind a layer of the head.
        let inner = norms_of_steps.clone().any(|(before, _)| !reads_stream(before));
        let layer_norms = branches()
            .filter_map(|branch| branch.norm.as_ref())
            .chain(sums())
            .chain(norms_of_steps.clone().map(|(_, norm)| norm))
            .any(|norm| norm.kind == NormKind::Layer);
        // A narrower table stays as it is.
        let wide = model.embedding.tables.iter().filter(|table| table.projection.is_none());
        let tables: Vec<&Lens> = wide.map(|table| &table.lens).collect();
        let tied = model
            .outputs
            .iter()
            .flat_map(|output| &output.steps)
            .any(|step| matches!(step, Step::Linear(head) if tables.contains(&&head.weight)));
        let weightless = norms_of_steps.all(|(_, norm)| norm.weight.is_none());
        match () {
            _ if tied && weightless => Width::Same,
            _ if inner || (layer_norms && norms_write) => Width::Multiples,
            _ if returned_larger(model) => Width::Multiples,
            _ => Width::Any,
        }
    }
}

/// Whether hidden channels are returned behind a norm without a weight, or the stream itself in
/// front of norms whose ε cannot change.
fn returned_larger(model: &Model) -> bool {
    let mut branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let eps_stays = model.sizes.norm_eps.is_none() || branches.any(|b| !b.op.norms().is_empty());
    let writes = |step: &&Step| matches!(step, Step::Norm(_) | Step::Linear(_));
    let mut hidden = model.outputs.iter().filter(|output| !output.fixed);
    hidden.any(|output| match output.steps.iter().rfind(writes) {
        Some(Step::Norm(norm)) => norm.weight.is_none(),
        Some(_) => false,
        None => eps_stays,
    })
}

impl HeadDim {
    fn of(model: &Model) -> HeadDim {
        let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
        let mut attentions = branches.filter_map(|branch| match &branch.op {
            Op::Attention(attention) => Some(attention),
            Op::Mlp(_) | Op::Experts(_) => None,
        });
        attentions.next().map_or(HeadDim::Any, |attention| match &attention.rotary {
            _ if attention.head_norms.is_some() => HeadDim::Same,
            Some(rotary) if 2 * rotary.frequencies.len() == attention.head_dim => HeadDim::Pairs,
            _ => HeadDim::Any,
        })
    }
}

/// Query and key/value head counts up to three times the source's for which every query head of
/// the source finds a place, or for which one finds none: there is a group of `heads/kv_heads`
/// places for each copy of a key/value head, of which each has at least ⌊kv_heads_T / kv_heads_S⌋.
fn head_choices(source: &Sizes, possible: bool) -> Vec<(usize, usize)> {
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

/// Whether heads of `head_dim` channels turn the channels of the source's heads at their
/// frequencies, as where the configuration says how many turn.
fn turns_alike(source: &SourceCase, head_dim: usize) -> bool {
    let mut grown = source.clone();
    let rotary = |case: &SourceCase| {
        let model = case.model().ok()?;
        let attention = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
        attention.into_iter().find_map(|branch| match &branch.op {
            Op::Attention(attention) => attention.rotary.clone(),
            _ => None,
        })
    };
    grown.resize(|sizes| sizes.head_dim = head_dim).is_ok() && rotary(source) == rotary(&grown)
}
