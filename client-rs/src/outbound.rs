//! Frames on their way to the socket, written as many at once as there are.

use batonq_protocol::{Envelope, ErrorCode, FRAME_BYTES_MAX, FrameCodec, FrameError, PREFACE};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::codec::Encoder;

use crate::error::Error;

/// How many bytes may wait for the socket before no more requests are taken.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Outbound {
    codec: FrameCodec,
    bytes: BytesMut,
    encoded: u64,
}

/// Where a frame begins in all that is written on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(u64);

impl Outbound {
    pub(crate) fn new() -> Self {
        Self { codec: FrameCodec::new(FRAME_BYTES_MAX), bytes: BytesMut::new(), encoded: 0 }
    }

    pub(crate) fn put_preface(&mut self) {
        self.bytes.extend_from_slice(&PREFACE);
        self.encoded += PREFACE.len() as u64;
    }

    /// The largest frame that the node accepts.
    pub(crate) fn set_frame_bytes_max(&mut self, frame_bytes_max: u64) {
        let announced = usize::try_from(frame_bytes_max).unwrap_or(FRAME_BYTES_MAX);
        if announced > 0 {
            self.codec.set_frame_bytes_max(announced.min(FRAME_BYTES_MAX));
        }
    }

    /// Adds a frame, and says where it begins.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the node would refuse the frame for its size; nothing is added then.
    pub(crate) fn put(&mut self, envelope: &Envelope) -> Result<Position, Error> {
        let position = Position(self.encoded);
        let before = self.bytes.len();
        self.codec.encode(envelope, &mut self.bytes).map_err(too_large)?;
        self.encoded += (self.bytes.len() - before) as u64;
        Ok(position)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= WAITING_BYTES_MAX
    }

    /// Whether any byte of the frame was handed to the socket.
    pub(crate) fn was_begun(&self, frame: Position) -> bool {
        frame.0 < self.encoded - self.bytes.remaining() as u64
    }

    /// Writes what the socket takes at once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is written twice or left out.
    pub(crate) async fn write_to(
        &mut self,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<usize> {
        writer.write_buf(&mut self.bytes).await
    }
}

fn too_large(error: FrameError) -> Error {
    Error::refused(ErrorCode::PayloadTooLarge, error.to_string(), "payload")
}

#[cfg(test)]
mod tests {
    use batonq_protocol::Message;
    use batonq_protocol::messages::{Ping, Push};

    use super::*;

    #[tokio::test]
    async fn a_frame_is_begun_with_its_first_byte() {
        let mut outbound = Outbound::new();
        let ping = Envelope { request_id: 1, message: Some(Message::Ping(Ping {})) };
        let first = outbound.put(&ping).unwrap();
        let length = outbound.bytes.len();
        let second = outbound.put(&ping).unwrap();
        assert!(!outbound.was_begun(first));

        outbound.bytes.advance(1);
        assert!(outbound.was_begun(first) && !outbound.was_begun(second));
        outbound.bytes.advance(length);
        assert!(outbound.was_begun(second));
    }

    #[test]
    fn a_frame_that_the_node_would_refuse_is_not_begun() {
        let mut outbound = Outbound::new();
        outbound.set_frame_bytes_max(20);
        let job = batonq_protocol::messages::NewJob { queue: "q".repeat(20), ..<_>::default() };
        let push = Some(Message::Push(Push { jobs: vec![job] }));
        let refused = outbound.put(&Envelope { request_id: 1, message: push });
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::PayloadTooLarge));
        assert!(outbound.is_empty());
    }
}
