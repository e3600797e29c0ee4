//! Requests that come when they are due.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipsx_market::http::{PostRequest, Problem, ProposedDeal};
use ipsx_metering::B256;
use ipsx_settlement::Signer;
use ipsx_tests::requester::Requester;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Whoever would have to wait longer for its turn gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Leases that one wallet has from one provider at the same time at most: each pays through a channel of its own.
const CHANNELS: u64 = 64;

/// So many a second, for so long.
pub(crate) struct Load {
    pub(crate) rate: u32,
    pub(crate) seconds: u64,
}

/// What came of it; times in milliseconds, each from when the request was due.
#[derive(Default)]
pub(crate) struct Answers {
    /// Until there was a deal to sign.
    pub(crate) proposed: Vec<f64>,
    /// Until it was bound.
    pub(crate) bound: Vec<f64>,
    /// Why there was none.
    pub(crate) failures: BTreeMap<String, usize>,
    /// From the first to the last.
    pub(crate) took: Duration,
}

impl Load {
    /// Each requester in turn, one request at a time each.
    pub(crate) async fn run(
        &self,
        requesters: &mut Vec<Requester>,
        countries: &'static [&'static str],
    ) -> Answers {
        let mut tasks = JoinSet::new();
        let mut turns = Vec::new();
        for mut requester in requesters.drain(..) {
            let (turn, due) = unbounded_channel();
            turns.push(turn);
            // All sign now: a thousand signatures after the first is due would keep both processors from the broker.
            let first = prepare(&mut requester, countries);
            tasks.spawn(ask(requester, first, due, countries));
        }
        let begun = Instant::now();
        let count = u64::from(self.rate) * self.seconds;
        let each = Duration::from_secs(1) / self.rate;
        // A thread of its own: the runtime's timers know milliseconds only.
        let clock = std::thread::spawn(move || tick(begun, each, count, &turns));
        let mut all = Answers::default();
        while let Some(done) = tasks.join_next().await {
            let (requester, answers) = done.unwrap();
            requesters.push(requester);
            all.proposed.extend(answers.proposed);
            all.bound.extend(answers.bound);
            for (reason, times) in answers.failures {
                *all.failures.entry(reason).or_default() += times;
            }
        }
        clock.join().unwrap();
        all.took = begun.elapsed();
        all
    }
}

fn tick(begun: Instant, each: Duration, count: u64, turns: &[UnboundedSender<Instant>]) {
    for (number, turn) in (0..count).zip(turns.iter().cycle()) {
        let due = begun + each * u32::try_from(number).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        turn.send(due).unwrap();
    }
}

async fn ask(
    mut requester: Requester,
    mut prepared: PostRequest,
    mut due: UnboundedReceiver<Instant>,
    countries: &[&str],
) -> (Requester, Answers) {
    let mut answers = Answers::default();
    while let Some(due) = due.recv().await {
        if due.elapsed() > PATIENCE {
            *answers
                .failures
                .entry("no turn in time".into())
                .or_default() += 1;
            continue;
        }
        if let Err(problem) = lease(&requester, &prepared, due, &mut answers).await {
            let reason = format!("{} {}", problem.status, problem.title);
            *answers.failures.entry(reason).or_default() += 1;
        }
        prepared = prepare(&mut requester, countries);
    }
    (requester, answers)
}

/// A request, signed before its time.
fn prepare(requester: &mut Requester, countries: &[&str]) -> PostRequest {
    // Each wallet goes through them all, from another one on.
    let first = usize::from(requester.wallet.address()[0]);
    let turn = first + usize::try_from(requester.nonce).unwrap();
    let mut request = requester.request(countries[turn % countries.len()]);
    request.channel_salt = B256::left_padding_from(&(request.nonce % CHANNELS).to_be_bytes());
    requester.posted(request)
}

async fn lease(
    requester: &Requester,
    request: &PostRequest,
    due: Instant,
    answers: &mut Answers,
) -> Result<(), Problem> {
    let passed = || due.elapsed().as_secs_f64() * 1e3;
    let proposed: ProposedDeal = requester.post("/v1/requests", request).await?;
    answers.proposed.push(passed());
    requester.sign(&proposed).await?;
    answers.bound.push(passed());
    Ok(())
}
