//! The rules of expansion, by name.

use crate::asked::Asked;
use crate::device::{Array, Grid, settings};
use crate::failure::{Failure, Result, error};
use crate::kernels::numbers;
use crate::tensors::{Output, Outputs};

/// What can be asked for.
pub const NAMES: [&str; 12] = [
    "rule_linear",
    "rule_cancelling",
    "rule_opposite",
    "rule_vector",
    "rule_rows",
    "rule_columns",
    "rule_norm",
    "rule_norms_in_a_row",
    "rule_layer_scale",
    "rule_tied_growth",
    "rule_copy_heads",
    "rule_rotary_channels",
];

/// Computes the rule of this name.
///
/// # Errors
/// If there is none, or it cannot be computed of what is given.
pub fn answer(asked: &Asked, rule: &str) -> Result<Outputs> {
    match rule {
        "rule_linear" => {
            let share = match asked.word("share")? {
                "equal" => Share::Equal,
                "first" => Share::First,
                "last" => Share::Last,
                other => return Err(Failure::Unsupported(format!("the share `{other}`"))),
            };
            one(between(asked, share))
        }
        "rule_cancelling" => one(between(asked, Share::Equal)),
        "rule_opposite" => one(between(asked, Share::Opposite)),
        "rule_vector" => one(vector(asked)),
        "rule_rows" => one(rows(asked)),
        "rule_columns" => one(columns(asked)),
        "rule_norm" => norm(asked),
        "rule_norms_in_a_row" => norms_in_a_row(asked),
        "rule_layer_scale" => layer_scale(asked),
        "rule_tied_growth" => one(tied_growth(asked)),
        "rule_copy_heads" => copy_heads(asked),
        "rule_rotary_channels" => rotary_channels(asked),
        other => Err(Failure::Unsupported(format!("the rule `{other}`"))),
    }
}

fn one(y: Result<Array>) -> Result<Outputs> {
    Ok(vec![named("y", y?)])
}

fn named(name: &str, array: Array) -> (String, Output) {
    (name.to_string(), Output::Numbers(array))
}

fn whole(name: &str, array: Array) -> (String, Output) {
    (name.to_string(), Output::Integers(array))
}

/// A map that was given.
struct Map {
    /// What each expanded coordinate copies: −1 for the mean, −2 for zero.
    entries: Array,
    source: usize,
    scale: f32,
}

impl Map {
    fn of(asked: &Asked, name: &str) -> Result<Map> {
        let source = asked.count(&format!("{name}_sources"))?;
        let range = (-2, source as i64 - 1);
        let entries = asked.integers(&format!("{name}_entries"), None, range)?;
        Ok(Map { entries, source, scale: asked.number(&format!("{name}_scale"))? })
    }

    fn expanded(&self) -> usize {
        self.entries.count()
    }

    /// E x for x `[source, others]`; or x Eᵀ for x `[others, source]`.
    fn apply(&self, asked: &Asked, x: &Array, to_columns: bool) -> Result<Array> {
        let (source, expanded) = (self.source, self.expanded());
        let others = if to_columns { x.rows() } else { x.columns() };
        let (shape, steps) = match to_columns {
            true => ([others, expanded], [1, source, 1, expanded]),
            false => ([expanded, others], [others, 1, others, 1]),
        };
        let [x_step, x_other, y_step, y_other] = steps;
        let settings = settings![
            expanded, source, others, x_step, x_other, y_step, y_other, self.scale, 0.0f32,
        ];
        let nothing = asked.device.nothing();
        let inputs = [&self.entries, x, nothing];
        numbers(asked.device, ("rule_maps", "matrix"), settings, &inputs, &shape)
    }
}

fn rows(asked: &Asked) -> Result<Array> {
    let (map, matrix) = (Map::of(asked, "map")?, asked.matrix("matrix")?);
    check("matrix", matrix.rows(), map.source)?;
    map.apply(asked, &matrix, false)
}

fn columns(asked: &Asked) -> Result<Array> {
    let (map, matrix) = (Map::of(asked, "map")?, asked.matrix("matrix")?);
    check("matrix", matrix.columns(), map.source)?;
    map.apply(asked, &matrix, true)
}

fn check(name: &str, found: usize, source: usize) -> Result<()> {
    match found == source {
        true => Ok(()),
        false => Err(error(format!("`{name}` has {found} coordinates where the map has {source}"))),
    }
}

fn vector(asked: &Asked) -> Result<Array> {
    let map = Map::of(asked, "map")?;
    let stored = asked.numbers("stored", &[map.source])?;
    let residue = asked.numbers("residue", &[map.expanded()])?;
    let none = 0usize;
    let settings = settings![
        map.expanded(),
        map.source,
        none,
        none,
        none,
        none,
        none,
        map.scale,
        asked.number("offset")?,
    ];
    let inputs = [&map.entries, &stored, &residue];
    numbers(asked.device, ("rule_maps", "vector"), settings, &inputs, &[map.expanded()])
}

/// How copies share a column, in the order of `rule_linear.wgsl`.
#[derive(Clone, Copy)]
enum Share {
    Equal,
    First,
    Last,
    Opposite,
}

fn between(asked: &Asked, share: Share) -> Result<Array> {
    let device = asked.device;
    let (to, from) = (Map::of(asked, "rows")?, Map::of(asked, "columns")?);
    let shape = [to.expanded(), from.expanded()];
    let weight = asked.maybe("weight", &[to.source, from.source])?;
    let initial = asked.maybe("initial", &shape)?;
    if weight.is_none() && initial.is_none() {
        return Err(error("there is neither `weight` nor `initial`"));
    }
    let written = weight.as_ref().map(|weight| to.apply(asked, weight, false)).transpose()?;
    let nothing = device.nothing();
    let settings = settings![
        shape[0],
        shape[1],
        from.source,
        share as usize,
        from.scale,
        written.is_some(),
        initial.is_some(),
    ];
    let run = |entry, inputs: &[&Array], shape: &[usize]| {
        numbers(device, ("rule_linear", entry), settings, inputs, shape)
    };
    let shares = run("shares", &[&from.entries], &[shape[1]])?;
    let gathered = initial
        .as_ref()
        .map(|initial| run("gathered", &[&from.entries, initial], &[shape[0], from.source]));
    let gathered = gathered.transpose()?;
    let [initial, written, gathered] =
        [&initial, &written, &gathered].map(|array| array.as_ref().unwrap_or(nothing));
    let inputs = [&from.entries, initial, &to.entries, written, gathered, &shares];
    run("between", &inputs, &shape)
}

/// Settings of `rule_norm.wgsl`.
#[derive(Default)]
struct NormSettings {
    expanded: usize,
    source: usize,
    read_scale: f32,
    write_scale: f32,
    offset: f32,
    eps: f32,
    count: usize,
}

/// What the kernels of `rule_norm.wgsl` read; those that read less leave the rest out.
struct NormKernels<'a, 'b> {
    asked: &'a Asked<'b>,
    settings: NormSettings,
    x: Array,
    residue: Array,
    entries: Array,
    read_entries: Array,
}

impl<'a, 'b> NormKernels<'a, 'b> {
    fn new(asked: &'a Asked<'b>, settings: NormSettings) -> Result<Self> {
        let nothing = asked.device.nothing();
        let [x, residue, entries, read_entries] = [(); 4].map(|()| nothing.clone());
        Ok(NormKernels { asked, settings, x, residue, entries, read_entries })
    }

    fn run(&self, entry: &'static str, grid: Grid, shape: &[usize]) -> Result<Array> {
        let s = &self.settings;
        let settings =
            settings![s.expanded, s.source, s.read_scale, s.write_scale, s.offset, s.eps, s.count];
        let inputs = [&self.x, &self.residue, &self.entries, &self.read_entries];
        self.asked.device.run(("rule_norm", entry), grid, settings, &inputs, shape)
    }

    /// Numbers of `shape`, each by one invocation.
    fn numbers(&self, entry: &'static str, shape: &[usize]) -> Result<Array> {
        self.run(entry, Grid::Numbers(shape.iter().product()), shape)
    }

    /// One number, by one workgroup.
    fn one(&self, entry: &'static str) -> Result<Array> {
        self.run(entry, Grid::Rows(1), &[1])
    }
}

fn norm(asked: &Asked) -> Result<Outputs> {
    let source = asked.tensors.shape("weight")?.first().copied().unwrap_or(0);
    let expanded = asked.count("expanded")?;
    if source == 0 {
        return Err(error("`weight` is empty"));
    }
    let settings = NormSettings {
        expanded,
        source,
        read_scale: asked.number("read_scale")?,
        write_scale: asked.number("write_scale")?,
        offset: asked.number("offset")?,
        ..NormSettings::default()
    };
    let mut kernels = NormKernels::new(asked, settings)?;
    kernels.x = asked.numbers("weight", &[source])?;
    kernels.residue = asked.numbers("residue", &[expanded])?;
    let weight = kernels.numbers("norm_weight", &[expanded])?;
    kernels.x = asked.numbers("bias", &[source])?;
    let bias = kernels.numbers("norm_bias", &[expanded])?;
    let eps_factor = kernels.one("norm_eps_factor")?;
    Ok(vec![named("weight", weight), named("bias", bias), named("eps_factor", eps_factor)])
}

fn norms_in_a_row(asked: &Asked) -> Result<Outputs> {
    let (eps, count) = (asked.number("eps")?, asked.count("count")?);
    let settings = NormSettings { eps, count, ..NormSettings::default() };
    let kernels = NormKernels::new(asked, settings)?;
    Ok(vec![named("gain", kernels.one("row_gain")?), named("eps", kernels.one("row_eps")?)])
}

fn layer_scale(asked: &Asked) -> Result<Outputs> {
    let stream = Map::of(asked, "stream")?;
    let (expanded, source) = (stream.expanded(), stream.source);
    let settings =
        NormSettings { expanded, source, write_scale: stream.scale, ..NormSettings::default() };
    let mut kernels = NormKernels::new(asked, settings)?;
    kernels.x = asked.numbers("gains", &[source])?;
    kernels.entries = stream.entries;
    kernels.residue = kernels.one("layer_scale_rest")?;
    let factors = kernels.numbers("layer_scale_factors", &[expanded])?;
    let write = kernels.numbers("layer_scale_write", &[expanded, source])?;
    Ok(vec![named("factors", factors), named("write", write)])
}

fn tied_growth(asked: &Asked) -> Result<Array> {
    let (table, read) = (Map::of(asked, "table")?, Map::of(asked, "read")?);
    if table.expanded() != read.expanded() {
        return Err(error("the maps `table` and `read` differ in their sizes"));
    }
    let settings = NormSettings {
        expanded: table.expanded(),
        read_scale: read.scale,
        write_scale: table.scale,
        ..NormSettings::default()
    };
    let mut kernels = NormKernels::new(asked, settings)?;
    (kernels.entries, kernels.read_entries) = (table.entries, read.entries);
    kernels.one("tied_growth")
}

fn copy_heads(asked: &Asked) -> Result<Outputs> {
    let count = |name| asked.count(name);
    let (source, source_kv) = (count("source_heads")?, count("source_kv_heads")?);
    let (heads, kv_heads) = (count("heads")?, count("kv_heads")?);
    if source % source_kv != 0 || heads % kv_heads != 0 {
        return Err(error("key/value heads do not divide query heads"));
    }
    let nothing = asked.device.nothing();
    let run = |entry, count: usize| {
        let none = 0usize;
        let settings =
            settings![count, source_kv, source / source_kv, heads / kv_heads, none, none, none];
        let inputs = [nothing, nothing];
        numbers(asked.device, ("rule_heads", entry), settings, &inputs, &[count])
    };
    let (query, key_value) = (run("query_heads", heads)?, run("key_value_heads", kv_heads)?);
    Ok(vec![whole("query", query), whole("key_value", key_value)])
}

fn rotary_channels(asked: &Asked) -> Result<Outputs> {
    let pairs = |name| Ok(asked.tensors.shape(name)?.iter().product());
    let (source_pairs, expanded_pairs): (usize, usize) = (pairs("source")?, pairs("expanded")?);
    let source = asked.numbers("source", &[source_pairs])?;
    let expanded = asked.numbers("expanded", &[expanded_pairs])?;
    let (source_dim, expanded_dim) = (asked.count("source_dim")?, asked.count("expanded_dim")?);
    let none = 0usize;
    let settings =
        settings![expanded_dim, none, none, none, source_pairs, expanded_pairs, source_dim];
    let inputs = [&source, &expanded];
    let kernel = ("rule_heads", "rotary_channels");
    let entries = numbers(asked.device, kernel, settings, &inputs, &[expanded_dim])?;
    Ok(vec![whole("entries", entries)])
}
