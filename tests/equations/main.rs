//! The equations of parts that only some families have, each on a pair made by hand: an expansion
//! of a plain model, to which the part is added in both models alike. Right pairs are proven and
//! their outputs agree; wrong ones are not proven and their outputs differ.

mod attention;
mod bare;
mod branch;
mod embedding;
mod experts;
mod families;
mod head_norms;
mod imbalance;
mod norms;
mod outputs;
mod pair;
