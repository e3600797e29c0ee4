//! Where offers are, when the databases that say so are replaced.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipsx_market::fleet::ShardId;

use super::{Desk, DeskError};
use crate::agents::code;
use crate::clock;

/// Offers that are placed anew before others may have the books.
const TOGETHER: usize = 256;

impl Desk {
    /// Reads the databases that were replaced, and puts every offer where they say that it is.
    pub(crate) async fn refresh_places(&self) -> Result<(), DeskError> {
        let placer = Arc::clone(&self.placer);
        let Ok(read) = tokio::task::spawn_blocking(move || placer.refresh()).await else {
            // What it panicked about is in the log; the databases are as they were.
            return Ok(());
        };
        let mut anew = false;
        for database in read {
            match database {
                Ok(build) => {
                    anew = true;
                    tracing::info!(database = %build.database, name = build.name, built_at = %build.built_at, "a database was replaced");
                }
                Err(error) => {
                    tracing::error!(key = error.key, %error, "a database was replaced by a file that can't be used; the one before stays");
                }
            }
        }
        if !anew {
            return Ok(());
        }
        if self.fleet.is_some() {
            self.send_elsewhere().await?;
        }
        let offers: Vec<_> = self.books().await?.market.book().ids().collect();
        let mut moved = 0;
        for some in offers.chunks(TOGETHER) {
            let mut books = self.books().await?;
            let place = |address| self.placer.place(address);
            let now = clock::now();
            let commands = books.market.place_anew(some, place, now);
            moved += commands.len();
            self.execute(books, commands, now).await?;
        }
        tracing::info!(offers = offers.len(), moved, "offers are placed anew");
        Ok(())
    }

    /// Has agents connect again whose addresses are in another shard now, which may be another broker's; their offers leave
    /// before anything of them is placed anew.
    async fn send_elsewhere(&self) -> Result<(), DeskError> {
        let now = clock::now();
        let mut books = self.books().await?;
        let book = books.market.book();
        let listings = book.ids().filter_map(|id| book.get(id));
        let moved: BTreeSet<_> = listings
            .filter(|listing| {
                let (provider, address) = (listing.offer.provider, listing.placement.address);
                let (was, is) = (
                    listing.placement.country,
                    self.placer.place(address).country,
                );
                ShardId::new(was, provider) != ShardId::new(is, provider)
            })
            .map(|listing| listing.offer.provider)
            .collect();
        let mut commands = Vec::new();
        for provider in moved {
            let reason = "your address is in another country now; connect again";
            self.registry.hang_up_on(provider, code::STOPPING, reason);
            commands.extend(books.market.agent_left(provider, now));
        }
        self.execute(books, commands, now).await
    }
}
