//! What must bear any bytes. The fuzz targets call it, and so does a test for some seconds.

use batonq_protocol::{FRAME_BYTES_MAX_UNAUTHENTICATED, FrameCodec};
use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

/// Decodes frames until there are none, or no more can be understood. What is understood must be
/// understood again once it has been encoded.
///
/// # Panics
///
/// If it is not.
pub fn frames(bytes: &[u8]) {
    let mut codec = FrameCodec::new(FRAME_BYTES_MAX_UNAUTHENTICATED);
    let mut left = BytesMut::from(bytes);
    while let Ok(Some(envelope)) = codec.decode(&mut left) {
        let mut encoded = BytesMut::new();
        // What was sent in another way may need more bytes than it came in.
        if codec.encode(&envelope, &mut encoded).is_err() || encoded.len() == 4 {
            continue;
        }
        let again = codec.decode(&mut encoded).expect("it was just encoded");
        // A NaN is not equal to itself, so that texts are compared.
        assert_eq!(format!("{again:?}"), format!("{:?}", Some(envelope)));
    }
}

/// Parses bytes as each body that HTTP takes.
pub fn bodies(bytes: &[u8]) {
    batonq_server::http::fuzz_bodies(bytes);
}
