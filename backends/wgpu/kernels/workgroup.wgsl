// What kernels have in common, prepended to all of them: which number an invocation makes, and
// reductions over the lanes of a workgroup.

const LANES = 64u;

// The number of an invocation, or with one lane of a workgroup. More workgroups than fit into one
// dimension are spread over two; those of the last row may lie beyond the end.
fn place(group: vec3u, groups: vec3u, lanes: u32, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * lanes + lane;
}

// Every lane calls a reduction, and every lane gets its result. Numbers are added up pairwise; a
// lane that has none gives zero.

var<workgroup> partial: array<f32, LANES>;

// The sum of the lanes' values.
fn workgroup_sum(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    // Nobody writes again before everybody has read.
    workgroupBarrier();
    return sum;
}

// The largest of the lanes' values.
fn workgroup_max(lane: u32, value: f32) -> f32 {
    partial[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[lane] = max(partial[lane], partial[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = partial[0];
    workgroupBarrier();
    return largest;
}
