//! What must be true of the small rules, for sizes and numbers that quickcheck draws.
//!
//! `LEMON_CASES` sets the number of cases of each property (default 1000).

use lemon_check::expand::rules::{Map, Share, linear, rows_of, vector};
use lemon_check::testing::random::{Draw, cases, generator};
use ndarray::{Array2, Axis, s};
use quickcheck::{Arbitrary, Gen, QuickCheck, Testable};

fn hold(property: impl Testable) {
    QuickCheck::new().tests(cases(1000).into()).quickcheck(property);
}

/// How one space grows to another: `kind` names one of the maps that keep every coordinate.
#[derive(Clone, Copy, Debug)]
struct Growth {
    source: usize,
    expanded: usize,
    kind: usize,
    seed: u64,
}

impl Arbitrary for Growth {
    fn arbitrary(from: &mut Gen) -> Self {
        let mut size = |most: u64| (u64::arbitrary(from) % most) as usize;
        let source = 1 + size(6);
        let (expanded, kind, seed) = (source + size(14), size(5), size(1 << 20) as u64);
        Growth { source, expanded, kind, seed }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let Growth { source, expanded, .. } = *self;
        let sizes =
            [(1, expanded), (source - 1, expanded), (source, source), (source, expanded - 1)];
        let legal =
            move |(s, e): &(usize, usize)| *s > 0 && s <= e && (*s, *e) != (source, expanded);
        let this = *self;
        let all = sizes.into_iter().filter(legal);
        Box::new(all.map(move |(source, expanded)| Growth { source, expanded, ..this }))
    }
}

impl Growth {
    fn map(self) -> Map {
        let Growth { source, expanded, kind, seed } = self;
        let mut rng = generator(seed);
        match kind {
            0 => Map::circular(source, expanded),
            1 => Map::zero(source, expanded),
            2 => Map::average(source, expanded),
            3 => Map::padded(source, expanded),
            _ => Map::random(source, expanded, |count| rng.below(count)).unwrap(),
        }
    }

    /// A matrix of this many rows, of this seed.
    fn matrix(self, rows: usize, columns: usize) -> Array2<f64> {
        let mut rng = generator(self.seed + 1);
        Array2::from_shape_simple_fn((rows, columns), || rng.normal())
    }
}

fn close(one: &Array2<f64>, other: &Array2<f64>) -> bool {
    one.dim() == other.dim() && one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-10)
}

#[test]
fn the_first_coordinates_of_an_expansion_are_the_source() {
    hold(
        (|growth: Growth| {
            let x = growth.matrix(growth.source, 3);
            growth.map().expand_rows(&x).slice(s![..growth.source, ..]) == x
        }) as fn(Growth) -> bool,
    );
}

#[test]
fn rows_and_columns_are_mapped_alike() {
    hold(
        (|growth: Growth| {
            let x = growth.matrix(growth.source, 3);
            let columns = growth.map().expand_columns(&x.t().to_owned()).unwrap();
            close(&growth.map().expand_rows(&x), &columns.t().to_owned())
        }) as fn(Growth) -> bool,
    );
}

#[test]
fn a_map_after_a_map_is_a_map_of_the_product() {
    hold(
        (|first: Growth, more: usize, kind: usize| {
            let (expanded, kind) = (first.expanded + more % 9, kind % 5);
            let second = Growth { source: first.expanded, expanded, kind, ..first };
            let x = first.matrix(first.source, 2);
            let twice = second.map().expand_rows(&first.map().expand_rows(&x));
            let dense =
                second.map().expand_rows(&first.map().expand_rows(&Array2::eye(first.source)));
            close(&twice, &dense.dot(&x))
        }) as fn(Growth, usize, usize) -> bool,
    );
}

#[test]
fn whole_multiples_one_after_the_other_are_a_whole_multiple() {
    hold(
        (|growth: Growth, twice: bool, times: bool| {
            let (k, m) = (2 + usize::from(twice), 2 + usize::from(times));
            let middle = k * growth.source;
            let first = Growth { expanded: middle, ..growth };
            let second = Growth { source: middle, expanded: m * middle, ..growth };
            let both = Growth { expanded: m * middle, ..growth };
            // Copies of another order, and zeros behind one copy, are not this map.
            let growth = |growth: Growth| Growth { kind: growth.kind % 3, ..growth };
            let x = first.matrix(first.source, 2);
            let step = growth(first).map().expand_rows(&x);
            growth(second).map().expand_rows(&step) == growth(both).map().expand_rows(&x)
        }) as fn(Growth, bool, bool) -> bool,
    );
}

#[test]
fn a_linear_layer_between_two_maps_does_what_the_small_one_does() {
    hold(
        (|rows: Growth, columns: Growth, share: usize| {
            let small = rows.matrix(rows.source, columns.source);
            let initial = columns.matrix(rows.expanded, columns.expanded);
            let share = [Share::Equal, Share::First, Share::Last][share % 3];
            let (out, into) = (rows.map(), columns.map());
            let large = linear(&small, &out, &into, share, rows_of(&initial)).unwrap();
            let x = columns.matrix(columns.source, 2);
            close(&large.dot(&into.expand_rows(&x)), &out.expand_rows(&small.dot(&x)))
        }) as fn(Growth, Growth, usize) -> bool,
    );
}

#[test]
fn a_vector_follows_its_map_and_its_offset() {
    hold(
        (|growth: Growth, residue: i8, offset: bool| {
            let offset = f64::from(offset);
            let stored = growth.matrix(growth.source, 1);
            let map = growth.map();
            let expanded = vector(&stored, &map, offset, |_| residue.into()).unwrap();
            let gains = map.expand_rows(&(&stored + offset));
            let zero = map.expand_rows(&Array2::ones(stored.dim()));
            (0..map.len()).all(|i| {
                let expected = if zero[[i, 0]] == 0.0 { residue.into() } else { gains[[i, 0]] };
                (expanded[[i, 0]] + offset - expected).abs() < 1e-12
            })
        }) as fn(Growth, i8, bool) -> bool,
    );
}

#[test]
fn the_mean_of_an_average_expansion_is_the_mean() {
    hold(
        (|growth: Growth| {
            let x = growth.matrix(growth.source, 2);
            let average = Map::average(growth.source, growth.expanded).expand_rows(&x);
            let means = |x: &Array2<f64>| x.mean_axis(Axis(0)).unwrap();
            (means(&x) - means(&average)).iter().all(|difference| difference.abs() < 1e-12)
        }) as fn(Growth) -> bool,
    );
}
