// Which heads and which rotary channels are copied: whole numbers.
//
// An invocation makes one number of y; those beyond the end make none.

struct Settings {
    // How many numbers y has.
    count: u32,
    // Key/value heads of the source, and how many query heads read each.
    kv_heads: u32,
    group: u32,
    // How many query heads read each expanded key/value head.
    expanded_group: u32,
    // Pairs of channels that are turned, and channels of a source head.
    source_pairs: u32,
    expanded_pairs: u32,
    source_dim: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<i32>;
// Of the pairs, as they are stored.
@group(0) @binding(2) var<storage, read> source: array<f32>;
@group(0) @binding(3) var<storage, read> expanded: array<f32>;

const ZERO = -2;

// Key/value heads go round.
@compute @workgroup_size(LANES)
fn key_value_heads(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = place(group, groups, LANES, lane);
    if head < settings.count {
        y[head] = i32(head % settings.kv_heads);
    }
}

// Query heads that read copies of one key/value head go round among its query heads: those of its
// earlier copies have had their turn.
@compute @workgroup_size(LANES)
fn query_heads(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = place(group, groups, LANES, lane);
    if head >= settings.count {
        return;
    }
    let key_value = head / settings.expanded_group;
    let earlier = key_value / settings.kv_heads * settings.expanded_group;
    let turn = earlier + head % settings.expanded_group;
    let first = key_value % settings.kv_heads * settings.group;
    y[head] = i32(first + turn % settings.group);
}

// The source pair that goes to an expanded pair, or -1: a pair goes to the first free pair of the
// same frequency, in order, so that the nth of a frequency goes to the nth of it.
fn pair_at(place: u32) -> i32 {
    var before = 0u;
    for (var other = 0u; other < place; other++) {
        if expanded[other] == expanded[place] {
            before++;
        }
    }
    for (var pair = 0u; pair < settings.source_pairs; pair++) {
        if source[pair] == expanded[place] {
            if before == 0u {
                return i32(pair);
            }
            before--;
        }
    }
    return -1;
}

// Entries of a map of a head's channels: both channels of the pairs, then those that are not
// turned; the rest is zero.
@compute @workgroup_size(LANES)
fn rotary_channels(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let channel = place(group, groups, LANES, lane);
    if channel >= settings.count {
        return;
    }
    let turned = 2u * settings.expanded_pairs;
    var entry = ZERO;
    if channel < turned {
        let pair = pair_at(channel % settings.expanded_pairs);
        if pair >= 0 {
            let second = channel >= settings.expanded_pairs;
            entry = pair + select(0, i32(settings.source_pairs), second);
        }
    } else if 2u * settings.source_pairs + channel - turned < settings.source_dim {
        entry = i32(2u * settings.source_pairs + channel - turned);
    }
    y[channel] = entry;
}
