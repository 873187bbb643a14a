//! Tables with a factor in code or a projection, counted positions, prefix tokens.

use super::pair::{Half, Pair, Shape, random};
use lemon_check::certify::Reach;
use lemon_check::model::{Count, Lens, Linear, Positions, Step, TableIndex};
use lemon_check::testing::Architecture;
use ndarray::{Array2, s};

/// A factor in code on the token table, undone in what is stored.
fn scaled(half: &mut Half, stored: f64, code: f64) {
    let lens = half.model.embedding.tables[0].lens.clone();
    half.edit(&lens, |table| *table /= stored);
    half.model.embedding.tables[0].scale = code;
}

fn own(half: &mut Half) {
    let factor = (half.model.sizes.hidden as f64).sqrt();
    scaled(half, factor, factor);
}

#[test]
fn a_factor_in_code_that_the_table_undoes_is_proven() {
    Pair::llama().both(own).is_proven();
    Pair::gpt2().both(own).is_proven();
}

#[test]
fn a_factor_in_code_that_the_table_ignores_is_caught() {
    let copied = |pair: Pair| {
        let mut pair = pair;
        own(&mut pair.source);
        scaled(&mut pair.expanded, 6f64.sqrt(), 15f64.sqrt());
        pair
    };
    // The whole stream is larger, and all that layers write to it is too small: one mistake.
    let table = copied(Pair::llama()).is_caught();
    assert_eq!(table.tensor, "model.embed_tokens.weight");
    let cause = table.cause.as_deref().unwrap();
    assert!(cause.contains("too large everywhere: the factor in code"), "{cause}");
    copied(Pair::gpt2()).is_caught();
}

/// What a row may be off by is scaled with it.
#[test]
fn a_small_factor_in_code_hides_no_wrong_row() {
    let pair = Pair::llama().both(|half| scaled(half, 1e-6, 1e-6));
    pair.is_proven();
    let table = pair.expanded.model.embedding.tables[0].lens.clone();
    let failure = pair.but(|half| half.spoil(&table, 3, 8)).is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), (table.name(), vec![3, 8]));
}

/// Puts a table of width 4 and a projection in place of the token table.
fn projected(half: &mut Half) {
    let (hidden, rows) = (half.model.sizes.hidden, half.model.embedding.tables[0].lens.rows());
    let old = half.model.embedding.tables[0].lens.name().to_string();
    let table = half.store(&old, &random(rows, 4, 31));
    let small = random(6, 4, 32);
    let mean = small.mean_axis(ndarray::Axis(0)).unwrap();
    let average = half.model.family.name == "gpt2";
    let large = Array2::from_shape_fn((hidden, 4), |(i, j)| match i < hidden / 6 * 6 {
        true => small[[i % 6, j]],
        false if average => mean[j],
        false => 0.0,
    });
    let weight = half.store("projection.weight", &large);
    half.model.embedding.tables[0].lens = table;
    half.model.embedding.tables[0].projection = Some(Linear { weight, bias: None });
}

#[test]
fn a_projected_table_is_proven() {
    Pair::llama().both(projected).is_proven();
    Pair::gpt2().both(projected).is_proven();
}

#[test]
fn a_projected_table_that_is_off_is_caught_and_named() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        let pair = pair.both(projected).but(|half| {
            let lens = half.model.embedding.tables[0].lens.clone();
            half.spoil(&lens, 7, 2);
        });
        let failure = pair.is_caught();
        assert_eq!((failure.index.clone(), failure.reach), (vec![7, 2], Reach::Token(7)));
    }
}

#[test]
fn a_projection_that_is_off_is_caught_and_named() {
    let pair = Pair::llama().both(projected).but(|half| {
        half.edit(
            &Lens::clone(&half.model.embedding.tables[0].projection.clone().unwrap().weight),
            |w| w[[9, 1]] *= 1.01,
        );
    });
    let failure = pair.is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), ("projection.weight", vec![9, 1]));
}

/// Two rows in front of the position table.
fn offset(half: &mut Half, count: Count, first: f64) {
    let table = half.model.embedding.tables[1].clone();
    let rows = half.read(&table.lens);
    let mut all = Array2::from_elem((rows.nrows() + 2, rows.ncols()), first);
    all.slice_mut(s![2.., ..]).assign(&rows);
    all.row_mut(1).assign(&rows.row(0));
    let lens = half.store(table.lens.name(), &all);
    half.model.embedding.tables[1].lens = lens;
    half.model.embedding.tables[1].index = TableIndex::Position(Positions { count, offset: 2 });
}

#[test]
fn positions_behind_an_offset_are_proven_and_unreached_rows_are_not_judged() {
    for count in [Count::All, Count::Visible, Count::OtherThan(3)] {
        let mut pair = Pair::gpt2();
        offset(&mut pair.source, count, 0.0);
        offset(&mut pair.expanded, count, 9.0);
        pair.is_proven();
        let maps = pair.certificate().maps;
        assert!(maps.iter().any(|map| map.words.contains("not judged")), "{maps:?}");
    }
}

#[test]
fn a_position_row_that_is_off_is_caught_at_its_position() {
    let pair = Pair::gpt2().both(|half| offset(half, Count::All, 0.0)).but(|half| {
        let lens = half.model.embedding.tables[1].lens.clone();
        half.edit(&lens, |rows| rows[[5, 0]] += 0.1);
    });
    let failure = pair.is_caught();
    assert_eq!((failure.index, failure.reach), (vec![5, 0], Reach::Position(3)));
}

#[test]
fn positions_that_are_counted_in_another_way_are_unknown() {
    let pair = Pair::gpt2().both(|half| offset(half, Count::All, 0.0)).but(|half| {
        let index = TableIndex::Position(Positions { count: Count::OtherThan(3), offset: 2 });
        half.model.embedding.tables[1].index = index;
    });
    pair.is_unknown("in different ways");
}

/// Two more prefix tokens; positions for all tokens, or for the patches alone.
fn registers(half: &mut Half, behind: bool) {
    let hidden = half.model.sizes.hidden;
    let small = random(2, 6, 41);
    let mean = small.mean_axis(ndarray::Axis(1)).unwrap();
    let whole = hidden / 6 * 6;
    let large = Array2::from_shape_fn((2, hidden), |(i, j)| match j < whole {
        true => small[[i, j % 6]],
        false => mean[i],
    });
    let lens = half.store("registers", &large);
    half.model.embedding.prefix.push(lens);
    let table = half.model.embedding.tables[0].lens.clone();
    let rows = half.read(&table);
    let patches = rows.slice(s![1.., ..]).to_owned();
    let (count, rows) = match behind {
        true => (Count::Behind(3), patches),
        false => {
            (Count::All, ndarray::concatenate![ndarray::Axis(0), patches.slice(s![0..2, ..]), rows])
        }
    };
    half.model.embedding.tables[0].lens = half.store(table.name(), &rows);
    half.model.embedding.tables[0].index = TableIndex::Position(Positions { count, offset: 0 });
}

fn vit() -> Pair {
    Pair::new(Architecture::Vit, Shape::default())
}

#[test]
fn several_prefix_tokens_are_proven() {
    for behind in [false, true] {
        vit().both(|half| registers(half, behind)).is_proven();
    }
}

#[test]
fn a_constant_may_move_between_prefix_tokens_and_their_positions() {
    let shift = |half: &mut Half, factor: f64| {
        let lens = half.model.embedding.prefix[1].clone();
        half.edit(&lens, |rows| rows.row_mut(1)[3] += 0.5);
        let lens = half.model.embedding.tables[0].lens.clone();
        half.edit(&lens, |rows| rows.row_mut(2)[3] -= 0.5 * factor);
    };
    vit().both(|half| registers(half, false)).but(|half| shift(half, 1.0)).is_proven();
    vit().both(|half| registers(half, false)).but(|half| shift(half, 0.9)).is_caught();
    // Where prefix tokens have no position, the row is another token's.
    vit().both(|half| registers(half, true)).but(|half| shift(half, 1.0)).is_caught();
}

#[test]
fn one_prefix_token_that_is_zero_expanded_is_caught() {
    let pair = vit().both(|half| registers(half, true)).but(|half| {
        let lens = half.model.embedding.prefix[1].clone();
        half.edit(&lens, |rows| rows.slice_mut(s![.., 12..]).fill(0.0));
    });
    let failure = pair.is_caught();
    assert_eq!(failure.tensor, "registers");
}

#[test]
fn the_mean_of_the_patches_is_proven_and_another_first_one_is_caught() {
    let pooled = |half: &mut Half, first: usize| {
        for step in half.model.outputs.iter_mut().flat_map(|output| &mut output.steps) {
            if let Step::Position(_) | Step::MeanFrom(_) = step {
                *step = Step::MeanFrom(first);
            }
        }
    };
    vit().both(|half| pooled(half, 1)).is_proven();
    let pair = vit().both(|half| pooled(half, 1)).but(|half| pooled(half, 0));
    pair.is_unknown("different steps");
}
