//! The control socket that `wg` speaks to.

use std::io::{self, Read, Write};

use ipsx_tunnel_core::uapi::{MAX_REQUEST, Request, UapiError, respond_done};
use mio::{
    Interest, Registry, Token,
    net::{UnixListener, UnixStream},
};
use slab::Slab;
use zeroize::{Zeroize, Zeroizing};

use super::BareError;
use crate::uapi_socket::{self, SocketPath};

/// Clients at once, at most; more have to wait.
const MAX_CLIENTS: usize = 16;

/// Tokens of clients start here.
const FIRST_CLIENT: usize = 16;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// The listening socket and everyone connected.
pub(super) struct Control {
    _path: SocketPath,
    listener: UnixListener,
    waiting: bool,
    clients: Slab<Client>,
}

/// A connection. Its buffers hold keys.
struct Client {
    stream: UnixStream,
    request: Zeroizing<Vec<u8>>,
    response: Zeroizing<Vec<u8>>,
    sent: usize,
}

impl Control {
    pub(super) fn open(name: &str, registry: &Registry, token: Token) -> Result<Self, BareError> {
        let (listener, path) = uapi_socket::listen(name)?;
        let mut listener = UnixListener::from_std(listener);
        registry
            .register(&mut listener, token, Interest::READABLE)
            .map_err(BareError::Start)?;
        Ok(Self {
            _path: path,
            listener,
            waiting: false,
            clients: Slab::new(),
        })
    }

    /// Accepts clients as long as there is room.
    pub(super) fn accept(&mut self, registry: &Registry) {
        self.waiting = true;
        while self.clients.len() < MAX_CLIENTS {
            let Ok((mut stream, _)) = self.listener.accept() else {
                self.waiting = false;
                return;
            };
            let entry = self.clients.vacant_entry();
            let token = Token(FIRST_CLIENT + entry.key());
            let interest = Interest::READABLE | Interest::WRITABLE;
            if registry.register(&mut stream, token, interest).is_ok() {
                entry.insert(Client {
                    stream,
                    request: Zeroizing::new(Vec::new()),
                    response: Zeroizing::new(Vec::new()),
                    sent: 0,
                });
            }
        }
    }

    /// Reads requests of the client with this token, has them answered, and sends the answers.
    pub(super) fn serve(
        &mut self,
        token: Token,
        registry: &Registry,
        mut answer: impl FnMut(Result<Request, UapiError>) -> Zeroizing<String>,
    ) {
        let key = token.0.wrapping_sub(FIRST_CLIENT);
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if client.serve(&mut answer).is_err() {
            let mut client = self.clients.remove(key);
            // Closing it takes it out as well.
            let _ = registry.deregister(&mut client.stream);
            if self.waiting {
                self.accept(registry);
            }
        }
    }
}

impl Client {
    /// An error ends the connection.
    fn serve(
        &mut self,
        answer: &mut impl FnMut(Result<Request, UapiError>) -> Zeroizing<String>,
    ) -> io::Result<()> {
        let ended = self.receive()?;
        while let Some(len) = Request::complete(&self.request) {
            let text = std::str::from_utf8(&self.request[..len]);
            // An empty line between requests is none.
            if len > 1 {
                let request = text
                    .map_err(|_| UapiError::NoOperation)
                    .and_then(Request::parse);
                let response = answer(request);
                self.response.extend_from_slice(response.as_bytes());
            }
            self.request[..len].zeroize();
            self.request.drain(..len);
        }
        if self.request.len() > MAX_REQUEST {
            let refused = respond_done(UapiError::TooLong.errno());
            self.response.extend_from_slice(refused.as_bytes());
            self.send()?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.send()?;
        if ended && self.sent == self.response.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads what there is, but no more than a request may have; true at the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = Zeroizing::new([0; CHUNK]);
        while self.request.len() <= MAX_REQUEST {
            match self.stream.read(&mut *chunk) {
                Ok(0) => return Ok(true),
                Ok(len) => self.request.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.response.len() {
            match self.stream.write(&self.response[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.response.zeroize();
        self.sent = 0;
        Ok(())
    }
}
