//! `ipsx disclose`: the one connection that a letter asks for, with what proves whose it was, and no other.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipsx_metering::{
    B256, Connection, ConnectionTree, DealId, KnownSigner, Receipt, Signed, Transport, TypedData,
    UnixSeconds, Voucher, connection_path,
};
use ipsx_settlement::{Signer, VoucherStore, Wallet};

use super::document::Disclosure;
use super::files::{self, Entry};
use super::seal::RecordSecret;
use crate::cli::DiscloseArgs;
use crate::config::Settings;
use crate::earnings::store_failure;
use crate::exit_code::{ExitCode, Failure};
use crate::measure::bytes;
use crate::output::Output;
use crate::provider::{KeptLease, Records, Served, vouchers_path};
use crate::store::{failure, write_private};
use crate::wallet;

/// Runs it.
pub(crate) async fn run(
    args: DiscloseArgs,
    settings: &Settings,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(file) = &args.new_key {
        return new_key(file, output);
    }
    let (Some(time), Some(source_port)) = (args.time, args.source_port) else {
        return Err(Failure::usage(
            "name --time and --source-port, as the letter does",
        ));
    };
    let asked = Asked {
        time: UnixSeconds(time),
        tolerance: args.tolerance,
        source_port,
        transport: args.transport,
        destination: args.destination,
        address: args.address,
    };
    let wallet = wallet::open(settings).await?;
    let secret = match &args.key {
        Some(file) => read_key(file)?,
        None => RecordSecret::of_wallet(&wallet),
    };
    let disclosure = disclose(&asked, &settings.data, &wallet, &secret).await?;
    if let Some(file) = &args.output {
        let text = serde_json::to_vec_pretty(&disclosure)
            .map_err(|error| Failure::internal(format!("the proof cannot be written: {error}")))?;
        write_private(file, &text)?;
    }
    output.json(&disclosure);
    show(&disclosure, args.output.as_deref(), output);
    Ok(())
}

/// What a letter says of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) time: UnixSeconds,
    /// Seconds by which clocks may differ.
    pub(crate) tolerance: u64,
    pub(crate) source_port: u16,
    pub(crate) transport: Option<Transport>,
    pub(crate) destination: Option<SocketAddr>,
    /// The address that it came from, for who lends several.
    pub(crate) address: Option<IpAddr>,
}

impl Asked {
    /// Whether a connection may be the one: it has this port and was open at this time.
    fn fits(&self, record: &Connection) -> bool {
        let opened = record.opened_at.0 <= self.time.0.saturating_add(self.tolerance);
        let open = record
            .end
            .is_none_or(|end| end.at.0.saturating_add(self.tolerance) >= self.time.0);
        // The identifier of an echo is no port: nobody means it unless they say so.
        let transport = match self.transport {
            Some(wanted) => wanted == record.transport,
            None => record.transport != Transport::Icmp,
        };
        record.source_port == self.source_port
            && transport
            && self
                .destination
                .is_none_or(|wanted| wanted == record.destination)
            && opened
            && open
    }
}

pub(crate) async fn disclose(
    asked: &Asked,
    data: &Path,
    wallet: &Wallet,
    secret: &RecordSecret,
) -> Result<Disclosure, Failure> {
    let folder = files::folder(data);
    let unreadable = |error| failure("read", &folder, error);
    let until = asked.time.after(asked.tolerance);
    let (mut entries, closed) = files::read(&folder, secret, until).map_err(unreadable)?;
    if let Some(address) = asked.address {
        let lent = leases_from(data, address).await?;
        entries.retain(|entry| lent.contains(&entry.record.deal_id));
    }
    let gaps = files::gaps(&folder).map_err(unreadable)?;
    let missed = gaps
        .iter()
        .any(|gap| gap.0.abs_diff(asked.time.0) <= asked.tolerance);
    let found =
        pick(entries, asked).map_err(|count| nothing_single(asked, count, closed, missed))?;
    let deal_id = found[0].record.deal_id;
    let leaves = files::leaves(&folder, deal_id).map_err(unreadable)?;
    let Evidence {
        lease,
        served,
        receipts,
    } = evidence(data, deal_id).await?;
    let mut proven = None;
    for (receipt, voucher) in receipts {
        let root = receipt.message.connections_root;
        let Some(leaves) = signed_leaves(leaves.clone(), root) else {
            return Err(Failure::new(
                ExitCode::Storage,
                format!(
                    "the leaves of lease {deal_id} do not lead to the root of receipt {}: files are missing or were changed",
                    receipt.message.seq
                ),
            ));
        };
        // The record of the end says more; the receipt may be older than it.
        let under_root = found
            .iter()
            .rev()
            .find_map(|entry| Some((entry, connection_path(&leaves, entry.index)?)));
        if let Some((entry, path)) = under_root {
            proven = Some((receipt, voucher, entry, path));
            break;
        }
    }
    let Some((receipt, voucher, entry, path)) = proven else {
        return Err(Failure::new(
            ExitCode::LeaseFailed,
            format!(
                "no receipt of lease {deal_id} was kept after this connection was recorded, so nothing proves it yet; try again in a minute while the lease runs"
            ),
        ));
    };
    let deal = lease.record.deal;
    let hash = deal.signing_hash(&served.domain);
    Ok(Disclosure {
        format: "ipsx-disclosure-1",
        domain: served.domain,
        operator: served.operator,
        provider_signature: wallet.sign_hash(hash),
        requester_signature: lease.record.requester_signature,
        outcome: lease.record.outcome,
        receipt,
        voucher,
        record: entry.record,
        index: entry.index,
        blinding: entry.blinding,
        path,
        deal,
    })
}

/// The records of the one connection that fits, its opening first; else how many fit.
pub(super) fn pick(entries: Vec<Entry>, asked: &Asked) -> Result<Vec<Entry>, usize> {
    let mut connections: HashMap<Connection, Vec<Entry>> = HashMap::new();
    for entry in entries {
        let opening = Connection {
            end: None,
            ..entry.record
        };
        connections.entry(opening).or_default().push(entry);
    }
    let mut fitting: Vec<Vec<Entry>> = connections
        .into_values()
        .filter_map(|mut records| {
            records.sort_by_key(|entry| entry.index);
            let latest = records.iter().max_by_key(|entry| entry.index)?;
            asked.fits(&latest.record).then_some(records)
        })
        .collect();
    match (fitting.pop(), fitting.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(0),
        (Some(_), others) => Err(others + 1),
    }
}

/// The leases of one address.
async fn leases_from(data: &Path, address: IpAddr) -> Result<HashSet<DealId>, Failure> {
    let Some(records) = Records::read(data).await? else {
        return Ok(HashSet::new());
    };
    let leases = records.leases().await?;
    let deals = leases.into_iter().map(|lease| lease.record.deal);
    Ok(deals
        .filter(|deal| deal.exit_address == address)
        .map(|deal| deal.id())
        .collect())
}

fn nothing_single(asked: &Asked, count: usize, closed: usize, missed: bool) -> Failure {
    let (port, time) = (asked.source_port, asked.time);
    let what = match count {
        0 if closed > 0 => format!(
            "no connection from port {port} at {time} is in the record, but {closed} of its files are sealed to another key; name it with --key FILE"
        ),
        0 if missed => format!(
            "no connection from port {port} at {time} is in the record, which may lack some of that time: there were more than it could follow"
        ),
        0 => format!(
            "no connection from port {port} at {time} is in the record; look at the time zone (seconds since 1970, UTC), allow for clocks with --tolerance, and at --record-retention"
        ),
        _ => format!(
            "{count} connections from port {port} fit {time}: narrow it with a smaller --tolerance, --transport, --destination or --address, so that only one is disclosed"
        ),
    };
    Failure::usage(what)
}

/// What else is known of a lease.
struct Evidence {
    lease: KeptLease,
    served: Served,
    /// What may prove a connection, the best first: the receipt that the payer's voucher answers, then the last one.
    receipts: Vec<(Signed<Receipt>, Option<Signed<Voucher>>)>,
}

async fn evidence(data: &Path, deal_id: DealId) -> Result<Evidence, Failure> {
    let missing = |what: &str| {
        Failure::new(
            ExitCode::Storage,
            format!(
                "there is no {what} of lease {deal_id} in {}",
                data.display()
            ),
        )
    };
    let records = Records::read(data)
        .await?
        .ok_or_else(|| missing("record"))?;
    let leases = records.leases().await?;
    let of_deal = |lease: &KeptLease| lease.record.deal.id() == deal_id;
    let lease = leases
        .into_iter()
        .find(of_deal)
        .ok_or_else(|| missing("record"))?;
    let served = records.served(lease.record.deal.network).await?;
    let served = served.ok_or_else(|| missing("network"))?;
    let channel = lease.record.deal.channel().id();
    let running = records.channels().await?.remove(&channel);
    let of_lease = |receipt: &Signed<Receipt>| receipt.message.deal_id == deal_id;
    let answered = running.and_then(|state| state.answered).filter(of_lease);
    let answered = answered.or(records.answered().await?.remove(&deal_id));
    let last = records.receipts().await?.remove(&deal_id);
    let reported = lease
        .report
        .as_ref()
        .and_then(|report| report.voucher.clone());
    let vouchers = VoucherStore::join(&vouchers_path(data, served.domain), served.domain)
        .await
        .map_err(store_failure)?;
    let stored = vouchers.channel(channel).await.map_err(store_failure)?;
    vouchers.close().await;
    let latest = stored.and_then(|stored| stored.voucher);
    let vouchers: Vec<_> = [reported, latest].into_iter().flatten().collect();
    // The meter takes either `v`; a reader recovers the signer.
    let signer = KnownSigner::new(lease.record.deal.payer_signer);
    let answering = |receipt: Signed<Receipt>| {
        let hash = receipt.message.signing_hash(&served.domain);
        let voucher = vouchers
            .iter()
            .find(|voucher| voucher.message.receipt_hash == hash)
            .and_then(|voucher| {
                let canonical = signer.canonical_signed(voucher.clone(), &served.domain);
                canonical.ok()
            });
        (receipt, voucher)
    };
    let receipts: Vec<_> = [answered, last]
        .into_iter()
        .flatten()
        .map(answering)
        .collect();
    if receipts.is_empty() {
        return Err(missing("signed receipt"));
    }
    Ok(Evidence {
        lease,
        served,
        receipts,
    })
}

/// The leaves that a root was made of; `None` if no number of them leads to it.
pub(super) fn signed_leaves(mut leaves: Vec<B256>, root: B256) -> Option<Vec<B256>> {
    let mut tree = ConnectionTree::default();
    // Only the last root matters, so the number of leaves is looked for as they are added.
    let mut count = (tree.root() == root).then_some(0);
    for leaf in &leaves {
        tree.push(*leaf)?;
        if tree.root() == root {
            count = Some(tree.len());
            break;
        }
    }
    leaves.truncate(usize::try_from(count?).ok()?);
    Some(leaves)
}

fn show(disclosure: &Disclosure, file: Option<&Path>, output: &Output) {
    let Disclosure { record, deal, .. } = disclosure;
    let line = |name: &str, text: String| output.line(format!("{name:<12}{text}"));
    let transport = match record.transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Icmp => "ICMP echo",
    };
    line(
        "connection",
        format!(
            "{transport} {}:{} to {}",
            deal.exit_address, record.source_port, record.destination
        ),
    );
    line(
        "opened",
        format!("{} (seconds since 1970, UTC)", record.opened_at),
    );
    match record.end {
        Some(end) => line(
            "closed",
            format!(
                "{}, {} up, {} down",
                end.at,
                bytes(end.bytes_up),
                bytes(end.bytes_down)
            ),
        ),
        None => line("closed", "not recorded under a signed receipt".into()),
    }
    line("leased by", deal.requester.to_string());
    line("lease", record.deal_id.to_string());
    let payer = if disclosure.voucher.is_some() {
        "the provider's receipt and the payer's voucher"
    } else {
        "the provider's receipt"
    };
    line(
        "proof",
        format!(
            "record {} under the root that {payer} signed",
            disclosure.index
        ),
    );
    match file {
        Some(file) => output.line(format!(
            "Hand over {}: anybody can check it with `ipsx verify`. It shows no other connection.",
            file.display()
        )),
        None => output.line(
            "Write it to a file with --output FILE; anybody can check it with `ipsx verify`.",
        ),
    }
}

fn new_key(file: &Path, output: &Output) -> Result<(), Failure> {
    if file.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "{} exists already and is left as it is",
            file.display()
        )));
    }
    let secret = RecordSecret::random();
    write_private(file, secret.to_text().as_bytes())?;
    output.json(&serde_json::json!({ "record_key": secret.key().to_string(), "file": file }));
    output.line(format!("record key  {}", secret.key()));
    output.line(format!(
        "Record with `ipsx provide --record-key KEY`, and keep {} somewhere else: nothing else opens the record.",
        file.display()
    ));
    Ok(())
}

fn read_key(file: &Path) -> Result<RecordSecret, Failure> {
    let text = std::fs::read_to_string(file).map(zeroize::Zeroizing::new);
    let text = text.map_err(|error| failure("read", file, error))?;
    RecordSecret::from_text(&text).ok_or_else(|| {
        Failure::usage(format!(
            "{} is no record key; `ipsx disclose --new-key` makes one",
            file.display()
        ))
    })
}
