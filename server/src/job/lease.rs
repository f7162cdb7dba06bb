//! The right to work on a job.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use super::JobId;

/// One delivery of one job: who presents it may settle that job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Which of its deliveries; 1 is the first. A later delivery ends all earlier ones.
    pub delivery: u32,
}

/// What makes lease tokens hard to guess.
///
/// An ack is checked by (job, delivery) alone, on any node, without looking for the lease itself.
/// A client could compute that pair for a job that nobody has pulled; the proof, a keyed hash of
/// the pair, keeps it from doing so by mistake. The key belongs to the store, so that every node
/// accepts the tokens of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseKey(pub [u8; 16]);

impl LeaseKey {
    /// The bytes of a token.
    pub const TOKEN_BYTES: usize = 20;

    /// The token of a lease: job (8 bytes), delivery (4), proof (8), all big endian.
    pub fn token(&self, lease: Lease) -> [u8; Self::TOKEN_BYTES] {
        let mut token = [0; Self::TOKEN_BYTES];
        token[..8].copy_from_slice(&lease.job.0.to_be_bytes());
        token[8..12].copy_from_slice(&lease.delivery.to_be_bytes());
        let proof = self.proof(&token[..12]);
        token[12..].copy_from_slice(&proof.to_be_bytes());
        token
    }

    /// The lease of a token; `None` if this key has not made it.
    pub fn open(&self, token: &[u8]) -> Option<Lease> {
        let token: &[u8; Self::TOKEN_BYTES] = token.try_into().ok()?;
        let (pair, proof) = token.split_at(12);
        let (job, delivery) = pair.split_at(8);
        let lease = Lease {
            job: JobId(u64::from_be_bytes(job.try_into().ok()?)),
            delivery: u32::from_be_bytes(delivery.try_into().ok()?),
        };
        (self.proof(pair).to_be_bytes() == proof).then_some(lease)
    }

    fn proof(&self, pair: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(pair);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { job: JobId(41), delivery: 2 };

    #[test]
    fn a_token_opens_to_its_lease() {
        let key = LeaseKey([7; 16]);
        assert_eq!(key.open(&key.token(LEASE)), Some(LEASE));
    }

    #[test]
    fn a_token_that_was_tampered_with_does_not_open() {
        let key = LeaseKey([7; 16]);
        for place in 0..LeaseKey::TOKEN_BYTES {
            let mut token = key.token(LEASE);
            token[place] ^= 1;
            assert_eq!(key.open(&token), None, "byte {place}");
        }
        assert_eq!(key.open(b""), None);
        assert_eq!(LeaseKey([8; 16]).open(&key.token(LEASE)), None);
    }
}
