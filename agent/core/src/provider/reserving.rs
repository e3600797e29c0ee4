//! A lease's reservations: the first opens its peer, later ones keep it covered. None counts before the chain agrees.

use std::time::{Duration, Instant};

use ipsx_market::deal::{Deal, Outcome};
use ipsx_market::messages::EndCause;
use ipsx_market::payment::ProviderMessage;
use ipsx_metering::{
    ChainView, ChannelState, EndCause as MeterEnd, Misbehaved, OperatorFault, ProviderMeter,
    ROUND_TRIP, Reservation, Signature, Signed, Voucher,
};

use super::bound::{NotBound, check_bound};
use super::command::{ChainQuery, Command, LeaseRecord, Peer};
use super::event::ProviderEvent;
use super::lease::{Lease, Stage};
use super::settings::{Network, Now};

/// How long until the chain is asked again when it does not yet agree with a reservation.
const CHAIN_RETRY: Duration = Duration::from_secs(2);
/// The peer of a lease that starts later is open so many seconds before.
const OPEN_AHEAD: u64 = 5;

impl Lease {
    /// The network says that the deal is bound.
    pub(crate) fn handle_bound(
        &mut self,
        told: &Deal,
        requester_signature: Signature,
        outcome: Signed<Outcome>,
        reservation: Signed<Reservation>,
        network: &Network,
        commands: &mut Vec<Command>,
    ) -> Result<(), NotBound> {
        check_bound(
            &self.deal,
            told,
            &requester_signature,
            &outcome,
            &reservation,
            network,
        )?;
        let record = LeaseRecord {
            deal: self.deal.clone(),
            requester_signature,
            outcome,
        };
        self.stage = Stage::Checking {
            record: Box::new(record),
        };
        self.handle_renewed(reservation, commands);
        Ok(())
    }

    /// A reservation has come; it counts once the chain agrees.
    pub(crate) fn handle_renewed(
        &mut self,
        reservation: Signed<Reservation>,
        commands: &mut Vec<Command>,
    ) {
        self.pending = Some(reservation);
        self.chain_at = None;
        commands.push(self.read_chain());
    }

    /// The payer's deposit covers no more. Asked for again and again, told once.
    pub(crate) fn handle_not_renewed(&mut self, reason: &str, commands: &mut Vec<Command>) {
        if !std::mem::replace(&mut self.refusal_told, true) {
            let text = format!(
                "the payer's deposit covers no more ({reason}); the lease ends when what is covered is used up"
            );
            commands.push(self.warning(&text));
        }
    }

    /// What the chain says about the reservation that waits.
    pub(crate) fn handle_chain(
        &mut self,
        view: Result<ChainView, String>,
        state: ChannelState,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let Some(reservation) = self.pending.clone() else {
            return;
        };
        let view = match view {
            Ok(view) => view,
            Err(reason) => return self.retry_chain(&reason, now, commands),
        };
        if self.meter.is_none() {
            let meter = ProviderMeter::new(self.deal.terms(), network.domain, state, ROUND_TRIP);
            match meter {
                Ok(meter) => self.meter = Some(meter),
                Err(error) => {
                    commands.push(self.warning(&error.to_string()));
                    return self.end(EndCause::Misbehaved, MeterEnd::ProviderEnded, now, commands);
                }
            }
        }
        let Some(meter) = &mut self.meter else {
            return;
        };
        match meter.handle_reservation(&reservation, &view, now.instant) {
            Ok(newer) => {
                self.pending = None;
                if newer {
                    self.believe(reservation, now, commands);
                }
                self.drain(network, now, commands);
            }
            Err(fault) if may_heal(&fault) => self.retry_chain(&fault.to_string(), now, commands),
            Err(fault) => {
                self.pending = None;
                commands.push(self.warning(&fault.to_string()));
                if matches!(self.stage, Stage::Checking { .. }) {
                    self.end(EndCause::Misbehaved, MeterEnd::OperatorEnded, now, commands);
                }
            }
        }
    }

    /// A reservation is good: opens the peer with the first, now or when the lease starts, and passes later ones on.
    fn believe(&mut self, reservation: Signed<Reservation>, now: Now, commands: &mut Vec<Command>) {
        let lease = self.id;
        (self.chain_told, self.refusal_told) = (false, false);
        self.reservation = Some(reservation.clone());
        match std::mem::replace(&mut self.stage, Stage::Opening) {
            Stage::Checking { record } => {
                let starts_at = self.deal.starts_at;
                if starts_at <= now.unix.after(OPEN_AHEAD) {
                    return self.open(record, commands);
                }
                let ahead = Duration::from_secs(starts_at.since(now.unix) - OPEN_AHEAD);
                self.stage = Stage::Booked {
                    record,
                    opens_at: now.instant + ahead,
                };
                commands.push(Command::Tell(ProviderEvent::LeaseBooked {
                    lease,
                    requester: self.deal.requester,
                    starts_at,
                }));
            }
            other => {
                self.stage = other;
                commands.extend(self.store());
                commands.push(Command::Pay {
                    lease,
                    path: self.path,
                    message: ProviderMessage::Reservation(reservation),
                });
            }
        }
    }

    fn open(&mut self, record: Box<LeaseRecord>, commands: &mut Vec<Command>) {
        commands.push(Command::OpenPeer {
            lease: self.id,
            peer: Peer {
                key: self.deal.requester_tunnel_key,
                exit_address: self.deal.exit_address,
                policy_hash: self.deal.policy_hash,
                weights: self.weights(),
            },
            record,
        });
    }

    /// Opens the peer of a lease that starts now.
    pub(super) fn open_if_due(&mut self, now: Now, commands: &mut Vec<Command>) {
        if self.opens_at().is_none_or(|at| at > now.instant) {
            return;
        }
        match std::mem::replace(&mut self.stage, Stage::Opening) {
            Stage::Booked { record, .. } => self.open(record, commands),
            other => self.stage = other,
        }
    }

    /// When the peer of a lease that starts later is opened.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Booked { opens_at, .. } => Some(opens_at),
            _ => None,
        }
    }

    /// The requester did not come: its first slice is this provider's all the same.
    pub(crate) fn handle_forfeited(
        &mut self,
        voucher: Signed<Voucher>,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let Some(meter) = &mut self.meter else {
            return;
        };
        if let Err(fault) = meter.handle_voucher(voucher, now.instant) {
            commands.push(self.warning(&fault.to_string()));
        }
        self.drain(network, now, commands);
    }

    pub(super) fn read_chain(&self) -> Command {
        Command::ReadChain {
            lease: self.id,
            query: ChainQuery {
                network: self.deal.network,
                payer: self.deal.payer,
                payer_signer: self.deal.payer_signer,
                channel: self.channel_id,
            },
        }
    }

    fn retry_chain(&mut self, reason: &str, now: Now, commands: &mut Vec<Command>) {
        self.chain_at = Some(now.instant + CHAIN_RETRY);
        if !std::mem::replace(&mut self.chain_told, true) {
            commands.push(self.warning(reason));
        }
    }
}

/// Whether a reservation that does not hold now may hold when the chain has caught up.
fn may_heal(fault: &Misbehaved) -> bool {
    matches!(
        fault,
        Misbehaved::Operator(
            OperatorFault::OutlivesSigner { .. } | OperatorFault::NotCovered { .. }
        )
    )
}
