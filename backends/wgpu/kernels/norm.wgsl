// LayerNorm and RMSNorm of the rows of x [rows, columns]; y is like x.
//
//   layer_norm   (x - mean)/sqrt(variance + eps) * weight + bias
//   rms_norm     x/sqrt(mean square + eps) * (offset + weight)
//
// weight and bias [columns] may be absent: nothing is multiplied, nothing added. A workgroup of 64
// lanes makes one row. A lane takes every 64th column, whatever their number: columns beyond the
// last are not read, and means are over the columns that there are. The variance is the mean square
// of what is left after the mean is taken away; the mean square less the squared mean would cancel.

struct Settings {
    rows: u32,
    columns: u32,
    has_weight: u32,
    has_bias: u32,
    eps: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

@compute @workgroup_size(LANES)
fn layer_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups, 1u, 0u);
    if row >= settings.rows {
        return;
    }
    var sum = 0.0;
    for (var column = lane; column < settings.columns; column += LANES) {
        sum += x[row * settings.columns + column];
    }
    let mean = workgroup_sum(lane, sum) / f32(settings.columns);
    normalise(row, lane, mean);
}

@compute @workgroup_size(LANES)
fn rms_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups, 1u, 0u);
    if row >= settings.rows {
        return;
    }
    normalise(row, lane, 0.0);
}

fn normalise(row: u32, lane: u32, mean: f32) {
    let start = row * settings.columns;
    var squares = 0.0;
    for (var column = lane; column < settings.columns; column += LANES) {
        let centred = x[start + column] - mean;
        squares += centred * centred;
    }
    let mean_square = workgroup_sum(lane, squares) / f32(settings.columns);
    let deviation = sqrt(mean_square + settings.eps);
    for (var column = lane; column < settings.columns; column += LANES) {
        var value = (x[start + column] - mean) / deviation;
        if settings.has_weight == 1u {
            value *= settings.offset + weight[column];
        }
        if settings.has_bias == 1u {
            value += bias[column];
        }
        y[start + column] = value;
    }
}
