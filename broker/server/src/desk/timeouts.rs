//! What is over because its time is.

use super::{Desk, DeskError};
use crate::clock;
use crate::store::Entry;

impl Desk {
    /// Lets the clock do its work, in parts, so that others come in between.
    pub(crate) async fn tick(&self) -> Result<(), DeskError> {
        if !self.store.room().is_left() {
            return Ok(());
        }
        let now = clock::now();
        loop {
            let mut books = self.books().await?;
            if books.market.poll_timeout().is_none_or(|due| due > now) {
                return Ok(());
            }
            let commands = books.market.handle_timeout(now);
            // Requests that fit an offer by now are matched by no look while the operator drains, and stay due.
            let is_idle = commands.is_empty() && self.is_draining();
            self.execute(books, commands, now).await?;
            if is_idle {
                return Ok(());
            }
        }
    }

    /// Forgets sessions, nonces and promises whose time is over.
    pub(crate) async fn sweep(&self) -> Result<(), DeskError> {
        if !self.store.room().is_left() {
            return Ok(());
        }
        self.store.forget_expired(clock::now()).await?;
        let time = self.operator.final_time().await?;
        let mut books = self.books().await?;
        let gone = books.market.forget_proofs(clock::now()).into_iter();
        let gone = gone.map(|subject| Entry::Proof(subject, None));
        let market = &books.market;
        self.mailboxes.sweep(|deal| market.deal(deal).is_some());
        let payers = books.ledger.handle_final_time(time);
        if let Some(part) = &mut books.part {
            // Each account is brought up to date in its turn.
            part.final_time = time;
            return Ok(());
        }
        let account = |payer| books.account_entry(payer);
        let entries: Vec<_> = payers.into_iter().map(account).chain(gone).collect();
        if entries.is_empty() {
            return Ok(());
        }
        self.keep(books, entries).await
    }
}
