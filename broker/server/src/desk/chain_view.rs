//! What the chain says of a payer, brought into the ledger: a view in which nothing is counted twice or missed.

use ipsx_market::record::DealRecord;
use ipsx_market::request::Request;
use ipsx_metering::{
    Address, Amount, Authorization, Channel, ChannelId, ChannelOnChain, Deposit, Signed,
    UnixSeconds,
};
use ipsx_settlement::{AccountState, Signer};

use super::{Desk, DeskError};

/// How long a revoked session key still counts for what was promised before, in seconds. A key that lasts no longer
/// than this may be such a one, and begins no lease.
const REVOKED_LASTS: u64 = 24 * 3_600;
/// How often a payer's state is read until nothing changes in between.
const LOOKS: usize = 5;

/// A payer's state on the chain, as the ledger has it now.
pub(super) struct View {
    /// Its deposit: balance and pending as the ledger counts them, all else of the newest block.
    pub(super) account: AccountState,
    /// The channel that was asked for, its claims in final blocks.
    pub(super) channel: ChannelOnChain,
    /// What was claimed on it up to the newest block.
    pub(super) claimed: Amount,
}

impl Desk {
    /// Reads a payer's state, in its [`turn`](Self::turn), and brings it into the ledger.
    ///
    /// Deposits, claims and consents that were executed count once they are final: a reorganisation that takes a claim
    /// back would otherwise leave its money promised twice. Requests to withdraw count at sight.
    ///
    /// A claim moves money from the balance to a channel. Were one read before and the other after it, the same money
    /// would count twice; so the deposit is read before and after the channels, until it is the same.
    pub(super) async fn look_up(
        &self,
        payer: Address,
        wanted: Option<&Channel>,
    ) -> Result<View, DeskError> {
        let from = self.operator.promises_from();
        if from > UnixSeconds(0) && self.operator.block_time().await? < from {
            return Err(DeskError::Forgotten(from));
        }
        let (contract, network) = (self.operator.centralizer(), self.operator.network());
        let wanted_id = wanted.map(Channel::id);
        let mut account = contract.account_final(network, payer).await?;
        for _ in 0..LOOKS {
            let mut ids = self.changed_channels(payer, &account).await?;
            ids.extend(wanted_id.filter(|id| !ids.contains(id)));
            let mut states = Vec::with_capacity(ids.len());
            for id in ids {
                states.push((id, contract.channel_final(id).await?));
            }
            let again = contract.account_final(network, payer).await?;
            if again != account {
                account = again;
                continue;
            }
            let newest = contract.account(network, payer).await?;
            let mut channel = ChannelOnChain {
                block_time: self.operator.block_time().await?,
                signer_valid_to: UnixSeconds::default(),
                claimed: Amount::ZERO,
                held: Amount::ZERO,
            };
            let mut claimed = Amount::ZERO;
            if let Some(wanted) = wanted {
                let signer = wanted.payer_signer;
                channel.signer_valid_to = contract.signer_valid_to(network, payer, signer).await?;
                claimed = contract.claimed(wanted.id()).await?;
            }
            let mut books = self.books().await?;
            let ledger = &mut books.ledger;
            for (id, state) in states {
                ledger.set_claimed(payer, id, state.claimed, state.held);
                if wanted_id == Some(id) {
                    (channel.claimed, channel.held) = (state.claimed, state.held);
                }
            }
            let [certain, seen] = [&account, &newest].map(|state| Deposit {
                balance: state.balance,
                pending: state.pending,
            });
            ledger.set_deposit(payer, certain, seen, channel.block_time);
            ledger.set_withdrawal_nonce(payer, account.withdrawal_nonce);
            let counted = ledger.account(payer);
            let (balance, pending) =
                counted.map_or_else(Default::default, |of| (of.balance, of.pending));
            return Ok(View {
                account: AccountState {
                    balance,
                    pending,
                    ..newest
                },
                channel,
                claimed,
            });
        }
        Err(DeskError::Unsettled(payer))
    }

    /// The channels that may have been claimed on: all of the payer's, if its balance is another one than last time.
    async fn changed_channels(
        &self,
        payer: Address,
        account: &AccountState,
    ) -> Result<Vec<ChannelId>, DeskError> {
        let books = self.books().await?;
        let known = books.ledger.account(payer);
        let changed = known.filter(|known| known.balance != account.balance);
        Ok(changed.map_or_else(Vec::new, |known| {
            known.channels.iter().map(|(id, _)| *id).collect()
        }))
    }

    /// That a payer who does not ask for itself has appointed the session key, before anybody is asked for anything.
    pub(super) async fn check_appointed(&self, request: &Request) -> Result<(), DeskError> {
        if request.payer == request.requester {
            return Ok(());
        }
        let (network, signer) = (request.network, request.payer_signer);
        let contract = self.operator.centralizer();
        let valid_to = contract.signer_valid_to(network, request.payer, signer);
        let (valid_to, needed) = (valid_to.await?, self.signer_needed().await?);
        if valid_to < needed {
            return Err(DeskError::SignerTooShort {
                signer,
                payer: request.payer,
                valid_to,
                needed,
            });
        }
        Ok(())
    }

    /// Until when a session key must count to begin a lease.
    async fn signer_needed(&self) -> Result<UnixSeconds, DeskError> {
        Ok(self.operator.block_time().await?.after(REVOKED_LASTS + 1))
    }

    /// Makes the session key known to the chain, if it has to be and can be.
    pub(super) async fn authorize(
        &self,
        record: &DealRecord,
        authorization: Option<&Signed<Authorization>>,
    ) -> Result<(), DeskError> {
        let channel = record.deal.channel();
        let (network, payer, signer) = (channel.network, channel.payer, channel.payer_signer);
        let until = self.signer_needed().await?;
        let contract = self.operator.centralizer();
        let mut valid_to = contract.signer_valid_to(network, payer, signer).await?;
        if valid_to >= until {
            return Ok(());
        }
        if let Some(signed) = authorization {
            let message = &signed.message;
            let wrong = |field| Err(DeskError::WrongAuthorization { field });
            if message.network != network {
                return wrong("network");
            }
            if message.payer != payer {
                return wrong("payer");
            }
            if message.signer != signer {
                return wrong("signer");
            }
            if message.valid_to >= until {
                // Several brokers send from one account, each transaction under a number of its own.
                let _turn = self.turn(self.operator.wallet().address()).await?;
                let submitted = contract
                    .authorize(self.operator.wallet().as_ref(), signed)
                    .await;
                // Somebody may have submitted it first: what counts is what the chain knows.
                valid_to = contract.signer_valid_to(network, payer, signer).await?;
                if valid_to < until {
                    submitted?;
                }
            }
        }
        if valid_to >= until {
            Ok(())
        } else {
            Err(DeskError::SignerTooShort {
                signer,
                payer,
                valid_to,
                needed: until,
            })
        }
    }
}
