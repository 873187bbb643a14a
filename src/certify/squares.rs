//! Holding equations: residuals in units of their bounds, and the ledger of what was found.

use super::bounded::{Bounded, UNITS};
use super::certificate::{Certificate, Failure, MapInWords, Reach, Unknown};
use super::words::Notes;
use crate::model::Lens;
use crate::wide::wide;

/// Largest root mean square of many residuals, in units of their bounds, that rounding explains:
/// two roundings that are as large as can be and of one sign come to √2 of their bounds in
/// quadrature.
const TYPICAL_UNITS: f64 = 1.5;

/// How the two sides of an equation compare. Filled block by block.
#[derive(Clone, Debug)]
pub(super) struct Residual {
    /// Where the worst entry is.
    pub worst: (usize, usize),
    /// What the source demands at the worst entry.
    pub expected: f64,
    /// What the expanded model has there.
    pub got: f64,
    /// The worst entry's residual in units of its bound.
    pub units: f64,
    /// Entries beyond [`UNITS`].
    pub wrong: usize,
    /// Rows with such entries, of those that were added as rows.
    pub wrong_rows: usize,
    /// Entries compared.
    pub entries: usize,
    /// Whether every residual is exactly zero.
    pub exact: bool,
    /// Σ (residual in units)².
    units_squared: f64,
    /// Σ residual².
    difference: f64,
    /// Σ residual · right side.
    along: f64,
    /// Σ right side².
    square: f64,
    /// Σ (bound · right side)².
    spread: f64,
    /// Σ bound².
    noise: f64,
    /// Σ bound · |right side|.
    alike: f64,
    shared: f64,
}

impl Residual {
    /// A residual over no entry yet.
    ///
    /// `shared` is the largest relative error that all entries may have in common: the rounding of
    /// a factor that many entries share (a norm's weight, a fitted scale). It is bounded, not
    /// random, so it enters the test of the scale as it is and twice, for being rounded on the way
    /// as well; independent roundings enter in quadrature, [`UNITS`] times.
    pub fn new(shared: f64) -> Self {
        Residual {
            worst: (0, 0),
            expected: 0.0,
            got: 0.0,
            units: 0.0,
            wrong: 0,
            wrong_rows: 0,
            entries: 0,
            exact: true,
            units_squared: 0.0,
            difference: 0.0,
            along: 0.0,
            square: 0.0,
            spread: 0.0,
            noise: 0.0,
            alike: 0.0,
            shared,
        }
    }

    /// Of an equation between zeros.
    pub fn zero(entries: usize) -> Self {
        Residual { entries, ..Residual::new(0.0) }
    }

    /// Compares `lhs` (the expanded model) with `rhs` (the source, mapped).
    pub fn of(lhs: &Bounded, rhs: &Bounded, shared: f64) -> Residual {
        let mut residual = Residual::new(shared);
        residual.add(lhs, rhs, 0);
        residual
    }

    /// Adds a block of the equation whose first row is row `first`.
    pub fn add(&mut self, lhs: &Bounded, rhs: &Bounded, first: usize) {
        assert_eq!(lhs.value.dim(), rhs.value.dim(), "both sides have one shape");
        for row in 0..lhs.rows() {
            let (l, r) = (lhs.row(row), rhs.row(row));
            let before = self.wrong;
            for col in 0..l.value.len() {
                let variance = l.variance[col] + r.variance[col];
                self.add_entry((first + row, col), l.value[col], r.value[col], variance);
            }
            self.wrong_rows += usize::from(self.wrong > before);
        }
    }

    /// Adds one entry, with the variance of the difference of its two sides.
    #[inline]
    pub fn add_entry(&mut self, at: (usize, usize), got: f64, expected: f64, variance: f64) {
        let delta = got - expected;
        self.entries += 1;
        self.square += expected * expected;
        self.spread += variance * expected * expected;
        self.noise += variance;
        self.alike += (variance * expected * expected).sqrt();
        if delta == 0.0 {
            return;
        }
        self.exact = false;
        let square = delta * delta;
        self.units_squared += square / variance;
        self.difference += square;
        self.along += delta * expected;
        // Compared this way round, a NaN counts as wrong and as worst.
        let within = |units: f64| square <= units * units * variance;
        self.wrong += usize::from(!within(UNITS));
        if !within(self.units) && !self.units.is_nan() {
            self.units = (square / variance).sqrt();
            (self.worst, self.expected, self.got) = (at, expected, got);
        }
    }

    /// Adds the entries of a row, from the one at `row`, `first` on: as [`Residual::add_entry`] for
    /// each, but for the order of the sums.
    pub fn add_row(
        &mut self,
        (row, first): (usize, usize),
        got: &[f64],
        expected: &[f64],
        variance: &[f64],
    ) {
        let sums = RowSums::of(got, expected, variance);
        if !sums.regular {
            let (before, entries) = (self.wrong, got.iter().zip(expected).zip(variance));
            for (col, ((got, expected), variance)) in entries.enumerate() {
                self.add_entry((row, first + col), *got, *expected, *variance);
            }
            self.wrong_rows += usize::from(self.wrong > before);
            return;
        }
        self.entries += got.len();
        self.square += sums.square;
        self.spread += sums.spread;
        self.noise += sums.noise;
        self.alike += sums.alike;
        self.exact &= sums.difference == 0.0;
        self.units_squared += sums.units_squared;
        self.difference += sums.difference;
        self.along += sums.along;
        if sums.worst > self.units * self.units {
            let units = |col: &usize| (got[*col] - expected[*col]).powi(2) / variance[*col];
            let at = (0..got.len()).find(|col| units(col) == sums.worst).unwrap_or(0);
            self.units = sums.worst.sqrt();
            (self.worst, self.expected, self.got) = ((row, first + at), expected[at], got[at]);
        }
    }

    /// Joins the residual of other blocks of the same equation.
    pub fn merge(mut self, other: Residual) -> Residual {
        if other.units > self.units || (other.units.is_nan() && !self.units.is_nan()) {
            (self.units, self.worst) = (other.units, other.worst);
            (self.expected, self.got) = (other.expected, other.got);
        }
        self.wrong += other.wrong;
        self.wrong_rows += other.wrong_rows;
        self.entries += other.entries;
        self.exact &= other.exact;
        self.units_squared += other.units_squared;
        self.difference += other.difference;
        self.along += other.along;
        self.square += other.square;
        self.spread += other.spread;
        self.noise += other.noise;
        self.alike += other.alike;
        self
    }

    /// Whether the two sides are equal within their rounding: entry by entry, in their mean square,
    /// and in the scale of the whole. Sides that are equal to the last bit are, also where squares
    /// of their numbers are not finite.
    pub fn holds(&self) -> bool {
        self.exact || self.holds_to_rounding()
    }

    fn holds_to_rounding(&self) -> bool {
        self.units <= UNITS
            && self.wrong == 0
            && self.units_squared <= self.mean_square_limit()
            && self.along.abs() <= self.scale_limit()
    }

    /// Whether it is off by more than twice what rounding explains.
    pub fn fails_clearly(&self) -> bool {
        let is_near = self.units <= 2.0 * UNITS
            && self.units_squared <= 4.0 * self.mean_square_limit()
            && self.along.abs() <= 2.0 * self.scale_limit();
        !(self.exact || is_near)
    }

    /// A bound is the most that one rounding does, so over many entries the root mean square is
    /// below one unit for each rounding on the way; only single entries come near [`UNITS`].
    fn mean_square_limit(&self) -> f64 {
        TYPICAL_UNITS * TYPICAL_UNITS * self.entries as f64 + UNITS * UNITS
    }

    /// Independent roundings add in quadrature; but those of numbers that are alike are too, and
    /// may all have one sign: of a table of few magnitudes that is multiplied by a factor, or of
    /// any in a format of few digits. Then they sum to `Σ bound·|right side|`.
    fn scale_limit(&self) -> f64 {
        (UNITS * self.spread.sqrt()).max(self.alike) + 2.0 * self.shared * self.square
    }

    /// The best-fit factor `⟨lhs, rhs⟩/⟨rhs, rhs⟩`.
    pub fn factor(&self) -> f64 {
        if self.square > 0.0 { 1.0 + self.along / self.square } else { 1.0 }
    }

    /// By how much rounding moves [`Residual::factor`].
    pub fn factor_error(&self) -> f64 {
        if self.square > 0.0 { self.spread.sqrt() / self.square } else { 0.0 }
    }

    /// Root mean square of the residual relative to that of the right side; not a number where
    /// their squares are too large or too small to be told.
    pub fn relative(&self) -> f64 {
        match self.difference {
            _ if self.exact => 0.0,
            0.0 => f64::NAN,
            difference => (difference / self.square).sqrt(),
        }
    }

    /// Root mean square of what is left after the best-fit factor, relative to the right side.
    pub fn relative_after_factor(&self) -> f64 {
        let left = self.difference - self.along * self.along / self.square;
        (left.max(0.0) / self.square).sqrt()
    }

    /// The smallest error of scale that would be seen; zero for an equation between rounding
    /// errors, which has no scale.
    fn resolution(&self) -> f64 {
        let has_scale = self.square > UNITS * UNITS * self.noise;
        if has_scale { self.scale_limit() / self.square } else { 0.0 }
    }
}

/// What a row adds to a [`Residual`].
struct RowSums {
    /// Whether every residual is within [`UNITS`] of its bound, and its square is a normal number.
    regular: bool,
    /// The largest residual in units of its bound, squared.
    worst: f64,
    square: f64,
    spread: f64,
    noise: f64,
    alike: f64,
    units_squared: f64,
    difference: f64,
    along: f64,
}

/// Sums are formed in this many parts, so that the compiler can form several at a time.
const LANES: usize = 8;

/// A row's sums in parts.
#[derive(Default)]
struct Lanes {
    irregular: [u64; LANES],
    worst: [f64; LANES],
    square: [f64; LANES],
    spread: [f64; LANES],
    noise: [f64; LANES],
    alike: [f64; LANES],
    units_squared: [f64; LANES],
    difference: [f64; LANES],
    along: [f64; LANES],
}

impl Lanes {
    /// Adds one entry to each part.
    #[inline(always)]
    fn add(&mut self, got: &[f64; LANES], expected: &[f64; LANES], variance: &[f64; LANES]) {
        for lane in 0..LANES {
            let (expected, variance) = (expected[lane], variance[lane]);
            let delta = got[lane] - expected;
            let delta_square = delta * delta;
            self.square[lane] += expected * expected;
            let spread = variance * expected * expected;
            self.spread[lane] += spread;
            self.noise[lane] += variance;
            self.alike[lane] += spread.sqrt();
            self.difference[lane] += delta_square;
            self.along[lane] += delta * expected;
            let ratio = if delta == 0.0 { 0.0 } else { delta_square / variance };
            self.units_squared[lane] += ratio;
            // Compared this way round, a NaN is irregular.
            let within = delta_square <= UNITS * UNITS * variance;
            let normal = (delta == 0.0) | (delta_square >= f64::MIN_POSITIVE);
            self.irregular[lane] |= u64::from(!(within & normal));
            self.worst[lane] = if ratio > self.worst[lane] { ratio } else { self.worst[lane] };
        }
    }
}

wide! {
    fn lanes(got: &[f64], expected: &[f64], variance: &[f64]) -> Lanes {
        let mut lanes = Lanes::default();
        let (got, got_rest) = got.as_chunks::<LANES>();
        let (expected, expected_rest) = expected.as_chunks::<LANES>();
        let (variance, variance_rest) = variance.as_chunks::<LANES>();
        for ((got, expected), variance) in got.iter().zip(expected).zip(variance) {
            lanes.add(got, expected, variance);
        }
        if !got_rest.is_empty() {
            let padded = |rest: &[f64]| -> [f64; LANES] {
                std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or(0.0))
            };
            lanes.add(&padded(got_rest), &padded(expected_rest), &padded(variance_rest));
        }
        lanes
    }
}

impl RowSums {
    fn of(got: &[f64], expected: &[f64], variance: &[f64]) -> RowSums {
        let lanes = lanes(got, expected, variance);
        let sum = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
        RowSums {
            regular: lanes.irregular.iter().all(|lane| *lane == 0),
            worst: lanes.worst.iter().fold(0.0, |most, lane| most.max(*lane)),
            square: sum(lanes.square),
            spread: sum(lanes.spread),
            noise: sum(lanes.noise),
            alike: sum(lanes.alike),
            units_squared: sum(lanes.units_squared),
            difference: sum(lanes.difference),
            along: sum(lanes.along),
        }
    }
}

/// Where an equation stands: for messages.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// `layer 3 attention`.
    pub name: &'a str,
    /// The tensor of the expanded model, and the source's.
    pub tensors: (&'a Lens, &'a Lens),
}

/// Everything that was found so far.
#[derive(Default)]
pub(super) struct Ledger {
    pub certificate: Certificate,
    /// What shows the kind of expansion.
    pub notes: Notes,
}

impl Ledger {
    pub fn new() -> Self {
        let certificate = Certificate { exact: true, ..Certificate::default() };
        Ledger { certificate, notes: Notes::default() }
    }

    /// Books an equation that holds.
    pub fn hold(&mut self, residual: &Residual) {
        let certificate = &mut self.certificate;
        certificate.equations += 1;
        certificate.entries += residual.entries as u64;
        certificate.worst_units = certificate.worst_units.max(residual.units);
        certificate.resolution = certificate.resolution.max(residual.resolution());
        certificate.exact &= residual.exact;
    }

    /// Books an equation that fails.
    pub fn fail(&mut self, failure: Failure) {
        self.certificate.equations += 1;
        self.certificate.entries += failure.entries as u64;
        self.certificate.exact = false;
        self.certificate.failures.push(failure);
    }

    /// Books something that cannot be judged.
    pub fn unknown(&mut self, subject: impl Into<String>, reason: impl Into<String>) {
        self.certificate.exact = false;
        let unknown = Unknown { subject: subject.into(), reason: reason.into() };
        self.certificate.unknown.push(unknown);
    }

    /// Tells a map in words.
    pub fn map(&mut self, space: impl Into<String>, words: String) {
        self.certificate.maps.push(MapInWords { space: space.into(), words });
    }

    /// Adds what another ledger found, behind this one's.
    pub fn append(&mut self, other: Ledger) {
        self.notes.append(other.notes);
        let (mine, other) = (&mut self.certificate, other.certificate);
        mine.maps.extend(other.maps);
        mine.equations += other.equations;
        mine.entries += other.entries;
        mine.worst_units = mine.worst_units.max(other.worst_units);
        mine.resolution = mine.resolution.max(other.resolution);
        mine.exact &= other.exact;
        mine.failures.extend(other.failures);
        mine.unknown.extend(other.unknown);
    }

    /// How many equations fail or cannot be judged. A wrong ε fails in every sublayer, and says
    /// nothing against their being the same: it counts for little.
    pub fn faults(&self) -> f64 {
        let fault = |failure: &Failure| if failure.reach == Reach::Epsilon { 1e-3 } else { 1.0 };
        let failures: f64 = self.certificate.failures.iter().map(fault).sum();
        failures + self.certificate.unknown.len() as f64
    }
}

/// A failure told from a residual; `index` locates the worst entry in the stored tensor.
pub(super) fn failure(
    rule: &str,
    place: Place,
    residual: &Residual,
    index: Vec<usize>,
    cause: Option<String>,
) -> Failure {
    Failure {
        rule: rule.to_string(),
        place: place.name.to_string(),
        tensor: place.tensors.0.name().to_string(),
        source_tensor: place.tensors.1.name().to_string(),
        index,
        expected: residual.expected,
        got: residual.got,
        units: residual.units,
        relative: residual.relative(),
        wrong: residual.wrong,
        entries: residual.entries,
        cause,
        doubtful: !residual.fails_clearly(),
        reach: Reach::Any,
    }
}

#[cfg(test)]
mod tests;
