//! Biases under suspicion.
//!
//! A bias inside a sublayer is wrong if the sublayer's equations hold once that bias is left out of
//! both models: then everything else is as it should be. This asks for no guess which channel
//! should have been which, and works for a sublayer that stands alone as well.

use super::attention_blame::channels;
use super::bounded::UNITS;
use super::channels::{Equations, Groups, equations};
use super::cluster::Member;
use super::explain::{Blame, row_fault};
use super::map::Map;
use super::ops::writes;
use super::reader::Reader;
use crate::error::Result;
use crate::model::{Attention, Linear, Op};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A layer that reads the stream and whose bias may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Gate,
    Up,
    Query,
    Key,
    Value,
}

/// The cause where a bias is zero and should not be.
pub(super) const NOT_EXPANDED: &str = "the bias is not expanded there";

/// Parts whose bias decides what a channel computes. (The value bias only adds a constant.)
const INSIDE: [Part; 4] = [Part::Gate, Part::Up, Part::Query, Part::Key];

impl Part {
    fn of(self, op: &Op) -> Option<&Linear> {
        match (self, op) {
            (Part::Gate, Op::Mlp(mlp)) => mlp.gate.as_ref(),
            (Part::Up, Op::Mlp(mlp)) => Some(&mlp.up),
            (Part::Query, Op::Attention(attention)) => Some(&attention.query),
            (Part::Key, Op::Attention(attention)) => Some(&attention.key),
            (Part::Value, Op::Attention(attention)) => Some(&attention.value),
            _ => None,
        }
    }

    /// The operation without this part's bias; `None` where there is none.
    fn left_out(self, op: &Op) -> Option<Op> {
        self.of(op)?.bias.as_ref()?;
        let mut op = op.clone();
        match (self, &mut op) {
            (Part::Gate, Op::Mlp(mlp)) => mlp.gate.as_mut()?.bias = None,
            (Part::Up, Op::Mlp(mlp)) => mlp.up.bias = None,
            (Part::Query, Op::Attention(attention)) => attention.query.bias = None,
            (Part::Key, Op::Attention(attention)) => attention.key.bias = None,
            (Part::Value, Op::Attention(attention)) => attention.value.bias = None,
            _ => return None,
        }
        Some(op)
    }
}

/// One model's half of a sublayer pair.
pub(super) type Half<'a> = (&'a Reader<'a>, &'a Op);

/// A sublayer whose equations fail.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    /// The source's half and the expanded model's; one alone for a sublayer that must write
    /// nothing.
    pub halves: (Option<Half<'a>>, Option<Half<'a>>),
    pub map: &'a Map,
    /// Whether equations hold up to a constant over the channels.
    pub modulo_one: bool,
}

impl<'a> Case<'a> {
    /// The equations without the bias of one part; `None` where no half has it.
    pub fn without(&self, part: Part) -> Result<Option<Equations>> {
        let half = |half: Option<Half<'a>>| match half {
            Some((reader, op)) => match part.left_out(op) {
                Some(op) => writes(reader, &op).map(Some),
                None => Ok(None),
            },
            None => Ok(None),
        };
        let (s, t) = (half(self.halves.0)?, half(self.halves.1)?);
        let complete = s.is_some() == self.halves.0.is_some();
        if !complete || t.is_some() != self.halves.1.is_some() {
            return Ok(None);
        }
        let shared = self.halves.0.or(self.halves.1).map_or(0.0, |(reader, _)| reader.shared);
        Ok(Some(equations(s.as_ref(), t.as_ref(), self.map, self.modulo_one, shared)))
    }

    /// The bias inside the sublayer without which the groups and their fan-outs agree.
    pub fn inner_bias(&self, failing: &Equations) -> Result<Option<Blame<'a>>> {
        for part in INSIDE {
            let Some(without) = self.without(part)? else { continue };
            if without.inside_holds() {
                return self.row_of(part, (failing, &without)).map(Some);
            }
        }
        Ok(None)
    }

    /// The two halves to compare; a sublayer that stands alone is compared with itself.
    fn both(&self) -> (Half<'a>, Half<'a>) {
        let (s, t) = self.halves;
        let one = s.or(t).expect("a sublayer is in one of the two models");
        (one, t.unwrap_or(one))
    }

    /// Which row's bias differs from that of a row with the same weights.
    fn row_of(
        &self,
        part: Part,
        (failing, without): (&Equations, &Equations),
    ) -> Result<Blame<'a>> {
        let ((s_reader, s_op), (t_reader, t_op)) = self.both();
        let linear = |op: &'a Op| part.of(op).expect("its bias was left out");
        let (s, t) = (linear(s_op), linear(t_op));
        let folded = (s_reader.fold(s)?, t_reader.fold(t)?);
        let joined = (folded.0.joined(), folded.1.joined());
        for (expected, got) in self.differing(failing, without) {
            for (s_row, t_row) in rows(part, (s_op, t_op), (expected, got)) {
                let weights = (folded.0.weight.row(s_row), folded.1.weight.row(t_row));
                let Some(ratio) = weights.1.ratio(&weights.0, UNITS) else {
                    continue;
                };
                let pair = (joined.0.slice(s_row, 1).times(ratio.factor), joined.1.slice(t_row, 1));
                let readers = (s_reader, t_reader);
                if let Some(blame) = row_fault(readers, (s, t), (&pair.0, &pair.1), t_row) {
                    return with_cause(blame, t_reader, t);
                }
            }
        }
        // No two rows have the same weights, whatever the reason: name the tensor alone.
        Ok(Blame {
            tensor: t.bias.as_ref().unwrap_or(&t.weight),
            source_tensor: s.bias.as_ref().unwrap_or(&s.weight),
            at: (0, 0),
            residual: failing.fan_out.clone(),
            cause: None,
        })
    }

    /// Channels, expected and got, that are one but for the bias.
    fn differing(&self, failing: &Equations, without: &Equations) -> Vec<(usize, usize)> {
        let (full, bare) = (self.compared(&failing.groups), self.compared(&without.groups));
        let mut partners: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (channel, group) in bare.0.iter().enumerate() {
            group.iter().for_each(|group| partners.entry(*group).or_default().push(channel));
        }
        let alone = self.halves.0.is_none() || self.halves.1.is_none();
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (channel, group) in bare.1.iter().enumerate() {
            let Some(of) = group.and_then(|group| partners.get(&group)) else { continue };
            let mut others = of.iter().filter(|other| full.0[**other] != full.1[channel]);
            // Beside a source, a channel that has its own kind there is right.
            let right = !alone && of.iter().any(|other| full.0[*other] == full.1[channel]);
            found.extend(others.next().filter(|_| !right).map(|other| (*other, channel)));
        }
        // Where copies differ among themselves, the odd one out is wrong; of two, the later.
        if alone {
            let mut sizes: BTreeMap<Option<usize>, usize> = BTreeMap::new();
            full.1.iter().for_each(|group| *sizes.entry(*group).or_default() += 1);
            found.sort_by_key(|(_, channel)| (sizes[&full.1[*channel]], Reverse(*channel)));
        }
        found
    }

    /// The groups of the channels to compare: a sublayer that stands alone, with itself.
    fn compared(&self, groups: &Groups) -> (Vec<Option<usize>>, Vec<Option<usize>>) {
        let numbers = |members: &[Member]| -> Vec<Option<usize>> {
            members.iter().map(|member| member.map(|(group, _)| group)).collect()
        };
        let (s, t) = (numbers(&groups.source), numbers(&groups.expanded));
        match self.halves {
            (Some(_), Some(_)) => (s, t),
            (None, _) => (t.clone(), t),
            (_, None) => (s.clone(), s),
        }
    }
}

/// The rows of a part, source and expanded, that two corresponding channels use.
fn rows(
    part: Part,
    ops: (&Op, &Op),
    (s_channel, t_channel): (usize, usize),
) -> Vec<(usize, usize)> {
    let (Op::Attention(s), Op::Attention(t)) = ops else { return vec![(s_channel, t_channel)] };
    let first = |attention: &Attention, channel: usize| {
        let head = channel / attention.head_dim;
        match part {
            Part::Query => head * attention.head_dim,
            _ => head / (attention.heads / attention.kv_heads) * attention.head_dim,
        }
    };
    let (s_first, t_first) = (first(s, s_channel), first(t, t_channel));
    channels(s, t).into_iter().map(|(a, b)| (s_first + a, t_first + b)).collect()
}

/// Says so if a bias is wrong because nothing is there.
pub(super) fn with_cause<'a>(
    blame: Blame<'a>,
    reader: &Reader,
    linear: &Linear,
) -> Result<Blame<'a>> {
    let Some(bias) = linear.bias.as_ref().filter(|bias| *bias == blame.tensor) else {
        return Ok(blame);
    };
    let stored = reader.side.read_rows(bias, blame.at.0, 1)?;
    let missing = stored.value[[0, 0]] == 0.0;
    let cause = if missing { Some(NOT_EXPANDED.to_string()) } else { blame.cause };
    Ok(Blame { cause, ..blame })
}
