//! Mixtures of experts.
//!
//! Let every expert of the source have m copies, whose router rows are its own, and let m times as
//! many be active. Copies have one logit, so the active ones are all copies of what the source
//! sends a token to, and the softmax gives each an m-th of the expert's share. So if what the
//! copies write, averaged, is what the expert writes, the mixture is equal. The average is one
//! network: the copies' neurons side by side, fan-outs and biases divided by m.
//!
//! Experts that the router cannot tell apart are chosen by their place if their rows are equal to
//! the last bit: then they correspond one by one where there is one copy of each. Where there are
//! more, or rounding breaks the tie, all must be equal.

use super::agreement::Agreement;
use super::blame::{Accused, READS, Verdict};
use super::bounded::{Bounded, Stored};
use super::channels::{Groups, equations};
use super::cluster::{Items, Member, Sameness, Strategy, cluster};
use super::explain::{Blame, constant_ratio, norm_fault, row_fault};
use super::fields::active;
use super::floors::Floors;
use super::map::{Entry, Map};
use super::ops::mlp_writes;
use super::reader::Reader;
use super::spread::{Shares, Spread, Units, read_equally};
use super::squares::{Ledger, Residual};
use super::sublayer::{Network, told};
use super::suspect::Case;
use super::writes::{Keys, Writes};
use crate::error::Result;
use crate::model::{Experts, Linear, Mlp, Op};
use ndarray::{Array2, Axis, concatenate};

const ROUTER: &str = "the router must treat every copy of an expert like the source's expert";

/// Experts of both models that the router treats alike: the source's and the expanded ones.
type Class = (Vec<usize>, Vec<usize>);

/// Source experts and the expanded ones that must do, on average, what each of them does.
type Matches = Vec<(usize, Vec<usize>)>;

/// Two mixtures that are held against each other.
pub(super) struct Mixtures<'a> {
    pub readers: (&'a Reader<'a>, &'a Reader<'a>),
    pub ops: (&'a Experts, &'a Experts),
    pub map: &'a Map,
    pub modulo_one: bool,
    pub place: &'a str,
}

impl Network<'_> {
    /// Holds one mixture against the other.
    pub(super) fn experts(&self, mixtures: &Mixtures, ledger: &mut Ledger) -> Result<()> {
        let (s, t) = mixtures.ops;
        let (few, many) = (s.experts.len(), t.experts.len());
        let copies = many / few;
        if copies == 0 || !many.is_multiple_of(few) {
            let reason = format!("{few} experts cannot be copied evenly to {many}");
            ledger.unknown(mixtures.place, reason);
            return Ok(());
        }
        active(s, t, copies, mixtures.place, ledger);
        let Some(classes) = mixtures.router(copies, ledger)? else { return Ok(()) };
        let mut held = Matches::new();
        for (sources, expanded) in classes {
            match mixtures.matches(&sources, &expanded)? {
                Some(matches) => {
                    for (of, members) in &matches {
                        mixtures.expert(*of, members, ledger)?;
                    }
                    held.extend(matches);
                }
                None => {
                    let reason = format!(
                        "the router cannot tell the source's experts {sources:?} apart, and they \
                         are not equal"
                    );
                    ledger.unknown(mixtures.place, reason);
                }
            }
        }
        if ledger.faults() == 0.0 {
            ledger.notes.spreads.push(mixtures.spread(&held)?);
        }
        Ok(())
    }
}

impl Mixtures<'_> {
    /// The router's equations; experts of both models by the router's row.
    fn router(&self, copies: usize, ledger: &mut Ledger) -> Result<Option<Vec<Class>>> {
        let (s, t) = (&self.ops.0.router, &self.ops.1.router);
        let rows = (self.readers.0.fold(s)?.joined(), self.readers.1.fold(t)?.joined());
        let mut agreement = Agreement::new(self.readers.1.shared);
        let [few, many] = cluster(
            &[Some(Items::of_rows(&rows.0)), Some(Items::of_rows(&rows.1))],
            Sameness::Equal,
            Strategy::FIRST,
            &mut agreement,
        );
        let mut classes = vec![(Vec::new(), Vec::new()); rows.0.rows() + rows.1.rows()];
        let group = |member: &Member| member.map_or(usize::MAX, |(group, _)| group);
        few.iter().enumerate().for_each(|(i, member)| classes[group(member)].0.push(i));
        many.iter().enumerate().for_each(|(i, member)| classes[group(member)].1.push(i));
        classes.retain(|(few, many)| !few.is_empty() || !many.is_empty());
        let uneven = classes.iter().find(|(few, many)| many.len() != copies * few.len());
        let Some((few, many)) = uneven else {
            for residual in [&agreement.weight, &agreement.bias] {
                if residual.holds() {
                    ledger.hold(residual);
                } else {
                    ledger.fail(told((ROUTER, self.router_scale(residual)), self.place));
                }
            }
            return Ok(Some(classes));
        };
        // A norm in front spoils all rows.
        let strangers = classes.iter().filter(|(few, _)| few.is_empty());
        let wrong: usize = strangers.map(|(_, many)| many.len()).sum();
        if wrong * 2 >= rows.1.rows()
            && let Some(blame) = norm_fault(self.readers, 1.0)?
        {
            ledger.fail(told((READS, blame), self.place));
            return Ok(None);
        }
        let stranger = classes.iter().find(|(few, _)| few.is_empty());
        let row = stranger.map_or(many, |(_, many)| many).first().copied().unwrap_or(0);
        let of = row % rows.0.rows();
        let pair = (rows.0.slice(of, 1), rows.1.slice(row, 1));
        match row_fault(self.readers, (s, t), (&pair.0, &pair.1), row) {
            Some(blame) => ledger.fail(told((ROUTER, blame), self.place)),
            None => {
                let mut residual = Residual::new(0.0);
                let (expected, got) = (copies * few.len(), many.len());
                residual.add_entry((row, 0), got as f64, expected as f64, f64::MIN_POSITIVE);
                let cause = format!("expert {row} has {got} copies, where others have {expected}");
                let cause = Some(cause);
                let (tensor, source_tensor) = (&t.weight, &s.weight);
                let blame = Blame { tensor, source_tensor, at: (row, 0), residual, cause };
                ledger.fail(told((ROUTER, blame), self.place));
            }
        }
        Ok(None)
    }

    fn router_scale(&self, residual: &Residual) -> Blame<'_> {
        Blame {
            tensor: &self.ops.1.router.weight,
            source_tensor: &self.ops.0.router.weight,
            at: (residual.worst.0, 0),
            residual: residual.clone(),
            cause: constant_ratio(residual, &[]),
        }
    }

    /// Which expanded experts stand for which of the source's, within one class of the router.
    /// `None` if that depends on how ties are broken.
    fn matches(&self, sources: &[usize], expanded: &[usize]) -> Result<Option<Matches>> {
        if sources.len() == 1 {
            return Ok(Some(vec![(sources[0], expanded.to_vec())]));
        }
        if sources.len() == expanded.len() && self.are_ties(sources, expanded)? {
            let one = |(s, t): (&usize, &usize)| (*s, vec![*t]);
            return Ok(Some(sources.iter().zip(expanded).map(one).collect()));
        }
        // Which of them are chosen cannot matter if all are equal.
        let first = mlp_writes(self.readers.0, &self.ops.0.experts[sources[0]])?;
        let same = (0..self.map.source).map(|of| Entry::Copy { of, sign: 1.0 }).collect();
        let same = Map { source: self.map.source, entries: same, scale: 1.0, scale_error: 0.0 };
        for other in &sources[1..] {
            let other = mlp_writes(self.readers.0, &self.ops.0.experts[*other])?;
            if !equations(Some(&first), Some(&other), &same, self.modulo_one, 0.0).hold() {
                return Ok(None);
            }
        }
        Ok(Some(expanded.iter().map(|t| (sources[0], vec![*t])).collect()))
    }

    /// Whether experts of one class have one logit, to the last bit, in both models: then ties are
    /// broken by their places alone, and by rounding otherwise.
    fn are_ties(&self, sources: &[usize], expanded: &[usize]) -> Result<bool> {
        let same = |reader: &Reader, router: &Linear, of: &[usize]| {
            let mut parts = router.lenses().map(|lens| reader.side.stored(lens));
            parts.try_fold(true, |same, part| {
                let rows = part?.value;
                Ok(same && of.iter().all(|other| rows.row(*other) == rows.row(of[0])))
            })
        };
        Ok(same(self.readers.0, &self.ops.0.router, sources)?
            && same(self.readers.1, &self.ops.1.router, expanded)?)
    }

    /// What one expert writes, and its copies on average.
    fn expert(&self, of: usize, members: &[usize], ledger: &mut Ledger) -> Result<()> {
        let source = mlp_writes(self.readers.0, &self.ops.0.experts[of])?;
        let copies = members
            .iter()
            .map(|t| mlp_writes(self.readers.1, &self.ops.1.experts[*t]))
            .collect::<Result<Vec<Writes>>>()?;
        let hold = |writes: &Writes| {
            let shared = self.readers.1.shared;
            equations(Some(&source), Some(writes), self.map, self.modulo_one, shared)
        };
        let neurons = source.fan_out.value.ncols();
        let found = hold(&average(&copies, neurons));
        if found.hold() {
            found.residuals().for_each(|residual| ledger.hold(residual));
            ledger.certificate.exact &= !found.drops;
            return self.note(of, (members, &copies), found.groups, ledger);
        }
        // One copy that is wrong by itself, if there is one.
        for (member, writes) in members.iter().zip(&copies) {
            let found = hold(writes);
            if found.hold() {
                continue;
            }
            let ops = (op_of(&self.ops.0.experts[of]), op_of(&self.ops.1.experts[*member]));
            let halves = (Some((self.readers.0, &ops.0)), Some((self.readers.1, &ops.1)));
            let case = Case { halves, map: self.map, modulo_one: self.modulo_one };
            let accused = Accused {
                readers: self.readers,
                ops: (&ops.0, &ops.1),
                writes: (&source, writes),
                case,
            };
            let verdict: Verdict = accused.blame(&found)?;
            ledger.fail(told(verdict, &format!("{} expert {member}", self.place)));
            return Ok(());
        }
        ledger
            .unknown(self.place, format!("the copies of expert {of} are equal, but not together"));
        Ok(())
    }
}

impl Mixtures<'_> {
    /// Notes what became of the neurons of one expert in each of its copies; `groups` are those of
    /// their [`average`].
    fn note(
        &self,
        of: usize,
        (members, copies): (&[usize], &[Writes]),
        groups: Groups,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let Groups { source, expanded, count } = groups;
        let neurons = source.len();
        let mut first = 0;
        for (member, writes) in members.iter().zip(copies) {
            let ops = (op_of(&self.ops.0.experts[of]), op_of(&self.ops.1.experts[*member]));
            let own = writes.fan_out.value.ncols();
            let expanded = expanded[first..first + own].to_vec();
            first += own + missing(own, neurons);
            let groups = Groups { source: source.clone(), expanded, count };
            let (ops, side) = ((&ops.0, &ops.1), self.readers.1.side);
            let notes = &mut ledger.notes;
            notes.spreads.extend(Spread::of(self.place, ops, side, writes, &groups)?);
            notes.equal_reads.extend(read_equally(self.readers.1, ops.1)?);
        }
        Ok(())
    }

    /// What became of the experts themselves.
    fn spread(&self, matches: &Matches) -> Result<Spread> {
        let (few, many) = (self.ops.0.experts.len(), self.ops.1.experts.len());
        let (mut equal, mut copied) = (0, 0);
        for members in matches.iter().map(|(_, members)| members).filter(|m| m.len() > 1) {
            copied += 1;
            equal += usize::from(self.are_equal(members)?);
        }
        let in_order = |(of, members): &(usize, Vec<usize>)| members.iter().all(|m| m % few == *of);
        Ok(Spread {
            place: self.place.to_string(),
            units: Units::Experts,
            count: (few, many),
            size: (1, 1),
            copies: (many / few, many / few),
            permuted: !matches.iter().all(in_order),
            zero: 0,
            cancelling: 0,
            shares: match (equal, copied) {
                (_, 0) => Shares::None,
                (0, _) => Shares::Unequal,
                (some, all) if some < all => Shares::Mixed,
                _ => Shares::Symmetric,
            },
        })
    }

    /// Whether these expanded experts hold the same numbers: then training keeps them equal.
    fn are_equal(&self, members: &[usize]) -> Result<bool> {
        let experts = &self.ops.1.experts;
        let read = |mlp: &Mlp| -> Result<Vec<Stored>> {
            let linears = mlp.gate.iter().chain([&mlp.up, &mlp.down]);
            linears.flat_map(Linear::lenses).map(|l| self.readers.1.side.stored(l)).collect()
        };
        let first = read(&experts[members[0]])?;
        for other in &members[1..] {
            let other = read(&experts[*other])?;
            if first.iter().zip(&other).any(|(a, b)| a.value != b.value) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn op_of(mlp: &Mlp) -> Op {
    Op::Mlp(Box::new(mlp.clone()))
}

/// How many neurons `count` lacks to be a multiple of `period`.
fn missing(count: usize, period: usize) -> usize {
    count.next_multiple_of(period.max(1)) - count
}

/// Networks side by side, what they write divided by their number. Each is filled up with neurons
/// that do nothing to a multiple of `period`, so that a copy stands at its place in every network.
fn average(copies: &[Writes], period: usize) -> Writes {
    let share = 1.0 / copies.len() as f64;
    let missing = |count: usize| missing(count, period);
    let filled = |rows: &Bounded| {
        let nothing = Bounded::zeros(missing(rows.rows()), rows.cols());
        Bounded::stacked(&[rows.clone(), nothing])
    };
    let rows: Vec<Bounded> = copies
        .iter()
        .filter_map(|writes| match &writes.keys {
            Keys::Rows(rows) => Some(filled(rows)),
            Keys::Patterns(..) => None,
        })
        .collect();
    let linear: Vec<Bounded> =
        copies.iter().filter_map(|w| w.linear.as_ref().map(|(rows, _)| filled(rows))).collect();
    let linear = (!linear.is_empty()).then(|| {
        let rows = Bounded::stacked(&linear);
        let own = (0..rows.rows()).collect();
        (rows, own)
    });
    let blocks: Vec<Array2<f64>> = copies
        .iter()
        .flat_map(|writes| {
            let value = &writes.fan_out.value;
            [value.clone(), Array2::zeros((value.nrows(), missing(value.ncols())))]
        })
        .collect();
    let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
    let joined = concatenate(Axis(1), &views).expect("experts write to one stream");
    let mut floors = Floors::even(joined.nrows(), 0, 0.0);
    for writes in copies {
        let columns = writes.fan_out.value.ncols();
        floors.append(&writes.fan_out.floors, share, missing(columns));
    }
    let bias = copies[1..].iter().fold(copies[0].bias.clone(), |sum, w| sum.plus(&w.bias));
    Writes {
        keys: Keys::Rows(Bounded::stacked(&rows)),
        homogeneous: copies[0].homogeneous,
        linear,
        fan_out: Stored {
            value: joined * share,
            unit: copies.iter().map(|writes| writes.fan_out.unit).fold(0.0, f64::max),
            floors,
        },
        scale: None,
        bias: bias.times(share),
    }
}
