//! Feed-forward networks: neurons that are copies.

use super::super::agreement::Agreement;
use super::super::bounded::Ratio;
use super::super::channels::Groups;
use super::super::cluster::Member;
use super::super::map::Map;
use super::super::reader::Reader;
use super::fan_out::FanOut;
use super::meet::{Bundle, each};
use super::{Inside, copies, operands, propose};
use crate::error::Result;
use crate::model::{Activation, Mlp};

/// Holds a network; `None` where that takes whole matrices.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn hold(
    (map, modulo_one): (&Map, bool),
    readers: (&Reader, &Reader),
    (s, t): (&Mlp, &Mlp),
) -> Result<Option<Inside>> {
    if s.activation == Activation::Relu {
        return Ok(None);
    }
    let linears = (s.gate.as_ref().unwrap_or(&s.up), t.gate.as_ref().unwrap_or(&t.up));
    let Some(keys) = operands(readers, linears)? else { return Ok(None) };
    let neurons = (s.up.weight.rows(), t.up.weight.rows());
    let samples =
        (propose::samples(&keys.0, 0..neurons.0), propose::samples(&keys.1, 0..neurons.1));
    let of = propose::equal(&samples.0, &samples.1, readers.1.side.unit(&linears.1.weight));
    let shared = readers.1.shared;
    let mut agreement = Agreement::new(shared);
    let mut room = Default::default();
    let bundles = Bundle::single(neurons.0, &of);
    let mut held = each(&keys.0, &keys.1, &bundles, |met| {
        met.agree(Ratio::ONE, true, &mut agreement, &mut room)
    });
    held = held.and_then(|()| keys.1.rows.finite(&strangers(&of)));
    let mut members: Vec<Member> = of.iter().map(|of| of.map(|of| (of, Ratio::ONE))).collect();
    if s.gate.is_some() {
        let Some(ups) = operands(readers, (&s.up, &t.up))? else { return Ok(None) };
        held = held.and_then(|()| {
            each(&ups.0, &ups.1, &bundles, |met| {
                let ratio = met.ratio(true).filter(|ratio| ratio.is_known())?;
                let neuron = bundles[met.bundle].copies[met.copy][0];
                members[neuron] = Some((met.bundle, ratio));
                met.agree(ratio, true, &mut agreement, &mut room)
            })
        });
        held = held.and_then(|()| ups.1.rows.finite(&strangers(&of)));
    }
    if held.is_none() {
        return Ok(None);
    }
    let fan_out = FanOut {
        sides: (readers.0.side, readers.1.side),
        writers: (&s.down, &t.down),
        constants: None,
        members: &members,
        units: (1, copies(neurons.0, &of)),
        map,
        modulo_one,
        shared: shared + map.scale_error + factor_error(&members),
    };
    let Some(written) = fan_out.hold()? else { return Ok(None) };
    Ok(Some(Inside { agreement, groups: groups(neurons.0, members), written }))
}

/// The rows that are no copies.
pub(super) fn strangers(of: &[Option<usize>]) -> Vec<usize> {
    (0..of.len()).filter(|row| of[*row].is_none()).collect()
}

/// The largest relative error of a member's factor.
pub(super) fn factor_error(members: &[Member]) -> f64 {
    Ratio::largest_error(members.iter().flatten().map(|(_, ratio)| ratio))
}

/// Groups of which each of the source's channels is one, and each stranger.
pub(super) fn groups(channels: usize, members: Vec<Member>) -> Groups {
    let mut count = channels;
    let expanded = members.into_iter().map(|member| {
        member.or_else(|| {
            count += 1;
            Some((count - 1, Ratio::ONE))
        })
    });
    let expanded: Vec<Member> = expanded.collect();
    let source = (0..channels).map(|channel| Some((channel, Ratio::ONE))).collect();
    Groups { source, expanded, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify::bounded::Ratio;

    #[test]
    fn the_error_of_factors_is_the_largest_in_units_of_its_factor() {
        let member = |factor, error| Some((0, Ratio { factor, error }));
        let members = [None, member(4.0, 1.0), member(-0.5, 0.25), member(8.0, 1.0)];
        assert_eq!(factor_error(&members), 0.5);
        assert_eq!(factor_error(&[None]), 0.0);
    }
}
