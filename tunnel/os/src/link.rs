//! The way from handles into an event loop thread.

use std::{
    io,
    sync::{Arc, mpsc},
};

use tokio::sync::oneshot;

use crate::error::TunnelError;

/// Sends commands to an event loop and wakes it.
pub(crate) struct Link<C> {
    commands: mpsc::Sender<C>,
    waker: Arc<mio::Waker>,
}

impl<C> Clone for Link<C> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            waker: Arc::clone(&self.waker),
        }
    }
}

impl<C> Link<C> {
    pub(crate) fn new(waker: Arc<mio::Waker>) -> (Self, mpsc::Receiver<C>) {
        let (commands, receiver) = mpsc::channel();
        (Self { commands, waker }, receiver)
    }

    /// Hands over a command; it is carried out in order with the others.
    pub(crate) fn send(&self, command: C) -> Result<(), TunnelError> {
        self.commands
            .send(command)
            .map_err(|_| TunnelError::Stopped)?;
        self.wake().map_err(|_| TunnelError::Stopped)
    }

    /// Hands over a command that is answered.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<T, TunnelError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_| TunnelError::Stopped)
    }

    /// For waking the loop without a command.
    pub(crate) fn waker(&self) -> Arc<mio::Waker> {
        Arc::clone(&self.waker)
    }

    fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }
}
