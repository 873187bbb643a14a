//! Expansions by other people's methods, built here from their papers, matrix by matrix: those that
//! are lossless are proven so and told in words; those that are not are caught at their place.

mod axis;
mod bert2bert;
mod blocks;
mod composable;
mod grow;
mod hypercloning;
mod judge;
mod net2net;
mod permutation;
mod report;
