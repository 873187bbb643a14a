//! Which channels of two networks are copies of one another.

use crate::certify::agreement::Agreement;
use crate::certify::bounded::{Bounded, Ratio, UNITS};
use crate::certify::cluster::{Items, Member, Sameness, Strategy, cluster};
use ndarray::{Array1, ArrayView1};

/// The channels that two networks write at one place, in groups: each is a positive multiple of
/// the first of its group, or always zero.
#[derive(Clone, Debug)]
pub(super) struct Alike {
    pub source: Channels,
    pub expanded: Channels,
    /// For each group its first channel in the source.
    firsts: Vec<usize>,
}

/// The channels of one network.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    /// For each channel its group and its factor there; none where it is always zero.
    pub of: Vec<Member>,
    pub groups: usize,
}

/// How channels are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    same: Sameness,
    strategy: Strategy,
}

/// Rows on either side of a fingerprint's place that are compared in full: rounding may swap
/// neighbours.
const NEIGHBOURS: usize = 4;

impl Way {
    /// All, in the order in which they are tried. Any that is held is as good as another.
    pub fn all() -> impl Iterator<Item = Way> {
        [Sameness::Equal, Sameness::PositiveMultiple].into_iter().flat_map(|same| {
            // What is in no group here goes to the nearest row, and nothing is a product.
            let by_rows = |strategy: &&Strategy| !strategy.drop_faint && !strategy.products;
            let strategies = Strategy::all(true).iter().filter(by_rows);
            strategies.map(move |strategy| Way { same, strategy: *strategy })
        })
    }
}

impl Channels {
    fn identity(channels: usize) -> Channels {
        let of = (0..channels).map(|channel| Some((channel, Ratio::ONE))).collect();
        Channels { of, groups: channels }
    }

    /// The largest relative error of a factor.
    pub fn factor_error(&self) -> f64 {
        let errors = self.of.iter().flatten().map(|(_, ratio)| ratio.error / ratio.factor.abs());
        errors.fold(0.0, f64::max)
    }

    /// The first channel of each group, where there is one.
    pub fn firsts(&self) -> Vec<Option<usize>> {
        let mut firsts = vec![None; self.groups];
        for (channel, member) in self.of.iter().enumerate() {
            if let Some((group, _)) = member {
                firsts[*group].get_or_insert(channel);
            }
        }
        firsts
    }
}

impl Alike {
    /// Every channel is a copy of itself, and of no other.
    pub fn identity(channels: usize) -> Alike {
        Alike {
            source: Channels::identity(channels),
            expanded: Channels::identity(channels),
            firsts: (0..channels).collect(),
        }
    }

    /// Groups the rows that write channels. A row of `expanded` that is in none of the source's
    /// groups goes to that of the row that is nearest to it: that it does not belong there is for
    /// the caller to find, with [`Alike::expected`].
    ///
    /// Rows that are exactly zero are in no group; but a zero row of the source is, where a row of
    /// `expanded` is a copy of it that is only nearly zero.
    pub fn read_off(source: &Bounded, expanded: &Bounded, way: Way) -> Alike {
        let items = [source, expanded].map(|rows| Some(Items::of_rows(rows)));
        // The caller holds all rows, those of the source too.
        let mut unused = Agreement::new(0.0);
        let [mut s, mut t] = cluster(&items, way.same, way.strategy, &mut unused);
        let known = s.iter().flatten().map(|(group, _)| group + 1).max().unwrap_or(0);
        let nearest = Nearest::new(source);
        for (row, member) in t.iter_mut().enumerate() {
            let values = expanded.value.row(row);
            let placed = member.is_some_and(|(group, _)| group < known);
            if is_zero(values) {
                *member = None;
            } else if !placed {
                *member = nearest
                    .to(values)
                    .and_then(|other| s[other])
                    .map(|(group, _)| (group, Ratio::ONE));
            }
        }
        let mut has_copy = vec![false; known];
        t.iter().flatten().for_each(|(group, _)| has_copy[*group] = true);
        for (row, member) in s.iter_mut().enumerate() {
            let read = member.is_some_and(|(group, _)| has_copy[group]);
            if is_zero(source.value.row(row)) && !read {
                *member = None;
            }
        }
        Alike::of(s, t)
    }

    /// Numbers the groups anew by those that the source has.
    fn of(mut source: Vec<Member>, mut expanded: Vec<Member>) -> Alike {
        let count = source.iter().flatten().map(|(group, _)| group + 1).max().unwrap_or(0);
        let mut firsts = Vec::new();
        let mut number = vec![None; count];
        for (channel, (group, _)) in
            source.iter().enumerate().filter_map(|(channel, member)| Some((channel, (*member)?)))
        {
            if number[group].is_none() {
                number[group] = Some(firsts.len());
                firsts.push(channel);
            }
        }
        for member in source.iter_mut().chain(&mut expanded) {
            *member = member.and_then(|(group, ratio)| Some((number[group]?, ratio)));
        }
        let groups = firsts.len();
        Alike {
            source: Channels { of: source, groups },
            expanded: Channels { of: expanded, groups },
            firsts,
        }
    }

    /// Whether another grouping is the same, with the same factors within their errors.
    pub fn is_as(&self, other: &Alike) -> bool {
        let same = |a: &Member, b: &Member| match (a, b) {
            (Some((group, x)), Some((other, y))) => {
                let error = UNITS * (x.error + y.error);
                group == other && (x.factor - y.factor).abs() <= error
            }
            (a, b) => a.is_none() && b.is_none(),
        };
        let channels =
            |alike: &Alike| [alike.source.of.clone(), alike.expanded.of.clone()].concat();
        let (mine, others) = (channels(self), channels(other));
        mine.len() == others.len() && mine.iter().zip(&others).all(|(a, b)| same(a, b))
    }

    /// The row of the source that a channel is a multiple of, and its factor.
    pub fn expected(&self, member: Member) -> Option<(usize, Ratio)> {
        member.map(|(group, ratio)| (self.firsts[group], ratio))
    }

    /// Such as `64 → 80: copies, 1 to 2 of each`.
    pub fn words(&self) -> String {
        let mut count = vec![0usize; self.firsts.len()];
        self.expanded.of.iter().flatten().for_each(|(group, _)| count[*group] += 1);
        let (least, most) = (count.iter().min(), count.iter().max());
        let of_each = match (least, most) {
            (Some(least), Some(most)) if least == most => format!("{most} of each"),
            (Some(least), Some(most)) => format!("{least} to {most} of each"),
            _ => "of nothing".into(),
        };
        let zeros = self.expanded.of.iter().filter(|of| of.is_none()).count();
        let zeros = if zeros == 0 { String::new() } else { format!(", {zeros} zero") };
        let (sources, all) = (self.source.of.len(), self.expanded.of.len());
        let differ = match self.source.of.iter().flatten().count() {
            channels if channels == self.firsts.len() => String::new(),
            _ => format!(", of which {} differ", self.firsts.len()),
        };
        format!("{sources}{differ} → {all}: copies, {of_each}{zeros}")
    }
}

fn is_zero(row: ArrayView1<f64>) -> bool {
    row.iter().all(|value| *value == 0.0)
}

/// Finds the row that is nearest to another.
struct Nearest<'a> {
    rows: &'a Bounded,
    probe: Array1<f64>,
    marks: Array1<f64>,
    /// The rows in the order of their marks.
    order: Vec<usize>,
}

impl<'a> Nearest<'a> {
    fn new(rows: &'a Bounded) -> Self {
        let probe = probe(rows.cols());
        let marks = rows.value.dot(&probe);
        let mut order: Vec<usize> = (0..rows.rows()).collect();
        order.sort_by(|a, b| marks[*a].total_cmp(&marks[*b]));
        Nearest { rows, probe, marks, order }
    }

    /// Of the rows whose marks are near that of `values`.
    fn to(&self, values: ArrayView1<f64>) -> Option<usize> {
        let mark = values.dot(&self.probe);
        let place = self.order.partition_point(|other| self.marks[*other] < mark);
        let from = place.saturating_sub(NEIGHBOURS);
        let candidates = &self.order[from..(place + NEIGHBOURS).min(self.order.len())];
        let distance = |other: usize| {
            let pairs = values.iter().zip(self.rows.value.row(other));
            pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>()
        };
        let apart = candidates.iter().map(|other| (distance(*other), *other));
        apart.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, other)| other)
    }
}

/// A fixed vector of numbers without pattern, to tell rows apart by their product with it: the
/// fractional parts of multiples of the golden ratio's square, scattered by a second multiple.
fn probe(length: usize) -> Array1<f64> {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    (0..length)
        .map(|i| {
            let first = (i as f64 + 1.0) * golden;
            let second = first.fract() * 97.0 + (i as f64) * 2f64.sqrt();
            second.fract() - 0.5
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    fn read_off(source: Array2<f64>, expanded: Array2<f64>, way: usize) -> Alike {
        let stored = |value| Bounded::stored(value, 1e-9, 0.0);
        Alike::read_off(&stored(source), &stored(expanded), Way::all().nth(way).unwrap())
    }

    fn groups(channels: &Channels) -> Vec<Option<usize>> {
        channels.of.iter().map(|member| member.map(|(group, _)| group)).collect()
    }

    #[test]
    fn copies_and_zeros_are_read_off() {
        let source = array![[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]];
        let expanded = array![[3.0, -4.0], [0.0, 0.0], [1.0, 2.0], [0.5, 0.0], [3.0, -4.0]];
        let alike = read_off(source, expanded, 0);
        assert_eq!(groups(&alike.expanded), [Some(1), None, Some(0), Some(2), Some(1)]);
        assert_eq!(alike.words(), "3 → 5: copies, 1 to 2 of each, 1 zero");
    }

    #[test]
    fn copies_within_the_source_are_one_group() {
        let source = array![[1.0, 2.0], [3.0, -4.0], [1.0, 2.0]];
        let alike = read_off(source, array![[3.0, -4.0], [1.0, 2.0], [1.0, 2.0], [3.0, -4.0]], 0);
        assert_eq!(groups(&alike.source), [Some(0), Some(1), Some(0)]);
        assert_eq!(groups(&alike.expanded), [Some(1), Some(0), Some(0), Some(1)]);
        assert_eq!(alike.words(), "3, of which 2 differ → 4: copies, 2 of each");
    }

    #[test]
    fn a_positive_multiple_is_in_its_group_and_a_negative_one_is_not() {
        let source = array![[1.0, 2.0], [3.0, -4.0]];
        let alike = read_off(source, array![[6.0, -8.0], [-1.0, -2.0], [0.5, 1.0]], 4);
        let (group, ratio) = alike.expanded.of[0].unwrap();
        assert_eq!((group, ratio.factor), (1, 2.0));
        assert_eq!(alike.expanded.of[1].unwrap().1.factor, 1.0);
        assert_eq!(alike.expanded.of[2].unwrap().1.factor, 0.5);
    }

    #[test]
    fn groupings_are_one_where_their_factors_are_within_both_errors() {
        let of = |factor, error| {
            let first = Some((0, Ratio::ONE));
            Alike::of(vec![first], vec![first, Some((0, Ratio { factor, error }))])
        };
        let as_one = |x, y| of(2.0, x).is_as(&of(2.1, y));
        assert!(as_one(0.0126, 0.0) && as_one(0.0, 0.0126) && as_one(0.0063, 0.0063));
        assert!(!as_one(0.0124, 0.0) && !as_one(0.0062, 0.0062) && !as_one(0.0, 0.0));
        assert!(of(2.0, 0.0).is_as(&of(2.0, 0.0)));
    }

    #[test]
    fn a_channel_that_is_zero_in_both_networks_is_read_by_neither() {
        let source = array![[1.0, 2.0], [0.0, 0.0]];
        let none = read_off(source.clone(), array![[1.0, 2.0], [0.0, 0.0]], 0);
        assert_eq!(groups(&none.source), [Some(0), None]);
        // Nearly zero is a copy of it, and counts.
        let nearly = read_off(source, array![[1.0, 2.0], [0.0, 1e-12]], 0);
        assert_eq!(groups(&nearly.source), [Some(0), Some(1)]);
    }
}
