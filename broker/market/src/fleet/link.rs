//! What one broker says to another is numbered, so that a loss is noticed: what passes between them is delivered in order
//! or not at all, and nobody says when it was not.
//!
//! Whoever misses something forgets all conversations with the other one and says so; the other one does the same, and
//! counts anew. The agents concerned connect again, as after any lost connection.

use serde::{Deserialize, Serialize};

/// The place of a message in what one broker says to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// Which counting, unlike any before.
    pub stream: u64,
    /// From 0.
    pub at: u64,
}

/// What a broker has said to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing(Number);

impl Outgoing {
    /// Begins to count; `stream` is random.
    pub fn new(stream: u64) -> Self {
        Self(Number { stream, at: 0 })
    }

    /// The next message's number.
    pub fn number(&mut self) -> Number {
        let number = self.0;
        self.0.at += 1;
        number
    }

    /// Whether a number is of this counting.
    pub fn counts(&self, stream: u64) -> bool {
        self.0.stream == stream
    }
}

/// What a broker has heard of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming(Option<Number>);

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing is missing.
    InOrder,
    /// The other one counts anew: what was going on is over.
    Anew,
    /// Something is missing: what was going on is over, and the other one has to be told which counting is broken.
    Gap,
}

impl Incoming {
    /// A message has come.
    pub fn hear(&mut self, number: Number) -> Heard {
        let next = Number {
            at: number.at.saturating_add(1),
            ..number
        };
        match self.0 {
            None if number.at == 0 => {
                self.0 = Some(next);
                return Heard::InOrder;
            }
            Some(known) if known == number => {
                self.0 = Some(next);
                return Heard::InOrder;
            }
            Some(known) if number.at == 0 && known.stream != number.stream => {
                self.0 = Some(next);
                return Heard::Anew;
            }
            _ => {}
        }
        // Nothing of this counting is heard any more: it has to begin anew.
        self.0 = Some(Number {
            at: u64::MAX,
            ..number
        });
        Heard::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_order_is_heard_and_a_gap_is_never_forgiven() {
        let (mut said, mut heard) = (Outgoing::new(7), Incoming::default());
        assert_eq!(heard.hear(said.number()), Heard::InOrder);
        assert_eq!(heard.hear(said.number()), Heard::InOrder);
        let lost = said.number();
        assert_eq!(heard.hear(said.number()), Heard::Gap);
        assert_eq!(heard.hear(lost), Heard::Gap);
        assert_eq!(heard.hear(said.number()), Heard::Gap);
        assert_eq!(heard.hear(Number { stream: 7, at: 0 }), Heard::Gap);
        let mut anew = Outgoing::new(8);
        assert!(said.counts(7) && !anew.counts(7));
        assert_eq!(heard.hear(anew.number()), Heard::Anew);
        assert_eq!(heard.hear(anew.number()), Heard::InOrder);
        // What is late belongs to nothing that goes on, and nobody can tell what else was lost.
        assert_eq!(heard.hear(said.number()), Heard::Gap);
        assert_eq!(heard.hear(anew.number()), Heard::Gap);
    }

    #[test]
    fn the_first_of_a_counting_may_not_be_missing() {
        let (mut said, mut heard) = (Outgoing::new(7), Incoming::default());
        said.number();
        assert_eq!(heard.hear(said.number()), Heard::Gap);
    }
}
