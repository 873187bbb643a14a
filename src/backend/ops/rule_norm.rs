//! Rules of norms and of LayerScale.
//!
//! - `rule_norm` reads `weight` and `bias` `[source]`, `residue` `[expanded]`, `expanded` (the new
//!   width), `kind` (`layer` or `rms`; the answer is the same), `read_scale` s, `write_scale` t and
//!   `offset`. With k whole copies and η = √(k·source/expanded), it returns `weight` `[expanded]`:
//!   η·t·(offset + weight) on copies and `residue` elsewhere, minus `offset`; `bias`: t·bias on
//!   copies and zero elsewhere; `eps_factor` `[1]`: η²s².
//! - `rule_norms_in_a_row` reads `eps` and `count`; returns `gain` and `eps`, `[1]` each, of the
//!   one norm that `count` norms in a row are: from gain 1 and ε₀ on, each further one makes
//!   gain/√(gain² + ε₀) of the gain and ε·ε₀/(gain² + ε₀) of ε.
//! - `rule_layer_scale` reads `gains` `[source]` and the map `stream`; returns `factors`
//!   `[expanded]`: the gain on copies, and on the rest the power of two nearest (in exponent) to
//!   the gains' root mean square, 2⁻¹⁴ to 2¹⁴ (1 if all are zero); and `write`
//!   `[expanded, source]`, the map of what is written in front of them: the stream's, where means
//!   weigh each coordinate by its gain over the rest's factor.

use super::rule_maps::{Dense, MEAN, ZERO, put};
use super::rules::mapped;
use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::forward::Real;
use crate::testing::random::Draw;
use ndarray::Array2;
use num_traits::{One, Zero};

pub(super) fn make(maker: &mut Maker) {
    let source = maker.size("source");
    let expanded = source + maker.size("grown");
    maker.set("expanded", expanded);
    maker.set("kind", if maker.on("layer") { "layer" } else { "rms" });
    for name in ["read_scale", "write_scale"] {
        let scale = if maker.on(name) { maker.random(name).pick(&[0.5, 0.7, 1.3]) } else { 1.0 };
        maker.set(name, scale);
    }
    maker.set("offset", if maker.on("offset") { 1.0 } else { 0.0 });
    maker.weights("weight", &[source], 1.0, 0.3);
    maker.weights("bias", &[source], 0.0, 0.5);
    maker.weights("residue", &[expanded], 1.0, 0.5);
}

pub(super) fn norm<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let (source, expanded) = (inputs.vector("weight").len(), inputs.count("expanded"));
    let whole = expanded / source * source;
    let entry = |i: usize| if i < whole { (i % source) as i64 } else { ZERO };
    let entries: Vec<i64> = (0..expanded).map(entry).collect();
    let square = Bounded::exact(whole as f64) / Bounded::exact(expanded as f64);
    let write = inputs.constant("write_scale");
    let map = |scale| Dense { sources: source, entries: entries.clone(), scale };
    let weight = mapped(inputs, &map(square.sqrt() * write), "weight", "residue");
    let bias = inputs.vector("bias");
    let bias = entries.iter().map(|entry| match *entry {
        ZERO => Bounded::zero(),
        copied => bias[copied as usize] * write,
    });
    let read = inputs.constant("read_scale");
    Outputs::vector("weight", weight)
        .and_vector("bias", bias.collect::<Vec<_>>())
        .and_vector("eps_factor", [square * read * read])
}

pub(super) fn make_row(maker: &mut Maker) {
    let eps = maker.random("eps").pick(&[1e-5, 1e-3, 0.1]);
    maker.set("eps", eps);
    maker.set("count", maker.size("count"));
}

pub(super) fn row<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let first = inputs.constant("eps");
    let (mut gain, mut eps) = (Bounded::one(), first);
    for _ in 1..inputs.count("count") {
        let square = gain * gain + first;
        (gain, eps) = (gain / square.sqrt(), eps * first / square);
    }
    Outputs::vector("gain", [gain]).and_vector("eps", [eps])
}

pub(super) fn make_layer_scale(maker: &mut Maker) {
    let source = maker.size("source");
    let sizes = (source, source + maker.size("grown"));
    put(maker, "stream", if maker.on("average") { 2 } else { 1 }, sizes, maker.on("map_scale"));
    let size = maker.random("size").pick(&[1.0, 1e-2, 1e-5]);
    maker.weights("gains", &[source], 0.0, size);
}

pub(super) fn layer_scale<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let (gains, stream) = (inputs.vector("gains"), Dense::of(inputs, "stream"));
    let residue = residue(&gains.mapv(Bounded::value).to_vec());
    let residue = Bounded::exact(residue);
    let factor = |entry: &i64| if *entry < 0 { residue } else { gains[*entry as usize] };
    let factors: Vec<Bounded<F>> = stream.entries.iter().map(factor).collect();
    let count = Bounded::exact(stream.sources as f64);
    let shape = (stream.entries.len(), stream.sources);
    let write = Array2::from_shape_fn(shape, |(row, source)| match stream.entries[row] {
        MEAN => gains[source] / residue / count * stream.scale,
        copied if copied == source as i64 => stream.scale,
        _ => Bounded::zero(),
    });
    Outputs::vector("factors", factors).and_matrix("write", write)
}

/// The free factor.
fn residue(gains: &[f64]) -> f64 {
    let mean_square = gains.iter().map(|gain| gain * gain).sum::<f64>() / gains.len() as f64;
    match mean_square > 0.0 {
        true => (mean_square.sqrt().log2().round().clamp(-14.0, 14.0)).exp2(),
        false => 1.0,
    }
}
