//! Messages out of a stream: each after its length in two bytes (RFC 1035, section 4.2.2).

/// What has come, and was not taken yet. It holds one message and what came with its end, at most.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// Takes the next part of the stream.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// The next message, once it is there as a whole.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.0.first_chunk()?));
        let message = self.0.get(2..2 + length)?.to_vec();
        self.0.drain(..2 + length);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let stream = b"\x00\x03one\x00\x00\x00\x05three\x00\x02x";
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut messages = Vec::new();
            for part in stream.chunks(size) {
                frames.push(part);
                while let Some(message) = frames.pop() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"one"[..], b"", b"three"]);
            assert_eq!(frames.0, b"\x00\x02x");
        }
    }
}
