//! Loops over many numbers, compiled twice: for every processor of the kind, and for those that
//! take more numbers at a time. Both give the same bits: no operation is fused or reordered.

/// Defines a function that runs on wide registers where the processor has them. What it calls is
/// compiled for them only if it is inlined.
macro_rules! wide {
    (
        $(#[$about:meta])*
        $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$about])*
        $visible fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                #[target_feature(enable = "avx2")]
                fn with_avx2($($arg: $type),*) $(-> $result)? {
                    plain($($arg),*)
                }
                // SAFETY: the processor has what the function is compiled for: it was asked just
                // now.
                return unsafe { with_avx2($($arg),*) };
            }
            plain($($arg),*)
        }
    };
}

pub(crate) use wide;

#[cfg(test)]
mod tests {
    wide! {
        fn product(numbers: &[f64]) -> f64 {
            numbers.iter().product()
        }
    }

    #[test]
    fn what_is_computed_is_returned() {
        assert_eq!(product(&[1.0, 2.0, 3.0, 4.0]), 24.0);
    }
}
