//! Which protocol a connection speaks.

/// What a client sends first: the name, a zero, and the version of the framing.
///
/// The framing (preface and length) has its own version because a node must understand it before
/// it can negotiate anything.
pub const PREFACE: [u8; 8] = *b"BATONQ\x00\x01";

/// The oldest version of the messages that this build speaks.
pub const VERSION_MIN: u32 = 1;

/// The newest version of the messages that this build speaks.
pub const VERSION_MAX: u32 = 1;

/// The version that this build and a peer will speak: the newest that both know.
///
/// `None` if there is none, or if the peer's range is upside down.
pub fn negotiate(peer_min: u32, peer_max: u32) -> Option<u32> {
    let newest = peer_max.min(VERSION_MAX);
    let oldest = peer_min.max(VERSION_MIN);
    (peer_min <= peer_max && oldest <= newest).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        for (peer, chosen) in
            [((1, 1), Some(1)), ((0, 9), Some(1)), ((2, 9), None), ((0, 0), None), ((9, 1), None)]
        {
            assert_eq!(negotiate(peer.0, peer.1), chosen, "{peer:?}");
        }
    }
}
