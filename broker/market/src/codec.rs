//! Frames of the agents' stream: four bytes of big-endian length, then one message in MessagePack.
//!
//! Structs are maps with field names and enums are maps from variant name to content, so that a reader skips
//! fields that it does not know. A frame is at most [`MAX_FRAME`] bytes; a longer one ends the connection
//! before anything is allocated for it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message, bytes, without the length before it.
pub const MAX_FRAME: usize = 64 * 1024;
/// Bytes of length before a message.
pub const LENGTH_BYTES: usize = 4;

/// A message that cannot be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`MAX_FRAME`].
    #[error("a message of {0} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong(usize),
    /// Not a message of the expected kind.
    #[error("not a message of this protocol: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// Could not be written down.
    #[error("the message cannot be encoded: {0}")]
    Unencodable(#[from] rmp_serde::encode::Error),
}

/// A message with its length before it, ready to write.
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; LENGTH_BYTES];
    rmp_serde::encode::write_named(&mut frame, message)?;
    let length = frame.len() - LENGTH_BYTES;
    if length > MAX_FRAME {
        return Err(CodecError::TooLong(length));
    }
    frame[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// The length that a frame's first four bytes announce, if it is allowed.
pub fn frame_length(prefix: [u8; LENGTH_BYTES]) -> Result<usize, CodecError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_FRAME {
        Err(CodecError::TooLong(length))
    } else {
        Ok(length)
    }
}

/// The message in a frame's content (without the length).
pub fn decode<T: DeserializeOwned>(content: &[u8]) -> Result<T, CodecError> {
    if content.len() > MAX_FRAME {
        return Err(CodecError::TooLong(content.len()));
    }
    Ok(rmp_serde::from_slice(content)?)
}

/// A message without a length, for datagrams that have their own.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let content = rmp_serde::to_vec_named(message)?;
    if content.len() > MAX_FRAME {
        Err(CodecError::TooLong(content.len()))
    } else {
        Ok(content)
    }
}
