//! `Arbitrary` for quickcheck.

use super::{Case, Run, Smaller};
use crate::testing::{Architecture, FreeParts, WeightStyle};
use quickcheck::{Arbitrary, Gen};

/// A seed, of which all else follows. quickcheck's numbers are biased to a few: two of them are
/// not.
fn seed(from: &mut Gen) -> u64 {
    u64::arbitrary(from) ^ u64::arbitrary(from).rotate_left(32)
}

macro_rules! cases {
    ($($type:ident),*) => {$(
        impl Arbitrary for $type {
            fn arbitrary(from: &mut Gen) -> Self {
                $type::random(&Architecture::ALL, seed(from))
            }

            fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
                self.smaller()
            }
        }
    )*};
}

cases!(Case, Run);

macro_rules! choices {
    ($($type:ident),*) => {$(
        impl Arbitrary for $type {
            fn arbitrary(from: &mut Gen) -> Self {
                *from.choose(&$type::ALL).unwrap_or(&$type::ALL[0])
            }
        }
    )*};
}

choices!(Architecture, FreeParts, WeightStyle);
