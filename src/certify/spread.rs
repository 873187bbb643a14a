//! Which kind of expansion a sublayer is: copies and their shares, what is new. No verdict rests on
//! this; it is for words.

use super::bounded::{Stored, UNITS};
use super::channels::Groups;
use super::cluster::Member;
use super::map::Entry;
use super::reader::Reader;
use super::side::Side;
use super::stored::StoredRows;
use super::writes::Writes;
use crate::error::Result;
use crate::model::{Attention, Linear, Op};
use std::collections::BTreeMap;

/// What [`Spread`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Units {
    /// Neurons of a feed-forward network.
    Neurons,
    /// Query heads.
    Heads,
    /// Experts of a mixture.
    Experts,
}

/// How the fan-outs of copies share the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shares {
    /// There are no copies.
    None,
    /// All equal, and what copies read is equal too: gradients keep them equal.
    Symmetric,
    /// All equal.
    Equal,
    /// Some equal.
    Mixed,
    /// None equal.
    Unequal,
}

/// How the neurons or heads of one sublayer became the expanded model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// `layer 3 MLP`.
    pub place: String,
    pub units: Units,
    /// How many there are in the source and in the expanded model.
    pub count: (usize, usize),
    /// Channels of a head in the two; 1 for neurons.
    pub size: (usize, usize),
    /// Fewest and most copies of one of the source's.
    pub copies: (usize, usize),
    pub permuted: bool,
    /// Those that are no copies and write zero.
    pub zero: usize,
    /// Those that are no copies and write what sums to zero.
    pub cancelling: usize,
    pub shares: Shares,
}

impl Spread {
    /// Reads it off the groups of a sublayer whose equations hold.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub fn of(
        place: &str,
        (source, expanded): (&Op, &Op),
        side: &Side,
        writes: &Writes,
        groups: &Groups,
    ) -> Result<Option<Spread>> {
        let size = match expanded {
            Op::Attention(attention) => attention.head_dim,
            _ => 1,
        };
        let fan_out = FanOut { stored: &writes.fan_out, members: &groups.expanded, size };
        Spread::seen(
            place,
            (source, expanded),
            groups,
            |unit| fan_out.is_zero(unit),
            |one, other| fan_out.equal(one, other),
            |pairs| reads_equally(side, expanded, pairs),
        )
    }

    /// The same from what was seen of the fan-outs: whether a unit's `is_zero`, whether those of
    /// two copies are `equal`, and whether copies read equally.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub fn seen(
        place: &str,
        (source, expanded): (&Op, &Op),
        groups: &Groups,
        is_zero: impl Fn(usize) -> bool,
        equal: impl Fn(usize, usize) -> bool,
        reads_equally: impl FnOnce(&[(usize, usize)]) -> Result<bool>,
    ) -> Result<Option<Spread>> {
        let (units, size) = match (source, expanded) {
            (Op::Mlp(_), Op::Mlp(_)) => (Units::Neurons, (1, 1)),
            (Op::Attention(s), Op::Attention(t)) => (Units::Heads, (s.head_dim, t.head_dim)),
            _ => return Ok(None),
        };
        let classes = Classes::of(groups, size);
        let new = |zero: bool| {
            let units = classes.expanded.iter().enumerate();
            units.filter(|(unit, of)| of.is_none() && is_zero(*unit) == zero).count()
        };
        let groups_of = |op: &Op| match op {
            Op::Attention(attention) => attention.heads / attention.kv_heads,
            _ => 1,
        };
        Ok(Some(Spread {
            place: place.to_string(),
            units,
            count: (classes.source.len(), classes.expanded.len()),
            size,
            copies: classes.copies(),
            permuted: !classes.in_order((groups_of(source), groups_of(expanded))),
            zero: new(true),
            cancelling: new(false),
            shares: shares(&classes, equal, reads_equally)?,
        }))
    }
}

/// For each unit (neuron, head) the first unit of the source that computes the same.
struct Classes {
    source: Vec<usize>,
    expanded: Vec<Option<usize>>,
    /// Source units that write nothing.
    idle: Vec<bool>,
}

/// The groups of a unit's channels that contribute.
fn active(members: &[Member]) -> impl Iterator<Item = usize> {
    members.iter().flatten().filter(|(_, ratio)| ratio.factor != 0.0).map(|(group, _)| *group)
}

impl Classes {
    fn of(groups: &Groups, size: (usize, usize)) -> Classes {
        let mut owners: BTreeMap<usize, usize> = BTreeMap::new();
        let (mut source, mut idle) = (Vec::new(), Vec::new());
        for (unit, members) in groups.source.chunks(size.0.max(1)).enumerate() {
            let class = active(members).find_map(|group| owners.get(&group).copied());
            source.push(class.unwrap_or(unit));
            idle.push(active(members).next().is_none());
            active(members).for_each(|group| {
                owners.entry(group).or_insert(class.unwrap_or(unit));
            });
        }
        let owner =
            |members: &[Member]| active(members).find_map(|group| owners.get(&group).copied());
        let expanded = groups.expanded.chunks(size.1.max(1)).map(owner).collect();
        Classes { source, expanded, idle }
    }

    /// The expanded units of each class that has any.
    fn members(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (unit, class) in self.expanded.iter().enumerate() {
            if let Some(class) = class {
                members.entry(*class).or_default().push(unit);
            }
        }
        members
    }

    fn copies(&self) -> (usize, usize) {
        let members = self.members();
        let mut sizes = vec![0; self.source.len()];
        self.source.iter().for_each(|class| sizes[*class] += 1);
        let (mut fewest, mut most) = (usize::MAX, 0);
        for (class, _) in self.idle.iter().enumerate().filter(|(_, idle)| !**idle) {
            let equal = sizes[self.source[class]];
            let copies = members.get(&self.source[class]).map_or(0, Vec::len);
            fewest = fewest.min(copies / equal);
            most = most.max(copies.div_ceil(equal));
        }
        (fewest.min(most), most)
    }

    /// Whether copies stand in the order of the source, round and round; heads also within the
    /// groups that share a key/value head. Where some have more copies than others, it is enough
    /// that the first ones do.
    fn in_order(&self, groups: (usize, usize)) -> bool {
        let count = self.source.len();
        let (fewest, most) = self.copies();
        let seen = if fewest == most { self.expanded.len() } else { count };
        let stands = |place: &dyn Fn(usize) -> usize| {
            let mut units = self.expanded.iter().enumerate().take(seen);
            units.all(|(unit, of)| {
                of.is_none_or(|of| {
                    let expected = place(unit);
                    self.source.get(expected) == Some(&of) || self.idle[expected % count]
                })
            })
        };
        let shared = count / groups.0;
        let by_group =
            |unit: usize| unit / groups.1 % shared * groups.0 + unit % groups.1 % groups.0;
        count == 0 || stands(&|unit| unit % count) || stands(&by_group)
    }
}

/// The columns of a writing layer, unit by unit.
struct FanOut<'a> {
    stored: &'a Stored,
    members: &'a [Member],
    size: usize,
}

impl FanOut<'_> {
    fn channels(&self, unit: usize) -> std::ops::Range<usize> {
        unit * self.size..(unit + 1) * self.size
    }

    /// Whether a unit writes nothing by itself.
    fn is_zero(&self, unit: usize) -> bool {
        self.channels(unit).all(|channel| {
            let column = self.stored.value.column(channel);
            let idle = self.members[channel].is_none_or(|(_, ratio)| ratio.factor == 0.0);
            let floor = |row| self.stored.floors.at(row, channel);
            idle || column.indexed_iter().all(|(row, value)| value.abs() <= UNITS * floor(row))
        })
    }

    /// Whether two units have the same columns, for the same multiple of what they share.
    fn equal(&self, one: usize, other: usize) -> bool {
        let factor = |channel: usize| self.members[channel].map_or(0.0, |(_, r)| r.factor);
        self.channels(one).zip(self.channels(other)).all(|(a, b)| {
            let columns = (self.stored.value.column(a), self.stored.value.column(b));
            let mut pairs = columns.0.iter().zip(columns.1).enumerate();
            (factor(a) - factor(b)).abs() <= 1e-3 * factor(a).abs()
                && pairs.all(|(row, (x, y))| close(self.stored, ((row, a), *x), ((row, b), *y)))
        })
    }
}

/// Whether two stored numbers are one but for rounding.
fn close(stored: &Stored, one: ((usize, usize), f64), other: ((usize, usize), f64)) -> bool {
    let variance = stored.variance(one.0, one.1) + stored.variance(other.0, other.1);
    (one.1 - other.1).powi(2) <= UNITS * UNITS * variance
}

fn shares(
    classes: &Classes,
    equal: impl Fn(usize, usize) -> bool,
    reads_equally: impl FnOnce(&[(usize, usize)]) -> Result<bool>,
) -> Result<Shares> {
    let copied: Vec<Vec<usize>> =
        classes.members().into_values().filter(|units| units.len() > 1).collect();
    let (mut even, mut pairs) = (0, Vec::new());
    for units in &copied {
        let of_first: Vec<(usize, usize)> = units[1..].iter().map(|u| (units[0], *u)).collect();
        if of_first.iter().all(|(one, other)| equal(*one, *other)) {
            even += 1;
            pairs.extend(of_first);
        }
    }
    Ok(match (even, copied.len()) {
        (_, 0) => Shares::None,
        (0, _) => Shares::Unequal,
        (some, all) if some < all => Shares::Mixed,
        _ if reads_equally(&pairs)? => Shares::Symmetric,
        _ => Shares::Equal,
    })
}

/// Whether each pair of units has equal rows in every layer that reads the stream for them.
pub(super) fn reads_equally(side: &Side, op: &Op, pairs: &[(usize, usize)]) -> Result<bool> {
    type Rows<'a> = Box<dyn Fn(usize) -> std::ops::Range<usize> + 'a>;
    let readers: Vec<(&Linear, Rows)> = match op {
        Op::Mlp(mlp) => {
            let rows = || -> Rows { Box::new(|unit| unit..unit + 1) };
            mlp.gate.iter().chain([&mlp.up]).map(|linear| (linear, rows())).collect()
        }
        Op::Attention(attention) => {
            let Attention { query, key, value, heads, kv_heads, head_dim, .. } = &**attention;
            let rows = |group: usize| -> Rows {
                Box::new(move |head| head / group * head_dim..(head / group + 1) * head_dim)
            };
            let group = heads / kv_heads;
            vec![(query, rows(1)), (key, rows(group)), (value, rows(group))]
        }
        Op::Experts(_) => return Ok(false),
    };
    for (linear, rows) in readers {
        for lens in linear.lenses() {
            let stored = StoredRows::new(side, lens)?;
            let same = |(one, other): &(usize, usize)| {
                rows(*one).zip(rows(*other)).all(|(a, b)| stored.alike(a, b))
            };
            if !pairs.iter().all(same) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Rows that are looked at together.
const BLOCK: usize = 16;

/// Whether layers read all copies of a channel with equal weights: the answer for one op; `None`
/// where there are no copies. Stops at the first that are not equal.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn read_equally(reader: &Reader, op: &Op) -> Result<Option<bool>> {
    let Some((map, _)) = reader.through else { return Ok(None) };
    let mut firsts = vec![None; map.source];
    let mut pairs = Vec::new();
    for (channel, entry) in map.entries.iter().enumerate() {
        if let Entry::Copy { of, .. } = entry {
            match firsts[*of] {
                None => firsts[*of] = Some(channel),
                Some(first) => pairs.push((first, channel)),
            }
        }
    }
    let linears: Vec<&Linear> = match op {
        Op::Attention(a) => vec![&a.query, &a.key, &a.value],
        Op::Mlp(m) => m.gate.iter().chain([&m.up]).collect(),
        Op::Experts(_) => Vec::new(),
    };
    if pairs.is_empty() || linears.is_empty() {
        return Ok(None);
    }
    for linear in linears {
        let stored = StoredRows::new(reader.side, &linear.weight)?;
        let (all, mut room) = (0..linear.weight.rows(), Vec::new());
        let every = 0..stored.cols();
        for numbers in all.collect::<Vec<_>>().chunks(BLOCK) {
            let whole = std::slice::from_ref(&every);
            if stored.read(numbers, (whole, &[]), &mut room).is_none() {
                return Ok(Some(false));
            }
            let equal = |(number, row): (&usize, &[f64])| {
                let at = |col: usize| ((*number, col), row[col]);
                pairs.iter().all(|(a, b)| row[*a] == row[*b] || stored.close(at(*a), at(*b)))
            };
            if !numbers.iter().zip(room.chunks_exact(stored.cols())).all(equal) {
                return Ok(Some(false));
            }
        }
    }
    Ok(Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_where_every_copy_is_as_the_first() {
        let of = |copies: &[usize], equal: &[(usize, usize)], alike: bool| {
            let classes = Classes {
                source: vec![0, 1],
                expanded: copies.iter().map(|class| Some(*class)).collect(),
                idle: vec![false; 2],
            };
            let equal = |one, other| equal.contains(&(one, other));
            shares(&classes, equal, |_| Ok(alike)).unwrap()
        };
        // Units 0, 2 and 4 are copies of one, 1 and 3 of another.
        let copies = [0, 1, 0, 1, 0];
        let all = [(0, 2), (0, 4), (1, 3)];
        assert_eq!(of(&[0, 1], &[], true), Shares::None);
        assert_eq!(of(&copies, &[(0, 2)], true), Shares::Unequal);
        assert_eq!(of(&copies, &[(1, 3)], true), Shares::Mixed);
        assert_eq!(of(&copies, &all, true), Shares::Symmetric);
        assert_eq!(of(&copies, &all, false), Shares::Equal);
    }
}
