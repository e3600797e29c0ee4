//! What a lease's meter asks for, as commands.

use ipsx_market::messages::{AgentMessage, EndCause, EndReport};
use ipsx_market::payment::ProviderMessage;
use ipsx_metering::{
    EndCause as MeterEnd, ProviderEvent as MeterEvent, Receipt, ServiceGate, Signed, Voucher,
};

use super::command::{Command, StoreVoucher};
use super::event::ProviderEvent;
use super::lease::{Lease, Stage};
use super::settings::{Network, Now};

impl Lease {
    /// Carries out what the meter has decided.
    pub(super) fn drain(&mut self, network: &Network, now: Now, commands: &mut Vec<Command>) {
        while let Some(event) = self.meter.as_mut().and_then(|meter| meter.poll_event()) {
            self.handle_event(event, network, now, commands);
        }
        self.update_gate(commands);
        self.finish_if_settled(now, commands);
    }

    /// What has to be on disk now, if there is a voucher.
    pub(super) fn store(&self) -> Option<Command> {
        let state = self.meter.as_ref()?.state();
        let voucher = state.voucher.clone()?;
        Some(self.store_voucher(voucher))
    }

    fn store_voucher(&self, voucher: Signed<Voucher>) -> Command {
        Command::Store(Box::new(StoreVoucher {
            lease: self.id,
            channel: self.channel.clone(),
            voucher,
            checked: self.meter.as_ref().and_then(|meter| meter.checked()),
            reservation: self.reservation.clone(),
            state: self
                .meter
                .as_ref()
                .map(|meter| meter.state())
                .unwrap_or_default(),
        }))
    }

    fn handle_event(
        &mut self,
        event: MeterEvent,
        network: &Network,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let lease = self.id;
        match event {
            MeterEvent::SignReceipt(receipt) => self.send_receipt(receipt, network, commands),
            MeterEvent::StoreVoucher(voucher) | MeterEvent::KeepVoucher(voucher) => {
                commands.push(self.store_voucher(voucher));
            }
            MeterEvent::Gate(gate) => self.set_gate(gate, commands),
            MeterEvent::RenewReservation { .. } => {
                if let Some(voucher) = self.meter.as_ref().and_then(|meter| meter.state().voucher) {
                    let message = AgentMessage::RenewReservation {
                        deal_id: lease,
                        voucher,
                    };
                    commands.push(Command::Send(message));
                }
            }
            MeterEvent::Warned { .. } => {
                commands.push(Command::Tell(ProviderEvent::LeaseThrottled { lease }));
            }
            MeterEvent::Held { .. } => {
                commands.push(Command::Tell(ProviderEvent::LeaseOnHold { lease }));
            }
            MeterEvent::Resumed => {
                commands.push(Command::Tell(ProviderEvent::LeaseResumed { lease }))
            }
            MeterEvent::Ended {
                cause,
                usage,
                amount,
                paid,
            } => {
                let report = EndReport {
                    cause: self.cause.unwrap_or_else(|| in_deal_terms(cause)),
                    usage,
                    amount,
                    voucher: self.meter.as_ref().and_then(|meter| meter.state().voucher),
                };
                self.update_gate(commands);
                self.conclude(report, paid, now, commands);
            }
        }
    }

    fn send_receipt(&mut self, receipt: Receipt, network: &Network, commands: &mut Vec<Command>) {
        let meter = self.meter.as_ref();
        commands.push(Command::Tell(ProviderEvent::LeaseSecond {
            lease: self.id,
            usage: receipt.usage,
            due: receipt.deal_amount,
            paid: meter.map(|meter| meter.paid()).unwrap_or_default(),
        }));
        let receipt = Signed::sign(receipt, &network.domain, &self.agent_key);
        if let Some(meter) = &mut self.meter {
            meter.handle_signed(receipt.clone());
        }
        commands.push(Command::Pay {
            lease: self.id,
            path: self.path,
            message: ProviderMessage::Receipt(receipt),
        });
    }

    fn set_gate(&mut self, gate: ServiceGate, commands: &mut Vec<Command>) {
        self.gate.want(gate);
        let opened = gate != ServiceGate::Closed;
        if opened && matches!(self.stage, Stage::Ready) {
            self.stage = Stage::Serving;
            self.update_gate(commands);
            let deal_id = self.id;
            commands.push(Command::Send(AgentMessage::LeaseServing { deal_id }));
            commands.push(Command::Tell(ProviderEvent::LeaseServing {
                lease: deal_id,
            }));
        }
    }

    fn update_gate(&mut self, commands: &mut Vec<Command>) {
        if let Some(gate) = self.gate.change() {
            commands.push(Command::SetGate {
                lease: self.id,
                gate,
            });
        }
    }

    /// A finished lease is reported when its last receipt is paid, or was not in time.
    fn finish_if_settled(&mut self, now: Now, commands: &mut Vec<Command>) {
        let Stage::Lingering { until, report } = &self.stage else {
            return;
        };
        let Some(meter) = &self.meter else {
            return;
        };
        let paid = meter.paid();
        if paid >= self.expected(report) || now.instant >= *until {
            let report = EndReport {
                voucher: meter.state().voucher,
                ..report.as_ref().clone()
            };
            self.finish(report, paid, commands);
        }
    }
}

fn in_deal_terms(cause: MeterEnd) -> EndCause {
    match cause {
        MeterEnd::TimeUp => EndCause::Completed,
        MeterEnd::BudgetSpent => EndCause::BudgetSpent,
        MeterEnd::PayerEnded | MeterEnd::OperatorEnded => EndCause::RequesterEnded,
        MeterEnd::ProviderEnded => EndCause::ProviderEnded,
        MeterEnd::NotPaid => EndCause::NotStarted,
        MeterEnd::Unpaid | MeterEnd::PeerSilent => EndCause::Unpaid,
        MeterEnd::NoService => EndCause::NoService,
        MeterEnd::Uncovered => EndCause::CapacityLapsed,
        MeterEnd::Disputed => EndCause::Misbehaved,
    }
}
