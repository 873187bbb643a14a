// Products of matrices, one for each of a batch: y = scale * (a b) + bias.
//
// For batch z, a is [rows, inner], b [inner, columns], y [rows, columns], and bias [columns]. Where
// entries lie is said by strides, so that the one kernel multiplies by a weight [out, in] as by its
// transpose, and attention by the heads inside of [tokens, heads * head_dim]:
//
//   a[z, row, k]      at  z * a_batch + row * a_row + k
//   b[z, k, column]   at  z / b_group * b_batch + k * b_inner + column * b_column
//   y[z, row, column] at  z * y_batch + row * y_row + column
//
// A workgroup makes one tile of 16 x 16 entries of y, each of its 256 invocations one. It goes
// along k in steps of 16: a tile of a and a tile of b are brought to workgroup memory, each number
// once for 16 uses. Tiles reach over the edges of matrices whose sizes are no multiples of 16: what
// lies outside is read as zero, in a and in b (zero times an infinite number would be none), and is
// not written. Without the mask along k, numbers of the next row would be added in.

struct Settings {
    rows: u32,
    columns: u32,
    inner: u32,
    a_batch: u32,
    a_row: u32,
    b_batch: u32,
    b_group: u32,
    b_inner: u32,
    b_column: u32,
    y_batch: u32,
    y_row: u32,
    has_bias: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

const TILE = 16u;

var<workgroup> a_tile: array<array<f32, TILE>, TILE>;
var<workgroup> b_tile: array<array<f32, TILE>, TILE>;

@compute @workgroup_size(TILE, TILE)
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
    let row = group.y * TILE + local.y;
    let column = group.x * TILE + local.x;
    let a_start = group.z * settings.a_batch + row * settings.a_row;
    let b_start = group.z / settings.b_group * settings.b_batch + column * settings.b_column;
    var sum = 0.0;
    for (var start = 0u; start < settings.inner; start += TILE) {
        let a_inner = start + local.x;
        let b_inner = start + local.y;
        var a_value = 0.0;
        if row < settings.rows && a_inner < settings.inner {
            a_value = a[a_start + a_inner];
        }
        var b_value = 0.0;
        if column < settings.columns && b_inner < settings.inner {
            b_value = b[b_start + b_inner * settings.b_inner];
        }
        a_tile[local.y][local.x] = a_value;
        b_tile[local.y][local.x] = b_value;
        workgroupBarrier();
        for (var k = 0u; k < TILE; k++) {
            sum += a_tile[local.y][k] * b_tile[k][local.x];
        }
        // The next tiles are not written before everybody has read these.
        workgroupBarrier();
    }
    if row < settings.rows && column < settings.columns {
        var value = sum * settings.scale;
        if settings.has_bias == 1u {
            value += bias[column];
        }
        y[group.z * settings.y_batch + row * settings.y_row + column] = value;
    }
}
