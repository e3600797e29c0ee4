//! The interface's manager: it serves the control socket, and tells the workers what changes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use ipsx_tunnel_core::{
    PrivateKey,
    uapi::{InterfaceSettings, InterfaceUpdate, Request, UapiError, respond_done, respond_get},
};
use mio::{Events, Poll, Token};
use zeroize::Zeroizing;

use super::{
    BareError,
    control::Control,
    sockets::open_group,
    worker::{Command, Order},
};
use crate::error::TunnelError;

pub(super) const CONTROL: Token = Token(3);
const WAKE: Token = Token(4);

/// How long a worker may take to do what it is told; it looks between two batches of packets.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker as the manager sees it.
pub(super) struct Hand {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) waker: Arc<mio::Waker>,
    pub(super) thread: Option<JoinHandle<Result<(), BareError>>>,
}

/// The interface's own settings, and its workers.
pub(super) struct Hands {
    hands: Vec<Hand>,
    private_key: Option<PrivateKey>,
    port: u16,
    mark: u32,
}

pub(super) struct Manager {
    poll: Poll,
    control: Control,
    hands: Hands,
    stop: Arc<AtomicBool>,
}

impl Manager {
    pub(super) fn new(poll: Poll, control: Control, port: u16, stop: Arc<AtomicBool>) -> Self {
        let hands = Hands {
            hands: Vec::new(),
            private_key: None,
            port,
            mark: 0,
        };
        Self {
            poll,
            control,
            hands,
            stop,
        }
    }

    /// Takes a worker on.
    pub(super) fn employ(&mut self, hand: Hand) {
        self.hands.hands.push(hand);
    }

    /// Serves until the interface is stopped or a worker ends, then has all workers end.
    pub(super) fn run(&mut self) -> Result<(), BareError> {
        let served = self.serve_until_stopped();
        self.stop.store(true, Ordering::Release);
        let ended = self.hands.join();
        served.map_err(BareError::Start).and(ended)
    }

    fn serve_until_stopped(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        while !self.stop.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    CONTROL => self.control.accept(self.poll.registry()),
                    WAKE => {}
                    client => {
                        let hands = &mut self.hands;
                        self.control.serve(client, self.poll.registry(), |request| {
                            hands.answer(request)
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Hands {
    fn answer(&mut self, request: Result<Request, UapiError>) -> Zeroizing<String> {
        let errno = match request {
            Ok(Request::Get) => match self.describe() {
                Ok(text) => return text,
                Err(error) => failed(&error),
            },
            Ok(Request::Set(update)) => match self.update(update) {
                Ok(()) => 0,
                Err(error) => failed(&error),
            },
            Err(error) => {
                tracing::warn!(%error, "a request on the control socket was refused");
                error.errno()
            }
        };
        Zeroizing::new(respond_done(errno))
    }

    fn describe(&self) -> io::Result<Zeroizing<String>> {
        let settings = InterfaceSettings {
            private_key: self.private_key.clone(),
            listen_port: self.port,
            fwmark: self.mark,
        };
        let peers = self.tell(self.hands.iter().map(|_| Command::Describe))?;
        Ok(respond_get(
            &settings,
            peers.iter().map(|text| text.as_str()),
        ))
    }

    fn update(&mut self, update: InterfaceUpdate) -> io::Result<()> {
        if let Some(key) = &update.private_key {
            self.set_key(key.as_ref())?;
        }
        if let Some(mark) = update.fwmark.filter(|&mark| mark != self.mark) {
            self.tell(self.hands.iter().map(|_| Command::Mark(mark)))?;
            self.mark = mark;
        }
        if let Some(port) = update
            .listen_port
            .filter(|&port| port == 0 || port != self.port)
        {
            self.listen(port)?;
        }
        let update = Arc::new(update);
        let command = || Command::Peers(Arc::clone(&update));
        self.tell(self.hands.iter().map(|_| command())).map(drop)
    }

    fn listen(&mut self, port: u16) -> io::Result<()> {
        let count = u8::try_from(self.hands.len()).unwrap_or(u8::MAX);
        let group = open_group(port, self.mark, count).map_err(|error| match error {
            BareError::Udp(TunnelError::Bind { source, .. }) => source,
            other => io::Error::other(other),
        })?;
        let port = group.first().map_or(port, |first| first.port());
        self.tell(
            group
                .into_iter()
                .map(|sockets| Command::Sockets(Box::new(sockets))),
        )?;
        self.port = port;
        Ok(())
    }

    fn set_key(&mut self, key: Option<&PrivateKey>) -> io::Result<()> {
        let bytes = |key: Option<&PrivateKey>| key.map(|key| *key.expose_bytes());
        if bytes(key) == bytes(self.private_key.as_ref()) {
            return Ok(());
        }
        self.tell(self.hands.iter().map(|_| Command::Key(key.cloned())))?;
        self.private_key = key.cloned();
        Ok(())
    }

    /// Gives each worker its command, and waits until all have done it.
    fn tell(&self, commands: impl Iterator<Item = Command>) -> io::Result<Vec<Zeroizing<String>>> {
        let mut waiting = Vec::with_capacity(self.hands.len());
        for (hand, command) in self.hands.iter().zip(commands) {
            let (answer, answers) = mpsc::channel();
            let ended = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            hand.orders.send(Order { command, answer }).map_err(ended)?;
            hand.waker.wake()?;
            waiting.push(answers);
        }
        let answered = |answers: mpsc::Receiver<_>| {
            answers
                .recv_timeout(PATIENCE)
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        };
        waiting.into_iter().map(answered).collect()
    }

    /// Waits for the workers to end; the first error is the one that counts.
    fn join(&mut self) -> Result<(), BareError> {
        let mut result = Ok(());
        for hand in &self.hands {
            // Without the wake-up it is seen within a second.
            let _ = hand.waker.wake();
        }
        for hand in &mut self.hands {
            if let Some(thread) = hand.thread.take() {
                // A panic has been printed.
                result = result.and(thread.join().unwrap_or(Ok(())));
            }
        }
        result
    }
}

fn failed(error: &io::Error) -> i32 {
    tracing::warn!(%error, "a request on the control socket failed");
    error.raw_os_error().unwrap_or(libc::EIO)
}
