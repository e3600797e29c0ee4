//! Leases that a crash left open: ended here and at the broker by the next command.

use ipsx_market::messages::EndCause;

use super::requester::Requester;
use crate::clock::unix_now;
use crate::exit_code::Failure;
use crate::output::Output;
use crate::store::{Ended, LeaseRecord, Slot, Stage};

/// Ends every lease of this network whose process is gone, and tells the broker of those that it does not know.
pub async fn end_unfinished(
    requester: &Requester,
    data: &std::path::Path,
    output: &Output,
) -> Result<(), Failure> {
    for mut record in requester.store.leases()? {
        let here = record.network == requester.network.info.network
            && record.domain == requester.network.info.domain;
        if record.stage == Stage::Closed || !here {
            continue;
        }
        // A living process holds the slot until its lease is over.
        let Some(_slot) = Slot::try_take(data, record.slot)? else {
            continue;
        };
        // It may have closed the lease between the listing and the lock.
        if let Some(current) = requester.store.lease(record.deal.id())? {
            record = current;
        }
        if record.stage == Stage::Closed {
            continue;
        }
        if record.ended.is_none() {
            end(requester, &mut record)?;
            output.note(format!(
                "lease {} was left open by a crash and is ended now",
                record.deal.id()
            ));
        }
        requester.tell_end(&mut record).await;
    }
    Ok(())
}

/// Ends one lease with what its channel's file says.
fn end(requester: &Requester, record: &mut LeaseRecord) -> Result<(), Failure> {
    let state = requester.store.channel(record.deal.channel().id())?;
    let usage = record.catch_up(&state);
    record.stage = Stage::Ended;
    record.ended = Some(Ended {
        at: unix_now(),
        cause: EndCause::Restarted,
        usage,
        amount: record.paid(),
    });
    requester.store.put_lease(record)
}
