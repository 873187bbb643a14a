//! Maps on which tests of linear layers try them.

use super::Map;
use ndarray::Array2;

/// The matrix of a map.
pub fn dense(map: &Map) -> Array2<f64> {
    map.expand_rows(&Array2::eye(map.sources()))
}

/// Maps of what a layer writes, `[4 → …]`, and reads, `[3 → …]`.
pub fn pairs() -> Vec<(Map, Map)> {
    let outs = [Map::average(4, 11).scaled(0.8), Map::zero(4, 9), Map::circular(4, 6)];
    let ins = [
        Map::zero(3, 8).scaled(0.5),
        Map::circular(3, 7),
        Map::identity(3),
        Map::average(3, 8).scaled(2.0),
    ];
    outs.iter().flat_map(|o| ins.iter().map(move |i| (o.clone(), i.clone()))).collect()
}
