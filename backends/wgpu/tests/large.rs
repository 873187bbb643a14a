//! Arrays beyond one tile, one workgroup, and one dimension of workgroups; the crosscheck asks for
//! small ones.

use lemon_check_wgpu::device::{Array, Device};
use lemon_check_wgpu::kernels::{Function, Norm, Visible, linear, norm, one, softmax};

fn upload(device: &Device, numbers: &[f32], shape: &[usize]) -> Array {
    device.upload(bytemuck::cast_slice(numbers), shape).unwrap()
}

fn read(device: &Device, array: &Array) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&device.read(array, 4 * array.count()).unwrap())
}

/// Whole numbers from −8 to 8, whose products and sums f32 holds exactly.
fn whole(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) / 13 % 17) as f32 - 8.0).collect()
}

#[test]
fn a_product_of_many_tiles_is_exact() {
    let device = Device::open().unwrap();
    let (rows, inner, columns) = (83, 517, 130);
    let (x, w, b) = (whole(rows * inner, 1), whole(columns * inner, 2), whole(columns, 3));
    let transposed: Vec<f32> =
        (0..inner * columns).map(|i| w[i % columns * inner + i / columns]).collect();
    let right = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        (0..inner).map(|k| x[row * inner + k] * w[column * inner + k]).sum::<f32>() + b[column]
    };
    let right: Vec<f32> = (0..rows * columns).map(right).collect();
    let x = upload(&device, &x, &[rows, inner]);
    let bias = upload(&device, &b, &[columns]);
    for (weight, shape, lies) in
        [(&w, [columns, inner], false), (&transposed, [inner, columns], true)]
    {
        let weight = upload(&device, weight, &shape);
        let y = linear(&device, &x, &weight, Some(&bias), lies).unwrap();
        assert_eq!(y.shape, [rows, columns]);
        assert!(read(&device, &y) == right, "transposed: {lies}");
    }
}

#[test]
fn more_numbers_than_one_dimension_of_workgroups_has() {
    let device = Device::open().unwrap();
    let x = whole(65_535 * 64 + 70, 4);
    let y = one(&device, Function::Relu, &upload(&device, &x, &[x.len()]), 0.0).unwrap();
    assert!(read(&device, &y).iter().zip(&x).all(|(y, x)| *y == x.max(0.0)));
}

#[test]
fn more_rows_than_one_dimension_of_workgroups_has() {
    let device = Device::open().unwrap();
    let (rows, columns) = (65_535 + 3, 2);
    let x: Vec<f32> = (0..rows).flat_map(|row| [row as f32, row as f32 + 2.0]).collect();
    let x = upload(&device, &x, &[rows, columns]);
    let plain = Norm { centred: true, weight: None, bias: None, eps: 0.0, offset: 0.0 };
    let y = read(&device, &norm(&device, &x, columns, &plain).unwrap());
    assert!(y.chunks(2).all(|row| row == [-1.0, 1.0]));
    let causal = Visible { causal: true, ..Visible::default() };
    let y = read(&device, &softmax(&device, &x, 2, causal).unwrap());
    let small = 1.0 / (1.0 + 2f32.exp());
    for (row, y) in y.chunks(2).enumerate() {
        let right = if row % 2 == 0 { [1.0, 0.0] } else { [small, 1.0 - small] };
        assert!(y.iter().zip(right).all(|(y, right)| (y - right).abs() < 1e-6), "{row}: {y:?}");
    }
}

#[test]
fn rows_of_many_columns_are_normalised_by_their_own_number_of_them() {
    let device = Device::open().unwrap();
    let columns = 1000;
    let x = upload(&device, &vec![3.0; columns], &[1, columns]);
    let plain = Norm { centred: false, weight: None, bias: None, eps: 0.0, offset: 0.0 };
    let y = read(&device, &norm(&device, &x, columns, &plain).unwrap());
    assert!(y.iter().all(|y| (y - 1.0).abs() < 1e-6), "{:?}", &y[..3]);
    let y = read(&device, &softmax(&device, &x, 1, Visible::default()).unwrap());
    assert!(y.iter().all(|y| (y - 1e-3).abs() < 1e-9), "{:?}", &y[..3]);
}
