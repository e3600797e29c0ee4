#![allow(clippy::unwrap_used)]
use super::*;

/// The table of the module's documentation, once more, as data: providers down, requesters across.
const TABLE: [[&str; 7]; 7] = [
    // requested   accepted    funded             connected          ended              failed             silent
    [
        "proposed", "proposed", "proposed", "proposed", "aborted", "aborted", "expired",
    ], // offered
    [
        "proposed", "proposed", "agreed", "agreed", "ended", "aborted", "expired",
    ], // accepted
    [
        "proposed",
        "proposed",
        "agreed",
        "agreed",
        "ended",
        "requester_failed",
        "no_show",
    ], // ready
    [
        "proposed",
        "proposed",
        "active",
        "active",
        "ended",
        "requester_failed",
        "requester_failed",
    ], // serving
    [
        "aborted",
        "aborted",
        "no_show",
        "ended",
        "ended",
        "requester_failed",
        "no_show",
    ], // ended
    [
        "aborted",
        "aborted",
        "provider_failed",
        "provider_failed",
        "provider_failed",
        "provider_failed",
        "provider_failed",
    ], // failed
    [
        "expired",
        "expired",
        "provider_failed",
        "provider_failed",
        "ended",
        "requester_failed",
        "expired",
    ], // silent
];

#[test]
fn every_cell_is_as_written() {
    for (provider, row) in ProviderStatus::ALL.into_iter().zip(TABLE) {
        for (requester, cell) in RequesterStatus::ALL.into_iter().zip(row) {
            let found = deal_status(provider, requester);
            assert_eq!(found.as_str(), cell, "{provider:?} {requester:?}");
            let encoded = rmp_serde::to_vec(&found).unwrap();
            assert_eq!(rmp_serde::from_slice::<String>(&encoded).unwrap(), cell);
        }
    }
}

#[test]
fn the_documentation_shows_the_same_table() {
    let text = include_str!("status.rs");
    let names = [
        "offered", "accepted", "ready", "serving", "ended", "failed", "silent",
    ];
    for (name, row) in names.into_iter().zip(TABLE) {
        let line = format!("//! | {name} | {} |", row.join(" | "));
        assert!(text.contains(&line), "{line}");
    }
}

/// Where each side may go, as data.
#[test]
fn sides_only_move_forward() {
    use ProviderStatus as P;
    use RequesterStatus as R;
    let provider: [(P, &[P]); 7] = [
        (P::Offered, &[P::Accepted, P::Failed, P::Silent]),
        (P::Accepted, &[P::Ready, P::Ended, P::Failed, P::Silent]),
        (P::Ready, &[P::Serving, P::Ended, P::Failed, P::Silent]),
        (P::Serving, &[P::Ended, P::Failed, P::Silent]),
        (P::Ended, &[]),
        (P::Failed, &[]),
        (P::Silent, &[P::Ended, P::Failed]),
    ];
    for (from, allowed) in provider {
        for to in P::ALL {
            assert_eq!(
                from.may_become(to),
                allowed.contains(&to),
                "{from:?} {to:?}"
            );
        }
    }
    let requester: [(R, &[R]); 7] = [
        (R::Requested, &[R::Accepted, R::Failed, R::Silent]),
        (R::Accepted, &[R::Funded, R::Failed]),
        (R::Funded, &[R::Connected, R::Ended, R::Silent]),
        (R::Connected, &[R::Ended, R::Failed, R::Silent]),
        (R::Ended, &[]),
        (R::Failed, &[]),
        (R::Silent, &[]),
    ];
    for (from, allowed) in requester {
        for to in R::ALL {
            assert_eq!(
                from.may_become(to),
                allowed.contains(&to),
                "{from:?} {to:?}"
            );
        }
    }
}

fn clock() -> DealClock {
    DealClock {
        proposed_at: UnixSeconds(1_000),
        sign_by: UnixSeconds(1_020),
        start_by: UnixSeconds(1_060),
        seconds: 100,
        ready_at: None,
        away_since: None,
        over_at: None,
    }
}

#[test]
fn each_silence_has_its_limit() {
    use ProviderStatus as P;
    use RequesterStatus as R;
    use Side::{Provider, Requester};
    let ready = DealClock {
        ready_at: Some(UnixSeconds(1_030)),
        ..clock()
    };
    let away = DealClock {
        away_since: Some(UnixSeconds(1_025)),
        ..ready
    };
    let over = DealClock {
        over_at: Some(UnixSeconds(1_100)),
        ..ready
    };
    let limit = |clock, p, r| silence_deadline(&DealTimers::default(), &clock, p, r);
    let cases = [
        (clock(), P::Offered, R::Requested, Some((1_005, Provider))),
        (clock(), P::Accepted, R::Requested, Some((1_020, Requester))),
        (clock(), P::Accepted, R::Accepted, Some((1_060, Provider))),
        (clock(), P::Accepted, R::Funded, Some((1_060, Provider))),
        (ready, P::Ready, R::Funded, Some((1_060, Requester))),
        (away, P::Ready, R::Funded, Some((1_055, Provider))),
        (ready, P::Ready, R::Connected, Some((1_730, Provider))),
        (ready, P::Serving, R::Connected, Some((1_730, Provider))),
        (away, P::Serving, R::Connected, Some((1_055, Provider))),
        (over, P::Serving, R::Ended, Some((1_160, Provider))),
        (over, P::Ready, R::Silent, Some((1_160, Provider))),
        (over, P::Ended, R::Connected, None),
        (over, P::Accepted, R::Silent, None),
        (over, P::Accepted, R::Failed, None),
    ];
    for (clock, p, r, expected) in cases {
        let expected = expected.map(|(at, side)| (UnixSeconds(at), side));
        assert_eq!(limit(clock, p, r), expected, "{p:?} {r:?}");
    }
}

/// No state that can be reached waits for ever, and none that is over begins again.
#[test]
fn every_unfinished_deal_has_a_deadline() {
    for provider in ProviderStatus::ALL {
        for requester in RequesterStatus::ALL {
            if !deal_status(provider, requester).is_over() && !provider.is_final() {
                let due = silence_deadline(&DealTimers::default(), &clock(), provider, requester);
                assert!(due.is_some(), "{provider:?} {requester:?}");
            }
        }
    }
}
