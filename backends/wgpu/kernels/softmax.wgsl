// Softmax of the rows of x [rows, columns], over the columns that each sees; y is like x, and zero
// where nothing is seen.
//
// Row r belongs to token i = r % tokens (attention has the rows of one head after the other). It
// sees column j if mask[j] is 1, if causal j <= i, and with a window j > i - window. The mask
// [columns] may be absent; a window of 0 is none.
//
// A workgroup of 64 lanes makes one row, in three rounds over its columns: the largest value, which
// is subtracted, so that no power overflows and the largest is 1; the sum of the powers; the
// quotients. A lane takes every 64th column, and none beyond the last.

struct Settings {
    rows: u32,
    columns: u32,
    tokens: u32,
    has_mask: u32,
    causal: u32,
    window: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<i32>;

const LOWEST = -3.4028234e38;

fn sees(token: u32, column: u32) -> bool {
    if settings.has_mask == 1u && mask[column] != 1 {
        return false;
    }
    if settings.causal == 1u && column > token {
        return false;
    }
    return settings.window == 0u || column + settings.window > token;
}

@compute @workgroup_size(LANES)
fn softmax(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups, 1u, 0u);
    if row >= settings.rows {
        return;
    }
    let token = row % settings.tokens;
    let start = row * settings.columns;
    var highest = LOWEST;
    for (var column = lane; column < settings.columns; column += LANES) {
        if sees(token, column) {
            highest = max(highest, x[start + column]);
        }
    }
    let largest = workgroup_max(lane, highest);
    var powers = 0.0;
    for (var column = lane; column < settings.columns; column += LANES) {
        if sees(token, column) {
            powers += exponential(x[start + column] - largest);
        }
    }
    let sum = workgroup_sum(lane, powers);
    for (var column = lane; column < settings.columns; column += LANES) {
        // A row that sees nothing is zero, not zero divided by zero.
        var value = 0.0;
        if sees(token, column) {
            value = exponential(x[start + column] - largest) / sum;
        }
        y[start + column] = value;
    }
}
