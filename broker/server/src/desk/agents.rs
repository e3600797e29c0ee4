//! What agents do.

use std::net::IpAddr;
use std::sync::Arc;

use ipsx_market::fleet::ShardId;
use ipsx_market::market::{DealRefusal, Placed};
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause, EndReport, Ready};
use ipsx_market::offer::{Country, Offer};
use ipsx_market::sealed::MAX_SEALED;
use ipsx_metering::{Address, DealId, Signed};
use tokio::sync::MutexGuard;

use super::release::Step;
use super::{Books, Desk, DeskError};
use crate::agents::{Line, Outbox, code};
use crate::clock;
use crate::reflector::Reflector;
use crate::store::Entry;

/// What a provider is told whose address was placed elsewhere since it connected.
const MOVED: &str = "the address is in another part of the market now; connect again";
/// What a provider is told whose leases are of another shard than its address.
const ELSEWHERE: &str = "leases of this wallet go on that were made in another country; the offer is taken once they are over and the agent connects again";

impl Desk {
    /// Enters an agent that has proved its wallet, in place of an older connection; returns its number.
    pub(crate) async fn join(
        &self,
        provider: Address,
        observed: IpAddr,
        outbox: Arc<Outbox>,
        line: Line,
        home: Option<ShardId>,
    ) -> Result<u64, DeskError> {
        self.store.room().left().await;
        let now = clock::now();
        let mut books = self.books().await?;
        if home.is_some_and(|home| !books.owns(home)) {
            return Err(DeskError::Moved);
        }
        let (number, replaced) = self.registry.insert(provider, outbox, line, home);
        if replaced {
            let commands = books.market.agent_left(provider, now);
            let _ordered = self.begin(&mut books, Step::default(), commands, now).await;
        }
        let (unfinished, commands) = books.market.agent_joined(provider);
        let welcome = BrokerMessage::Authenticated {
            observed,
            unfinished,
            reflector: self.reflector.as_deref().map(Reflector::address),
        };
        self.registry.send(provider, welcome);
        self.execute(books, commands, now).await?;
        Ok(number)
    }

    /// Strikes an agent off whose connection is gone.
    pub(crate) async fn leave(&self, provider: Address, number: u64) -> Result<(), DeskError> {
        self.store.room().left().await;
        let now = clock::now();
        let mut books = self.books().await?;
        if !self.registry.remove(provider, number) {
            return Ok(());
        }
        let commands = books.market.agent_left(provider, now);
        self.execute(books, commands, now).await
    }

    /// Takes one message of an agent, once there is room for what it leads to, and does not wait until that is on disk: an
    /// agent with many leases says more in that time. An error is the broker's; what the agent did wrong is answered to it.
    pub(crate) async fn hear(
        self: &Arc<Self>,
        provider: Address,
        observed: IpAddr,
        message: AgentMessage,
    ) -> Result<(), DeskError> {
        self.store.room().left().await;
        let now = clock::now();
        match message {
            AgentMessage::Hello { .. } | AgentMessage::Authenticate { .. } => {
                // A second handshake changes nothing.
                self.metrics.refused("handshake_repeated");
                Ok(())
            }
            // Without a reflector nobody is tried, and nothing is known.
            AgentMessage::Endpoint { .. } if self.reflector.is_none() => Ok(()),
            AgentMessage::Endpoint { endpoint, mapped } => {
                let mut books = self.books().await?;
                let agent = (provider, observed);
                let commands = books.market.endpoint_named(agent, endpoint, mapped, now);
                self.order(books, commands, now).await
            }
            AgentMessage::Token { token } => {
                let mut books = self.books().await?;
                let commands = books.market.token_heard(provider, token, now);
                self.order(books, commands, now).await
            }
            AgentMessage::PublishOffer { offer } => self.publish(provider, observed, offer).await,
            AgentMessage::WithdrawOffer { offer } => {
                self.books().await?.market.withdraw(provider, offer);
                Ok(())
            }
            AgentMessage::AcceptDeal {
                proposal,
                terms,
                signature,
            } => {
                let turn = self.take_turn(provider, proposal).await?;
                let mut books = self.books().await?;
                let commands = books
                    .market
                    .accept(provider, proposal, &terms, signature, now);
                match turn {
                    None => self.order(books, commands, now).await,
                    // It is another broker's turn once this is on disk.
                    Some(_turn) => self.execute(books, commands, now).await,
                }
            }
            AgentMessage::DeclineDeal { proposal, reason } => {
                let mut books = self.books().await?;
                let commands = books.market.decline(provider, proposal, &reason, now);
                self.order(books, commands, now).await
            }
            AgentMessage::LeaseReady { deal_id, ready } => {
                self.ready(provider, deal_id, ready).await
            }
            AgentMessage::LeaseServing { deal_id } => {
                let mut books = self.books().await?;
                let commands = books.market.serving(provider, deal_id, now);
                self.settle_refusal(books, provider, deal_id, commands)
                    .await
            }
            AgentMessage::RenewReservation { deal_id, voucher } => {
                // Reads the chain several times: the agent's other messages must not wait for it.
                let desk = Arc::clone(self);
                tokio::spawn(async move { desk.renew(provider, deal_id, voucher).await });
                Ok(())
            }
            AgentMessage::LeaseEnded { deal_id, report } => {
                self.ended(provider, deal_id, report).await
            }
            AgentMessage::CloseChannel { deal_id, close } => {
                let closed = self.close_channel(provider, deal_id, &close).await;
                self.or_refused(closed, provider, deal_id, "close")
            }
            AgentMessage::Frame { deal_id, sealed } => {
                self.frame_to_payer(provider, deal_id, sealed).await
            }
        }
    }

    /// The broker's own errors stay errors; what the agent did wrong is counted.
    fn or_refused(
        &self,
        done: Result<(), DeskError>,
        provider: Address,
        id: DealId,
        label: &'static str,
    ) -> Result<(), DeskError> {
        match done {
            Err(error @ (DeskError::Store(_) | DeskError::Stopped)) => Err(error),
            Err(error) => {
                tracing::info!(%provider, deal = %id, %error, label, "agent refused");
                self.metrics.refused(label);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn publish(
        &self,
        provider: Address,
        observed: IpAddr,
        signed: Signed<Offer>,
    ) -> Result<(), DeskError> {
        let id = signed.message.id();
        let placement = self.placer.place(observed);
        let checked = self.check_context().offer(&signed, provider, &placement);
        let (placed, books) = match checked {
            Err(reason) => (Err(reason.to_string()), None),
            Ok(()) => {
                let mut books = self.books().await?;
                if let Some(reason) = self.belongs_elsewhere(&books, provider, placement.country) {
                    (Err(reason.into()), None)
                } else {
                    let placed = books.market.place(signed.message, placement, clock::now());
                    (placed.map_err(|reason| reason.to_string()), Some(books))
                }
            }
        };
        let answer = match placed {
            Ok(Placed {
                placement,
                withheld,
            }) => {
                tracing::info!(%provider, offer = %id, country = ?placement.country, address = %placement.address, ?withheld, "offer placed");
                BrokerMessage::OfferPlaced {
                    offer: id,
                    placement,
                    withheld,
                }
            }
            Err(reason) => {
                tracing::info!(%provider, offer = %id, reason, "offer refused");
                self.metrics.refused("offer");
                BrokerMessage::OfferRefused { offer: id, reason }
            }
        };
        // It knows of its offer before anybody asks for it.
        self.registry.send(provider, answer);
        match books {
            Some(books) => self.order(books, Vec::new(), clock::now()).await,
            None => Ok(()),
        }
    }

    /// Why an offer is not taken that would be in another shard than its agent is heard in. Without leases that go on, the
    /// agent is to connect again, and comes to the right one.
    fn belongs_elsewhere(
        &self,
        books: &Books,
        provider: Address,
        country: Option<Country>,
    ) -> Option<&'static str> {
        self.fleet.as_ref()?;
        if self.registry.home(provider) == Some(ShardId::new(country, provider)) {
            return None;
        }
        let mut deals = books.market.deals();
        if deals.any(|record| record.deal.provider == provider) {
            return Some(ELSEWHERE);
        }
        self.registry.hang_up_on(provider, code::STOPPING, MOVED);
        Some(MOVED)
    }

    async fn ready(
        &self,
        provider: Address,
        id: DealId,
        mut ready: Ready,
    ) -> Result<(), DeskError> {
        let now = clock::now();
        let record = { self.books().await?.market.deal(id).cloned() };
        let mut known = None;
        if let (Some(record), Some(voucher)) = (record, &ready.latest_voucher) {
            if record.deal.provider == provider && self.keep_voucher(&record, voucher).await.is_ok()
            {
                known = Some(voucher.message.cumulative);
            } else {
                // The payer would be misled by a voucher that is none.
                ready.latest_voucher = None;
            }
        }
        let mut books = self.books().await?;
        let commands = books.market.ready(provider, id, ready, now);
        if let (Ok(_), Some(cumulative)) = (&commands, known) {
            books.market.learn_paid_before(id, cumulative);
        }
        self.settle_refusal(books, provider, id, commands).await
    }

    async fn ended(
        &self,
        provider: Address,
        id: DealId,
        mut report: EndReport,
    ) -> Result<(), DeskError> {
        let now = clock::now();
        let Ok(record) = self.deal(provider, id).await else {
            self.metrics.refused("deal_unknown");
            return Ok(());
        };
        if record.deal.provider != provider {
            self.metrics.refused("deal_not_yours");
            return Ok(());
        }
        if let Some(voucher) = &report.voucher
            && let Err(error) = self.keep_voucher(&record, voucher).await
        {
            tracing::warn!(%provider, deal = %id, %error, "the end report's voucher is not kept");
            self.metrics.refused("voucher");
            report.voucher = None;
        }
        let mut books = self.books().await?;
        match books
            .market
            .provider_ended(provider, id, report.clone(), now)
        {
            Ok(commands) => self.execute(books, commands, now).await,
            Err(DealRefusal::Unknown(_)) => {
                // Given up long ago; its numbers still count. What closed it may not be on disk yet.
                let before = self.line_up(&mut books, Step::default()).await;
                drop(books);
                before.await?;
                let mut record = self.deal(provider, id).await?;
                let moved = record.late_report(report, now);
                let moved: Vec<_> = moved.into_iter().collect();
                let entry = Entry::Deal {
                    record: Box::new(record),
                    transitions: moved,
                };
                let books = self.books().await?;
                self.keep(books, vec![entry]).await
            }
            Err(_) => Ok(()),
        }
    }

    async fn frame_to_payer(
        &self,
        provider: Address,
        id: DealId,
        sealed: Vec<u8>,
    ) -> Result<(), DeskError> {
        let books = self.books().await?;
        let own = books.market.deal(id).is_some_and(|record| {
            record.deal.provider == provider && record.is_bound() && !record.status().is_over()
        });
        drop(books);
        let outcome = if !own || sealed.len() > MAX_SEALED {
            "refused"
        } else if self.mailboxes.push(id, sealed) {
            "dropped_oldest"
        } else {
            "to_payer"
        };
        self.metrics.frames.with_label_values(&[outcome]).inc();
        Ok(())
    }

    /// Does what the market wants, or tells the agent that the deal it speaks of is none that goes on.
    async fn settle_refusal(
        &self,
        books: MutexGuard<'_, Books>,
        provider: Address,
        id: DealId,
        commands: Result<Vec<ipsx_market::market::Command>, DealRefusal>,
    ) -> Result<(), DeskError> {
        let refusal = match commands {
            Ok(commands) => return self.order(books, commands, clock::now()).await,
            Err(refusal) => refusal,
        };
        tracing::info!(%provider, deal = %id, %refusal, "agent refused");
        self.metrics.refused("deal_state");
        let over = match refusal {
            DealRefusal::Unknown(_) => Some(EndCause::Restarted),
            DealRefusal::State { status, .. } if status.is_over() => {
                let cause = books.market.deal(id).and_then(|record| record.cause);
                Some(cause.unwrap_or(EndCause::NotStarted))
            }
            _ => None,
        };
        if let Some(cause) = over {
            let message = BrokerMessage::EndLease { deal_id: id, cause };
            self.registry.send(provider, message);
        }
        Ok(())
    }
}
