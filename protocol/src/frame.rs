//! Frames: a length and an envelope.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message as _;
use tokio_util::codec::{Decoder, Encoder};

use crate::messages::Envelope;

/// The largest envelope, in bytes, of a client that has authenticated.
///
/// It holds a batch of small jobs or three payloads of the largest size, and bounds what one
/// request can cost a node.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest envelope, in bytes, before the client has authenticated: enough for any `Hello`.
pub const FRAME_BYTES_MAX_UNAUTHENTICATED: usize = 64 * 1024;

const LENGTH_BYTES: usize = 4;

/// Why the bytes of a peer can not be understood any further. The connection must close.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length of zero: every envelope has at least one byte.
    #[error("empty frame")]
    Empty,
    /// Refused on the length alone, before anything is allocated for it.
    #[error("frame of {length} bytes: {max} are allowed")]
    TooLarge {
        /// What the peer announced.
        length: usize,
        /// What it may send now.
        max: usize,
    },
    /// The bytes are no envelope.
    #[error("no envelope: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Turns bytes into envelopes and back.
///
/// Payloads are not copied while decoding: they point into the bytes that were read.
#[derive(Debug)]
pub struct FrameCodec {
    frame_bytes_max: usize,
}

impl FrameCodec {
    /// A codec that accepts envelopes of at most `frame_bytes_max` bytes.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max }
    }

    /// Changes the limit for the frames that follow.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }
}

impl Decoder for FrameCodec {
    type Item = Envelope;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        let Some(head) = src.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge { length, max: self.frame_bytes_max });
        }
        if src.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        src.advance(LENGTH_BYTES);
        Ok(Some(Envelope::decode(src.split_to(length).freeze())?))
    }
}

impl Encoder<&Envelope> for FrameCodec {
    type Error = FrameError;

    /// # Errors
    ///
    /// [`FrameError::TooLarge`] if the peer would refuse the frame; nothing is written then.
    fn encode(&mut self, envelope: &Envelope, dst: &mut BytesMut) -> Result<(), FrameError> {
        let length = envelope.encoded_len();
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge { length, max: self.frame_bytes_max });
        }
        let length_u32 = u32::try_from(length).expect("the limit is far below 4 GiB");
        dst.reserve(LENGTH_BYTES + length);
        dst.put_u32(length_u32);
        envelope.encode_raw(dst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Ping, envelope};

    fn ping(request_id: u64) -> Envelope {
        Envelope { request_id, message: Some(envelope::Message::Ping(Ping {})) }
    }

    fn frame(length: u32, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32(length);
        bytes.put_slice(body);
        bytes
    }

    #[test]
    fn a_frame_cut_anywhere_waits_for_the_rest() {
        let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
        let mut whole = BytesMut::new();
        codec.encode(&ping(77), &mut whole).unwrap();
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert!(codec.decode(&mut part).unwrap().is_none(), "cut at {cut}");
            part.extend_from_slice(&whole[cut..]);
            assert_eq!(codec.decode(&mut part).unwrap(), Some(ping(77)), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_the_body_is_there() {
        for length in [101, 1 << 31, u32::MAX] {
            let refused = FrameCodec::new(100).decode(&mut frame(length, b""));
            assert!(matches!(refused, Err(FrameError::TooLarge { max: 100, .. })), "{length}");
        }
        let refused = FrameCodec::new(100).decode(&mut frame(0, b""));
        assert!(matches!(refused, Err(FrameError::Empty)));
    }

    #[test]
    fn a_length_at_the_limit_is_waited_for() {
        for length in [99, 100] {
            assert!(FrameCodec::new(100).decode(&mut frame(length, b"")).unwrap().is_none());
        }
    }

    #[test]
    fn bytes_that_are_no_envelope_are_refused() {
        let refused = FrameCodec::new(100).decode(&mut frame(3, b"\xff\xff\xff"));
        assert!(matches!(refused, Err(FrameError::Malformed(_))));
    }

    #[test]
    fn an_answer_too_large_for_the_peer_is_not_begun() {
        let mut out = BytesMut::new();
        let refused = FrameCodec::new(1).encode(&ping(1 << 40), &mut out);
        assert!(matches!(refused, Err(FrameError::TooLarge { .. })));
        assert!(out.is_empty());
    }
}
