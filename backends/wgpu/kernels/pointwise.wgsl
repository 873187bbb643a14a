// Functions of single numbers, and of two at the same place; x, z and y are of any one shape.
//
// An invocation makes one number; those of the last workgroup that lie beyond the end make none.

struct Settings {
    // How many numbers there are.
    count: u32,
    // One of the functions below.
    function: u32,
    // The cap of SOFTCAP; any number elsewhere.
    parameter: f32,
}

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> z: array<f32>;

const GELU = 0u;
const GELU_TANH = 1u;
const RELU = 2u;
const SILU = 3u;
const TANH = 4u;
const SOFTCAP = 5u;
const MULTIPLY = 6u;
const ADD = 7u;
// The elementary functions themselves, to measure them by.
const EXPONENTIAL = 8u;
const EXPONENTIAL_LESS_ONE = 9u;
const ERROR_FUNCTION = 10u;
const SINE = 11u;
const COSINE = 12u;

fn of_one(x: f32) -> f32 {
    switch settings.function {
        case GELU: {
            return 0.5 * x * (1.0 + error_function(x * 0.7071067812));
        }
        case GELU_TANH: {
            let inner = 0.7978845608 * (x + 0.044715 * x * x * x);
            return 0.5 * x * (1.0 + hyperbolic_tangent(inner));
        }
        case RELU: {
            return max(x, 0.0);
        }
        case SILU: {
            // By e^-|x|, which does not overflow: x/(1 + e^-x) or x e^x/(1 + e^x).
            let power = exponential(-abs(x));
            return select(x, x * power, x < 0.0) / (1.0 + power);
        }
        case TANH: {
            return hyperbolic_tangent(x);
        }
        case SOFTCAP: {
            return settings.parameter * hyperbolic_tangent(x / settings.parameter);
        }
        case EXPONENTIAL: {
            return exponential(x);
        }
        case EXPONENTIAL_LESS_ONE: {
            return exponential_less_one(x);
        }
        case ERROR_FUNCTION: {
            return error_function(x);
        }
        case SINE: {
            return sine_cosine(x).x;
        }
        case COSINE: {
            return sine_cosine(x).y;
        }
        default: {
            return x;
        }
    }
}

// y = f(x).
@compute @workgroup_size(LANES)
fn one(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.count {
        y[i] = of_one(x[i]);
    }
}

// y = x z or x + z.
@compute @workgroup_size(LANES)
fn two(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = place(group, groups, LANES, lane);
    if i < settings.count {
        y[i] = select(x[i] + z[i], x[i] * z[i], settings.function == MULTIPLY);
    }
}
