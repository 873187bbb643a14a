// Elementary functions in f32, prepended to the kernels that need them.
//
// WGSL lets the built-in exp, tanh, sin and cos be coarser than a model can bear (its sine may be
// 2^-11 off, its tanh is made of exponentials that cancel), and has no erf. These are as good on
// every device, since they are made of sums, products and one division:
//
// | function | largest error seen | over |
// | --- | --- | --- |
// | exponential | 1.3 ulp | -110 to 88.7 |
// | exponential_less_one | 1.5 ulp | 1e-30 to 87.9 |
// | hyperbolic_tangent | 2.4 ulp | 1e-30 to 12, of both signs |
// | error_function | 1.1 ulp | 1e-30 to 6, of both signs |
// | sine_cosine | 1.1 ulp of 1 | -800 000 to 800 000 |
//
// tests/functions.rs measures them on the device, against f64; these are the figures of llvmpipe,
// whose division is exact. A division may be 2.5 ulp off, which tanh then is too.
//
// WGSL allows a product and a sum to be fused, and terms to be regrouped where that is no less
// accurate. Nothing here breaks by it: where a subtraction has to be exact (the reductions of the
// arguments), the constants have so few bits that their products are exact, so that fusing them
// changes nothing. Rounding to whole numbers is the built-in round, no addition of a large number.

// ln 2 in two parts: the first has 9 bits, so that its product with a whole number below 2^15 is
// exact.
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.12194440e-4;
// pi/2 in three parts: the first two have 8 and 11 bits.
const HALF_PI_HIGH = 1.5703125;
const HALF_PI_MIDDLE = 4.837512969970703125e-4;
const HALF_PI_LOW = 7.54978995489188216e-8;

// 2^n, for n from -126 to 127: n as the bits of an exponent.
fn power_of_two(n: i32) -> f32 {
    return bitcast<f32>(u32(n + 127) << 23u);
}

// x = n ln 2 + r with |r| below 0.35: n and r.
fn halvings(x: f32) -> vec2f {
    let n = round(x * 1.442695041);
    return vec2f(n, (x - n * LN2_HIGH) - n * LN2_LOW);
}

// e^r - 1 for |r| below 0.35, by a polynomial of degree 7 (that of Cephes).
fn small_exponential_less_one(r: f32) -> f32 {
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    return p * (r * r) + r;
}

// e^x; the largest number where it is larger, 0 (or, by steps, numbers below the smallest normal
// one) where it is smaller.
fn exponential(x: f32) -> f32 {
    let reduced = halvings(clamp(x, -110.0, 88.72283));
    let n = i32(reduced.x);
    // In two steps: 2^128 is no number, while the product may be one.
    let first = n / 2;
    let y = (1.0 + small_exponential_less_one(reduced.y)) * power_of_two(first);
    return y * power_of_two(n - first);
}

// e^x - 1 for x from 0 to 88, accurate also where x is small.
fn exponential_less_one(x: f32) -> f32 {
    let reduced = halvings(x);
    let scale = power_of_two(i32(reduced.x));
    return scale * small_exponential_less_one(reduced.y) + (scale - 1.0);
}

// tanh |x| = (e^2|x| - 1)/(e^2|x| + 1); it is 1 in f32 from 10 on.
fn hyperbolic_tangent(x: f32) -> f32 {
    let e = exponential_less_one(2.0 * min(abs(x), 10.0));
    let y = e / (e + 2.0);
    return select(y, -y, x < 0.0);
}

// erf x: a polynomial near zero, else 1 - e^p(|x|) (the fits are Norbert Juffa's).
fn error_function(x: f32) -> f32 {
    let t = abs(x);
    let s = x * x;
    if t <= 0.927734375 {
        var p = -5.96761703e-4;
        p = p * s + 4.99119423e-3;
        p = p * s - 2.67681349e-2;
        p = p * s + 1.12819925e-1;
        p = p * s - 3.76125336e-1;
        p = p * s + 1.28379166e-1;
        return p * x + x;
    }
    // It is 1 in f32 from 4 on; the polynomial is good until there.
    let u = min(t, 4.0);
    var p = -1.72853470e-5 * u + 3.83197126e-4;
    p = p * (u * u) + (-3.88396438e-3 * u + 2.42546219e-2);
    p = p * u - 1.06777877e-1;
    p = p * u - 6.34846687e-1;
    p = p * u - 1.28717512e-1;
    let y = 1.0 - exponential(p * u - u);
    return select(y, -y, x < 0.0);
}

// sin x and cos x, for |x| below 800 000.
fn sine_cosine(x: f32) -> vec2f {
    // x = n pi/2 + r. n is split too, so that its products with the parts of pi/2 are exact.
    let n = round(x * 0.6366197724);
    let high = trunc(n / 256.0) * 256.0;
    let low = n - high;
    var r = (x - high * HALF_PI_HIGH) - low * HALF_PI_HIGH;
    r = (r - high * HALF_PI_MIDDLE) - low * HALF_PI_MIDDLE;
    r = r - n * HALF_PI_LOW;
    // Polynomials for |r| below pi/4 (those of Cephes).
    let z = r * r;
    let sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    var cosine = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2;
    cosine = cosine * z * z - 0.5 * z + 1.0;
    let quadrant = i32(n) & 3;
    let swapped = select(vec2f(sine, cosine), vec2f(cosine, sine), (quadrant & 1) == 1);
    let signs = vec2f(select(1.0, -1.0, quadrant >= 2),
        select(1.0, -1.0, quadrant == 1 || quadrant == 2));
    return swapped * signs;
}
