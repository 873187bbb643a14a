//! Depth: new layers that add nothing to the stream.
//!
//! A new layer copies a neighbour, but its branches end in matrices that are zero (type 1) or whose
//! fan-outs of copies cancel (type 2), with zero biases: the stream passes unchanged (LEMON,
//! section 4.4). That needs branches beside the stream; a norm *of* the stream (Post-LN) is no
//! identity, so there depth is refused, unless it may be eps-limited (see [`super::post_norm`]).

use super::NewLayers;
use super::linear::Duty;
use crate::error::{Error, Result};

/// A layer of the expanded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The source layer that it copies.
    pub source: usize,
    /// Whether it is new.
    pub new: bool,
}

impl Slot {
    /// What the last matrices of its branches must compute.
    pub fn duty(self, kind: NewLayers) -> Duty {
        match (self.new, kind) {
            (false, _) => Duty::Same,
            (true, NewLayers::Zero) => Duty::Nothing,
            (true, NewLayers::Cancel) => Duty::Cancel,
        }
    }
}

/// Where the new layers go: `places` says for each how many source layers come before it.
///
/// # Errors
/// If there are fewer layers than the source's, not as many places as new layers, or one lies
/// behind the last layer.
pub(super) fn layout(
    source: usize,
    expanded: usize,
    places: Option<&[usize]>,
) -> Result<Vec<Slot>> {
    let count = expanded.checked_sub(source).ok_or_else(|| {
        Error::refused(format!("{expanded} layers are fewer than the source's {source}"))
    })?;
    let mut before = vec![0; source + 1];
    match places {
        Some(places) => {
            if places.len() != count || places.iter().any(|p| *p > source) {
                return Err(Error::refused(format!(
                    "{count} new layers cannot stand at {places:?} among {source} layers"
                ))
                .help(format!("name {count} places, each from 0 to {source}")));
            }
            places.iter().for_each(|place| before[*place] += 1);
        }
        // After layer i come as many as an even spread has put there so far.
        None => (0..source).for_each(|i| {
            before[i + 1] = (i + 1) * count / source - i * count / source;
        }),
    }
    let mut slots = Vec::with_capacity(expanded);
    for (place, new) in before.into_iter().enumerate() {
        slots.extend(vec![Slot { source: place.saturating_sub(1), new: true }; new]);
        if place < source {
            slots.push(Slot { source: place, new: false });
        }
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(slots: Vec<Slot>) -> String {
        let words = slots.iter().map(|s| format!("{}{}", if s.new { "+" } else { "" }, s.source));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn new_layers_are_spread_evenly_behind_the_layers_that_they_copy() {
        assert_eq!(shown(layout(2, 4, None).unwrap()), "0 +0 1 +1");
        assert_eq!(shown(layout(4, 6, None).unwrap()), "0 1 +1 2 3 +3");
        assert_eq!(shown(layout(2, 7, None).unwrap()), "0 +0 +0 1 +1 +1 +1");
    }

    #[test]
    fn places_may_be_named_in_front_of_the_first_layer_too() {
        assert_eq!(shown(layout(2, 4, Some(&[0, 2])).unwrap()), "+0 0 1 +1");
    }

    #[test]
    fn impossible_places_are_refused() {
        for places in [&[0][..], &[0, 3]] {
            let message = layout(2, 4, Some(places)).unwrap_err().to_string();
            assert!(message.contains("name 2 places, each from 0 to 2"), "{message}");
        }
    }
}
