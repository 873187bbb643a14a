//! What to ask for instead of sizes that cannot be lossless: the nearest sizes that can.
//!
//! Advice is tried before it is given: an expansion to it has been planned.

use super::Target;
use super::sizes::{LARGEST, Limits, MOST_LAYERS};
use std::iter::once;

/// Why an expansion to these sizes is refused behind the sizes; `None` where it is not.
pub(super) type Refusal<'a> = &'a dyn Fn(&Target) -> Option<String>;

/// A size that can be asked for.
struct Knob {
    flag: &'static str,
    now: usize,
    largest: usize,
    set: fn(&mut Target, Option<usize>),
    /// Whether it decides the shape of attention, where sizes must suit each other.
    suits: Suits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Suits {
    Width,
    Heads,
    Alone,
}

impl Knob {
    fn turned(&self, target: &Target, size: Option<usize>) -> Target {
        let mut changed = target.clone();
        (self.set)(&mut changed, size);
        changed
    }
}

/// Flags with their sizes, and the target that they make of the one asked for.
struct Choice {
    words: String,
    target: Target,
}

impl Limits<'_> {
    /// The nearest sizes that work: those that change one size of `target`; else width and heads
    /// together; else as few as are found.
    pub fn advice(&self, target: &Target, refusal: Refusal) -> String {
        let mut why = None;
        let mut accepted = |choice: &Choice| match refusal(&choice.target) {
            None => true,
            Some(reason) => {
                why.get_or_insert(format!("with {}, {reason}", choice.words));
                false
            }
        };
        let knobs = self.knobs(target);
        let mut choices: Vec<String> = Vec::new();
        for knob in &knobs {
            let near: Vec<Choice> = self.nearest(knob, target, &mut accepted);
            let sizes = near.iter().map(|choice| choice.words.clone()).collect::<Vec<_>>();
            if !sizes.is_empty() {
                let plain = sizes.join(" or ").replace(&format!("or {} ", knob.flag), "or ");
                choices.push(plain);
            }
        }
        if choices.is_empty() || self.wrong_width(target) {
            let pairs = self.width_and_heads(target).into_iter().filter(&mut accepted);
            choices.extend(pairs.map(|choice| choice.words));
        }
        if choices.is_empty() {
            let together = self.repaired(target, &knobs).filter(&mut accepted);
            choices.extend(together.map(|choice| choice.words));
        }
        match (choices.is_empty(), why) {
            (false, _) => {
                format!("the nearest that work, the rest unchanged: {}", choices.join("; "))
            }
            (true, Some(why)) => why,
            (true, None) => {
                let source = self.source;
                format!(
                    "start from the source's: {} hidden, {} heads, {} neurons, {} layers",
                    source.hidden, source.heads, source.intermediate, source.layers
                )
            }
        }
    }

    fn knobs(&self, target: &Target) -> Vec<Knob> {
        let (fields, sizes) = (&self.family.fields, self.follow(target));
        let knob = |flag, now, suits, set| Some(Knob { flag, now, largest: LARGEST, set, suits });
        let experts = sizes.experts.map(|count| count.all);
        let all = [
            knob("--hidden-size", sizes.hidden, Suits::Width, |t, n| t.hidden = n),
            knob("--num-attention-heads", sizes.heads, Suits::Heads, |t, n| t.heads = n),
            fields.kv_heads.and_then(|_| {
                knob("--num-key-value-heads", sizes.kv_heads, Suits::Heads, |t, n| t.kv_heads = n)
            }),
            fields.head_dim.and_then(|_| {
                knob("--head-dim", sizes.head_dim, Suits::Alone, |t, n| t.head_dim = n)
            }),
            knob("--intermediate-size", sizes.intermediate, Suits::Alone, |t, n| {
                t.intermediate = n;
            }),
            knob("--num-hidden-layers", sizes.layers, Suits::Alone, |t, n| t.layers = n)
                .map(|knob| Knob { largest: MOST_LAYERS, ..knob }),
            experts.and_then(|all| {
                knob("--num-local-experts", all, Suits::Alone, |t, n| t.experts = n)
            }),
        ];
        all.into_iter().flatten().collect()
    }

    /// The nearest sizes of one knob, below and above, that make all others work.
    fn nearest(
        &self,
        knob: &Knob,
        target: &Target,
        accepted: &mut dyn FnMut(&Choice) -> bool,
    ) -> Vec<Choice> {
        // What fails with the source's own size, which suits itself, fails with any; and so with
        // those of the sizes that must suit each other.
        let kept = target.clone();
        let own = match (knob.suits, self.family.fields.head_dim) {
            (Suits::Width | Suits::Heads, None) => {
                Target { hidden: None, heads: None, kv_heads: None, head_dim: None, ..kept }
            }
            (Suits::Heads, Some(_)) => Target { heads: None, kv_heads: None, ..kept },
            _ => knob.turned(target, None),
        };
        if !self.works(&own) {
            return Vec::new();
        }
        let works = |size: &usize| self.works(&knob.turned(target, Some(*size)));
        let start = knob.now.min(knob.largest);
        let below = (1..knob.now.min(knob.largest + 1)).rev().take(REACH).find(works);
        let above = (start + 1..=knob.largest).take(REACH).find(works);
        let choice = |size: usize| Choice {
            words: format!("{} {size}", knob.flag),
            target: knob.turned(target, Some(size)),
        };
        below.into_iter().chain(above).map(choice).filter(accepted).collect()
    }

    fn wrong_width(&self, target: &Target) -> bool {
        let hidden = self.follow(target).hidden;
        self.only_multiples.is_some() && !hidden.is_multiple_of(self.source.hidden)
    }

    /// The nearest width below and above that works with other heads, with the nearest of those.
    fn width_and_heads(&self, target: &Target) -> Vec<Choice> {
        let wanted = self.follow(target);
        let with = |hidden: usize, heads: usize| Target {
            hidden: Some(hidden),
            heads: Some(heads),
            ..target.clone()
        };
        let with_heads = |hidden: usize| {
            let working = |heads: &usize| self.works(&with(hidden, *heads));
            let heads = around(wanted.heads).filter(|heads| *heads <= hidden).find(working)?;
            Some((hidden, heads))
        };
        // Widths that the stream forbids whatever the heads need no search among heads.
        let possible = |hidden: &usize| self.width_is_possible(*hidden, &wanted);
        let near = |widths: &mut dyn Iterator<Item = usize>| {
            widths.take(REACH).filter(possible).take(WIDTHS_TRIED).find_map(with_heads)
        };
        let below = near(&mut (1..wanted.hidden.min(LARGEST + 1)).rev());
        let above = near(&mut (wanted.hidden.min(LARGEST) + 1..=LARGEST));
        let pairs = below.into_iter().chain(above).filter(|(_, heads)| *heads != wanted.heads);
        let choice = |(hidden, heads)| Choice {
            words: format!("--hidden-size {hidden} --num-attention-heads {heads}"),
            target: with(hidden, heads),
        };
        pairs.map(choice).collect()
    }

    /// Sizes that work, found by mending one after another: each time the nearest that leaves the
    /// fewest problems.
    fn repaired(&self, target: &Target, knobs: &[Knob]) -> impl Iterator<Item = Choice> {
        let (mut now, mut problems) = (target.clone(), self.problems(target));
        let mut changed: Vec<(&str, usize)> = Vec::new();
        while problems > 0 {
            let mut best: Option<(usize, f64, &Knob, usize)> = None;
            for knob in knobs.iter().filter(|k| changed.iter().all(|(flag, _)| *flag != k.flag)) {
                for size in
                    around(knob.now).take(2 * NEAR).filter(|n| (1..=knob.largest).contains(n))
                {
                    let left = self.problems(&knob.turned(&now, Some(size)));
                    let far = size.abs_diff(knob.now) as f64 / knob.now.max(1) as f64;
                    if best.is_none_or(|(least, near, ..)| (left, far) < (least, near)) {
                        best = Some((left, far, knob, size));
                    }
                }
            }
            let Some((left, _, knob, size)) = best.filter(|(left, ..)| *left < problems) else {
                return None.into_iter();
            };
            (now, problems) = (knob.turned(&now, Some(size)), left);
            changed.push((knob.flag, size));
        }
        let words: Vec<String> =
            changed.iter().map(|(flag, size)| format!("{flag} {size}")).collect();
        Some(Choice { words: words.join(" "), target: now }).into_iter()
    }
}

/// `size` and its neighbours, nearest first, at most [`REACH`] away.
fn around(size: usize) -> impl Iterator<Item = usize> {
    let size = size.min(LARGEST);
    let both = (1..=REACH).flat_map(move |step| [size.checked_sub(step), size.checked_add(step)]);
    once(size).chain(both.flatten())
}

/// What else can be done where new layers are refused.
pub(super) const EPS_LIMITED: &str = "; or, if outputs may differ by a trifle, allow what is \
     only eps-limited (`--allow eps-limited`): at variance v, a norm with new layers behind it \
     then writes about sqrt((v + ε)/v) - 1 of it too much";

/// How many widths are tried with all heads.
const WIDTHS_TRIED: usize = 16;
/// How far from the size asked for another one is looked for.
const REACH: usize = 1 << 14;
/// The same, where several sizes are looked for together.
const NEAR: usize = 64;
