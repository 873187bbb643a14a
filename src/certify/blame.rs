//! From the groups of a sublayer that fail to the tensor that is wrong.
//!
//! In network order: the norm in front, the layers that read the stream, the layer that writes it,
//! its bias.

use super::agreement::Agreement;
use super::attention_blame::value_bias_fault;
use super::bounded::{Bounded, Ratio, UNITS};
use super::channels::{Equations, compare};
use super::cluster::Member;
use super::explain::{Blame, constant_ratio, norm_fault, row_fault, uneven_norm};
use super::reader::Reader;
use super::squares::Residual;
use super::suspect::{Case, Half, NOT_EXPANDED, Part};
use super::writes::{Keys, Writes};
use crate::error::Result;
use crate::model::{Lens, Linear, Mlp, Op};

/// What a sublayer pair consists of, for blame.
pub(super) struct Accused<'a> {
    pub readers: (&'a Reader<'a>, &'a Reader<'a>),
    pub ops: (&'a Op, &'a Op),
    pub writes: (&'a Writes, &'a Writes),
    pub case: Case<'a>,
}

/// The rule that is broken and who broke it.
pub(super) type Verdict<'a> = (&'static str, Blame<'a>);

pub(super) const READS: &str = "what a sublayer reads must be copies of what the source reads";
const FAN_OUT: &str = "the fan-outs of copies must sum to the source's fan-out";
const BIAS: &str = "the bias must map like the stream";
const SUMMED_BIAS: &str =
    "the bias, with what the value bias adds, must map like the stream (the numbers are sums)";
const SPLIT: &str = "the bias is split like a weight, but every copy needs all of it";
pub(super) const NOTHING: &str = "an inserted sublayer must write nothing";

impl<'a> Accused<'a> {
    /// Finds the first cause of failing fan-out or bias equations.
    pub fn blame(&self, equations: &Equations) -> Result<Verdict<'a>> {
        if !equations.agreement.holds() {
            return Ok((READS, self.scale_fault(&equations.agreement)?));
        }
        if !equations.fan_out.holds() {
            if let Some(blame) = self.reader_fault(equations)? {
                return Ok((READS, blame));
            }
            if let Some(blame) = self.passed_on(&equations.fan_out)? {
                return Ok((READS, blame));
            }
            return Ok((FAN_OUT, fan_out_fault(self.ops, equations)));
        }
        self.bias_fault(&equations.bias)
    }

    /// The norm, if its weight is off by a factor that ReLU lets pass, and a gate's partner once
    /// more, so that all fan-outs look wrong by that factor or its square.
    fn passed_on(&self, fan_out: &Residual) -> Result<Option<Blame<'a>>> {
        if constant_ratio(fan_out, &[]).is_none() {
            return Ok(None);
        }
        let explains = |blame: &Blame| {
            let factor = blame.residual.factor();
            let near = |f: f64| (fan_out.factor() / f - 1.0).abs() < 1e-3;
            constant_ratio(&blame.residual, &[]).is_some()
                && (near(factor) || near(factor * factor))
        };
        Ok(norm_fault(self.readers, 1.0)?.filter(explains))
    }

    /// Every row is right within its rounding, but all together are off by a common factor.
    fn scale_fault(&self, agreement: &Agreement) -> Result<Blame<'a>> {
        if let Some(blame) = norm_fault(self.readers, 1.0)? {
            return Ok(blame);
        }
        let first = |op: &'a Op| match op {
            Op::Attention(attention) => &attention.query,
            Op::Mlp(mlp) => mlp.gate.as_ref().unwrap_or(&mlp.up),
            Op::Experts(experts) => &experts.router,
        };
        let (s, t) = (first(self.ops.0), first(self.ops.1));
        let biases = agreement.weight.holds().then(|| t.bias.as_ref().zip(s.bias.as_ref()));
        let (tensor, source_tensor, residual) = match biases.flatten() {
            Some((t, s)) => (t, s, &agreement.bias),
            None => (&t.weight, &s.weight, &agreement.weight),
        };
        let cause = format!("all of it is {:.4} times what it must be", residual.factor());
        let at = (residual.worst.0.min(tensor.rows() - 1), 0);
        Ok(Blame { tensor, source_tensor, at, residual: residual.clone(), cause: Some(cause) })
    }

    /// Expanded channels that match nothing in the source and whose fan-outs do not cancel.
    fn strangers(&self, equations: &Equations) -> (Vec<usize>, Vec<usize>) {
        let groups = &equations.groups;
        let alone = |of: &[Member], others: &[Member]| -> Vec<usize> {
            let known: Vec<bool> = (0..groups.count)
                .map(|g| others.iter().flatten().any(|(other, _)| *other == g))
                .collect();
            let wrong = |group: &Member| match group {
                Some((g, _)) => !known[*g] && equations.wrong_groups.binary_search(g).is_ok(),
                None => false,
            };
            (0..of.len()).filter(|c| wrong(&of[*c])).collect()
        };
        (alone(&groups.expanded, &groups.source), alone(&groups.source, &groups.expanded))
    }

    fn reader_fault(&self, equations: &Equations) -> Result<Option<Blame<'a>>> {
        let (strangers, lost) = self.strangers(equations);
        let Some(stranger) = strangers.first().copied().or(lost.first().copied()) else {
            return Ok(None);
        };
        if strangers.len() * 2 >= self.writes.1.fan_out.value.ncols()
            && let Some(blame) = norm_fault(self.readers, 1.0)?
        {
            return Ok(Some(blame));
        }
        if let Some(blame) = self.case.inner_bias(equations)? {
            return Ok(Some(blame));
        }
        let found = match self.ops {
            (Op::Mlp(s), Op::Mlp(t)) => self.mlp_fault((s, t), stranger, &lost),
            (Op::Attention(s), Op::Attention(t)) => self.attention_fault((s, t), &strangers)?,
            _ => None,
        };
        match found {
            Some(blame) => Ok(Some(blame)),
            None => norm_fault(self.readers, 1.0),
        }
    }

    fn mlp_fault(
        &self,
        mlps: (&'a Mlp, &'a Mlp),
        stranger: usize,
        lost: &[usize],
    ) -> Option<Blame<'a>> {
        let (Keys::Rows(s_keys), Keys::Rows(t_keys)) = (&self.writes.0.keys, &self.writes.1.keys)
        else {
            return None;
        };
        // The source row with the same weights; else one that is lost; else the nearest.
        let (width, mine) = (t_keys.cols() - 1, t_keys.slice(stranger, 1));
        let rank = |s: usize| {
            let theirs = s_keys.slice(s, 1);
            let bare = (mine.columns(0, width), theirs.columns(0, width));
            let ratio = bare.0.row(0).ratio(&bare.1.row(0), UNITS);
            let scales = |factor: f64| self.writes.0.homogeneous && factor > 0.0;
            let same = bare.0.row(0).equals(&bare.1.row(0), Ratio::ONE, UNITS)
                || ratio.is_some_and(|ratio| scales(ratio.factor));
            let known = !lost.is_empty() && !lost.contains(&s);
            let distance = (&mine.value - &theirs.value).mapv(|d| d * d).sum();
            (!same, known, distance)
        };
        let ranks: Vec<(bool, bool, f64)> = (0..s_keys.rows()).map(rank).collect();
        let nearest = (0..ranks.len()).min_by(|a, b| {
            let (a, b) = (ranks[*a], ranks[*b]);
            (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))
        })?;
        let first = |m: &'a Mlp| m.gate.as_ref().unwrap_or(&m.up);
        let rows = (s_keys.slice(nearest, 1), t_keys.slice(stranger, 1));
        let linears = (first(mlps.0), first(mlps.1));
        if let Some(blame) = row_fault(self.readers, linears, (&rows.0, &rows.1), stranger) {
            return Some(blame);
        }
        // The gates agree: then `up` differs.
        let ((s_up, _), (t_up, _)) =
            (self.writes.0.linear.as_ref()?, self.writes.1.linear.as_ref()?);
        let rows = (s_up.slice(nearest, 1), t_up.slice(stranger, 1));
        row_fault(self.readers, (&mlps.0.up, &mlps.1.up), (&rows.0, &rows.1), stranger)
    }

    fn bias_fault(&self, residual: &Residual) -> Result<Verdict<'a>> {
        let (s_out, t_out) = (writer(self.ops.0), writer(self.ops.1));
        let tensor = t_out.bias.as_ref().unwrap_or(&t_out.weight);
        let source_tensor = s_out.bias.as_ref().unwrap_or(&s_out.weight);
        let blame = |residual: &Residual| {
            let (at, cause) = ((residual.worst.0, 0), self.cause_of_bias(residual));
            Blame { tensor, source_tensor, at, residual: residual.clone(), cause }
        };
        let own = self.writer_bias_residual(s_out, t_out)?;
        let (Op::Attention(s), Op::Attention(t)) = self.ops else {
            return Ok((BIAS, blame(residual)));
        };
        if own.holds() {
            // The output bias is as it should be: what the value bias adds differs.
            if let Some(blame) = norm_fault(self.readers, 1.0)? {
                return Ok((BIAS, blame));
            }
            if let Some(found) = value_bias_fault(self.readers, (&s.value, &t.value))? {
                return Ok((BIAS, found));
            }
        } else if self.added_by_values_holds(s_out, t_out)? {
            return Ok((BIAS, blame(&own)));
        }
        Ok((SUMMED_BIAS, blame(residual)))
    }

    fn cause_of_bias(&self, residual: &Residual) -> Option<String> {
        if residual.got == 0.0 {
            return Some(NOT_EXPANDED.to_string());
        }
        let split = match self.case.map.even_copies() {
            Some(copies @ 2..) => vec![(1.0 / copies as f64, SPLIT)],
            _ => Vec::new(),
        };
        constant_ratio(residual, &split)
    }

    /// Whether what the value bias adds to the output bias is as it should be.
    fn added_by_values_holds(&self, s: &Linear, t: &Linear) -> Result<bool> {
        if self.readers.1.scale.is_some() {
            return Ok(false);
        }
        let added = |reader: &Reader, writes: &Writes, linear: &Linear| -> Result<Bounded> {
            Ok(writes.bias.clone().plus(&reader.side.bias(linear)?.times(-1.0)))
        };
        let lhs = added(self.readers.1, self.writes.1, t)?;
        let rhs = self.case.map.image(&added(self.readers.0, self.writes.0, s)?);
        Ok(compare(lhs, rhs, self.case.modulo_one, 0.0).0.holds())
    }

    /// The output biases alone, without what the value bias adds.
    fn writer_bias_residual(&self, s: &Linear, t: &Linear) -> Result<Residual> {
        let Some((map, _)) = self.readers.1.through else { return Ok(Residual::new(0.0)) };
        let (lhs, rhs) = (self.readers.1.side.bias(t)?, self.readers.0.side.bias(s)?);
        Ok(compare(lhs, map.image(&rhs), self.case.modulo_one, 0.0).0)
    }
}

fn writer(op: &Op) -> &Linear {
    op.writers()[0]
}

fn fan_out_fault<'a>(ops: (&'a Op, &'a Op), equations: &Equations) -> Blame<'a> {
    let (row, group) = equations.fan_out.worst;
    let members = equations.groups.expanded.iter().enumerate();
    let of_group = members.filter(|(_, g)| g.is_some_and(|(g, _)| g == group));
    let channels: Vec<usize> = of_group.map(|(c, _)| c).collect();
    let residual = equations.fan_out.clone();
    let cause = constant_ratio(&residual, &[]).or_else(|| {
        let wrong = &equations.wrong_fan_out;
        let explained = channels.len() > 1 && constant_ratio(wrong, &[]).is_some();
        let words = |factor| format!("the {} copies sum to {factor:.6} times", channels.len());
        explained.then(|| words(wrong.factor()) + " the source's, as do all that are wrong")
    });
    let at = (row, channels.first().copied().unwrap_or(0));
    let (source_tensor, tensor): (&Lens, &Lens) = (&writer(ops.0).weight, &writer(ops.1).weight);
    Blame { tensor, source_tensor, at, residual, cause }
}

/// Who is to blame where a sublayer that stands alone writes something.
pub(super) fn alone<'a>(
    (reader, op): Half<'a>,
    equations: &Equations,
    case: &Case<'a>,
) -> Result<Verdict<'a>> {
    if !equations.inside_holds() {
        let blame = if equations.has_lone_channel() { case.inner_bias(equations)? } else { None };
        let blame = match blame {
            Some(blame) => Some(blame),
            None => uneven_norm(reader)?,
        };
        return Ok((NOTHING, blame.unwrap_or_else(|| fan_out_fault((op, op), equations))));
    }
    if let (Op::Attention(attention), Some(without)) = (op, case.without(Part::Value)?)
        && without.bias.holds()
        && let linears = (&attention.value, &attention.value)
        && let Some(blame) = value_bias_fault((reader, reader), linears)?
    {
        return Ok((NOTHING, blame));
    }
    let out = writer(op);
    let tensor: &Lens = out.bias.as_ref().unwrap_or(&out.weight);
    let residual = equations.bias.clone();
    let cause = Some("a bias is left in an inserted block".to_string());
    let at = (residual.worst.0, 0);
    Ok((NOTHING, Blame { tensor, source_tensor: tensor, at, residual, cause }))
}
