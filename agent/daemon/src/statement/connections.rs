//! What a side checked of the provider's connection record, in words.

use ipsx_metering::{CheckResult, ConnectionsChecked};

/// One clause for people.
pub(super) fn in_words(checked: Option<&ConnectionsChecked>) -> String {
    let Some(ConnectionsChecked {
        result,
        records,
        own,
        ..
    }) = checked
    else {
        return "not checked by this side".into();
    };
    match result {
        CheckResult::Checked => format!(
            "{records} records checked before they were signed for; this side had an answer on {own} connections"
        ),
        CheckResult::NoRecord => "the provider keeps none".into(),
        CheckResult::TooMany => format!(
            "{records} records checked before they were signed for, the later ones not: more connections than can be shown in time"
        ),
        CheckResult::Wrong => {
            format!("wrong, and not signed for; the {records} records before were right")
        }
    }
}
