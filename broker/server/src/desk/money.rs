//! Reservations, withdrawals and vouchers: what the operator promises, and what it is shown.

use ipsx_market::deal::Binding;
use ipsx_market::http::{BoundDeal, PostWithdrawal};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::record::DealRecord;
use ipsx_market::request::Request;
use ipsx_metering::{
    Address, Amount, Asked, Authorization, ChannelOnChain, Close, DealId, RESERVATION_LIFETIME,
    Refused, Signed, UnixSeconds, Voucher, Withdrawal,
};

use ipsx_settlement::StoreError;

use super::release::Step;
use super::signing::SignedDeal;
use super::{Desk, DeskError};
use crate::clock;
use crate::store::Entry;

/// How long a reservation outlasts its lease, in seconds: time on hold, and clocks that differ.
const RESERVATION_MARGIN: u64 = 3_600;
/// How long a consent to withdraw counts, in seconds.
const WITHDRAWAL_SECONDS: u64 = 900;

impl Desk {
    /// Whether the payer's deposit could begin the leases that a request asks for.
    pub(super) async fn check_deposit(&self, request: &Request) -> Result<(), DeskError> {
        let payer = request.payer;
        let _turn = self.turn(payer).await?;
        let account = self.look_up(payer, None).await?.account;
        let books = self.books().await?;
        // A price per second that is above the budget's average is only known once an offer is chosen.
        let average = Amount(
            request
                .budget
                .0
                .div_ceil(u128::from(request.seconds.max(1))),
        );
        let each = ipsx_metering::capacity(average, request.budget, Amount::ZERO, Amount::ZERO);
        let needed = Amount(each.0.saturating_mul(request.count() as u128));
        let spendable = account.balance.saturating_sub(account.pending);
        let available = books.ledger.available(payer);
        // The channel of an earlier lease may have capacity left that this one will use.
        let known = books.ledger.account(payer);
        let promised = known.map_or(Amount::ZERO, |known| known.channels.counted());
        if needed > spendable || needed > available.saturating_add(promised) {
            return Err(DeskError::Deposit {
                payer,
                needed,
                available,
            });
        }
        Ok(())
    }

    /// Funds deals of one payer that all have signed, and binds them: all in one transaction, or none.
    pub(super) async fn fund(
        &self,
        signed: &[SignedDeal],
        authorization: Option<&Signed<Authorization>>,
    ) -> Result<Vec<BoundDeal>, DeskError> {
        let records = {
            let (books, now) = (self.books().await?, clock::now());
            let record = |deal: &SignedDeal| books.market.may_bind(deal.id, now).cloned();
            signed.iter().map(record).collect::<Result<Vec<_>, _>>()?
        };
        let Some(first) = records.first() else {
            return Ok(Vec::new());
        };
        let payer = first.deal.payer;
        self.authorize(first, authorization).await?;
        let _turn = self.turn(payer).await?;
        let mut funded = Vec::new();
        for (record, deal) in records.iter().zip(signed) {
            let channel = record.deal.channel();
            let view = self.look_up(payer, Some(&channel)).await?;
            let voucher = self.vouchers.latest(channel.id());
            let known = voucher.unwrap_or_default().max(view.claimed);
            let paid_before = paid_before(record, deal.prepaid.as_ref(), known)?;
            funded.push((channel, view.channel, paid_before));
        }

        let mut books = self.books().await?;
        let now = clock::now();
        let mut asked = Vec::new();
        for (deal, (channel, chain, paid_before)) in signed.iter().zip(&funded) {
            let mut record = books.market.may_bind(deal.id, now)?.clone();
            record.paid_before = *paid_before;
            let rest = record.deal.starts_at.since(now) + u64::from(record.deal.seconds);
            asked.push(Asked {
                channel,
                capacity: record.capacity(*paid_before),
                valid_until: reservation_end(chain, rest, now),
                chain,
            });
        }
        let reserved = books.ledger.reserve_all(&asked).map_err(as_deposit)?;
        // Memory first holds more than the disk, then the disk more than anybody knows: never the other way round.
        let mut step = Step {
            entries: vec![books.account_entry(payer)],
            ..Step::default()
        };
        let (mut commands, mut bound) = (Vec::new(), Vec::new());
        let funded = signed.iter().zip(funded);
        for (reservation, (deal, (channel, _, paid_before))) in reserved.into_iter().zip(funded) {
            let reservation = self.operator.sign(reservation);
            let (id, prepaid) = (deal.id, deal.prepaid.clone());
            let outcome = self.operator.outcome(id, Binding::Bound);
            step.reservations.push((channel, reservation.clone()));
            bound.push(BoundDeal {
                outcome: outcome.clone(),
                reservation: Some(reservation.clone()),
            });
            let market = &mut books.market;
            commands.extend(market.bind(id, outcome, reservation, paid_before, prepaid, now)?);
        }
        let done = self.begin(&mut books, step, commands, now).await;
        drop(books);
        done.await?;
        Ok(bound)
    }

    /// Answers a provider that asks for a higher or longer reservation.
    pub(super) async fn renew(&self, provider: Address, id: DealId, voucher: Signed<Voucher>) {
        let renewed = self.try_renew(provider, id, voucher).await;
        let outcome = if renewed.is_ok() {
            "renewed"
        } else {
            "not_renewed"
        };
        self.metrics
            .reservations
            .with_label_values(&[outcome])
            .inc();
        if let Err(error) = renewed {
            tracing::info!(deal = %id, %error, "the reservation is not renewed");
            let reason = error.to_string();
            let message = BrokerMessage::ReservationRefused {
                deal_id: id,
                reason,
            };
            self.registry.send(provider, message);
        }
    }

    async fn try_renew(
        &self,
        provider: Address,
        id: DealId,
        voucher: Signed<Voucher>,
    ) -> Result<(), DeskError> {
        let record = {
            let books = self.books().await?;
            books.market.may_renew(provider, id)?.clone()
        };
        self.keep_voucher(&record, &voucher).await?;
        let channel = record.deal.channel();
        let _turn = self.turn(channel.payer).await?;
        let chain = self.look_up(channel.payer, Some(&channel)).await?.channel;

        let mut books = self.books().await?;
        let now = clock::now();
        let cumulative = voucher.message.cumulative;
        books.market.learn_paid_before(id, cumulative);
        let record = books.market.may_renew(provider, id)?.clone();
        let earlier = record.reservation.as_ref().map(|r| r.message.capacity);
        let capacity = record.capacity(cumulative).max(earlier.unwrap_or_default());
        let ran = record.ready_at.map_or(0, |at| now.since(at));
        let rest = u64::from(record.deal.seconds).saturating_sub(ran);
        let valid_until = reservation_end(&chain, rest, now);
        let reservation = books
            .ledger
            .reserve(&channel, capacity, valid_until, &chain)?;
        let reservation = self.operator.sign(reservation);
        let step = Step {
            entries: vec![books.account_entry(channel.payer)],
            reservations: vec![(channel.clone(), reservation.clone())],
            ..Step::default()
        };
        let commands = books.market.renewed(id, reservation, now)?;
        let done = self.begin(&mut books, step, commands, now).await;
        drop(books);
        done.await
    }

    /// Consents to an immediate withdrawal of what is not promised, once under each idempotency key.
    pub(crate) async fn withdraw(
        &self,
        owner: Address,
        asked: &PostWithdrawal,
        key: Option<&str>,
    ) -> Result<Signed<Withdrawal>, DeskError> {
        let PostWithdrawal { to, amount } = *asked;
        if let Some(key) = key
            && let Some(given) = self
                .store
                .withdrawal_under(owner, key, clock::now())
                .await?
            && (given.message.to, given.message.amount) == (to, amount)
        {
            return Ok(given);
        }
        if amount == Amount::ZERO || to.is_zero() {
            return Err(DeskError::Invalid(
                "a withdrawal needs an amount above 0 and a receiver".into(),
            ));
        }
        let _turn = self.turn(owner).await?;
        let account = self.look_up(owner, None).await?.account;
        let deadline = self.operator.block_time().await?.after(WITHDRAWAL_SECONDS);
        let mut books = self.books().await?;
        let withdrawal = Withdrawal {
            network: self.operator.network(),
            owner,
            to,
            amount,
            nonce: account.withdrawal_nonce,
            deadline,
        };
        books.ledger.promise_withdrawal(&withdrawal)?;
        let signed = self.operator.sign(withdrawal);
        let account = books.account_entry(owner);
        let consent = Entry::Withdrawal {
            signed: Box::new(signed.clone()),
            key: key.map(str::to_owned),
            now: clock::now(),
        };
        self.keep(books, vec![account, consent]).await?;
        Ok(signed)
    }

    /// Frees what a provider says it will not claim.
    pub(super) async fn close_channel(
        &self,
        provider: Address,
        id: DealId,
        close: &Signed<Close>,
    ) -> Result<(), DeskError> {
        let record = self.deal(provider, id).await?;
        let channel = record.deal.channel();
        let _turn = self.turn(channel.payer).await?;
        let mut books = self.books().await?;
        if books
            .market
            .deals()
            .any(|r| r.deal.channel() == channel && !r.status().is_over())
        {
            return Err(DeskError::Invalid(format!(
                "deal {id} is not over; its channel can't be closed"
            )));
        }
        // What was forfeited may not have reached the provider: its vouchers here are claimed for it all the same.
        let known = self.vouchers.latest(channel.id()).unwrap_or_default();
        if close.message.cumulative < known {
            let cumulative = close.message.cumulative;
            let reason =
                format!("the channel has paid {known}: it can't be closed at {cumulative}");
            return Err(DeskError::Invalid(reason));
        }
        let freed = books.ledger.close(&channel, close, &self.operator.domain());
        let freed = freed.map_err(|fault| DeskError::Invalid(fault.to_string()))?;
        tracing::info!(deal = %id, ?freed, "channel closed");
        let account = books.account_entry(channel.payer);
        self.keep(books, vec![account]).await
    }

    /// Keeps a voucher of a deal's channel, if it is one.
    pub(super) async fn keep_voucher(
        &self,
        record: &DealRecord,
        voucher: &Signed<Voucher>,
    ) -> Result<(), DeskError> {
        let channel = record.deal.channel();
        let refused = |reason| {
            self.metrics
                .vouchers_refused
                .with_label_values(&[reason])
                .inc()
        };
        if voucher.message.channel_id != channel.id() {
            refused("channel");
            return Err(DeskError::Voucher("it is of another channel".into()));
        }
        self.vouchers.add_channel(&channel).await?;
        // The store checks the signature, by a key that it knows from the first voucher on.
        match self.vouchers.accept(voucher).await {
            Err(theirs @ StoreError::NotTheirs { .. }) => {
                refused("signature");
                Err(DeskError::Voucher(theirs.to_string()))
            }
            kept => Ok(kept.map(drop)?),
        }
    }
}

/// What a deal's channel had paid before it: of what it has paid to a provider that is away, the payer knows more.
fn paid_before(
    record: &DealRecord,
    prepaid: Option<&Signed<Voucher>>,
    known: Amount,
) -> Result<Amount, DeskError> {
    let Some(first) = prepaid else {
        return Ok(known);
    };
    let before = record.deal.paid_before(&first.message);
    before.filter(|paid| *paid >= known).ok_or_else(|| {
        let least = known.saturating_add(record.deal.terms().first_slice());
        DeskError::Voucher(format!("the prepaid one must promise {least} at least"))
    })
}

/// When a reservation for `rest` seconds of lease should end.
fn reservation_end(chain: &ChannelOnChain, rest: u64, now: UnixSeconds) -> UnixSeconds {
    // A chain without traffic may stand minutes behind the clock.
    now.max(chain.block_time)
        .after(rest.saturating_add(RESERVATION_MARGIN))
        .min(chain.block_time.after(RESERVATION_LIFETIME))
        .min(chain.signer_valid_to)
}

fn as_deposit(refused: Refused) -> DeskError {
    match refused {
        Refused::NotCovered {
            payer,
            needed,
            available,
        } => DeskError::Deposit {
            payer,
            needed,
            available,
        },
        other => DeskError::Refused(other),
    }
}
