//! Fair service: every flow that has something to do gets one turn, in the order in which they asked.

use std::collections::VecDeque;

use crate::engine::Context;

/// Flows that wait for their turn.
#[derive(Debug)]
pub(crate) struct Turns<K>(VecDeque<K>);

impl<K: PartialEq> Turns<K> {
    pub(crate) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Asks for a turn. `asked` is the flow's own note that it waits already; its turn takes it back.
    pub(crate) fn ask(&mut self, key: K, asked: &mut bool) {
        if !std::mem::replace(asked, true) {
            self.0.push_back(key);
        }
    }

    /// Takes a flow out that is gone: left here, its number could wake a later flow twice.
    pub(crate) fn withdraw(&mut self, key: &K) {
        self.0.retain(|other| other != key);
    }
}

/// Many flows that take turns.
pub(crate) trait TakeTurns {
    /// What names a flow.
    type Key: PartialEq;

    fn turns(&mut self) -> &mut Turns<Self::Key>;

    /// Gives a flow its turn, if it is still there: a bounded amount of work.
    fn take_turn(&mut self, key: Self::Key, cx: &mut Context<'_>);

    /// Gives each flow that waits one turn, unless enough waits for the network. True if some could go on at once.
    fn serve(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..self.turns().0.len() {
            if cx.congested() {
                return true;
            }
            let Some(key) = self.turns().0.pop_front() else {
                break;
            };
            self.take_turn(key, cx);
        }
        !self.turns().0.is_empty()
    }
}
