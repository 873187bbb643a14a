// What depends on the place in a sequence or in a row: rows of a table by token, rotary positions,
// and some of the columns.
//
// An invocation makes one number of y; those beyond the end make none.

struct Settings {
    // Of y: [tokens, columns].
    tokens: u32,
    columns: u32,
    // The factor of `embedding`.
    scale: f32,
    // Of `rotary`: channels of a head, and how many pairs of them are turned.
    head_dim: u32,
    pairs: u32,
    // Whether `indices` are positions; else they are 0, 1, 2 ...
    has_positions: u32,
    // Of `slice`: how wide x is, and the first column that is read.
    width: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
// The table [rows, columns], or what is turned [tokens, columns], or cut [tokens, width].
@group(0) @binding(2) var<storage, read> x: array<f32>;
// The rows to read, or the positions: [tokens].
@group(0) @binding(3) var<storage, read> indices: array<i32>;
// Radians from one position to the next: [pairs].
@group(0) @binding(4) var<storage, read> frequencies: array<f32>;

// y = scale * table[ids].
@compute @workgroup_size(LANES)
fn embedding(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.tokens * settings.columns {
        let row = u32(indices[i / settings.columns]);
        y[i] = x[row * settings.columns + i % settings.columns] * settings.scale;
    }
}

// Turns channels c and c + pairs of each head by the angle position * frequencies[c]; channels from
// 2 pairs on pass.
@compute @workgroup_size(LANES)
fn rotary(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.tokens * settings.columns {
        return;
    }
    let channel = i % settings.columns % settings.head_dim;
    if channel >= 2u * settings.pairs {
        y[i] = x[i];
        return;
    }
    let token = i / settings.columns;
    var position = f32(token);
    if settings.has_positions == 1u {
        position = f32(indices[token]);
    }
    let turn = sine_cosine(position * frequencies[channel % settings.pairs]);
    if channel < settings.pairs {
        y[i] = x[i] * turn.y - x[i + settings.pairs] * turn.x;
    } else {
        y[i] = x[i] * turn.y + x[i - settings.pairs] * turn.x;
    }
}

// Columns first, first + 1 ... of x.
@compute @workgroup_size(LANES)
fn slice(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.tokens * settings.columns {
        let start = i / settings.columns * settings.width + settings.first;
        y[i] = x[start + i % settings.columns];
    }
}
