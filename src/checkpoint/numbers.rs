//! Reading many numbers at once.
//!
//! One loop per number format, over bytes of any alignment, so that the compiler can make several
//! numbers at a time: a choice per number would cost more than the reading.

use super::Dtype;
use crate::wide::wide;

impl Dtype {
    /// Reads as many numbers as `out` has room for, from number `first` of `bytes` on.
    ///
    /// # Panics
    /// If `bytes` ends before the numbers do.
    pub fn read(self, bytes: &[u8], first: usize, out: &mut [f64]) {
        let bytes = &bytes[first * self.size()..(first + out.len()) * self.size()];
        read(self, bytes, out);
    }

    /// Whether none of the numbers is NaN or infinite.
    pub fn all_finite(self, bytes: &[u8]) -> bool {
        let infinite = match self {
            Dtype::F64 => 0x7ff << 53,
            Dtype::F32 => 0xff << 24,
            Dtype::F16 => 0x1f << 11,
            Dtype::Bf16 => 0xff << 8,
        };
        largest(self, bytes) < infinite
    }

    /// Whether every number is zero, of either sign.
    pub fn all_zero(self, bytes: &[u8]) -> bool {
        largest(self, bytes) == 0
    }
}

wide! {
    fn read(dtype: Dtype, bytes: &[u8], out: &mut [f64]) {
        match dtype {
            Dtype::F64 => each::<8>(bytes, out, f64::from_le_bytes),
            Dtype::F32 => each::<4>(bytes, out, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F16 => each::<2>(bytes, out, |b| f64::from(from_half(u16::from_le_bytes(b)))),
            Dtype::Bf16 => each::<2>(bytes, out, |b| {
                f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }),
        }
    }
}

wide! {
    /// The bits of the largest number, without its sign: shifted out, numbers are in the order of
    /// their size, and what is not finite comes last.
    fn largest(dtype: Dtype, bytes: &[u8]) -> u64 {
        match dtype {
            Dtype::F64 => most::<8, u64>(bytes, |b| u64::from_le_bytes(b) << 1),
            Dtype::F32 => most::<4, u32>(bytes, |b| u32::from_le_bytes(b) << 1).into(),
            Dtype::F16 | Dtype::Bf16 => {
                most::<2, u16>(bytes, |b| u16::from_le_bytes(b) << 1).into()
            }
        }
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f64], number: impl Fn([u8; N]) -> f64) {
    for (slot, bytes) in out.iter_mut().zip(bytes.chunks_exact(N)) {
        *slot = number(bytes.try_into().expect("as many bytes as a number has"));
    }
}

/// The largest of what `bits` makes of each number.
#[inline(always)]
fn most<const N: usize, T: Ord + Default + Copy>(bytes: &[u8], bits: impl Fn([u8; N]) -> T) -> T {
    bytes.chunks_exact(N).fold(T::default(), |most, bytes| {
        most.max(bits(bytes.try_into().expect("as many bytes as a number has")))
    })
}

/// A half-precision number, without a table or a branch: its bits moved to where single precision
/// has them, and the exponent corrected by a product, which is exact for subnormal numbers too.
#[inline(always)]
fn from_half(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let sign = (bits & 0x8000) << 16;
    let size = (bits & 0x7fff) << 13;
    let finite = f32::from_bits(size) * f32::from_bits((127 + 112) << 23);
    let rest = size | 0x7f80_0000;
    let size = if bits & 0x7c00 == 0x7c00 { rest } else { finite.to_bits() };
    f32::from_bits(sign | size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn numbers_read_together_are_those_read_singly() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let bytes: Vec<u8> = (0..8 * 77).map(|i: usize| (i * 37 % 61) as u8).collect();
            let mut out = [0.0; 50];
            dtype.read(&bytes[1..], 2, &mut out);
            let singly: Vec<f64> = (2..52).map(|index| dtype.get(&bytes[1..], index)).collect();
            assert_eq!(out.map(f64::to_bits).to_vec(), singly.map_bits(), "{dtype:?}");
        }
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u64>;
    }

    impl Bits for Vec<f64> {
        fn map_bits(&self) -> Vec<u64> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn every_half_precision_number_is_what_the_library_says() {
        for bits in 0..=u16::MAX {
            let (mine, theirs) = (from_half(bits), f16::from_bits(bits).to_f32());
            assert!(mine == theirs || (mine.is_nan() && theirs.is_nan()), "{bits:04x}");
        }
    }

    #[test]
    fn a_single_number_that_is_not_finite_is_seen() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let bytes = |values: &[f64]| {
                let mut bytes = Vec::new();
                values.iter().for_each(|value| dtype.put(&mut bytes, *value));
                bytes
            };
            let large = 65504.0;
            assert!(dtype.all_finite(&bytes(&[0.0, -large, large])), "{dtype:?}");
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(!dtype.all_finite(&bytes(&[1.0, bad, 2.0])), "{dtype:?}");
            }
        }
    }

    #[test]
    fn zeros_are_zero_whatever_their_sign() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let mut bytes = Vec::new();
            [0.0, -0.0].iter().for_each(|value| dtype.put(&mut bytes, *value));
            assert!(dtype.all_zero(&bytes));
            dtype.put(&mut bytes, dtype.subnormal_roundoff().max(f64::MIN_POSITIVE) * 2.0);
            assert!(!dtype.all_zero(&bytes), "{dtype:?}");
        }
    }
}
