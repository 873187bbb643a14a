//! A stack of layers with its own stream: the whole model, or the encoder beside a decoder.

use super::discover::{self, Part};
use super::map::Map;
use super::squares::Ledger;
use super::stream::{Factor, Stream, written_map};
use super::sublayer::{NO_NORM, Network};
use super::{Behind, layers, norms};
use crate::error::Result;
use crate::model::{Embedding, Model, NormKind, Sublayer};

/// A stack in the source and in the expanded model.
pub(super) struct Stack<'a> {
    /// What goes in front of places: nothing, or `encoder `.
    pub name: &'static str,
    pub embeddings: (&'a Embedding, &'a Embedding),
    pub layers: (&'a [Vec<Sublayer>], &'a [Vec<Sublayer>]),
}

impl Stack<'_> {
    /// Holds the embeddings and the layers, and tells what was noted; gives the map of the stream
    /// behind the last layer, if there is one to be found.
    pub fn hold(&self, network: &Network, ledger: &mut Ledger) -> Result<Option<Behind>> {
        let &Network { source, expanded, layer_norm, .. } = network;
        let place = |what: &str| format!("{}{what}", self.name);
        let Some(parts) = discover::parts(self.embeddings.0, self.embeddings.1) else {
            let reason = "the two models embed their input in different ways";
            ledger.unknown(place("embedding"), reason);
            return Ok(None);
        };
        let layers_alone = |model: &Model| norms(model).iter().all(|n| n.kind == NormKind::Layer);
        let kind = if layers_alone(source.model) { NormKind::Layer } else { NormKind::Rms };
        let found = discover::stream_map(source, expanded, &parts, (layer_norm, kind))?;
        let is_read_off = found.unexplained * 2 <= found.map.expanded();
        if !is_read_off {
            let reason = format!(
                "the map of the hidden channels cannot be read off: {} of {} are neither a copy \
                 of a source channel nor the mean nor zero",
                found.unexplained,
                found.map.expanded()
            );
            ledger.unknown(place("embedding"), reason);
        }
        let (mut stream, (mut behind, mut junctions), mut held) =
            self.hold_by(network, found.map, &parts)?;
        // A factor on what all layers read may be a table's mistake instead: where code multiplies
        // tables, by a number that changes with the width.
        let in_code = parts.iter().any(|part| part.scale.0 != part.scale.1);
        if in_code && stream.scale != 1.0 && held.faults() >= 1.0 {
            let plain = Map { scale: 1.0, scale_error: 0.0, ..stream.clone() };
            let other = self.hold_by(network, plain, &parts)?;
            if other.2.faults() < held.faults() {
                (stream, (behind, junctions), held) = other;
            }
        }
        ledger.append(held);
        for mut told in ledger.notes.tell(&stream, self.layers) {
            told.space = place(&told.space);
            ledger.certificate.maps.push(told);
        }
        // A map that explains little says nothing about what a model computes by it.
        junctions.retain(|_| is_read_off);
        Ok(Some((behind, junctions)))
    }

    /// Holds embeddings and layers by this map of the stream; gives it, and what is behind the last
    /// layer.
    fn hold_by(
        &self,
        network: &Network,
        map: Map,
        parts: &[Part],
    ) -> Result<(Map, Behind, Ledger)> {
        let &Network { source, expanded, layer_norm, .. } = network;
        let mut held = Ledger::new();
        Stream { source, expanded, map: &map, layer_norm }.embedding(parts, &mut held)?;
        let behind = self.behind_norm(network, map.clone(), &mut held)?;
        let behind = layers(network, behind, self, &mut held)?;
        Ok((map, behind, held))
    }

    /// The map behind the norms of the embeddings, if they have some.
    fn behind_norm(&self, network: &Network, map: Map, ledger: &mut Ledger) -> Result<Map> {
        let place = format!("{}embedding norm", self.name);
        let sides = (network.source, network.expanded);
        match (&self.embeddings.0.norm, &self.embeddings.1.norm) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                network.epsilon(&map, (a, b), &place, ledger);
                match written_map(sides, &map, (a, b), (&place, Factor::Fitted), ledger)? {
                    Some(written) => return Ok(written),
                    None => ledger.unknown(place, NO_NORM),
                }
            }
            _ => ledger.unknown(place, "only one of the two models has it"),
        }
        Ok(map)
    }
}
