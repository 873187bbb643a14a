//! What goes into a model, checked against the model.

use crate::error::{Error, Result};
use crate::model::{Count, Input as Expected, Lens, Model, Op, Positions, TableIndex};
use ndarray::Array3;
use std::ops::Range;

/// One input of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// One sequence of tokens. All lists have one entry per position.
    Tokens {
        /// Token ids.
        ids: Vec<usize>,
        /// Which positions are there: false is padding, which no position attends to. All are
        /// where this is `None`.
        mask: Option<Vec<bool>>,
        /// Token type (segment) ids; 0 where this is `None`.
        types: Option<Vec<usize>>,
        /// Position ids, for the position table and for rotary angles; 0, 1, 2 … where this is
        /// `None`, whatever the mask says. What a causal model sees goes by the order in the
        /// list, not by position id.
        positions: Option<Vec<usize>>,
    },
    /// Two sequences of tokens, for an encoder–decoder.
    Pair {
        /// What the encoder reads: token ids.
        ids: Vec<usize>,
        /// Which of them are there, as in [`Input::Tokens`]; cross-attention heeds it too.
        mask: Option<Vec<bool>>,
        /// What the decoder reads: token ids.
        decoder_ids: Vec<usize>,
        /// Which of those are there.
        decoder_mask: Option<Vec<bool>>,
    },
    /// One image.
    Image {
        /// `[channels, height, width]`, normalised as the model expects it.
        pixels: Array3<f64>,
    },
}

impl Input {
    /// A sequence without padding, of token type 0, at positions 0, 1, 2 …
    pub fn tokens(ids: impl Into<Vec<usize>>) -> Self {
        Input::Tokens { ids: ids.into(), mask: None, types: None, positions: None }
    }

    /// Two sequences without padding: of the encoder, of the decoder.
    pub fn pair(ids: impl Into<Vec<usize>>, decoder_ids: impl Into<Vec<usize>>) -> Self {
        let (ids, decoder_ids) = (ids.into(), decoder_ids.into());
        Input::Pair { ids, mask: None, decoder_ids, decoder_mask: None }
    }

    /// Checks the input against what `model` reads.
    ///
    /// # Errors
    /// - tokens for an image model, or an image for a language model
    /// - one sequence for an encoder–decoder, or two for another model
    /// - positions for a model with relative positions alone
    /// - no token, or more than the position table has rows
    /// - an id, a token type or a position outside its table
    /// - a mask, types or positions of another length than the ids; a mask that hides every token
    /// - an image of another shape, or with a pixel that is not finite
    pub fn check(&self, model: &Model) -> Result<()> {
        match (self, model.embedding.input) {
            (Input::Tokens { .. }, Expected::Tokens { .. }) if model.encoder.is_some() => {
                let problem = format!("got one sequence, but a {} reads two", model.family.name);
                Err(Error::bad_input(problem).help("give ids for the encoder and the decoder"))
            }
            (Input::Tokens { .. }, Expected::Tokens { .. }) => self.check_tokens(model),
            (Input::Pair { .. }, Expected::Tokens { .. }) if model.encoder.is_some() => {
                let [encoder, decoder] = self.halves();
                encoder.check_tokens(model).map_err(|e| e.field("input_ids"))?;
                decoder.check_tokens(model).map_err(|e| e.field("decoder_input_ids"))
            }
            (Input::Pair { .. }, _) => {
                let problem =
                    format!("got two sequences, but a {} has no decoder", model.family.name);
                Err(Error::bad_input(problem).help("give one input, without decoder ids"))
            }
            (Input::Image { pixels }, Expected::Image { channels, height, width, .. }) => {
                check_image(pixels, [channels, height, width])
            }
            (Input::Tokens { .. }, Expected::Image { channels, height, width, .. }) => {
                Err(Error::bad_input(format!(
                    "got token ids, but a {} reads images",
                    model.family.name
                ))
                .help(format!("give pixels of shape [{channels}, {height}, {width}]")))
            }
            (Input::Image { .. }, Expected::Tokens { .. }) => Err(Error::bad_input(format!(
                "got an image, but a {} reads tokens",
                model.family.name
            ))
            .help("give token ids")),
        }
    }

    /// What the encoder and what the decoder reads; the same input twice where there are not two.
    fn halves(&self) -> [Input; 2] {
        let Input::Pair { ids, mask, decoder_ids, decoder_mask } = self else {
            return [self.clone(), self.clone()];
        };
        let half = |ids: &Vec<usize>, mask: &Option<Vec<bool>>| Input::Tokens {
            ids: ids.clone(),
            mask: mask.clone(),
            types: None,
            positions: None,
        };
        [half(ids, mask), half(decoder_ids, decoder_mask)]
    }

    fn check_tokens(&self, model: &Model) -> Result<()> {
        let (
            Input::Tokens { ids, mask, types, positions },
            Expected::Tokens { vocabulary, positions: longest, types: kinds },
        ) = (self, model.embedding.input)
        else {
            return Ok(());
        };
        if ids.is_empty() {
            return Err(Error::bad_input("the input has no token").help("give at least one id"));
        }
        check_below("token id", ids, vocabulary, "the vocabulary", ids.len())?;
        if let Some(types) = types {
            if kinds == 0 {
                let problem = format!("got token types, but a {} has none", model.family.name);
                return Err(Error::bad_input(problem).help("leave the token types out"));
            }
            check_below("token type", types, kinds, "the token type table", ids.len())?;
        }
        match (positions, longest) {
            (Some(_), None) if has_relative_positions(model) => {
                let problem = format!("got position ids, but a {} has none", model.family.name);
                return Err(Error::bad_input(problem).help("leave the position ids out"));
            }
            (Some(positions), Some(rows)) => {
                check_below("position", positions, rows, "the position table", ids.len())?;
            }
            (Some(positions), None) => {
                let (rows, range) = (ROTARY_POSITIONS, "the range of exact rotary positions");
                check_below("position", positions, rows, range, ids.len())?;
            }
            (None, Some(rows)) if ids.len() > rows => {
                let count = ids.len();
                let problem = format!("{count} tokens are more than the {rows} positions it has");
                return Err(Error::bad_input(problem).help(format!("give at most {rows} tokens")));
            }
            (None, _) => {}
        }
        match mask {
            Some(mask) if mask.len() != ids.len() => Err(length("mask", mask.len(), ids.len())),
            Some(mask) if !mask.contains(&true) => {
                Err(Error::bad_input("the mask hides every token")
                    .help("keep at least one token (1 keeps, 0 hides)"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether positions count by the distance between them in the list.
fn has_relative_positions(model: &Model) -> bool {
    let mut branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    branches.any(|branch| matches!(&branch.op, Op::Attention(a) if a.relative.is_some()))
}

/// Rotary angles are computed from a position as a floating-point number: so many are exact in f32.
const ROTARY_POSITIONS: usize = 1 << 24;

fn length(what: &str, got: usize, expected: usize) -> Error {
    Error::bad_input(format!("the {what} has {got} entries for {expected} tokens"))
        .help(format!("give the {what} one entry per token"))
}

/// Checks that there are `count` numbers, all below `rows`.
fn check_below(
    what: &str,
    numbers: &[usize],
    rows: usize,
    table: &str,
    count: usize,
) -> Result<()> {
    if numbers.len() != count {
        return Err(length(&format!("list of {what}s"), numbers.len(), count));
    }
    let Some((place, number)) = numbers.iter().enumerate().find(|(_, n)| **n >= rows) else {
        return Ok(());
    };
    let problem =
        format!("{what} {number} (of token {place}) is outside {table}, which has {rows}");
    Err(Error::bad_input(problem).help(format!("{what}s are 0 to {}", rows - 1)))
}

fn check_image(pixels: &Array3<f64>, shape: [usize; 3]) -> Result<()> {
    if pixels.shape() != shape {
        let problem = format!("the image has shape {:?}, the model {shape:?}", pixels.shape());
        return Err(Error::bad_input(problem)
            .help("give pixels as [channels, height, width] in the model's own size"));
    }
    let Some(((channel, row, column), value)) =
        pixels.indexed_iter().find(|(_, value)| !value.is_finite())
    else {
        return Ok(());
    };
    let problem = format!("pixel [{channel}, {row}, {column}] is {value}");
    Err(Error::bad_input(problem).help("pixels must be finite numbers"))
}

/// An image to be cut into squares of `side` pixels.
pub(super) struct Image<'a> {
    /// `[channels, height, width]`.
    pub pixels: &'a Array3<f64>,
    /// Pixels.
    pub side: usize,
}

/// Checked inputs, stacked: every position of every input is one row.
#[derive(Default)]
pub(super) struct Batch<'a> {
    /// The rows of each input.
    pub sequences: Vec<Range<usize>>,
    /// Row of the token table, `[rows]`; 0 for images.
    pub ids: Vec<usize>,
    /// Position id, `[rows]`; for images 0 is the class token.
    pub positions: Vec<usize>,
    /// Row of the position table, `[rows]`, where there is a table and a row.
    pub position_rows: Vec<Option<usize>>,
    /// Token type id, `[rows]`.
    pub types: Vec<usize>,
    /// Whether others may attend to it, `[rows]`.
    pub visible: Vec<bool>,
    /// The images, one per input of an image model.
    pub images: Vec<Image<'a>>,
}

impl<'a> Batch<'a> {
    /// Checks and stacks inputs; of an encoder–decoder, what the decoder reads.
    pub fn new(model: &Model, inputs: &'a [Input]) -> Result<Self> {
        let mut batch = Batch::default();
        for input in inputs {
            input.check(model)?;
            match input {
                Input::Image { pixels } => batch.push_image(model, pixels),
                Input::Tokens { .. } => batch.push_tokens(model, input),
                Input::Pair { .. } => batch.push_tokens(model, &input.halves()[1]),
            }
        }
        Ok(batch)
    }

    /// Stacks what the encoder reads of checked inputs.
    pub fn of_encoder(model: &Model, inputs: &[Input]) -> Self {
        let mut batch = Batch::default();
        for input in inputs {
            batch.push_tokens(model, &input.halves()[0]);
        }
        batch
    }

    fn push_tokens(&mut self, model: &Model, input: &Input) {
        let Input::Tokens { ids, mask, types, positions } = input else { return };
        let start = self.ids.len();
        let count = ids.len();
        self.ids.extend(ids);
        match positions {
            Some(positions) => self.positions.extend(positions),
            None => self.positions.extend(0..count),
        }
        match types {
            Some(types) => self.types.extend(types),
            None => self.types.resize(start + count, 0),
        }
        match mask {
            Some(mask) => self.visible.extend(mask),
            None => self.visible.resize(start + count, true),
        }
        self.number_positions(model, start..start + count, positions.is_some());
        self.sequences.push(start..start + count);
    }

    fn push_image(&mut self, model: &Model, pixels: &'a Array3<f64>) {
        let Expected::Image { height, width, patch, .. } = model.embedding.input else { return };
        let start = self.ids.len();
        let prefix: usize = model.embedding.prefix.iter().map(Lens::rows).sum();
        let count = prefix + (height / patch) * (width / patch);
        self.ids.resize(start + count, 0);
        self.positions.extend(0..count);
        self.types.resize(start + count, 0);
        self.visible.resize(start + count, true);
        self.images.push(Image { pixels, side: patch });
        self.number_positions(model, start..start + count, false);
        self.sequences.push(start..start + count);
    }

    /// Finds the rows of the position table. Positions that are `given` are counted already.
    fn number_positions(&mut self, model: &Model, rows: Range<usize>, given: bool) {
        let table = model.embedding.tables.iter().find_map(|table| match table.index {
            TableIndex::Position(positions) => Some(positions),
            _ => None,
        });
        let mut counted = 0;
        for row in rows.clone() {
            let Some(Positions { count, offset }) = table else {
                self.position_rows.push(None);
                continue;
            };
            let counts = match count {
                Count::All => true,
                Count::Visible => self.visible[row],
                Count::OtherThan(id) => self.ids[row] != id,
                Count::Behind(first) => row - rows.start >= first,
            };
            self.position_rows.push(match (given, counts, count) {
                (true, ..) => Some(self.positions[row] + offset),
                (false, true, _) => Some(counted + offset),
                (false, false, Count::Behind(_)) => None,
                (false, false, _) => Some(offset.saturating_sub(1)),
            });
            counted += usize::from(counts);
        }
    }
}
