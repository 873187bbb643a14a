//! Other implementations against the reference.

use lemon_check::backend::Backend;
use lemon_check::backend::reference::Reference;
use lemon_check::backend::suite::{Plan, Verdict, run};
use lemon_check::checkpoint::Dtype;

#[test]
fn our_own_f32_path_conforms() {
    let mut backend = Reference::new();
    let plan = Plan { cases: 200, seed: 0, dtype: Dtype::F32 };
    let outcome = run(&mut backend, plan, |_| ()).unwrap();
    assert_eq!(outcome.verdict(), Verdict::Agrees);
    assert!(outcome.subjects.iter().all(|tally| tally.cases == plan.cases));
    assert_eq!(outcome.subjects.len(), backend.about().ops.len());
}
