//! Fields of a configuration, on the tensors of a model: where they describe a model, it runs or
//! says why not, and is never called different from itself.
#![no_main]

use lemon_check::certify::certify;
use lemon_check::forward::run_batch;
use lemon_check::model::describe;
use lemon_check::testing::{inputs, random::generator};
use lemon_check_fuzz::{Golden, fields};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((number, text)) = bytes.split_first() else { return };
    let Some(changes) = fields(text) else { return };
    let checkpoint = Golden::of(*number).with(&changes);
    let Ok(model) = describe(&checkpoint) else { return };
    let inputs = inputs::covering(&model, 4, &mut generator(0));
    let _ = run_batch::<f64>(&checkpoint, &model, &inputs);
    if let Ok(found) = certify((&checkpoint, &model), (&checkpoint, &model), &|_, _| ()) {
        assert!(found.failures.is_empty(), "{:?}", found.failures);
    }
});
