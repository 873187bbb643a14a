//! The elementary functions of `kernels/functions.wgsl`, on the device, against f64: how far they
//! are off is what the table in that file says. `cargo test --test functions -- --nocapture` prints
//! the figures.

use lemon_check_wgpu::device::Device;
use lemon_check_wgpu::kernels::{Function, one};

/// Numbers of f32 from `least` to `most`, evenly.
fn grid(least: f64, most: f64) -> Vec<f32> {
    const STEPS: i32 = 400_000;
    (0..=STEPS).map(|i| (least + (most - least) * f64::from(i) / f64::from(STEPS)) as f32).collect()
}

/// Numbers of both signs from 10⁻³⁰ to 10, evenly by their logarithms.
fn small() -> Vec<f32> {
    let exponents = grid(-30.0, 1.0).into_iter();
    exponents.flat_map(|e| [10f64.powf(e.into()) as f32, -(10f64.powf(e.into()) as f32)]).collect()
}

fn on_device(device: &Device, function: Function, x: &[f32]) -> Vec<f32> {
    let array = device.upload(bytemuck::cast_slice(x), &[x.len()]).unwrap();
    let y = one(device, function, &array, 0.0).unwrap();
    bytemuck::pod_collect_to_vec(&device.read(&y, 4 * x.len()).unwrap())
}

/// The distance of f32's numbers at `value`; at least that of the smallest normal ones, since a
/// device may flush what is smaller.
fn ulp(value: f64) -> f64 {
    let exponent = value.abs().max(f32::MIN_POSITIVE.into()).log2().floor();
    (exponent - 23.0).exp2()
}

/// The largest error, in what `unit` says of the right value, must be at most `limit`.
fn check(
    name: &str,
    function: Function,
    x: &[f32],
    right: impl Fn(f64) -> f64,
    (unit, limit): (impl Fn(f64) -> f64, f64),
) {
    let device = Device::open().unwrap();
    let errors = x.iter().zip(on_device(&device, function, x)).map(|(x, y)| {
        let right = right(f64::from(*x));
        // What is below the smallest normal number may be zero.
        let tiny = right.abs() < f32::MIN_POSITIVE.into() && y.abs() < 1.1 * f32::MIN_POSITIVE;
        let error = if tiny { 0.0 } else { (f64::from(y) - right).abs() / unit(right) };
        assert!(!error.is_nan(), "{name}({x:e}) is {y}");
        (error, *x)
    });
    let (worst, at) = errors.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
    println!("{name}: {worst:.3} at {at:e} on {}", device.description());
    assert!(worst <= limit, "{name}({at:e}) is {worst} off");
}

#[test]
fn the_exponential() {
    let x = grid(-110.0, 88.72);
    check("exponential", Function::Exponential, &x, libm::exp, (ulp, 2.0));
}

#[test]
fn the_exponential_does_not_overflow() {
    let device = Device::open().unwrap();
    let y = on_device(&device, Function::Exponential, &[-3e38, -200.0, 89.0, 3e38]);
    assert!(y[..2].iter().all(|y| *y < f32::MIN_POSITIVE), "{y:?}");
    assert!(y[2..].iter().all(|y| *y > 3.4e38 && y.is_finite()), "{y:?}");
}

#[test]
fn the_exponential_less_one() {
    let mut x = grid(0.0, 87.9);
    x.extend(small().into_iter().filter(|x| *x >= 0.0));
    check("exponential_less_one", Function::ExponentialLessOne, &x, libm::expm1, (ulp, 2.0));
}

#[test]
fn the_hyperbolic_tangent() {
    let mut x = grid(-12.0, 12.0);
    x.extend(small());
    x.extend([f32::MAX, f32::MIN]);
    check("hyperbolic_tangent", Function::Tanh, &x, libm::tanh, (ulp, 4.5));
}

#[test]
fn the_error_function() {
    let mut x = grid(-6.0, 6.0);
    x.extend(small());
    x.extend([f32::MAX.sqrt() / 2.0, -1e9]);
    check("error_function", Function::ErrorFunction, &x, libm::erf, (ulp, 2.0));
}

#[test]
fn sine_and_cosine() {
    for reach in [4.0, 40.0, 8e5] {
        let x = grid(-reach, reach);
        let of_one = (|_| ulp(1.0), 1.5);
        check("sine_cosine", Function::Sine, &x, libm::sin, of_one);
        check("sine_cosine", Function::Cosine, &x, libm::cos, of_one);
    }
}
