// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

use super::errors::WireGuardError;
use crate::noise::{Tunn, TunnResult};
use std::ops::{Index, IndexMut};

use std::time::{Duration, Instant};

// Some constants, represent time in seconds
// https://www.wireguard.com/papers/wireguard.pdf#page=14
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const COOKIE_EXPIRATION_TIME: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub enum TimerName {
    /// Current time, updated each call to `update_timers`
    TimeCurrent,
    /// Time when last handshake was completed
    TimeSessionEstablished,
    /// Time the last attempt for a new handshake began
    TimeLastHandshakeStarted,
    /// Time we last received and authenticated a packet
    TimeLastPacketReceived,
    /// Time we last send a packet
    TimeLastPacketSent,
    /// Time we last received and authenticated a DATA packet
    TimeLastDataPacketReceived,
    /// Time we last send a DATA packet
    TimeLastDataPacketSent,
    /// Time we last received a cookie
    TimeCookieReceived,
    /// Time we last sent persistent keepalive
    TimePersistentKeepalive,
    Top,
}

use self::TimerName::*;

#[derive(Debug)]
pub struct Timers {
    /// Is the owner of the timer the initiator or the responder for the last handshake?
    is_initiator: bool,
    /// Start time of the tunnel
    time_started: Instant,
    timers: [Duration; TimerName::Top as usize],
    pub(super) session_timers: [Duration; super::N_SESSIONS],
    /// Since when we have received data without sending anything back
    want_keepalive_since: Option<Duration>,
    /// Since when we have sent data without hearing back
    want_handshake_since: Option<Duration>,
    persistent_keepalive: usize,
    /// Should this timer call reset rr function (if not a shared rr instance)
    pub(super) should_reset_rr: bool,
}

impl Timers {
    pub(super) fn new(persistent_keepalive: Option<u16>, reset_rr: bool, now: Instant) -> Timers {
        Timers {
            is_initiator: false,
            time_started: now,
            timers: Default::default(),
            session_timers: Default::default(),
            want_keepalive_since: None,
            want_handshake_since: None,
            persistent_keepalive: usize::from(persistent_keepalive.unwrap_or(0)),
            should_reset_rr: reset_rr,
        }
    }

    /// The present, as the caller last told it
    pub(super) fn now(&self) -> Instant {
        self.time_started + self.timers[TimeCurrent as usize]
    }

    fn is_initiator(&self) -> bool {
        self.is_initiator
    }

    // We don't really clear the timers, but we set them to the current time to
    // so the reference time frame is the same
    pub(super) fn clear(&mut self) {
        let now = self.timers[TimeCurrent as usize];
        for t in &mut self.timers[..] {
            *t = now;
        }
        self.want_handshake_since = None;
        self.want_keepalive_since = None;
    }
}

impl Index<TimerName> for Timers {
    type Output = Duration;
    fn index(&self, index: TimerName) -> &Duration {
        &self.timers[index as usize]
    }
}

impl IndexMut<TimerName> for Timers {
    fn index_mut(&mut self, index: TimerName) -> &mut Duration {
        &mut self.timers[index as usize]
    }
}

impl Tunn {
    pub(super) fn timer_tick(&mut self, timer_name: TimerName) {
        let time = self.timers[TimeCurrent];
        match timer_name {
            TimeLastPacketReceived => self.timers.want_handshake_since = None,
            TimeLastPacketSent => self.timers.want_keepalive_since = None,
            TimeLastDataPacketReceived => {
                self.timers.want_keepalive_since.get_or_insert(time);
            }
            TimeLastDataPacketSent => {
                self.timers.want_handshake_since.get_or_insert(time);
            }
            _ => {}
        }
        self.timers[timer_name] = time;
    }

    pub(super) fn timer_tick_session_established(
        &mut self,
        is_initiator: bool,
        session_idx: usize,
    ) {
        self.timer_tick(TimeSessionEstablished);
        self.timers.session_timers[session_idx % crate::noise::N_SESSIONS] =
            self.timers[TimeCurrent];
        self.timers.is_initiator = is_initiator;
    }

    // We don't really clear the timers, but we set them to the current time to
    // so the reference time frame is the same
    fn clear_all(&mut self) {
        for session in &mut self.sessions {
            *session = None;
        }

        self.packet_queue.clear();

        self.timers.clear();
    }

    fn update_session_timers(&mut self, time_now: Duration) {
        let timers = &mut self.timers;

        for (i, t) in timers.session_timers.iter_mut().enumerate() {
            if time_now - *t >= REJECT_AFTER_TIME {
                if let Some(session) = self.sessions[i].take() {
                    tracing::debug!(
                        message = "SESSION_EXPIRED(REJECT_AFTER_TIME)",
                        session = session.receiving_index
                    );
                }
                *t = time_now;
            }
        }
    }

    pub fn update_timers<'a>(&mut self, dst: &'a mut [u8]) -> TunnResult<'a> {
        let mut handshake_initiation_required = false;
        let mut keepalive_required = false;

        if self.timers.should_reset_rr {
            self.rate_limiter
                .reset_count(self.timers.time_started + self.timers[TimeCurrent]);
        }

        // All the times are counted from tunnel initiation, for efficiency our timers are rounded
        // to a second, as there is no real benefit to having highly accurate timers.
        let now = self.timers[TimeCurrent];

        self.update_session_timers(now);

        // Load timers only once:
        let session_established = self.timers[TimeSessionEstablished];
        let handshake_started = self.timers[TimeLastHandshakeStarted];
        let data_packet_received = self.timers[TimeLastDataPacketReceived];
        let data_packet_sent = self.timers[TimeLastDataPacketSent];
        let persistent_keepalive = self.timers.persistent_keepalive;

        {
            if self.handshake.is_expired() {
                // Who wants keepalives wants the connection back, whenever the other end returns
                if persistent_keepalive > 0
                    && now - self.timers[TimePersistentKeepalive]
                        >= Duration::from_secs(persistent_keepalive as _)
                {
                    self.timer_tick(TimePersistentKeepalive);
                    return self.format_handshake_initiation(dst, true);
                }
                return TunnResult::Err(WireGuardError::ConnectionExpired);
            }

            // Clear cookie after COOKIE_EXPIRATION_TIME
            if self.handshake.has_cookie()
                && now - self.timers[TimeCookieReceived] >= COOKIE_EXPIRATION_TIME
            {
                self.handshake.clear_cookie();
            }

            // All ephemeral private keys and symmetric session keys are zeroed out after
            // (REJECT_AFTER_TIME * 3) ms if no new keys have been exchanged.
            if now - session_established >= REJECT_AFTER_TIME * 3 {
                tracing::debug!("CONNECTION_EXPIRED(REJECT_AFTER_TIME * 3)");
                self.handshake.set_expired();
                self.clear_all();
                return TunnResult::Err(WireGuardError::ConnectionExpired);
            }

            if let Some(time_init_sent) = self.handshake.timer() {
                // Handshake Initiation Retransmission
                if now - handshake_started >= REKEY_ATTEMPT_TIME {
                    // After REKEY_ATTEMPT_TIME ms of trying to initiate a new handshake,
                    // the retries give up and cease, and clear all existing packets queued
                    // up to be sent. If a packet is explicitly queued up to be sent, then
                    // this timer is reset.
                    tracing::debug!("CONNECTION_EXPIRED(REKEY_ATTEMPT_TIME)");
                    self.handshake.set_expired();
                    self.clear_all();
                    return TunnResult::Err(WireGuardError::ConnectionExpired);
                }

                if self.timers.time_started + now >= time_init_sent + REKEY_TIMEOUT {
                    // A handshake initiation is retried after REKEY_TIMEOUT + jitter ms,
                    // if a response has not been received, where jitter is some random
                    // value between 0 and 333 ms.
                    tracing::debug!("HANDSHAKE(REKEY_TIMEOUT)");
                    handshake_initiation_required = true;
                }
            } else {
                if self.timers.is_initiator() {
                    // After sending a packet, if the sender was the original initiator
                    // of the handshake and if the current session key is REKEY_AFTER_TIME
                    // ms old, we initiate a new handshake. If the sender was the original
                    // responder of the handshake, it does not re-initiate a new handshake
                    // after REKEY_AFTER_TIME ms like the original initiator does.
                    if session_established < data_packet_sent
                        && now - session_established >= REKEY_AFTER_TIME
                    {
                        tracing::debug!("HANDSHAKE(REKEY_AFTER_TIME (on send))");
                        handshake_initiation_required = true;
                    }

                    // After receiving a packet, if the receiver was the original initiator
                    // of the handshake and if the current session key is REJECT_AFTER_TIME
                    // - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT ms old, we initiate a new
                    // handshake.
                    if session_established < data_packet_received
                        && now - session_established
                            >= REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
                    {
                        tracing::debug!(
                            "HANDSHAKE(REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - \
                        REKEY_TIMEOUT \
                        (on receive))"
                        );
                        handshake_initiation_required = true;
                    }
                }

                // If we have sent a packet to a given peer but have not received a
                // packet after from that peer for (KEEPALIVE + REKEY_TIMEOUT) ms,
                // we initiate a new handshake.
                if self
                    .timers
                    .want_handshake_since
                    .is_some_and(|since| now - since >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)
                {
                    self.timers.want_handshake_since = None;
                    tracing::debug!("HANDSHAKE(KEEPALIVE + REKEY_TIMEOUT)");
                    handshake_initiation_required = true;
                }

                if self.sessions[self.current % super::N_SESSIONS]
                    .as_ref()
                    .is_some_and(|session| session.wants_rekey())
                {
                    tracing::debug!("HANDSHAKE(REKEY_AFTER_MESSAGES)");
                    handshake_initiation_required = true;
                }

                if !handshake_initiation_required {
                    // If a packet has been received from a given peer, but we have not sent one back
                    // to the given peer in KEEPALIVE ms, we send an empty packet.
                    if self
                        .timers
                        .want_keepalive_since
                        .is_some_and(|since| now - since >= KEEPALIVE_TIMEOUT)
                    {
                        self.timers.want_keepalive_since = None;
                        tracing::debug!("KEEPALIVE(KEEPALIVE_TIMEOUT)");
                        keepalive_required = true;
                    }

                    // Persistent KEEPALIVE
                    if persistent_keepalive > 0
                        && (now - self.timers[TimePersistentKeepalive]
                            >= Duration::from_secs(persistent_keepalive as _))
                    {
                        tracing::debug!("KEEPALIVE(PERSISTENT_KEEPALIVE)");
                        self.timer_tick(TimePersistentKeepalive);
                        keepalive_required = true;
                    }
                }
            }
        }

        if handshake_initiation_required {
            return self.format_handshake_initiation(dst, true);
        }

        if keepalive_required {
            return self.encapsulate(&[], dst);
        }

        TunnResult::Done
    }

    /// Tells the present, at which everything happens until it is told again
    #[inline]
    pub fn set_time(&mut self, now: Instant) {
        if now == self.handshake.time() {
            return;
        }
        let current = now.saturating_duration_since(self.timers.time_started);
        if current > self.timers[TimeCurrent] {
            self.timers[TimeCurrent] = current;
            self.handshake.set_time(now);
        }
    }

    /// When [`update_timers`](Self::update_timers) has something to do at the earliest, if nothing else happens before
    pub fn next_timer(&self) -> Option<Instant> {
        let timers = &self.timers;
        let mut next: Option<Duration> = None;
        let mut at = |time: Duration| next = Some(next.map_or(time, |next| next.min(time)));
        for (session, since) in self.sessions.iter().zip(timers.session_timers) {
            if session.is_some() {
                at(since + REJECT_AFTER_TIME);
            }
        }
        let keepalive = (timers.persistent_keepalive > 0).then(|| {
            timers[TimePersistentKeepalive] + Duration::from_secs(timers.persistent_keepalive as _)
        });
        if self.handshake.is_expired() {
            keepalive.map(at);
            return next.map(|time| timers.time_started + time);
        }
        if self.handshake.has_cookie() {
            at(timers[TimeCookieReceived] + COOKIE_EXPIRATION_TIME);
        }
        let established = timers[TimeSessionEstablished];
        at(established + REJECT_AFTER_TIME * 3);
        if let Some(sent) = self.handshake.timer() {
            at(sent.saturating_duration_since(timers.time_started) + REKEY_TIMEOUT);
            at(timers[TimeLastHandshakeStarted] + REKEY_ATTEMPT_TIME);
        } else {
            if timers.is_initiator() && established < timers[TimeLastDataPacketSent] {
                at(established + REKEY_AFTER_TIME);
            }
            if timers.is_initiator() && established < timers[TimeLastDataPacketReceived] {
                at(established + REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT);
            }
            if let Some(since) = timers.want_handshake_since {
                at(since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
            }
            if let Some(since) = timers.want_keepalive_since {
                at(since + KEEPALIVE_TIMEOUT);
            }
            keepalive.map(at);
        }
        next.map(|time| timers.time_started + time)
    }

    /// Whether the connection has ended and no key of it is held
    pub fn is_idle(&self) -> bool {
        !self.handshake.holds_keys() && self.sessions.iter().all(Option::is_none)
    }

    /// Whether the session that data would be sent with may still be used
    pub fn has_session(&self) -> bool {
        let index = self.current % super::N_SESSIONS;
        self.sessions[index]
            .as_ref()
            .is_some_and(|session| !session.is_used_up() && self.is_fresh(index))
    }

    /// Whether the session in this place of the ring is young enough
    pub(super) fn is_fresh(&self, index: usize) -> bool {
        self.timers[TimeCurrent].saturating_sub(self.timers.session_timers[index])
            < REJECT_AFTER_TIME
    }

    pub fn persistent_keepalive(&self) -> Option<u16> {
        let keepalive = self.timers.persistent_keepalive;

        if keepalive > 0 {
            Some(keepalive as u16)
        } else {
            None
        }
    }
}
