//! Rotary positions: which channel of a larger head a channel goes to.

use super::{Entry, Map};

/// The map of `sizes.0` channels of a query or key head to `sizes.1`: pair `(i, i + n)`, of the `n`
/// frequencies of `source`, goes to a pair of the same frequency in `expanded`, and channels that
/// are not turned to such channels; the rest is zero. `None` where a channel finds no place.
/// Frequencies, in radians per position, are compared by value: they are what the model computes
/// with.
///
/// Lossless, because a pair of the same frequency is turned by the same angle at every position,
/// and channels that are zero in the query add nothing to the logits. (With frequencies
/// `b^(−2i/d)`, a head of m·d channels has them at pairs m·i; any larger head has them at pairs i
/// if the configuration's base becomes `b^(d'/d)`. An extension of LEMON's section 4.2, which knows
/// no rotary positions.)
pub fn rotary_channels(source: &[f64], expanded: &[f64], sizes: (usize, usize)) -> Option<Map> {
    let (from, to) = (2 * source.len(), 2 * expanded.len());
    let rest = (sizes.0.checked_sub(from)?, sizes.1.checked_sub(to)?);
    if rest.1 < rest.0 {
        return None;
    }
    let mut entries = vec![Entry::Zero; sizes.1];
    for (pair, wanted) in source.iter().enumerate() {
        let same = |got: &f64| (got - wanted).abs() <= 1e-13 * wanted;
        let mut places = expanded.iter().enumerate();
        let (place, _) = places.find(|(place, got)| entries[*place] == Entry::Zero && same(got))?;
        entries[place] = Entry::Copy(pair);
        entries[place + expanded.len()] = Entry::Copy(pair + source.len());
    }
    for channel in 0..rest.0 {
        entries[to + channel] = Entry::Copy(from + channel);
    }
    Some(Map::of(sizes.0, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(turned: usize) -> Vec<f64> {
        (0..turned / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / turned as f64)).collect()
    }

    #[test]
    fn rotary_pairs_go_to_their_frequency_not_to_their_index() {
        let map = rotary_channels(&frequencies(4), &frequencies(8), (4, 8)).unwrap();
        let (c, zero) = (Entry::Copy, Entry::Zero);
        assert_eq!(map.entries(), [c(0), zero, c(1), zero, c(2), zero, c(3), zero]);
        assert_eq!(rotary_channels(&frequencies(4), &frequencies(6), (4, 6)), None);
    }

    #[test]
    fn channels_that_are_not_turned_stay_so() {
        let (two, four) = (frequencies(2), frequencies(4));
        let (c, zero) = (Entry::Copy, Entry::Zero);
        let map = rotary_channels(&two, &two, (3, 5)).unwrap();
        assert_eq!(map.entries(), [c(0), c(1), c(2), zero, zero]);
        assert_eq!(rotary_channels(&two, &four, (3, 4)), None, "no place is left");
        let map = rotary_channels(&two, &four, (3, 5)).unwrap();
        assert_eq!(map.entries(), [c(0), zero, c(1), zero, c(2)]);
    }
}
