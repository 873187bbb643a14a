// Half precision as a storage format: to f32 and back, by the bits.
//
// A word of 32 bits holds two halves, the first in its lower bits; the last word of an odd number
// of them is half empty. No floating-point operation rounds here, so that numbers below f32's
// smallest normal one pass too, on devices that flush them to zero when they compute.

struct Settings {
    // How many numbers there are.
    count: u32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<u32>;

fn stored_half(i: u32) -> u32 {
    return (x[i / 2u] >> (16u * (i % 2u))) & 0xffffu;
}

// The bits that a bfloat16 has as f32.
fn wide_bf16(half: u32) -> u32 {
    return half << 16u;
}

// The bits that an IEEE half has as f32.
fn wide_f16(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 31u;
    let fraction = half & 0x3ffu;
    if exponent == 31u {
        return sign | 0x7f800000u | (fraction << 13u);
    }
    if exponent > 0u {
        return sign | ((exponent + 112u) << 23u) | (fraction << 13u);
    }
    if fraction == 0u {
        return sign;
    }
    // fraction * 2^-24: its first bit becomes the one that f32 does not store.
    let first = firstLeadingBit(fraction);
    return sign | ((first + 103u) << 23u) | ((fraction << (23u - first)) & 0x7fffffu);
}

// Drops the last bits, to nearest, ties to even.
fn rounded(bits: u32, dropped: u32) -> u32 {
    let even = (bits >> dropped) & 1u;
    return (bits + (1u << (dropped - 1u)) - 1u + even) >> dropped;
}

// The bfloat16 nearest to a number of f32, given as bits.
fn narrow_to_bf16(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return ((bits >> 16u) & 0x8000u) | rounded(magnitude, 16u);
}

// The IEEE half nearest to a number of f32, given as bits.
fn narrow_to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    // 2^16 and more; what is rounded up to 2^16 becomes infinite by its carry.
    if magnitude >= 0x47800000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        return sign | rounded(magnitude - 0x38000000u, 13u);
    }
    // Below half of the smallest, 2^-24, everything is zero.
    if magnitude < 0x33000000u {
        return sign;
    }
    let exponent = magnitude >> 23u;
    return sign | rounded((magnitude & 0x7fffffu) | 0x800000u, 126u - exponent);
}

// x: halves; y: f32. An invocation makes one number.
@compute @workgroup_size(LANES)
fn widen_f16(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.count {
        y[i] = wide_f16(stored_half(i));
    }
}

// x: bfloat16; y: f32. An invocation makes one number.
@compute @workgroup_size(LANES)
fn widen_bf16(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.count {
        y[i] = wide_bf16(stored_half(i));
    }
}

// x: f32; y: halves. An invocation makes one word of two.
@compute @workgroup_size(LANES)
fn narrow_f16(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let word = place(group, groups, LANES, lane);
    let i = 2u * word;
    if i < settings.count {
        var halves = narrow_to_f16(x[i]);
        if i + 1u < settings.count {
            halves |= narrow_to_f16(x[i + 1u]) << 16u;
        }
        y[word] = halves;
    }
}

// x: f32; y: bfloat16. An invocation makes one word of two.
@compute @workgroup_size(LANES)
fn narrow_bf16(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let word = place(group, groups, LANES, lane);
    let i = 2u * word;
    if i < settings.count {
        var halves = narrow_to_bf16(x[i]);
        if i + 1u < settings.count {
            halves |= narrow_to_bf16(x[i + 1u]) << 16u;
        }
        y[word] = halves;
    }
}
