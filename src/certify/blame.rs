//! From the groups of a sublayer that fail to the tensor that is wrong.
//!
//! In network order: the norm in front, the layers that read the stream, the layer that writes it,
//! its bias.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use super::channels::{Equations, Keys, Writes};
use super::cluster::Member;
use super::explain::{Blame, constant_ratio, norm_fault, row_fault};
use super::ops::value_rows;
use super::pattern::patterns;
use super::reader::Reader;
use super::squares::Residual;
use crate::error::Result;
use crate::model::{Attention, Lens, Linear, Mlp, Op};

/// What a sublayer pair consists of, for blame.
pub(super) struct Accused<'a> {
    pub readers: (&'a Reader<'a>, &'a Reader<'a>),
    pub ops: (&'a Op, &'a Op),
    pub writes: (&'a Writes, &'a Writes),
}

/// The rule that is broken and who broke it.
pub(super) type Verdict<'a> = (&'static str, Blame<'a>);

const READS: &str = "what a sublayer reads must be copies of what the source reads";
const FAN_OUT: &str = "the fan-outs of copies must sum to the source's fan-out";
const BIAS: &str = "the bias must map like the stream";
const NOTHING: &str = "an inserted sublayer must write nothing";

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
            return Ok((FAN_OUT, fan_out_fault(self.ops, equations)));
        }
        self.bias_fault(&equations.bias)
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
        let distance = |s: usize| {
            let (a, b) = (t_keys.row(stranger).value, s_keys.row(s).value);
            (0..a.len()).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>()
        };
        let nearest = (0..s_keys.rows()).min_by(|a, b| {
            let prefer = |s: &usize| !lost.is_empty() && !lost.contains(s);
            prefer(a).cmp(&prefer(b)).then(distance(a.to_owned()).total_cmp(&distance(*b)))
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

    fn attention_fault(
        &self,
        attentions: (&'a Attention, &'a Attention),
        strangers: &[usize],
    ) -> Result<Option<Blame<'a>>> {
        let (s, t) = attentions;
        let Some(channel) = strangers.first() else { return Ok(None) };
        let head = channel / t.head_dim;
        let group = (s.heads / s.kv_heads, t.heads / t.kv_heads);
        let queries = (self.readers.0.fold(&s.query)?, self.readers.1.fold(&t.query)?);
        let keys = (self.readers.0.fold(&s.key)?, self.readers.1.fold(&t.key)?);
        let mine = patterns(t, &queries.1, &keys.1);
        let theirs = patterns(s, &queries.0, &keys.0);
        let same = theirs.iter().position(|pattern| mine[head].equals(pattern, UNITS));
        if let Some(partner) = same {
            // The pattern is known: the values differ.
            let values = (self.readers.0.fold(&s.value)?, self.readers.1.fold(&t.value)?);
            let (s_row, t_row) = (
                value_rows(s)[partner * s.head_dim + (channel % t.head_dim).min(s.head_dim - 1)],
                value_rows(t)[*channel],
            );
            let weight_alone =
                |folded: &Bounded, row: usize| folded.slice(row, 1).beside(&Bounded::zeros(1, 1));
            let rows =
                (weight_alone(&values.0.weight, s_row), weight_alone(&values.1.weight, t_row));
            return Ok(row_fault(self.readers, (&s.value, &t.value), (&rows.0, &rows.1), t_row));
        }
        // Rows of a head with bias and logit scale, to be compared as they stand.
        let rows = |folded: &super::reader::Folded, at: usize, size: usize, scale: f64| {
            folded.joined().slice(at * size, size).times(scale)
        };
        let query = rows(&queries.1, head, t.head_dim, t.scale);
        let key = rows(&keys.1, head / group.1, t.head_dim, 1.0);
        let wrong = |a: &Bounded, b: &Bounded| {
            let size = a.rows().min(b.rows());
            Residual::of(&a.slice(0, size), &b.slice(0, size), self.readers.0.shared).wrong
        };
        let query_of = |h: usize| rows(&queries.0, h, s.head_dim, s.scale);
        let key_of = |h: usize| rows(&keys.0, h, s.head_dim, 1.0);
        let q_near = (0..s.heads).min_by_key(|h| wrong(&query, &query_of(*h))).unwrap_or(0);
        let k_near = (0..s.kv_heads).min_by_key(|h| wrong(&key, &key_of(*h))).unwrap_or(0);
        let (q_wrong, k_wrong) = (wrong(&query, &query_of(q_near)), wrong(&key, &key_of(k_near)));
        let swapped = wrong(&query, &key_of(k_near).times(s.scale)).min(
            (0..s.kv_heads).map(|h| wrong(&query, &key_of(h).times(s.scale))).min().unwrap_or(0),
        ) == 0;
        let blame_rows = |linears, a: Bounded, b: Bounded, first: usize| {
            (0..a.rows().min(b.rows())).find_map(|r| {
                row_fault(self.readers, linears, (&b.slice(r, 1), &a.slice(r, 1)), first + r)
            })
        };
        let at_query = head * t.head_dim;
        let at_key = head / group.1 * t.head_dim;
        if q_wrong == 0 && k_wrong == 0 && q_near / group.0 != k_near {
            let cause = format!(
                "query head {head} is the source's query head {q_near}, which reads key/value \
                 head {}, but here it reads a copy of {k_near}: heads are tiled across groups",
                q_near / group.0
            );
            let expected = (0..s.heads).find(|h| h / group.0 == k_near).unwrap_or(0);
            let found = blame_rows((&s.query, &t.query), query, query_of(expected), at_query);
            return Ok(found.map(|blame| Blame { cause: Some(cause), ..blame }));
        }
        if k_wrong == 0 || (q_wrong > 0 && (swapped || q_wrong <= k_wrong)) {
            let expected = match k_wrong {
                0 => (k_near * group.0..(k_near + 1) * group.0)
                    .min_by_key(|h| wrong(&query, &query_of(*h)))
                    .unwrap_or(q_near),
                _ => q_near,
            };
            let found = blame_rows((&s.query, &t.query), query, query_of(expected), at_query);
            let cause = swapped.then(|| "query and key are swapped".to_string());
            return Ok(found.map(|blame| Blame { cause: cause.or(blame.cause), ..blame }));
        }
        let expected = key_of(q_near / group.0);
        Ok(blame_rows((&s.key, &t.key), key, expected, at_key))
    }

    fn bias_fault(&self, residual: &Residual) -> Result<Verdict<'a>> {
        let (s_out, t_out) = (writer(self.ops.0), writer(self.ops.1));
        let blame = |t: &'a Linear, s: &'a Linear, cause| {
            let at = (residual.worst.0, 0);
            let tensor = t.bias.as_ref().unwrap_or(&t.weight);
            let source_tensor = s.bias.as_ref().unwrap_or(&s.weight);
            Blame { tensor, source_tensor, at, residual: residual.clone(), cause }
        };
        let cause = if residual.got == 0.0 {
            Some("the bias is not expanded there".to_string())
        } else {
            constant_ratio(residual, &[])
        };
        let own = self.writer_bias_residual(s_out, t_out)?;
        if let ((Op::Attention(s), Op::Attention(t)), true) = (self.ops, own.holds()) {
            // The output bias is as it should be: what the value bias adds differs.
            if let Some(blame) = norm_fault(self.readers, 1.0)? {
                return Ok((BIAS, blame));
            }
            if let Some(found) = self.value_bias_fault(s, t)? {
                return Ok((BIAS, found));
            }
        }
        Ok((BIAS, blame(t_out, s_out, cause)))
    }

    /// A value row that is a source row with another bias.
    fn value_bias_fault(&self, s: &'a Attention, t: &'a Attention) -> Result<Option<Blame<'a>>> {
        let values = (self.readers.0.fold(&s.value)?, self.readers.1.fold(&t.value)?);
        let rows = (values.0.joined(), values.1.joined());
        for row in 0..rows.1.rows() {
            let mine = values.1.weight.row(row);
            let partner = (0..rows.0.rows())
                .find(|of| mine.equals(&values.0.weight.row(*of), Ratio::ONE, UNITS));
            let Some(of) = partner else { continue };
            let pair = (rows.0.slice(of, 1), rows.1.slice(row, 1));
            let found = row_fault(self.readers, (&s.value, &t.value), (&pair.0, &pair.1), row);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The output biases alone, without what the value bias adds.
    fn writer_bias_residual(&self, s: &Linear, t: &Linear) -> Result<Residual> {
        let Some((map, _)) = self.readers.1.through else { return Ok(Residual::new(0.0)) };
        let lhs = self.readers.1.side.bias(t)?;
        Ok(Residual::of(&lhs, &map.image(&self.readers.0.side.bias(s)?), 0.0))
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
        let ratio = residual.got / residual.expected;
        (channels.len() > 1)
            .then(|| format!("the {} copies sum to {ratio:.6} times the source's", channels.len()))
    });
    let at = (row, channels.first().copied().unwrap_or(0));
    let (source_tensor, tensor): (&Lens, &Lens) = (&writer(ops.0).weight, &writer(ops.1).weight);
    Blame { tensor, source_tensor, at, residual, cause }
}

/// Who is to blame where a sublayer that stands alone writes something.
pub(super) fn alone<'a>(op: &'a Op, equations: &Equations) -> Verdict<'a> {
    if !equations.fan_out.holds() || !equations.agreement.holds() {
        return (NOTHING, fan_out_fault((op, op), equations));
    }
    let out = writer(op);
    let tensor: &Lens = out.bias.as_ref().unwrap_or(&out.weight);
    let residual = equations.bias.clone();
    let cause = Some("a bias is left in an inserted block".to_string());
    let at = (residual.worst.0, 0);
    (NOTHING, Blame { tensor, source_tensor: tensor, at, residual, cause })
}
