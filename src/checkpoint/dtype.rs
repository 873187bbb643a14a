//! Number formats of stored weights.

use half::{bf16, f16};

/// A floating-point format in which weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: single precision's exponent with 8 bits of significand (one of them implied).
    Bf16,
}

impl Dtype {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// Largest relative error of rounding a number of normal size to this format: half a unit in
    /// the last place, as a fraction (dimensionless).
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Dtype::F64 => 2f64.powi(-53),
            Dtype::F32 => 2f64.powi(-24),
            Dtype::F16 => 2f64.powi(-11),
            Dtype::Bf16 => 2f64.powi(-8),
        }
    }

    /// Largest absolute error of rounding a number that is too small to be normal: half the
    /// spacing of the subnormal numbers.
    pub fn subnormal_roundoff(self) -> f64 {
        match self {
            Dtype::F64 => 0.0,
            Dtype::F32 => 2f64.powi(-150),
            Dtype::F16 => 2f64.powi(-25),
            Dtype::Bf16 => 2f64.powi(-134),
        }
    }

    /// The name in a configuration file: `float32` and the like.
    pub fn config_name(self) -> &'static str {
        match self {
            Dtype::F64 => "float64",
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }

    /// The name in a safetensors file: `F32` and the like.
    pub fn stored_name(self) -> &'static str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        }
    }

    /// Reads number `index` of `bytes` (little-endian, any alignment).
    ///
    /// # Panics
    /// If `bytes` ends before the number does.
    // Always, so that a loop for one format is compiled for that format.
    #[inline(always)]
    pub fn get(self, bytes: &[u8], index: usize) -> f64 {
        let at = index * self.size();
        match self {
            Dtype::F64 => f64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")),
            Dtype::F32 => {
                f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as f64
            }
            Dtype::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64(),
            Dtype::Bf16 => {
                let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                f32::from_bits((bits as u32) << 16) as f64
            }
        }
    }

    /// Appends `value`, rounded to nearest, to `bytes`.
    pub fn put(self, bytes: &mut Vec<u8>, value: f64) {
        match self {
            Dtype::F64 => bytes.extend(value.to_le_bytes()),
            Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
            Dtype::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
            Dtype::Bf16 => bytes.extend(bf16::from_f64(value).to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_reads_back_what_it_wrote() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            for value in [0.0, 1.0, -0.375, 6.103515625e-5] {
                let mut bytes = vec![0u8; dtype.size()];
                dtype.put(&mut bytes, value);
                assert_eq!(dtype.get(&bytes, 1), value, "{dtype:?} {value}");
            }
        }
    }

    #[test]
    fn unit_roundoff_is_half_the_spacing_at_one() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let next = 1.0 + 2.0 * dtype.unit_roundoff();
            let mut bytes = Vec::new();
            dtype.put(&mut bytes, next);
            assert_eq!(dtype.get(&bytes, 0), next);
            let mut bytes = Vec::new();
            dtype.put(&mut bytes, 1.0 + 0.9 * dtype.unit_roundoff());
            assert_eq!(dtype.get(&bytes, 0), 1.0);
        }
    }
}
