//! Which row of the source a row of the expanded model copies: a guess from a few of its numbers,
//! which the equations then hold in full.

use super::meet::Operand;

/// Numbers of a row that are looked at.
const PICKS: usize = 16;

/// A few folded numbers of a row.
pub(super) type Sample = [f64; PICKS];

/// Samples of some rows.
pub(super) fn samples(operand: &Operand, rows: impl Iterator<Item = usize>) -> Vec<Sample> {
    let fold = &operand.fold;
    let columns: [_; PICKS] =
        std::array::from_fn(|pick| fold.columns_of(place(pick, fold.width())));
    let number = |row: usize, columns: &Vec<(usize, f64)>| -> f64 {
        columns.iter().map(|(col, factor)| factor * operand.rows.number(row, *col)).sum()
    };
    rows.map(|row| {
        let mut sample: Sample = std::array::from_fn(|pick| number(row, &columns[pick]));
        if fold.is_centred() {
            centre(&mut sample);
        }
        sample
    })
    .collect()
}

/// Which number of a row is looked at: they are evenly spaced.
fn place(pick: usize, width: usize) -> usize {
    pick * width / PICKS
}

fn centre(sample: &mut Sample) {
    let mean = sample.iter().sum::<f64>() / PICKS as f64;
    sample.iter_mut().for_each(|value| *value -= mean);
}

/// How near a sample must be to another, relative to its size, for numbers rounded to `unit`: no
/// farther, or among thousands of rows that are no copies one will look like one.
fn tolerance(unit: f64) -> f64 {
    (8.0 * unit).max(1e-4)
}

fn size(sample: &Sample) -> f64 {
    sample.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn distance(a: &Sample, b: &Sample) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// For each sample of the expanded model the one of the source that is equal: the one at its place
/// in a circular layout, or the nearest. `None` where none is near.
pub(super) fn equal(source: &[Sample], expanded: &[Sample], unit: f64) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..source.len()).collect();
    order.sort_by(|a, b| source[*a][1].total_cmp(&source[*b][1]));
    let find = |(at, sample): (usize, &Sample)| {
        let reach = tolerance(unit) * size(sample);
        let place = at.checked_rem(source.len())?;
        if distance(sample, &source[place]) <= reach / 8.0 {
            return Some(place);
        }
        let from = order.partition_point(|of| source[*of][1] < sample[1] - reach);
        let within = order[from..].iter().take_while(|of| source[**of][1] <= sample[1] + reach);
        let near = within.map(|of| (distance(sample, &source[*of]), *of));
        let nearest = near.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (nearest.0 <= reach).then_some(nearest.1)
    };
    expanded.iter().enumerate().map(find).collect()
}

/// The same up to a factor, among `candidates` alone; of several the one at `place`, if it is one.
pub(super) fn multiple(
    sample: &Sample,
    source: &[Sample],
    (candidates, place): (&[usize], usize),
    unit: f64,
) -> Option<usize> {
    let off = |of: usize| {
        let other = &source[of];
        let product: f64 = sample.iter().zip(other).map(|(a, b)| a * b).sum();
        let factor = product / other.iter().map(|b| b * b).sum::<f64>();
        distance(sample, &other.map(|b| factor * b)) / size(sample)
    };
    let near = |of: &usize| off(*of) <= tolerance(unit);
    if candidates.contains(&place) && near(&place) {
        return Some(place);
    }
    candidates.iter().copied().filter(near).min_by(|a, b| off(*a).total_cmp(&off(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: impl Fn(f64) -> f64) -> Sample {
        std::array::from_fn(|at| value(at as f64))
    }

    #[test]
    fn samples_are_of_the_whole_row() {
        let places = |width| -> Vec<usize> { (0..PICKS).map(|pick| place(pick, width)).collect() };
        assert_eq!(places(40)[..5], [0, 2, 5, 7, 10]);
        assert_eq!((places(40)[15], places(3)[15]), (37, 2));
    }

    #[test]
    fn a_centred_sample_has_no_mean() {
        let mut centred = sample(|at| at);
        centre(&mut centred);
        assert_eq!(centred, sample(|at| at - 7.5));
    }

    #[test]
    fn a_multiple_is_the_one_at_its_place_or_the_nearest() {
        let source = [sample(|at| at), sample(|at| 1.0 - at), sample(|at| at + 1e-6)];
        let of = |value: &dyn Fn(f64) -> f64, candidates: &[usize], place| {
            multiple(&sample(value), &source, (candidates, place), 1e-7)
        };
        assert_eq!(of(&|at| 3.0 * at, &[0, 1, 2], 2), Some(2));
        assert_eq!(of(&|at| 3.0 * at, &[0, 1, 2], 1), Some(0));
        assert_eq!(of(&|at| 3.0 * at, &[1], 0), None);
        assert_eq!(of(&|at| 2.0 - 2.0 * at, &[0, 1], 5), Some(1));
        // The one at its place is no candidate: of another head.
        assert_eq!(of(&|at| 3.0 * at, &[0], 2), Some(0));
    }
}
