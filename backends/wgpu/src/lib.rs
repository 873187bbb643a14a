//! A backend for `lemon-check crosscheck` whose arithmetic runs in WGSL kernels, on any Vulkan
//! device. The host parses requests, brings tensors to the device and reads results back.
//!
//! - [`protocol`]: requests and replies,
//! - [`tensors`]: safetensors files, number formats,
//! - [`device`]: the adapter, arrays in its memory, dispatches,
//! - [`kernels`]: the kernels of `kernels/*.wgsl` as functions of arrays,
//! - [`asked`]: what an operation reads, of the shapes that it must have,
//! - [`ops`], [`rules`], [`mod@forward`]: what can be asked for, composed of these.

pub mod asked;
pub mod device;
pub mod failure;
pub mod forward;
pub mod kernels;
pub mod ops;
pub mod protocol;
pub mod rules;
pub mod tensors;
