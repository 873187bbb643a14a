//! The residual stream: one map E that suits every norm that reads it and every norm that writes
//! it.
//!
//! A LayerNorm must read s·T_avg, an RMSNorm s·T_zero, and every norm writes T_zero times a factor
//! (LEMON, section 4.1). Where the width is a multiple these are one map, and otherwise the stream
//! takes the one that all its norms share: Pre-LN means, Pre-RMSNorm, Gemma 2's sandwich and
//! Post-Res-Norm zeros.

use super::rules::{Map, eta_squared, norm_reads};
use crate::model::{Branch, Model, Norm, NormKind, Output, Step};
use std::sync::Arc;

/// The residual stream's map and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// E of the stream: s·T_avg where LayerNorms read it, else s·T_zero.
    pub map: Arc<Map>,
    /// (s·η)², the factor on every ε, with η = sqrt(k·D_S/D_T).
    pub eps_factor: f64,
}

impl Stream {
    /// The map that suits the norms of `model` at a width of `expanded`.
    ///
    /// Where ε cannot be changed, a larger stream makes up for it: s = 1/η. That is so where a
    /// family fixes ε in code, and where norms inside the heads, whose channels stay, have the same
    /// ε.
    pub fn of(model: &Model, expanded: usize) -> Stream {
        let parts = Parts::of(model);
        let eps_is_free = parts.eps_is_free(model);
        let kind = match parts.readers.iter().any(|norm| norm.kind == NormKind::Layer) {
            true => NormKind::Layer,
            false => NormKind::Rms,
        };
        Stream::before(kind, eps_is_free, model.sizes.hidden, expanded)
    }

    /// The map in front of norms of this kind.
    pub fn before(kind: NormKind, eps_is_free: bool, source: usize, expanded: usize) -> Stream {
        let eta_squared = eta_squared(source, expanded);
        let (scale, eps_factor) = match eps_is_free || eta_squared == 1.0 {
            true => (1.0, eta_squared),
            false => (1.0 / eta_squared.sqrt(), 1.0),
        };
        Stream { map: Arc::new(norm_reads(kind, source, expanded).scaled(scale)), eps_factor }
    }

    /// The map of something else that a norm of this kind reads, with the same change of ε.
    pub fn in_front_of(&self, kind: NormKind) -> Arc<Map> {
        let map = norm_reads(kind, self.map.sources(), self.map.len());
        Arc::new(map.scaled(self.map.scale()))
    }
}

/// The norms of a model, by what they read and write.
struct Parts<'a> {
    /// They read the stream.
    readers: Vec<&'a Norm>,
    /// They write the stream, or what is added to it.
    writers: Vec<&'a Norm>,
    /// They read what an output's linear layer writes.
    of_outputs: Vec<&'a Norm>,
    /// They read queries or keys.
    of_heads: Vec<&'a Norm>,
}

impl<'a> Parts<'a> {
    fn of(model: &'a Model) -> Self {
        let encoder = || model.encoder.iter();
        let sublayers = || model.layers.iter().chain(encoder().flat_map(|e| &e.layers)).flatten();
        let branches = || sublayers().flat_map(|s| &s.branches);
        let sums = || sublayers().filter_map(|s| s.post_norm.as_ref());
        let (mut readers, mut of_outputs) = (Vec::new(), Vec::new());
        readers.extend(branches().filter_map(|b: &Branch| b.norm.as_ref()).chain(sums()));
        readers.extend(encoder().map(|e| &e.norm));
        for path in model.outputs.iter().flat_map(Output::paths) {
            let mut stream = true;
            for step in path {
                match step {
                    Step::Norm(norm) if stream => readers.push(norm),
                    Step::Norm(norm) => of_outputs.push(norm),
                    Step::Position(_) | Step::MeanFrom(_) => continue,
                    _ => {}
                }
                stream = false;
            }
        }
        let behind = branches().filter_map(|b| b.post_norm.as_ref());
        Parts {
            readers,
            writers: model.embedding.norm.iter().chain(behind).chain(sums()).collect(),
            of_outputs,
            of_heads: branches().flat_map(|b| b.op.norms()).collect(),
        }
    }

    /// Whether every ε follows a field of the configuration that nothing else needs as it is.
    fn eps_is_free(&self, model: &Model) -> bool {
        self.of_heads.is_empty()
            && self.of_stream().all(|norm| norm.eps_field.is_some())
            && model.sizes.norm_eps.is_some()
    }

    fn of_stream(&self) -> impl Iterator<Item = &Norm> {
        self.readers.iter().chain(&self.writers).chain(&self.of_outputs).copied()
    }
}

/// Whether norms write the stream itself, behind every sum (Post-LN).
pub(super) fn is_post_norm(model: &Model) -> bool {
    model.layers.iter().flatten().any(|sublayer| sublayer.post_norm.is_some())
}

/// Why the width can only be a multiple of the source's; `None` where any will do.
pub(super) fn only_multiples(model: &Model) -> Option<&'static str> {
    let parts = Parts::of(model);
    let reads = |kind| parts.readers.iter().any(|norm| norm.kind == kind);
    match () {
        _ if reads(NormKind::Layer) && is_post_norm(model) => {
            Some("norms of the stream itself (Post-LN)")
        }
        _ if reads(NormKind::Layer) && !parts.writers.is_empty() => {
            Some("a LayerNorm of a stream that norms write, where it needs means and they zeros,")
        }
        _ if reads(NormKind::Layer) && reads(NormKind::Rms) => {
            Some("norms of two kinds, which need means and zeros in one stream,")
        }
        _ if !parts.of_outputs.is_empty() => {
            Some("a norm behind a layer of the head, which copies channels,")
        }
        _ => returned_larger(model, parts.eps_is_free(model)),
    }
}

/// Why hidden channels that are returned would be 1/η times the source's where η is not 1: no
/// weight behind them makes up for it.
fn returned_larger(model: &Model, eps_is_free: bool) -> Option<&'static str> {
    let writes = |step: &&Step| matches!(step, Step::Norm(_) | Step::Linear(_));
    model.outputs.iter().filter(|output| !output.fixed).find_map(|output| {
        match output.steps.iter().rfind(writes) {
            Some(Step::Norm(norm)) if norm.weight.is_none() => Some(
                "norms without a weight in front of what is returned, which would be larger by a \
                 factor,",
            ),
            None if !eps_is_free => Some(
                "an ε that cannot change and a stream that is returned as it is, which would have \
                 to be larger by a factor,",
            ),
            _ => None,
        }
    })
}
