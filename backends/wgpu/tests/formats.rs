//! Half precision on the device: every half is widened as it should be, and numbers of f32 are
//! narrowed to the nearest one, ties to even.

use half::{bf16, f16};
use lemon_check_wgpu::device::Device;
use lemon_check_wgpu::tensors::{self, Format, Output, Tensors};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

fn file(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    serialize([("x", view)], None).unwrap()
}

/// What the device makes of stored halves.
fn widened(dtype: Dtype, halves: &[u16]) -> Vec<f32> {
    let device = Device::open().unwrap();
    let bytes = file(dtype, &[halves.len()], bytemuck::cast_slice(halves));
    let array = Tensors::parse(&bytes).unwrap();
    let array = array.upload_shaped(&device, "x", &[halves.len()]).unwrap();
    bytemuck::pod_collect_to_vec(&device.read(&array, 4 * halves.len()).unwrap())
}

/// The halves that the device stores for numbers of f32.
fn narrowed(format: Format, numbers: &[f32]) -> Vec<u16> {
    let device = Device::open().unwrap();
    let array = device.upload(bytemuck::cast_slice(numbers), &[numbers.len()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("y");
    let outputs = vec![("y".to_string(), Output::Numbers(array))];
    tensors::write(&device, &path, &outputs, format).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    bytemuck::pod_collect_to_vec(read.tensor("y").unwrap().data())
}

/// Numbers of f32 of all sizes: every half, what lies in the middle of two, and beside that.
fn numbers(value: impl Fn(u16) -> f32) -> Vec<f32> {
    let all = (0..=u16::MAX).map(&value).filter(|x| x.is_finite());
    let pairs =
        (0..u16::MAX).map(|bits| (f64::from(value(bits)) + f64::from(value(bits + 1))) / 2.0);
    let middles = pairs.map(|x| x as f32).filter(|x| x.is_finite());
    let beside = |x: f32| {
        [f32::from_bits(x.to_bits().saturating_sub(1)), x, f32::from_bits(x.to_bits() + 1)]
    };
    let mut numbers: Vec<f32> = all.chain(middles).flat_map(beside).collect();
    numbers.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 65519.996, 65520.0]);
    numbers.retain(|x| !x.is_nan());
    // An odd number of them: the last word is half empty.
    numbers.truncate((numbers.len() - 1) | 1);
    numbers
}

#[test]
fn every_half_is_widened() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for (bits, wide) in all.iter().zip(widened(Dtype::F16, &all)) {
        let right = f16::from_bits(*bits).to_f32();
        assert!(wide.to_bits() == right.to_bits() || wide.is_nan() && right.is_nan(), "{bits:#x}");
    }
}

#[test]
fn every_bfloat16_is_widened() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for (bits, wide) in all.iter().zip(widened(Dtype::BF16, &all)) {
        let right = bf16::from_bits(*bits).to_f32();
        assert!(wide.to_bits() == right.to_bits() || wide.is_nan() && right.is_nan(), "{bits:#x}");
    }
}

#[test]
fn numbers_become_the_nearest_half() {
    let numbers = numbers(|bits| f16::from_bits(bits).to_f32());
    for (x, half) in numbers.iter().zip(narrowed(Format::F16, &numbers)) {
        assert_eq!(half, f16::from_f32(*x).to_bits(), "{x:e}");
    }
}

#[test]
fn numbers_become_the_nearest_bfloat16() {
    let numbers = numbers(|bits| bf16::from_bits(bits).to_f32());
    for (x, half) in numbers.iter().zip(narrowed(Format::Bf16, &numbers)) {
        assert_eq!(half, bf16::from_f32(*x).to_bits(), "{x:e}");
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let nan = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)];
    let f16s = narrowed(Format::F16, &nan).into_iter().map(|bits| f16::from_bits(bits).is_nan());
    let bf16s = narrowed(Format::Bf16, &nan).into_iter().map(|bits| bf16::from_bits(bits).is_nan());
    assert!(f16s.chain(bf16s).all(|nan| nan));
}
