//! The certificate of residual convolutional networks.
//!
//! The channels that the two networks write at one place fall into groups: each channel is a copy
//! of another of its group, or a positive multiple of it, or always zero. Copying channels commutes
//! with ReLU, with maxima and means over the image, and so does multiplying them by a positive
//! number; and a convolution reads nothing of a group but the sum of its weights for the group's
//! channels, tap by tap, each times the channel's factor. BatchNorm is folded into the convolution
//! in front of it. So the folded convolutions of both networks, summed over groups, must have the
//! same rows, up to copies and multiples; these are read off the rows themselves, shortcut
//! included, and are the groups of what is written. The source may hold copies as well: it may be
//! an expansion itself. What reads a channel that is always zero in both networks does not matter.
//! A block whose last folded convolution is zero passes its input on, which is a ReLU's output and
//! so is not negative.
//!
//! Where rounding leaves open what is a copy of what, several ways to group are tried; each is held
//! by the same equations.

mod alike;
mod blame;
mod fold;

use super::bounded::Ratio;
use super::certificate::Certificate;
use super::fields::OtherCode;
use super::squares::{Ledger, Residual};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::convolutional::{Block, ConvNet, Convolution};
use alike::{Alike, Way};
use fold::{Folded, Reader};

/// Holds every equation against the weights of two residual convolutional networks.
///
/// # Errors
/// If a tensor cannot be read, holds a number that is not finite, or a running variance is
/// negative.
pub fn certify_convnets(
    (source, s): (&Checkpoint, &ConvNet),
    (expanded, t): (&Checkpoint, &ConvNet),
) -> Result<Certificate> {
    let walk = |way, others: Option<&mut Vec<Way>>, to_the_end| {
        let mut pair = Pair {
            source: Reader { checkpoint: source, expanded },
            expanded: Reader { checkpoint: expanded, expanded },
            way,
            others: others.as_deref().cloned().unwrap_or_default(),
            different: Vec::new(),
            to_the_end,
        };
        let mut ledger = Ledger::new();
        pair.networks(s, t, &mut ledger)?;
        if let Some(others) = others {
            *others = pair.different;
        }
        Ok::<_, Error>(ledger)
    };
    let mut ways: Vec<Way> = Way::all().collect();
    let first = ways.remove(0);
    let mut ledger = walk(first, None, true)?;
    if ledger.faults() > 0.0 {
        // A way that groups as the first did fails as it did.
        walk(first, Some(&mut ways), false)?;
        for way in ways {
            let other = walk(way, None, false)?;
            if other.faults() == 0.0 {
                ledger = other;
                break;
            }
        }
    }
    for (checkpoint, net, which) in [(source, s, "source"), (expanded, t, "expanded")] {
        for name in net.strangers(checkpoint) {
            ledger.unknown(name, format!("no part of the {which} network reads this tensor"));
        }
    }
    Ok(ledger.certificate)
}

/// Both networks' weights.
struct Pair<'a> {
    source: Reader<'a>,
    expanded: Reader<'a>,
    way: Way,
    /// Other ways, which group as this one does up to here.
    others: Vec<Way>,
    /// Those that do not.
    different: Vec<Way>,
    /// Whether to go on where an equation fails.
    to_the_end: bool,
}

impl Pair<'_> {
    fn networks(&mut self, s: &ConvNet, t: &ConvNet, ledger: &mut Ledger) -> Result<()> {
        if s.colours != t.colours || s.stages.len() != t.stages.len() {
            ledger.unknown("network", "the two read other colours or have other numbers of stages");
            return Ok(());
        }
        let image = Alike::identity(s.colours);
        let Some(mut map) = self.convolution("stem", &image, (&s.stem, &t.stem), ledger)? else {
            return Ok(());
        };
        ledger.map("stem", map.words());
        for (index, (blocks_s, blocks_t)) in s.stages.iter().zip(&t.stages).enumerate() {
            match self.stage(index, &map, (blocks_s, blocks_t), ledger)? {
                Some(written) => map = written,
                None => return Ok(()),
            }
            ledger.map(format!("stage {index}"), map.words());
        }
        let a = self.source.linear(&s.head, &map.source)?;
        let b = self.expanded.linear(&t.head, &map.expanded)?;
        if a.rows.rows() != b.rows.rows() {
            ledger.unknown("head", "the two return other numbers of classes");
            return Ok(());
        }
        let classes = Alike::identity(a.rows.rows());
        self.hold("head", &classes, (&a, &b), ledger);
        Ok(())
    }

    /// Holds a stage; gives the map of what it writes, or nothing where that cannot be judged.
    fn stage(
        &mut self,
        index: usize,
        map: &Alike,
        (s, t): (&[Block], &[Block]),
        ledger: &mut Ledger,
    ) -> Result<Option<Alike>> {
        let (kept_s, kept_t) = (self.source.kept(s)?, self.expanded.kept(t)?);
        if kept_s.len() != kept_t.len() {
            let reason = format!(
                "{} of its blocks compute something in the source, {} in the expanded network",
                kept_s.len(),
                kept_t.len()
            );
            match self.expanded.speaks(t, index, &reason)? {
                Some(failure) if kept_t.len() > kept_s.len() => ledger.fail(failure),
                _ => ledger.unknown(format!("stage {index}"), reason),
            }
            return Ok(None);
        }
        let mut map = map.clone();
        for (i, j) in kept_s.into_iter().zip(kept_t) {
            let place = format!("stage {index} block {j}");
            match self.block(&place, &map, (&s[i], &t[j]), ledger)? {
                Some(written) => map = written,
                None => return Ok(None),
            }
        }
        Ok(Some(map))
    }

    /// Holds a block that reads maps of channels under `map`.
    fn block(
        &mut self,
        place: &str,
        map: &Alike,
        (s, t): (&Block, &Block),
        ledger: &mut Ledger,
    ) -> Result<Option<Alike>> {
        let alike = s.convolutions.len() == t.convolutions.len() && s.stride() == t.stride();
        if !alike || !same_shortcut(s, t) {
            self.other_code(place, "the two networks have blocks of other kinds here", ledger);
            return Ok(None);
        }
        let mut inner = map.clone();
        let last = s.convolutions.len() - 1;
        for (k, pair) in s.convolutions.iter().zip(&t.convolutions).enumerate().take(last) {
            let place = format!("{place} convolution {k}");
            match self.convolution(&place, &inner, pair, ledger)? {
                Some(written) => inner = written,
                None => return Ok(None),
            }
        }
        let (a, b) = (&s.convolutions[last], &t.convolutions[last]);
        if !comparable(a, b) {
            self.other_code(place, "the two networks have other kernels or strides here", ledger);
            return Ok(None);
        }
        let folded_s =
            self.source.fold(a, &inner.source)?.plus(self.source.shortcut(s, &map.source)?);
        let folded_t =
            self.expanded.fold(b, &inner.expanded)?.plus(self.expanded.shortcut(t, &map.expanded)?);
        Ok(self.read_off(place, (&folded_s, &folded_t), ledger))
    }

    /// Books that a step differs.
    fn other_code(&self, place: &str, reason: &str, ledger: &mut Ledger) {
        let fields = &["downsample_in_bottleneck", "layer_type", "embedding_size"];
        let other = OtherCode { reason: reason.into(), fields };
        let configs = (self.source.checkpoint.config(), self.expanded.checkpoint.config());
        match other.failure(configs, place) {
            Some(failure) => ledger.fail(failure),
            None => ledger.unknown(place, other.reason),
        }
    }

    /// Holds a convolution; gives the map of its channels.
    fn convolution(
        &mut self,
        place: &str,
        map: &Alike,
        (s, t): (&Convolution, &Convolution),
        ledger: &mut Ledger,
    ) -> Result<Option<Alike>> {
        if !comparable(s, t) {
            self.other_code(place, "the two networks have other kernels or strides here", ledger);
            return Ok(None);
        }
        let a = self.source.fold(s, &map.source)?;
        let b = self.expanded.fold(t, &map.expanded)?;
        Ok(self.read_off(place, (&a, &b), ledger))
    }

    /// Reads off which channels are alike, and holds them to it; nothing where that fails and
    /// there is no need to go on.
    fn read_off(&mut self, place: &str, pair: (&Folded, &Folded), l: &mut Ledger) -> Option<Alike> {
        let read_off = |way| Alike::read_off(&pair.0.rows, &pair.1.rows, way);
        let map = read_off(self.way);
        let same = |way: &mut Way| read_off(*way).is_as(&map);
        self.different.extend(self.others.extract_if(.., |way| !same(way)));
        let holds = self.hold(place, &map, pair, l);
        (holds || self.to_the_end).then_some(map)
    }

    /// Holds that each row of either network is the multiple that it is said to be of its group's
    /// first row.
    fn hold(&self, at: &str, map: &Alike, (s, t): (&Folded, &Folded), ledger: &mut Ledger) -> bool {
        let shared = s.shared + t.shared;
        let (mut residual, mut within) = (Residual::new(shared), Residual::new(2.0 * s.shared));
        for (row, member) in map.expanded.of.iter().enumerate() {
            add_row(&mut residual, (t, row), s, map.expected(*member));
        }
        for (row, member) in map.source.of.iter().enumerate() {
            let expected = map.expected(*member);
            if expected.is_some_and(|(first, _)| first != row) {
                add_row(&mut within, (s, row), s, expected);
            }
        }
        if !residual.holds() {
            ledger.fail(blame::failed(at, (&residual, map), (s, t)));
            return false;
        }
        if !within.holds() {
            ledger.unknown(at, "channels of the source are copies of one another only nearly");
            return false;
        }
        ledger.hold(&residual.merge(within));
        true
    }
}

/// Adds the equation that a row is a multiple of a row of the source, or zero.
fn add_row(
    residual: &mut Residual,
    (folded, row): (&Folded, usize),
    source: &Folded,
    expected: Option<(usize, Ratio)>,
) {
    let got = folded.rows.row(row);
    for column in 0..got.value.len() {
        let (value, variance) = (got.value[column], got.variance[column]);
        let (wanted, more) = match expected {
            Some((first, Ratio { factor, error })) => {
                let at = [first, column];
                let first = source.rows.value[at];
                let spread = factor * factor * source.rows.variance[at];
                (factor * first, spread + (error * first).powi(2))
            }
            None => (0.0, 0.0),
        };
        residual.add_entry((row, column), value, wanted, variance + more);
    }
}

fn comparable(s: &Convolution, t: &Convolution) -> bool {
    (s.kernel, s.stride) == (t.kernel, t.stride)
}

/// Whether what two blocks add to their convolutions' output lies at the same places.
fn same_shortcut(s: &Block, t: &Block) -> bool {
    match (&s.shortcut, &t.shortcut) {
        (Some(a), Some(b)) => comparable(a, b),
        (None, None) => true,
        (Some(one), None) | (None, Some(one)) => (one.kernel, one.stride) == (1, 1),
    }
}
