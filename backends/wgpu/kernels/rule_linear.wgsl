// A linear layer between two maps: y = E_out W L + Z (I - E_in L), where L [source in, expanded in]
// is the left inverse of E_in that reads copies alone, each by its share over the map's scale.
//
// Three kernels: `shares` and `gathered` make what `between` puts together. E_out W comes from
// rule_maps. An invocation makes one number; those beyond the end make none.

struct Settings {
    // Of the expanded layer, and how many inputs the source has.
    rows: u32,
    columns: u32,
    source: u32,
    // How copies share a column.
    share: u32,
    // The scale of the map of the columns.
    scale: f32,
    has_written: u32,
    has_initial: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
// Of the map of the columns: [columns].
@group(0) @binding(2) var<storage, read> entries: array<i32>;
// Z [rows, columns].
@group(0) @binding(3) var<storage, read> initial: array<f32>;
// Of the map of the rows: [rows].
@group(0) @binding(4) var<storage, read> row_entries: array<i32>;
// E_out W [rows, source].
@group(0) @binding(5) var<storage, read> written: array<f32>;
// Z E_in, but for the scale: [rows, source].
@group(0) @binding(6) var<storage, read> gathered_initial: array<f32>;
// [columns].
@group(0) @binding(7) var<storage, read> given_shares: array<f32>;

const MEAN = -1;

const EQUAL = 0u;
const FIRST = 1u;
const LAST = 2u;
const OPPOSITE = 3u;

// How much of its source coordinate's column each column gets, but for the scale: [columns].
@compute @workgroup_size(LANES)
fn shares(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = place(group, groups, LANES, lane);
    if column >= settings.columns {
        return;
    }
    let entry = entries[column];
    // Copies of the same coordinate: those in front of this one, and all.
    var before = 0u;
    var copies = 0u;
    for (var other = 0u; other < settings.columns; other++) {
        if entries[other] == entry {
            copies++;
            if other < column {
                before++;
            }
        }
    }
    var share = 0.0;
    switch settings.share {
        case EQUAL: {
            share = 1.0 / f32(copies);
        }
        case FIRST: {
            share = select(0.0, 1.0, before == 0u);
        }
        case LAST: {
            share = select(0.0, 1.0, before + 1u == copies);
        }
        default: {
            // OPPOSITE: what has one copy alone is not read.
            share = select(0.0, 0.5, before == 0u && copies > 1u);
            share = select(share, -0.5, before == 1u);
        }
    }
    y[column] = select(0.0, share, entry >= 0);
}

// Z E_in, but for the scale: what the columns that read one source coordinate add up to.
@compute @workgroup_size(LANES)
fn gathered(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.rows * settings.source {
        return;
    }
    let start = i / settings.source * settings.columns;
    let source = i32(i % settings.source);
    var copies = 0.0;
    var means = 0.0;
    for (var column = 0u; column < settings.columns; column++) {
        if entries[column] == source {
            copies += initial[start + column];
        } else if entries[column] == MEAN {
            means += initial[start + column];
        }
    }
    y[i] = copies + means / f32(settings.source);
}

// The layer [rows, columns]. Z counts only in rows that are copies: means and zeros keep theirs.
@compute @workgroup_size(LANES)
fn between(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i >= settings.rows * settings.columns {
        return;
    }
    let row = i / settings.columns;
    let column = i % settings.columns;
    let entry = entries[column];
    let share = given_shares[column];
    var value = 0.0;
    if settings.has_written == 1u && entry >= 0 {
        value = written[row * settings.source + u32(entry)] * (share / settings.scale);
    }
    if settings.has_initial == 1u && row_entries[row] >= 0 {
        var kept = initial[i];
        if entry >= 0 {
            kept -= gathered_initial[row * settings.source + u32(entry)] * share;
        }
        value += kept;
    }
    y[i] = value;
}
