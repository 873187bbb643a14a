//! Tests of residuals and the ledger.

use super::*;
use ndarray::{Array2, array};

#[test]
fn a_row_adds_what_its_entries_add() {
    let number = |i: usize, m: usize| ((i * 37 % m) as f64 - 8.0) / 3.0;
    for (count, wrong) in [(1, false), (37, false), (37, true), (16, true)] {
        let expected: Vec<f64> = (0..count).map(|i| number(i, 17)).collect();
        let mut got: Vec<f64> =
            (0..count).map(|i| number(i, 17) * (1.0 + 1e-8 * number(i, 5))).collect();
        got[count - 1] += if wrong { 1.0 } else { 0.0 };
        let variance: Vec<f64> =
            (0..count).map(|i| 1e-15 * (1.0 + number(i, 13).powi(2))).collect();
        let (mut one, mut each) = (Residual::new(0.0), Residual::new(0.0));
        one.add_row((3, 2), &got, &expected, &variance);
        for i in 0..count {
            each.add_entry((3, 2 + i), got[i], expected[i], variance[i]);
        }
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        assert_eq!((one.worst, one.wrong, one.entries), (each.worst, each.wrong, each.entries));
        assert!(near(one.units, each.units) && near(one.along, each.along));
        assert!(near(one.units_squared, each.units_squared) && near(one.spread, each.spread));
        assert!(near(one.square, each.square) && near(one.noise, each.noise));
        assert!(near(one.alike, each.alike));
        assert!(near(one.difference, each.difference));
        assert_eq!(one.holds(), !wrong);
    }
}

#[test]
fn a_failure_is_clear_from_twice_what_rounding_explains() {
    let one = Bounded::stored(array![[1.0, 2.0]], 1e-6, 0.0);
    // Two bounds of one and of two millionths: √2 of them in an entry of both sides.
    let clear = |units: f64| {
        let off = Bounded::stored(array![[1.0 + units * 2f64.sqrt() * 1e-6, 2.0]], 1e-6, 0.0);
        let residual = Residual::of(&off, &one, 0.0);
        (residual.holds(), residual.fails_clearly())
    };
    assert_eq!(
        [7.0, 9.0, 15.0, 17.0].map(clear).map(|(_, clear)| clear),
        [false, false, false, true]
    );
    assert_eq!([7.0, 9.0].map(clear).map(|(holds, _)| holds), [true, false]);
    // A factor that all entries have in common, each within its bound.
    let ones = |factor: f64| Bounded::stored(Array2::from_elem((40, 40), factor), 1e-6, 0.0);
    let scaled = |factor: f64| Residual::of(&ones(factor), &ones(1.0), 0.0).fails_clearly();
    assert_eq!([1.0 + 2e-6, 1.0 + 4e-6].map(scaled), [false, true]);
    let nan = Bounded::stored(array![[1.0, f64::NAN]], 1e-6, 0.0);
    assert!(Residual::of(&nan, &one, 0.0).fails_clearly());
}

#[test]
fn a_nan_never_holds() {
    let good = Bounded::stored(array![[1.0, 2.0]], 1e-7, 0.0);
    let bad = Bounded::stored(array![[1.0, f64::NAN]], 1e-7, 0.0);
    assert!(Residual::of(&good, &good, 0.0).holds());
    assert!(!Residual::of(&bad, &good, 0.0).holds());
}

#[test]
fn a_common_factor_that_hides_in_every_entry_is_seen_in_their_sum() {
    let unit = 2f64.powi(-8);
    let source = Array2::from_shape_fn((64, 64), |(i, j)| ((i * 37 + j * 11) % 17) as f64 - 8.0);
    let rhs = Bounded::stored(source.clone(), unit, 0.0);
    let lhs = Bounded::stored(source * 1.01, unit, 0.0);
    let residual = Residual::of(&lhs, &rhs, 0.0);
    assert!(residual.units < UNITS, "{}", residual.units);
    assert!(!residual.holds());
}

#[test]
fn noise_of_a_few_units_in_every_entry_is_not_rounding() {
    let rhs = Bounded::stored(Array2::ones((32, 32)), 1e-7, 0.0);
    let noisy =
        Array2::from_shape_fn((32, 32), |(i, j)| 1.0 + if (i + j) % 2 == 0 { 5e-7 } else { -5e-7 });
    let residual = Residual::of(&Bounded::stored(noisy, 1e-7, 0.0), &rhs, 0.0);
    assert!(residual.units < UNITS && residual.wrong == 0);
    assert!(!residual.holds());
}

#[test]
fn a_wrong_number_where_a_zero_belongs_is_seen() {
    let rhs = Bounded::zeros(1, 2);
    let lhs = Bounded::stored(array![[0.0, 1e-3]], 1e-7, 1e-8);
    let residual = Residual::of(&lhs, &rhs, 0.0);
    assert!(!residual.holds());
    assert_eq!(residual.worst, (0, 1));
}

/// Two rows, one off by a little and one by nothing, and their variances.
fn two_rows() -> [(Vec<f64>, Vec<f64>, Vec<f64>); 2] {
    let expected = vec![2.0, -1.0, 0.5];
    let got = vec![2.0 + 1e-6, -1.0 - 5e-7, 0.5];
    [(got, expected.clone(), vec![1e-12; 3]), (expected.clone(), expected, vec![4e-12; 3])]
}

/// All sums that a residual holds, and its counts.
fn sums(residual: &Residual) -> ([f64; 6], [usize; 3]) {
    let Residual { units_squared, difference, along, square, spread, noise, .. } = *residual;
    let Residual { wrong, wrong_rows, entries, .. } = *residual;
    ([units_squared, difference, along, square, spread, noise], [wrong, wrong_rows, entries])
}

#[test]
fn rows_add_to_what_is_there_and_so_do_merged_blocks() {
    let mut all = Residual::new(0.0);
    let alone = two_rows().map(|(got, expected, variance)| {
        all.add_row((0, 0), &got, &expected, &variance);
        let mut one = Residual::new(0.0);
        one.add_row((0, 0), &got, &expected, &variance);
        one
    });
    let wrong = Residual { wrong: 2, wrong_rows: 1, ..alone[1].clone() };
    let (one, other) = (sums(&alone[0]), sums(&alone[1]));
    for number in 0..6 {
        let sum = one.0[number] + other.0[number];
        assert!((sums(&all).0[number] - sum).abs() <= 1e-12 * sum.abs(), "{number}");
        let merged = alone[0].clone().merge(alone[1].clone());
        assert!((sums(&merged).0[number] - sum).abs() <= 1e-12 * sum.abs(), "{number}");
    }
    assert_eq!(sums(&wrong.clone().merge(wrong)).1, [4, 2, 6]);
}

#[test]
fn what_is_left_after_a_factor_is_what_is_at_right_angles_to_the_right_side() {
    // Off by 3 along the right side, which is 5 long, and by 4 across it.
    let rhs = Bounded::stored(array![[5.0, 0.0]], 1e-7, 1e-7);
    let lhs = Bounded::stored(array![[8.0, 4.0]], 1e-7, 1e-7);
    let residual = Residual::of(&lhs, &rhs, 0.0);
    assert_eq!((residual.factor(), residual.relative()), (1.6, 1.0));
    assert!((residual.relative_after_factor() - 0.8).abs() < 1e-15);
}

#[test]
fn the_resolution_is_the_smallest_error_of_scale_that_is_seen() {
    let source = Array2::from_shape_fn((16, 16), |(i, j)| ((i * 7 + j * 5) % 11) as f64 - 5.0);
    let rhs = Bounded::stored(source.clone(), 1e-6, 0.0);
    let off = |by: f64| Residual::of(&Bounded::stored(&source * (1.0 + by), 1e-6, 0.0), &rhs, 1e-7);
    let seen = off(0.0).resolution();
    assert!(seen > 0.0 && off(0.99 * seen).holds() && !off(1.01 * seen).holds(), "{seen}");
    // Among rounding errors no scale can be told.
    let nothing = Bounded::stored(array![[1e-9, -1e-9]], 1e-6, 1e-8);
    assert_eq!(Residual::of(&nothing, &nothing, 0.0).resolution(), 0.0);
}

#[test]
fn a_ledger_counts_its_own_equations_and_those_of_another() {
    let booked = |sizes: [usize; 2]| {
        let mut ledger = Ledger::new();
        sizes.iter().for_each(|size| ledger.hold(&Residual::zero(*size)));
        ledger
    };
    let mut all = booked([3, 4]);
    all.append(booked([5, 6]));
    assert_eq!((all.certificate.equations, all.certificate.entries), (4, 18));
}

#[test]
fn roundings_of_one_sign_hold_and_a_factor_beyond_them_does_not() {
    // A table of one magnitude: every number is rounded to the same side by almost a unit.
    let unit = 2f64.powi(-9);
    let holds = |units: f64| {
        let source = Bounded::stored(Array2::from_elem((200, 200), 0.7), 0.0, 0.0);
        let rounded = 0.7 * (1.0 + units * unit);
        let expanded = Bounded::stored(Array2::from_elem((200, 200), rounded), unit, 0.0);
        Residual::of(&expanded, &source, 0.0).holds()
    };
    assert!(holds(0.9) && holds(-0.9));
    assert!(!holds(1.2) && !holds(-1.2));
}

#[test]
fn one_number_of_which_nothing_is_known_hides_no_factor_of_the_others() {
    let unit = 2f64.powi(-9);
    let number = |i: usize, j: usize| ((i * 37 + j * 11) % 17) as f64 - 8.0;
    let value = |factor: f64| {
        let of = |(i, j)| if (i, j) == (0, 0) { 0.0 } else { factor * number(i, j) };
        Array2::from_shape_fn((64, 64), of)
    };
    let source = Bounded::stored(value(1.0), 0.0, 0.0);
    let mut expanded = Bounded::stored(value(1.01), unit, 0.0);
    expanded.variance[[0, 0]] = 1e12;
    let residual = Residual::of(&expanded, &source, 0.0);
    assert_eq!(residual.wrong, 0);
    assert!(!residual.holds());
}
