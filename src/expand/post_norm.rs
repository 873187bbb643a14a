//! Norms of the stream itself (Post-LN): `x ← norm(x + branch(x))`.
//!
//! In the source's layers each is expanded by [`super::rules::norm()`]. A new layer adds nothing,
//! but its norms normalise once more what the norm in front of them wrote. So γ and β move to the
//! last norm of such a row, and the others have γ = 1 and β = 0: then the row is one norm with
//! another ε, by [`super::rules::norms_in_a_row`], and equal to the source's up to that. It is not
//! lossless (eps-limited), and only made where it is asked for.

use super::depth::Slot;
use super::norm;
use super::plan::Job;
use super::rules::norms_in_a_row;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::model::{Norm, Sublayer};

/// A norm of the source and of how many norms of the expanded model it becomes.
struct Row<'a> {
    norm: &'a Norm,
    norms: usize,
}

/// Expands the norms behind the sums of a stack of layers, which read and write `stream`.
///
/// # Errors
/// If a norm cannot write what the stream holds, stands in front of the source's first, or has no
/// γ to make up for the norms behind it.
pub(super) fn jobs(
    (source, expanded): (&[Vec<Sublayer>], &[Vec<Sublayer>]),
    slots: &[Slot],
    stream: &Stream,
) -> Result<Vec<Job>> {
    let layers = slots.iter().zip(expanded);
    let norms: Vec<(bool, &Norm, &Norm)> = layers
        .flat_map(|(slot, layer)| {
            let pairs = source[slot.source].iter().zip(layer);
            let norms = pairs.filter_map(|(s, t)| s.post_norm.as_ref().zip(t.post_norm.as_ref()));
            norms.map(move |(from, to)| (slot.new, from, to))
        })
        .collect();
    let mut jobs = Vec::new();
    let mut row: Option<Row> = None;
    for (index, (new, from, to)) in norms.iter().enumerate() {
        let now = match (new, row.take()) {
            (false, _) => Row { norm: from, norms: 1 },
            (true, Some(before)) => Row { norms: before.norms + 1, ..before },
            (true, None) => {
                return Err(Error::refused(
                    "in front of the first layer no norm of the stream (Post-LN) can hand its γ \
                     and β to a new layer",
                )
                .help("insert new layers behind the first layer or later"));
            }
        };
        let goes_on = norms.get(index + 1).is_some_and(|(new, ..)| *new);
        let (made, written) = match goes_on {
            true => norm::plain_jobs(from, to, &stream.map, stream.map.scale())?,
            false => {
                let gain = norms_in_a_row(now.norm.eps, now.norms).gain;
                norm::amplified_jobs(now.norm, to, &stream.map, stream.map.scale(), 1.0 / gain)?
            }
        };
        if written != stream.map {
            return Err(Error::unsupported("a norm of the stream cannot write it again"));
        }
        jobs.extend(made);
        row = Some(now);
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Rule;
    use super::super::rules::Map;
    use super::*;
    use crate::model::{Dim, NormKind};

    fn layer(name: &str) -> Vec<Sublayer> {
        let norm = Norm { kind: NormKind::Layer, ..Norm::rms(name, &Dim::new(4, "h"), 0.5, None) };
        vec![Sublayer { branches: Vec::new(), post_norm: Some(norm) }]
    }

    #[test]
    fn gamma_moves_to_the_last_norm_of_a_row_and_makes_up_for_the_others() {
        let stream = Stream::before(NormKind::Layer, true, 4, 8);
        let slot = |new| Slot { source: 0, new };
        let (source, expanded) = ([layer("a")], [layer("a"), layer("b"), layer("c")]);
        let made = jobs((&source, &expanded), &[slot(false), slot(true), slot(true)], &stream);
        let made = made.unwrap();
        let rules: Vec<&Rule> = made.iter().map(|job| &job.rule).collect();
        assert_eq!(rules[..2], [&Rule::Constant(1.0); 2]);
        let Rule::Vector { map, .. } = rules[2] else { panic!("{rules:?}") };
        let gain = norms_in_a_row(0.5, 3).gain;
        assert_eq!(**map, Map::zero(4, 8).scaled(1.0 / gain));
        assert_eq!(made[2].expanded.name(), "c.weight");
    }

    #[test]
    fn a_new_layer_in_front_of_all_is_refused() {
        let stream = Stream::before(NormKind::Layer, true, 4, 8);
        let slots = [Slot { source: 0, new: true }, Slot { source: 0, new: false }];
        let stacks = ([layer("a")], [layer("a"), layer("b")]);
        let error = jobs((&stacks.0, &stacks.1), &slots, &stream).unwrap_err();
        assert!(error.to_string().contains("behind the first layer"), "{error}");
    }
}
