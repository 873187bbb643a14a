//! Heads: which source head an expanded head copies.

/// Which source heads the expanded heads copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// For each query head.
    pub query: Vec<usize>,
    /// For each key/value head.
    pub key_value: Vec<usize>,
}

/// Copies heads so that every copied query head reads a copy of the key/value head that it read:
/// `query[h] / group_source == key_value[h / group_expanded]` (LEMON, section 4.2, for grouped
/// queries). Key/value heads go round; the query heads that read copies of one key/value head go
/// round among its query heads: 4/2 heads become 8/2 as 0, 1, 0, 1, 2, 3, 2, 3. Counts are `(query
/// heads, key/value heads)`; `None` where some query head would have no copy, or counts do not
/// divide.
///
/// Lossless, because a copied head sees the queries, keys and values of the head that it copies, so
/// it returns the same; blocks of the output matrix that sum to the head's add up to the same.
pub fn copy_heads(source: (usize, usize), expanded: (usize, usize)) -> Option<Heads> {
    let group = |(heads, kv_heads): (usize, usize)| {
        (kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads)).then(|| heads / kv_heads)
    };
    let (from, to) = (group(source)?, group(expanded)?);
    if expanded.1 < source.1.checked_mul(from.div_ceil(to))? {
        return None;
    }
    let key_value: Vec<usize> = (0..expanded.1).map(|head| head % source.1).collect();
    let query = (0..expanded.0).map(|head| {
        let (reads, place) = (head / to, head % to);
        let turn = reads / source.1 * to + place;
        key_value[reads] * from + turn % from
    });
    Some(Heads { query: query.collect(), key_value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouped_heads_are_copied_beside_what_they_read() {
        let heads = copy_heads((4, 2), (8, 2)).unwrap();
        assert_eq!(heads.query, [0, 1, 0, 1, 2, 3, 2, 3]);
        assert_eq!(heads.key_value, [0, 1]);
        let plain = copy_heads((3, 3), (5, 5)).unwrap();
        assert_eq!(plain.query, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn every_possible_head_map_reads_right_and_covers_every_head() {
        for groups in [(4, 2), (6, 2), (4, 4), (4, 1), (6, 3)] {
            let mut possible = 0;
            for kv_heads in groups.1..=12 {
                for heads in (groups.0..=24).filter(|h| h % kv_heads == 0) {
                    let Some(copies) = copy_heads(groups, (heads, kv_heads)) else { continue };
                    possible += 1;
                    let (from, to) = (groups.0 / groups.1, heads / kv_heads);
                    for (head, copy) in copies.query.iter().enumerate() {
                        assert_eq!(copy / from, copies.key_value[head / to]);
                    }
                    assert!((0..groups.0).all(|h| copies.query.contains(&h)));
                }
            }
            assert!(possible > 5, "{groups:?}");
        }
    }

    #[test]
    fn too_few_key_value_heads_have_no_map() {
        assert_eq!(copy_heads((4, 4), (8, 2)), None);
        assert_eq!(copy_heads((6, 2), (6, 3)), None);
    }

    #[test]
    fn counts_that_do_not_divide_have_no_map() {
        assert_eq!(copy_heads((4, 3), (8, 2)), None);
        assert_eq!(copy_heads((4, 2), (7, 2)), None);
        assert_eq!(copy_heads((4, 0), (8, 2)), None);
    }
}
