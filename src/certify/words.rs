//! The kind of an expansion in words: a few lines over all layers.

use super::certificate::MapInWords;
use super::map::Map;
use super::spread::{Shares, Spread, Units};
use crate::model::Sublayer;
use std::collections::{BTreeMap, BTreeSet};

/// A sublayer that has no counterpart and writes nothing.
#[derive(Clone, Debug)]
pub(super) struct Silent {
    /// `layer 3 MLP`.
    pub place: String,
    /// Whether its outputs are zero, rather than sum to zero.
    pub zero: bool,
    /// Whether it is the expanded model's.
    pub expanded: bool,
}

/// What was seen of the kind of an expansion while its equations were held.
#[derive(Default)]
pub(super) struct Notes {
    pub spreads: Vec<Spread>,
    pub silent: Vec<Silent>,
    /// For each op that reads copies of channels, whether it reads them with equal weights.
    pub equal_reads: Vec<bool>,
}

impl Notes {
    /// Adds what another ledger noted.
    pub fn append(&mut self, other: Notes) {
        self.spreads.extend(other.spreads);
        self.silent.extend(other.silent);
        self.equal_reads.extend(other.equal_reads);
    }

    /// The maps of channels, neurons, heads and layers. `stream` is the map of the first layer's
    /// input; the layers are the source's and the expanded model's.
    pub fn tell(
        &self,
        stream: &Map,
        (source, expanded): (&[Vec<Sublayer>], &[Vec<Sublayer>]),
    ) -> Vec<MapInWords> {
        let mut hidden = stream.words();
        match (self.equal_reads.contains(&true), self.equal_reads.contains(&false)) {
            (true, false) => hidden += ", read in equal shares",
            (_, true) => hidden += ", read in unequal shares",
            (false, false) => {}
        }
        let mut maps = vec![MapInWords { space: "hidden".into(), words: hidden }];
        maps.extend(self.units(Units::Neurons));
        maps.extend(self.units(Units::Heads));
        maps.extend(self.units(Units::Experts));
        let depths = (source.len(), expanded.len());
        let sizes: Vec<usize> = expanded.iter().map(Vec::len).collect();
        maps.extend(self.depth(depths, &sizes));
        maps
    }

    /// One line for each form that layers have.
    fn units(&self, units: Units) -> Vec<MapInWords> {
        let mut forms: BTreeMap<Form, Vec<&Spread>> = BTreeMap::new();
        for spread in self.spreads.iter().filter(|spread| spread.units == units) {
            forms.entry(Form::of(spread)).or_default().push(spread);
        }
        let name = match units {
            Units::Neurons => "neurons",
            Units::Heads => "heads",
            Units::Experts => "experts",
        };
        let several = forms.len() > 1;
        let mut lines: Vec<(usize, MapInWords)> = Vec::new();
        for (form, spreads) in forms {
            let layers: BTreeSet<usize> = spreads.iter().filter_map(|s| layer(&s.place)).collect();
            let first = layers.first().copied().unwrap_or(0);
            let space =
                if several { format!("{name} in {}", in_layers(&layers)) } else { name.into() };
            lines.push((first, MapInWords { space, words: form.words(&spreads) }));
        }
        lines.sort_by_key(|(first, _)| *first);
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Which layers are new. `sizes`: how many sublayers each expanded layer has.
    fn depth(&self, (source, expanded): (usize, usize), sizes: &[usize]) -> Vec<MapInWords> {
        let mut lines = Vec::new();
        let kinds = [
            (true, true, "write zero (block expansion)"),
            (true, false, "write what sums to zero (copies whose outputs cancel)"),
        ];
        for (of_expanded, zero, what) in kinds {
            let places: Vec<&str> = self
                .silent
                .iter()
                .filter(|s| s.expanded == of_expanded && s.zero == zero)
                .map(|s| s.place.as_str())
                .collect();
            let (whole, parts) = whole_layers(&places, sizes);
            let mut which = Vec::new();
            if !whole.is_empty() {
                which.push(format!("new layers {what}: {}", in_layers(&whole)));
            }
            if !parts.is_empty() {
                which.push(format!("new sublayers {what}: {}", parts.join(", ")));
            }
            for words in which {
                let words = format!("{source} → {expanded}: {words}");
                lines.push(MapInWords { space: "depth".into(), words });
            }
        }
        let own: Vec<&str> =
            self.silent.iter().filter(|s| !s.expanded).map(|s| s.place.as_str()).collect();
        if !own.is_empty() {
            let words = format!(
                "{source} → {expanded}: left out, since they write nothing: {}",
                own.join(", ")
            );
            lines.push(MapInWords { space: "depth".into(), words });
        }
        lines
    }
}

/// What the words of several layers must have in common to be one line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    count: (usize, usize),
    size: (usize, usize),
    copied: bool,
    permuted: bool,
    zero: bool,
    cancelling: bool,
    shares: Shares,
}

impl Form {
    fn of(spread: &Spread) -> Form {
        Form {
            count: spread.count,
            size: spread.size,
            copied: spread.copies != (1, 1),
            permuted: spread.permuted,
            zero: spread.zero > 0,
            cancelling: spread.cancelling > 0,
            shares: spread.shares,
        }
    }

    fn words(&self, spreads: &[&Spread]) -> String {
        let range = |of: fn(&Spread) -> (usize, usize)| {
            let fewest = spreads.iter().map(|s| of(s).0).min().unwrap_or(0);
            let most = spreads.iter().map(|s| of(s).1).max().unwrap_or(0);
            (fewest, most)
        };
        let (source, expanded) = self.count;
        let mut parts = Vec::new();
        if self.copied || source != expanded {
            parts.push(match range(|s| s.copies) {
                (1, 1) => "1 copy each".to_string(),
                copies => format!("{} copies each", from_to(copies)),
            });
        } else if !self.permuted {
            parts.push("as they are".to_string());
        }
        if self.permuted {
            parts.push("permuted".to_string());
        }
        let of = spreads.first().map_or(Units::Neurons, |s| s.units);
        let units = if of == Units::Neurons { "fan-outs" } else { "outputs" };
        match (self.shares, of) {
            (Shares::None, _) => {}
            (Shares::Symmetric, Units::Experts) => {
                parts.push("copies the same, and they stay so in training".to_string());
            }
            (Shares::Symmetric, _) => parts.push(format!(
                "{units} split in equal shares (as Net2Net): copies stay copies in training"
            )),
            (Shares::Equal, _) => parts.push(format!("{units} split in equal shares")),
            (Shares::Mixed, Units::Experts) => parts.push("some copies the same".to_string()),
            (Shares::Mixed, _) => parts.push(format!("{units} split unequally, some equally")),
            (Shares::Unequal, Units::Experts) => {
                parts.push("copies that differ, and are the source's on average".to_string());
            }
            (Shares::Unequal, _) => parts.push(format!("{units} split unequally")),
        }
        if self.zero {
            let new = from_to(range(|s| (s.zero, s.zero)));
            parts.push(format!("{new} new with {units} of zero"));
        }
        if self.cancelling {
            let new = from_to(range(|s| (s.cancelling, s.cancelling)));
            parts.push(format!("{new} new whose {units} cancel"));
        }
        if self.size.0 != self.size.1 {
            parts.push(format!("of {} → {} channels", self.size.0, self.size.1));
        }
        let counts = match source == expanded {
            true => source.to_string(),
            false => format!("{source} → {expanded}"),
        };
        format!("{counts}: {}", parts.join(", "))
    }
}

/// `2`, `1 to 4`.
pub(super) fn from_to((fewest, most): (usize, usize)) -> String {
    if fewest == most { most.to_string() } else { format!("{fewest} to {most}") }
}

/// The number in `layer 3 MLP`.
fn layer(place: &str) -> Option<usize> {
    let place = place.strip_prefix("encoder ").unwrap_or(place);
    place.strip_prefix("layer ")?.split(' ').next()?.parse().ok()
}

/// Layers of which every sublayer is among `places`, and the places of others.
fn whole_layers<'a>(places: &[&'a str], sizes: &[usize]) -> (BTreeSet<usize>, Vec<&'a str>) {
    let mut by_layer: BTreeMap<Option<usize>, BTreeSet<&str>> = BTreeMap::new();
    for place in places {
        by_layer.entry(layer(place)).or_default().insert(place);
    }
    let is_whole = |number: &Option<usize>| {
        let size = number.and_then(|number| sizes.get(number));
        size == by_layer.get(number).map(BTreeSet::len).as_ref()
    };
    let whole = by_layer.keys().filter(|number| is_whole(number)).flatten().copied().collect();
    let parts = places.iter().copied().filter(|place| !is_whole(&layer(place))).collect();
    (whole, parts)
}

/// `layer 3`, `layers 1, 4 to 6`.
fn in_layers(numbers: &BTreeSet<usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let shown = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    let list: Vec<String> = runs.iter().map(shown).collect();
    format!("{} {}", if numbers.len() == 1 { "layer" } else { "layers" }, list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_listed_in_runs() {
        assert_eq!(in_layers(&[3].into()), "layer 3");
        assert_eq!(in_layers(&[1, 4, 5, 6, 8, 9].into()), "layers 1, 4 to 6, 8, 9");
    }

    #[test]
    fn a_layer_is_whole_if_all_its_sublayers_are_there() {
        let places = ["layer 1 attention", "layer 1 MLP", "layer 2 MLP"];
        let (whole, parts) = whole_layers(&places, &[2, 2, 2]);
        assert_eq!((whole, parts), ([1].into(), vec!["layer 2 MLP"]));
    }

    #[test]
    fn layers_of_one_form_are_one_line() {
        let spread = |layer: usize, copies, shares| Spread {
            place: format!("layer {layer} MLP"),
            units: Units::Neurons,
            count: (12, 24),
            size: (1, 1),
            copies,
            permuted: false,
            zero: 0,
            cancelling: 0,
            shares,
        };
        let told = |spreads| {
            let lines = Notes { spreads, ..Notes::default() }.units(Units::Neurons);
            lines.into_iter().map(|l| format!("{}: {}", l.space, l.words)).collect::<Vec<_>>()
        };
        let equal = "fan-outs split in equal shares (as Net2Net): copies stay copies in training";
        assert_eq!(
            told(vec![spread(0, (1, 3), Shares::Symmetric), spread(1, (1, 4), Shares::Symmetric)]),
            [format!("neurons: 12 → 24: 1 to 4 copies each, {equal}")]
        );
        assert_eq!(
            told(vec![spread(0, (2, 2), Shares::Unequal), spread(1, (2, 2), Shares::Symmetric)]),
            [
                "neurons in layer 0: 12 → 24: 2 copies each, fan-outs split unequally".to_string(),
                format!("neurons in layer 1: 12 → 24: 2 copies each, {equal}"),
            ]
        );
    }
}
