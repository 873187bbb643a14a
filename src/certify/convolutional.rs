//! The certificate of residual convolutional networks.
//!
//! Every map of channels is a copy map: each channel of the expanded network is a copy of one of
//! the source's, or always zero. Copying channels commutes with ReLU, with maxima and means over
//! the image, and, where a convolution's weights for the copies of a channel sum to the source's
//! tap by tap, with convolutions. BatchNorm is folded into the convolution in front of it. So each
//! folded convolution of the expanded network, summed over copies, must have the rows of the
//! source's, copied; which row is a copy of which is read off the rows themselves, shortcut
//! included. What reads a channel that is always zero in both networks does not matter. A block
//! whose last folded convolution is zero passes its input on, which is a ReLU's output and so is
//! not negative.

mod copies;
mod fold;

use super::certificate::{Certificate, Failure};
use super::squares::{Ledger, Place, Residual, failure};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::convolutional::{Block, ConvNet, Convolution};
use copies::Copies;
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
    let mut ledger = Ledger::new();
    let readers =
        (Reader { checkpoint: source, expanded }, Reader { checkpoint: expanded, expanded });
    let pair = Pair { source: readers.0, expanded: readers.1 };
    pair.networks(s, t, &mut ledger)?;
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
}

impl Pair<'_> {
    fn networks(&self, s: &ConvNet, t: &ConvNet, ledger: &mut Ledger) -> Result<()> {
        if s.colours != t.colours || s.stages.len() != t.stages.len() {
            ledger.unknown("network", "the two read other colours or have other numbers of stages");
            return Ok(());
        }
        let image = Copies::identity(s.colours);
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
        let a = self.source.linear(&s.head, &map.own())?;
        let b = self.expanded.linear(&t.head, &map)?;
        if a.rows.rows() != b.rows.rows() {
            ledger.unknown("head", "the two return other numbers of classes");
            return Ok(());
        }
        let classes = Copies::identity(a.rows.rows());
        self.hold("head", &classes, (&a, &b), ledger);
        Ok(())
    }

    /// Holds a stage; gives the map of what it writes, or nothing where that cannot be judged.
    fn stage(
        &self,
        index: usize,
        map: &Copies,
        (s, t): (&[Block], &[Block]),
        ledger: &mut Ledger,
    ) -> Result<Option<Copies>> {
        let (kept_s, kept_t) = (self.source.kept(s)?, self.expanded.kept(t)?);
        if kept_s.len() != kept_t.len() {
            let reason = format!(
                "{} of its blocks compute something in the source, {} in the expanded network",
                kept_s.len(),
                kept_t.len()
            );
            ledger.unknown(format!("stage {index}"), reason);
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
        &self,
        place: &str,
        map: &Copies,
        (s, t): (&Block, &Block),
        ledger: &mut Ledger,
    ) -> Result<Option<Copies>> {
        let alike = s.convolutions.len() == t.convolutions.len() && s.stride() == t.stride();
        if !alike || !same_shortcut(s, t) {
            ledger.unknown(place, "the two networks have blocks of other kinds here");
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
            ledger.unknown(place, "the two networks have other kernels or strides here");
            return Ok(None);
        }
        let folded_s =
            self.source.fold(a, &inner.own())?.plus(self.source.shortcut(s, &map.own())?);
        let folded_t = self.expanded.fold(b, &inner)?.plus(self.expanded.shortcut(t, map)?);
        Ok(Some(self.read_off(place, (&folded_s, &folded_t), ledger)))
    }

    /// Holds a convolution; gives the map of its channels.
    fn convolution(
        &self,
        place: &str,
        map: &Copies,
        (s, t): (&Convolution, &Convolution),
        ledger: &mut Ledger,
    ) -> Result<Option<Copies>> {
        if !comparable(s, t) {
            ledger.unknown(place, "the two networks have other kernels or strides here");
            return Ok(None);
        }
        let a = self.source.fold(s, &map.own())?;
        let b = self.expanded.fold(t, map)?;
        Ok(Some(self.read_off(place, (&a, &b), ledger)))
    }

    /// Reads off which channels are copies of which, and holds them to it.
    fn read_off(&self, place: &str, pair: (&Folded, &Folded), ledger: &mut Ledger) -> Copies {
        let map = Copies::read_off(&pair.0.rows, &pair.1.rows);
        self.hold(place, &map, pair, ledger);
        map
    }

    /// Holds that each row of the expanded network is the source's row that it is a copy of.
    fn hold(&self, place: &str, map: &Copies, (s, t): (&Folded, &Folded), ledger: &mut Ledger) {
        let mut residual = Residual::new(s.shared + t.shared);
        for (row, of) in map.of().iter().enumerate() {
            let got = t.rows.row(row);
            for column in 0..got.value.len() {
                let (value, variance) = (got.value[column], got.variance[column]);
                let (wanted, more) = match of {
                    Some(of) => (s.rows.value[[*of, column]], s.rows.variance[[*of, column]]),
                    None => (0.0, 0.0),
                };
                residual.add_entry((row, column), value, wanted, variance + more);
            }
        }
        match residual.holds() {
            true => ledger.hold(&residual),
            false => ledger.fail(blame(place, &residual, s, t)),
        }
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

/// A failure told by the tensor that holds the worst entry.
fn blame(place: &str, residual: &Residual, s: &Folded, t: &Folded) -> Failure {
    let (row, column) = residual.worst;
    let (tensor, index) = t.origin(row, column);
    let (source_tensor, _) = s.origin(0, column);
    let rule = "folded convolutions, summed over copied channels, must be copies of the source's";
    let place = Place { name: place, tensors: (tensor, source_tensor) };
    failure(rule, place, residual, index, None)
}
