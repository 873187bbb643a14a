//! The rules by which findings become a verdict.

use super::sample::Resolution;
use crate::certify::{Certificate, Failure, Reach};
use serde::Serialize;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every equation holds and every tensor took part: equal for every input.
    Lossless,
    /// An equation fails, and there is evidence that the function differs.
    NotLossless,
    /// Something is not implemented, or an equation fails and no input shows a difference.
    Undecided,
}

/// How exactly the equations hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Every residual is zero.
    Exact,
    /// Every residual is explained by the rounding of the stored weights.
    ToStorageRounding,
    /// Not lossless, but all equations hold except those of ε: the models differ only where a
    /// variance is so small that ε counts.
    EpsLimited,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// All equations hold: a proof.
    Proof,
    /// Inputs on which the outputs differ by more than the rounding of the weights explains.
    Witness,
    /// An equation fails by so little that no forward pass on stored weights could show it.
    Equation,
}

/// A verdict with its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub verdict: Verdict,
    pub detail: Option<Detail>,
    pub evidence: Option<Evidence>,
}

/// Outputs whose rounding could hide a change of this share of their spread agree with those of any
/// model. If there are no others, that no input shows a difference does not say that the maps are
/// right, and rows that rounding has drowned, whose copies nobody can tell, may be all that fails.
const TELLING: f64 = 0.5;

/// Decides.
///
/// `resolution` says which errors of the outputs a forward pass can tell from rounding; `None`
/// where no output could be compared, and then a failure that is not an ε stays undecided.
pub(super) fn decide(
    certificate: &Certificate,
    witness: bool,
    resolution: Option<Resolution>,
) -> Decision {
    let detail = certificate.only_epsilon_fails().then_some(Detail::EpsLimited);
    let not_lossless =
        |evidence| Decision { verdict: Verdict::NotLossless, detail, evidence: Some(evidence) };
    if witness {
        return not_lossless(Evidence::Witness);
    }
    if certificate.proves_lossless() {
        let detail = if certificate.exact { Detail::Exact } else { Detail::ToStorageRounding };
        return Decision {
            verdict: Verdict::Lossless,
            detail: Some(detail),
            evidence: Some(Evidence::Proof),
        };
    }
    // All of them: one that should show and does not means that the maps are not what the equations
    // take them for, and then the others say nothing either.
    let invisible = |failure: &Failure| {
        let below = |r: Resolution| r.finest < TELLING && failure.relative < r.coarsest;
        !failure.doubtful && (failure.reach == Reach::Epsilon || resolution.is_some_and(below))
    };
    let failures = &certificate.failures;
    if !failures.is_empty() && certificate.unknown.is_empty() && failures.iter().all(invisible) {
        return not_lossless(Evidence::Equation);
    }
    Decision { verdict: Verdict::Undecided, detail: None, evidence: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify::Unknown;

    fn holds() -> Certificate {
        Certificate { equations: 3, entries: 9, ..Default::default() }
    }

    fn fails(relative: f64, reach: Reach) -> Certificate {
        let failure = Failure {
            rule: "linear".into(),
            place: "layer 0 mlp".into(),
            tensor: "w".into(),
            source_tensor: "w".into(),
            index: vec![0],
            expected: 1.0,
            got: 2.0,
            units: 100.0,
            relative,
            wrong: 1,
            entries: 9,
            cause: None,
            doubtful: false,
            reach,
        };
        Certificate { failures: vec![failure], ..holds() }
    }

    #[test]
    fn equations_that_hold_prove_it() {
        let decision = decide(&holds(), false, None);
        assert_eq!(decision.verdict, Verdict::Lossless);
        assert_eq!(decision.detail, Some(Detail::ToStorageRounding));
        let exact = Certificate { exact: true, ..holds() };
        assert_eq!(decide(&exact, false, None).detail, Some(Detail::Exact));
    }

    #[test]
    fn no_equation_is_no_proof() {
        let decision = decide(&Certificate::default(), false, Resolution::of(1e-6));
        assert_eq!(decision.verdict, Verdict::Undecided);
    }

    #[test]
    fn one_unknown_leaves_it_undecided() {
        let unknown = Unknown { subject: "w".into(), reason: "strange".into() };
        let certificate = Certificate { unknown: vec![unknown], ..holds() };
        assert_eq!(decide(&certificate, false, Resolution::of(1e-6)).verdict, Verdict::Undecided);
        let decision = decide(&certificate, true, Resolution::of(1e-6));
        assert_eq!(decision.evidence, Some(Evidence::Witness));
    }

    #[test]
    fn a_failure_that_may_be_rounding_is_no_evidence() {
        for reach in [Reach::Any, Reach::Epsilon] {
            let mut certificate = fails(1e-9, reach);
            let verdict = |c: &Certificate| decide(c, false, Resolution::of(1e-6)).verdict;
            assert_eq!(verdict(&certificate), Verdict::NotLossless);
            certificate.failures[0].doubtful = true;
            assert_eq!(verdict(&certificate), Verdict::Undecided);
            assert_eq!(decide(&certificate, true, None).evidence, Some(Evidence::Witness));
        }
    }

    #[test]
    fn a_failure_that_should_show_and_does_not_is_undecided() {
        let decision = decide(&fails(0.1, Reach::Any), false, Resolution::of(1e-6));
        assert_eq!(decision.verdict, Verdict::Undecided);
    }

    #[test]
    fn a_failure_below_what_a_forward_pass_resolves_counts_by_its_equation() {
        let decision = decide(&fails(1e-8, Reach::Any), false, Resolution::of(1e-6));
        assert_eq!(decision.evidence, Some(Evidence::Equation));
        let decision = decide(&fails(0.9, Reach::Epsilon), false, None);
        assert_eq!(decision.evidence, Some(Evidence::Equation));
        assert_eq!(decision.detail, Some(Detail::EpsLimited));
    }

    #[test]
    fn outputs_that_rounding_moves_by_what_they_are_say_nothing_of_an_equation() {
        let evidence = |finest| {
            let resolution = Resolution { finest, coarsest: 7.0 };
            decide(&fails(0.3, Reach::Any), false, Some(resolution)).evidence
        };
        assert_eq!(evidence(0.4), Some(Evidence::Equation));
        assert_eq!((evidence(0.6), evidence(f64::INFINITY)), (None, None));
    }

    #[test]
    fn an_epsilon_beside_something_unknown_or_unseen_is_undecided() {
        let epsilon = fails(0.9, Reach::Epsilon);
        let unknown = Unknown { subject: "embedding".into(), reason: "no map".into() };
        let beside_unknown = Certificate { unknown: vec![unknown], ..epsilon.clone() };
        assert_eq!(
            decide(&beside_unknown, false, Resolution::of(1e-6)).verdict,
            Verdict::Undecided
        );
        let mut beside_unseen = fails(0.5, Reach::Any);
        beside_unseen.failures.extend(epsilon.failures);
        assert_eq!(decide(&beside_unseen, false, Resolution::of(1e-6)).verdict, Verdict::Undecided);
        assert_eq!(decide(&beside_unseen, true, Resolution::of(1e-6)).detail, None);
    }

    #[test]
    fn a_failure_with_a_witness_is_not_lossless() {
        let decision = decide(&fails(0.1, Reach::Any), true, Resolution::of(1e-6));
        assert_eq!(decision.verdict, Verdict::NotLossless);
        assert_eq!(decision.evidence, Some(Evidence::Witness));
    }
}
