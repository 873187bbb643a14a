// Maps of the rules: each entry of an expanded width is the source coordinate that it copies, MEAN
// for the mean of all, or ZERO. As a matrix E [expanded, source], times a scale.
//
// An invocation makes one number of y; those beyond the end make none.

struct Settings {
    expanded: u32,
    source: u32,
    // How many rows or columns a matrix has beside the ones that the map acts on.
    others: u32,
    // In a matrix of the sources, from one source to the next and from one other to the next; and
    // the same in y.
    source_step: u32,
    other_step: u32,
    y_step: u32,
    y_other_step: u32,
    scale: f32,
    offset: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> entries: array<i32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> residue: array<f32>;

const MEAN = -1;
const ZERO = -2;

// E x, or with the steps of the transposed matrices x E^T.
@compute @workgroup_size(LANES)
fn matrix(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.expanded * settings.others {
        return;
    }
    let index = i / settings.others;
    let other = i % settings.others;
    let entry = entries[index];
    var value = 0.0;
    if entry >= 0 {
        value = x[u32(entry) * settings.source_step + other * settings.other_step];
    } else if entry == MEAN {
        for (var source = 0u; source < settings.source; source++) {
            value += x[source * settings.source_step + other * settings.other_step];
        }
        value /= f32(settings.source);
    }
    y[index * settings.y_step + other * settings.y_other_step] = value * settings.scale;
}

// E (x + offset) - offset, with residue - offset where the map has zeros: x [source], y and residue
// [expanded].
@compute @workgroup_size(LANES)
fn vector(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups, LANES, lane);
    if index >= settings.expanded {
        return;
    }
    let entry = entries[index];
    if entry == ZERO {
        y[index] = residue[index] - settings.offset;
        return;
    }
    var value = 0.0;
    if entry == MEAN {
        for (var source = 0u; source < settings.source; source++) {
            value += x[source] + settings.offset;
        }
        value /= f32(settings.source);
    } else {
        value = x[entry] + settings.offset;
    }
    y[index] = value * settings.scale - settings.offset;
}
