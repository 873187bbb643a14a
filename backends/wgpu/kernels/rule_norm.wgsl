// The rules of norms, of LayerScale and of a tied table.

struct Settings {
    expanded: u32,
    source: u32,
    read_scale: f32,
    write_scale: f32,
    offset: f32,
    // Of norms in a row.
    eps: f32,
    count: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
// Of a norm or of LayerScale: [source].
@group(0) @binding(2) var<storage, read> x: array<f32>;
// What stands where nothing is copied, [expanded]; of LayerScale one number.
@group(0) @binding(3) var<storage, read> residue: array<f32>;
// Of a map: [expanded].
@group(0) @binding(4) var<storage, read> entries: array<i32>;
// Of a second map: [expanded].
@group(0) @binding(5) var<storage, read> read_entries: array<i32>;

const MEAN = -1;

// How many channels the whole copies of the source make.
fn whole() -> u32 {
    return settings.expanded / settings.source * settings.source;
}

// The part of the expanded mean square that copies make of the source's.
fn square() -> f32 {
    return f32(whole()) / f32(settings.expanded);
}

// The weight: sqrt(square) write_scale (offset + x) - offset on copies, residue - offset elsewhere.
// An invocation makes one number of [expanded].
@compute @workgroup_size(LANES)
fn norm_weight(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.expanded {
        return;
    }
    var value = residue[i];
    if i < whole() {
        let scale = sqrt(square()) * settings.write_scale;
        value = (x[i % settings.source] + settings.offset) * scale;
    }
    y[i] = value - settings.offset;
}

// The bias: write_scale x on copies, zero elsewhere. An invocation makes one number of [expanded].
@compute @workgroup_size(LANES)
fn norm_bias(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.expanded {
        y[i] = select(0.0, x[i % settings.source] * settings.write_scale, i < whole());
    }
}

// The factor of eps: square read_scale^2. One number.
@compute @workgroup_size(1)
fn norm_eps_factor() {
    y[0] = square() * settings.read_scale * settings.read_scale;
}

// Gain and eps of the one norm that `count` norms in a row are: from (1, eps) on, each further one
// makes gain/sqrt(gain^2 + eps) and own eps times eps/(gain^2 + eps). Two numbers.
fn row() -> vec2f {
    var norm = vec2f(1.0, settings.eps);
    for (var i = 1u; i < settings.count; i++) {
        let next = norm.x * norm.x + settings.eps;
        norm = vec2f(norm.x / sqrt(next), norm.y * settings.eps / next);
    }
    return norm;
}

@compute @workgroup_size(1)
fn row_gain() {
    y[0] = row().x;
}

@compute @workgroup_size(1)
fn row_eps() {
    y[0] = row().y;
}

// The free factor of LayerScale: the power of two nearest, in exponent, to the root mean square of
// the gains x [source], from 2^-14 to 2^14; 1 if all are zero. One number, by one workgroup, whose
// lanes take every 64th gain.
@compute @workgroup_size(LANES)
fn layer_scale_rest(@builtin(local_invocation_index) lane: u32) {
    var squares = 0.0;
    for (var i = lane; i < settings.source; i += LANES) {
        squares += x[i] * x[i];
    }
    let mean_square = workgroup_sum(lane, squares) / f32(settings.source);
    // The root of m 2^e, with m from 1 to 2, is nearest to 2^floor((e + 1)/2): e is in the bits.
    let exponent = i32(bitcast<u32>(mean_square) >> 23u) - 127;
    let nearest = clamp((exponent + 1) >> 1u, -14, 14);
    if lane == 0u {
        y[0] = select(1.0, power_of_two(nearest), mean_square > 0.0);
    }
}

// The factors: the gain on copies, and on the rest the free factor. An invocation makes one number
// of [expanded].
@compute @workgroup_size(LANES)
fn layer_scale_factors(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.expanded {
        return;
    }
    var factor = residue[0];
    if entries[i] >= 0 {
        factor = x[entries[i]];
    }
    y[i] = factor;
}

// What is written in front of the factors: the stream's map, where means weigh each coordinate by
// its gain over the free factor. An invocation makes one number of [expanded, source].
@compute @workgroup_size(LANES)
fn layer_scale_write(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.expanded * settings.source {
        return;
    }
    let source = i % settings.source;
    let entry = entries[i / settings.source];
    var value = select(0.0, 1.0, entry == i32(source));
    if entry == MEAN {
        value = x[source] / residue[0] / f32(settings.source);
    }
    y[i] = value * settings.write_scale;
}

// How often both maps copy coordinate 0 at one place, times both scales. One number, by one
// workgroup, whose lanes take every 64th place.
@compute @workgroup_size(LANES)
fn tied_growth(@builtin(local_invocation_index) lane: u32) {
    var copies = 0.0;
    for (var i = lane; i < settings.expanded; i += LANES) {
        if entries[i] == 0 && read_entries[i] == 0 {
            copies += 1.0;
        }
    }
    let all = workgroup_sum(lane, copies);
    if lane == 0u {
        y[0] = all * settings.write_scale * settings.read_scale;
    }
}
