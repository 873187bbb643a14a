//! Rows of a stored matrix, straight from its bytes: a few at a time, each number once.

use super::bounded::UNITS;
use super::floors::Lines;
use super::side::Side;
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::Lens;
use crate::wide::wide;
use std::ops::Range;

/// A stored matrix that is read row by row.
pub(super) struct StoredRows<'a> {
    lens: &'a Lens,
    bytes: &'a [u8],
    dtype: Dtype,
    /// Numbers from one column of a row to the next.
    step: usize,
    unit: f64,
    lines: Lines,
    /// Called with the bytes that were read.
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> StoredRows<'a> {
    /// Of a matrix, which then counts as read: the caller reads every row.
    ///
    /// # Errors
    /// If the tensor is not there as the lens says.
    pub fn new(side: &Side<'a>, lens: &'a Lens) -> Result<StoredRows<'a>> {
        let tensor = lens.check(side.checkpoint)?;
        let dtype = tensor.dtype.expect("checked");
        let step = if lens.cols() > 1 { lens.position(0, 1) - lens.position(0, 0) } else { 1 };
        let (lines, unit, progress) = (side.lines(lens), side.unit(lens), side.progress);
        Ok(StoredRows { lens, bytes: tensor.bytes(), dtype, step, unit, lines, progress })
    }

    /// Numbers of a row.
    pub fn cols(&self) -> usize {
        self.lens.cols()
    }

    /// One number.
    pub fn number(&self, row: usize, col: usize) -> f64 {
        self.dtype.get(self.bytes, self.lens.position(row, col))
    }

    /// Reads `rows` one behind the other into `out`, the columns of each that are `wanted`. `None`
    /// if a number in one of the rows, wanted or not, is not finite, or one is not zero in the
    /// columns that must be.
    pub fn read(
        &self,
        rows: &[usize],
        (wanted, zero): (&[Range<usize>], &[Range<usize>]),
        out: &mut Vec<f64>,
    ) -> Option<()> {
        out.resize(rows.len() * self.cols(), 0.0);
        (self.progress)((out.len() * self.dtype.size()) as u64);
        if self.step != 1 {
            return self.read_turned(rows, zero, out);
        }
        let size = self.dtype.size();
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.cols())) {
            let start = self.lens.position(*row, 0);
            let bytes = &self.bytes[start * size..(start + self.cols()) * size];
            let all_zero =
                |r: &Range<usize>| self.dtype.all_zero(&bytes[r.start * size..r.end * size]);
            if !self.dtype.all_finite(bytes) || !zero.iter().all(all_zero) {
                return None;
            }
            for range in wanted {
                self.dtype.read(bytes, range.start, &mut out[range.clone()]);
            }
        }
        Some(())
    }

    /// The same for rows that are stored as columns: those that lie side by side are read together.
    fn read_turned(&self, rows: &[usize], zero: &[Range<usize>], out: &mut [f64]) -> Option<()> {
        const STRIP: usize = 16;
        const TILE: usize = 8;
        let cols = self.cols();
        let mut tile = [[0.0; STRIP]; TILE];
        let mut finite = true;
        let mut at = 0;
        while at < rows.len() {
            let start = self.lens.position(rows[at], 0);
            let beside = |n: &usize| {
                rows.get(at + n).is_some_and(|r| self.lens.position(*r, 0) == start + n)
            };
            let width = 1 + (1..STRIP).take_while(beside).count();
            let out = &mut out[at * cols..(at + width) * cols];
            for first in (0..cols).step_by(TILE) {
                let tile = &mut tile[..TILE.min(cols - first)];
                for (col, strip) in tile.iter_mut().enumerate() {
                    let start = start + (first + col) * self.step;
                    self.dtype.read(self.bytes, start, &mut strip[..width]);
                }
                for (offset, row) in out.chunks_exact_mut(cols).enumerate() {
                    for (slot, strip) in row[first..].iter_mut().zip(tile.iter()) {
                        *slot = strip[offset];
                        finite &= slot.is_finite();
                    }
                }
            }
            at += width;
        }
        let mut rows = out.chunks_exact(cols);
        let zeros = rows.all(|row| zero.iter().all(|r| row[r.clone()].iter().all(|v| *v == 0.0)));
        (finite && zeros).then_some(())
    }

    /// `None` if a number in one of these rows is not finite.
    pub fn finite(&self, rows: &[usize]) -> Option<()> {
        let mut room = Vec::new();
        rows.chunks(16).try_for_each(|rows| self.read(rows, (&[], &[]), &mut room))
    }

    /// The variance of a number that was read.
    pub fn variance(&self, row: usize, col: usize, value: f64) -> f64 {
        let mut variance = [0.0];
        self.variances(row, col..col + 1, &[value], &mut variance);
        variance[0]
    }

    /// Whether two rows are one within the bounds of their numbers.
    pub fn alike(&self, one: usize, other: usize) -> bool {
        let (a, b) = (self.lens.position(one, 0), self.lens.position(other, 0));
        let size = self.dtype.size();
        let bytes = |at: usize| &self.bytes[at * size..(at + self.cols()) * size];
        if self.step == 1 && bytes(a) == bytes(b) {
            return true;
        }
        (0..self.cols()).all(|col| {
            let (x, y) = (self.number(one, col), self.number(other, col));
            self.close(((one, col), x), ((other, col), y))
        })
    }

    /// Whether two numbers that were read are one within their bounds.
    pub fn close(&self, one: ((usize, usize), f64), other: ((usize, usize), f64)) -> bool {
        let difference = one.1 - other.1;
        difference == 0.0 || {
            let variance = |((row, col), value)| self.variance(row, col, value);
            difference * difference <= UNITS * UNITS * (variance(one) + variance(other))
        }
    }

    /// The variances of some numbers of a row that was read.
    pub fn variances(&self, row: usize, range: Range<usize>, values: &[f64], out: &mut [f64]) {
        let (lines, unit) = (&self.lines, self.unit);
        square_bounds(values, (unit, lines.rows[row], lines.limits), &lines.columns[range], out);
    }
}

wide! {
    /// The variance of each number: its bound is `unit` times itself, but no less than the floor,
    /// which is its row's size times that of its column, within limits.
    fn square_bounds(
        values: &[f64],
        row: (f64, f64, (f64, f64)),
        columns: &[f64],
        out: &mut [f64],
    ) {
        let (unit, size, (low, high)) = row;
        for ((out, value), column) in out.iter_mut().zip(values).zip(columns) {
            let floor = at_least(low, at_most(high, size * column));
            let bound = at_least(floor, unit * value.abs());
            *out = bound * bound;
        }
    }
}

/// The larger of two numbers, none of which is NaN: one instruction.
#[inline(always)]
fn at_least(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// The smaller of two numbers, none of which is NaN.
#[inline(always)]
fn at_most(a: f64, b: f64) -> f64 {
    if b < a { b } else { a }
}
