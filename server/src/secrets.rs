//! Secrets at rest: values that are sealed before they are stored, and opened when they are read.
//!
//! # A stored value says what it is
//!
//! ```text
//!   plain bytes                                              as they are: nothing is paid for them
//!   MARK 0 plain bytes                                       such as begin with MARK by themselves
//!   MARK 1 key id (4)  salt (12)  nonce (12)  ciphertext  tag (16)                          sealed
//! ```
//!
//! Everything that is stored goes through [`plain`] or [`Keyring::seal`], on every node and for
//! every queue, so that no bytes of a user can be taken for sealed ones, nor sealed ones for theirs.
//!
//! # How it is sealed
//!
//! AES-256-GCM under a key of the value's own: HKDF-SHA256 of the master key and a random salt.
//! Random nonces alone would be good for 2³² values under one key, which a busy queue has in days;
//! salt and nonce together are as good as a nonce of 192 bits, as in XAES-256-GCM. What a value is
//! for is authenticated with it ([`Context`]): one that was put elsewhere does not open.
//!
//! The key id names the master key, so that values of earlier keys can be read and a value of a
//! key that is not here is told from one that was damaged.

use std::fmt;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::hkdf::{HKDF_SHA256, Prk};
use sha2::{Digest, Sha256};

use crate::job::{JobId, QueueName};

/// Drawn once by chance, for ever. No UTF-8 text begins so.
const MARK: [u8; 8] = [0xb7, 0x0e, 0xd3, 0x5a, 0x91, 0xc4, 0x2f, 0xe8];

/// Behind the mark: what follows is plain.
const PLAIN: u8 = 0;

/// Behind the mark: what follows is sealed.
const SEALED: u8 = 1;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 4;
const SALT_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What is before the ciphertext.
const HEAD_BYTES: usize = MARK.len() + 1 + KEY_ID_BYTES + SALT_BYTES + NONCE_LEN;

/// By how much a sealed value is longer than what is in it.
pub const SEALED_BYTES_MORE: usize = HEAD_BYTES + TAG_BYTES;

/// What a value is for. It opens for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context<'a> {
    /// The payload of jobs of this queue. Their ids are not known when it is sealed, and copies
    /// of a job share it.
    Payload(&'a QueueName),
    /// The result of this job.
    Result(JobId),
    /// A line of the log of this job.
    Log(JobId),
    /// Any other secret, by a name that no other one has, as `webhook:7`.
    Secret(&'a str),
}

impl Context<'_> {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Payload(queue) => [b"payload\0", queue.as_str().as_bytes()].concat(),
            Self::Result(job) => [&b"result\0"[..], &job.0.to_be_bytes()].concat(),
            Self::Log(job) => [&b"log\0"[..], &job.0.to_be_bytes()].concat(),
            Self::Secret(name) => [b"secret\0", name.as_bytes()].concat(),
        }
    }
}

/// The name of a master key: the first bytes of its SHA-256. Nothing can be learnt from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a stored value can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another node may have the key.
    #[error("it is sealed with the key {0}, which this node does not have")]
    UnknownKey(KeyId),
    /// Nobody can read it.
    #[error("it was changed after it was sealed, or belongs elsewhere")]
    Damaged,
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hex digits (openssl rand -hex 32)")]
pub struct NoKey;

#[derive(Clone)]
struct MasterKey {
    id: KeyId,
    derive: Prk,
}

impl MasterKey {
    fn parse(text: &str) -> Result<Self, NoKey> {
        if text.len() != KEY_BYTES * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoKey);
        }
        let mut key = [0; KEY_BYTES];
        for (place, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[place * 2..][..2], 16).map_err(|_| NoKey)?;
        }
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&Sha256::digest(key)[..KEY_ID_BYTES]);
        Ok(Self { id: KeyId(id), derive: Prk::new_less_safe(HKDF_SHA256, &key) })
    }

    /// The key of one value.
    fn of_value(&self, salt: &[u8]) -> LessSafeKey {
        let info = [&b"batonq value"[..], salt];
        let key = self.derive.expand(&info, &AES_256_GCM).expect("one key is not too long");
        LessSafeKey::new(key.into())
    }
}

/// The master keys of a node. It shows nothing but their ids.
#[derive(Clone, Default)]
pub struct Keyring(Vec<MasterKey>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.id)).finish()
    }
}

impl Keyring {
    /// Of the key to seal with, and of those with which older values were sealed.
    ///
    /// # Errors
    ///
    /// The place of the first text that is no key: 0 for `newest`, from 1 on for the others.
    pub fn parse<'a>(
        newest: &'a str,
        older: impl Iterator<Item = &'a str>,
    ) -> Result<Self, (usize, NoKey)> {
        let keys = std::iter::once(newest).chain(older).enumerate();
        let keys = keys.map(|(place, text)| MasterKey::parse(text).map_err(|error| (place, error)));
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// The key that values are sealed with. `None`: there is none, nothing can be sealed.
    pub fn newest(&self) -> Option<KeyId> {
        self.0.first().map(|key| key.id)
    }

    /// What is to be stored for these bytes. `None`: there is no key.
    pub fn seal(&self, bytes: &[u8], context: Context<'_>) -> Option<Bytes> {
        let key = self.0.first()?;
        let (salt, nonce): ([u8; SALT_BYTES], [u8; NONCE_LEN]) = rand::random();
        let mut value = Vec::with_capacity(bytes.len() + SEALED_BYTES_MORE);
        for part in [&MARK[..], &[SEALED], &key.id.0, &salt, &nonce, bytes] {
            value.extend_from_slice(part);
        }
        let (aad, nonce) = (Aad::from(context.bytes()), Nonce::assume_unique_for_key(nonce));
        let tag = key
            .of_value(&salt)
            .seal_in_place_separate_tag(nonce, aad, &mut value[HEAD_BYTES..])
            .expect("no value is as long as AES-GCM can not have it");
        value.extend_from_slice(tag.as_ref());
        Some(value.into())
    }

    /// The bytes for which this was stored; of plain ones, the same without a copy.
    ///
    /// # Errors
    ///
    /// See [`Unreadable`].
    pub fn open(&self, stored: Bytes, context: Context<'_>) -> Result<Bytes, Unreadable> {
        let Some(form) = stored.strip_prefix(&MARK) else { return Ok(stored) };
        match form.first() {
            Some(&PLAIN) => Ok(stored.slice(MARK.len() + 1..)),
            Some(&SEALED) if stored.len() >= SEALED_BYTES_MORE => {
                self.open_sealed(&stored, context)
            }
            _ => Err(Unreadable::Damaged),
        }
    }

    fn open_sealed(&self, stored: &[u8], context: Context<'_>) -> Result<Bytes, Unreadable> {
        let (head, sealed) = stored.split_at(HEAD_BYTES);
        let (id, rest) = head[MARK.len() + 1..].split_at(KEY_ID_BYTES);
        let (salt, nonce) = rest.split_at(SALT_BYTES);
        let id = KeyId(id.try_into().map_err(|_| Unreadable::Damaged)?);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unreadable::Damaged)?;
        let key = self.0.iter().find(|key| key.id == id).ok_or(Unreadable::UnknownKey(id))?;
        let mut value = sealed.to_vec();
        let opened =
            key.of_value(salt).open_in_place(nonce, Aad::from(context.bytes()), &mut value);
        let length = opened.map_err(|_| Unreadable::Damaged)?.len();
        value.truncate(length);
        Ok(value.into())
    }
}

/// What is to be stored for bytes that stay plain: nearly always themselves.
pub fn plain(bytes: Bytes) -> Bytes {
    match bytes.starts_with(&MARK) {
        false => bytes,
        true => [&MARK[..], &[PLAIN], &bytes].concat().into(),
    }
}

/// Whether what is stored was sealed.
pub fn is_sealed(stored: &[u8]) -> bool {
    stored.strip_prefix(&MARK).is_some_and(|form| form.first() == Some(&SEALED))
}

/// How many bytes it was for which this is stored.
pub fn opened_bytes(stored: &[u8]) -> usize {
    match stored.strip_prefix(&MARK).and_then(|form| form.first()) {
        Some(&SEALED) => stored.len().saturating_sub(SEALED_BYTES_MORE),
        Some(_) => stored.len() - MARK.len() - 1,
        None => stored.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "FFEEDDCCBBAA99887766554433221100ffeeddccbbaa99887766554433221100";

    fn keys(newest: &'static str, older: &[&'static str]) -> Keyring {
        Keyring::parse(newest, older.iter().copied()).unwrap()
    }

    fn bytes(value: &'static [u8]) -> Bytes {
        Bytes::from_static(value)
    }

    const CONTEXT: Context<'_> = Context::Secret("webhook:7");

    #[test]
    fn what_was_sealed_opens_for_what_it_was_sealed_for_and_nothing_else() {
        let (keys, queue, other) =
            (keys(KEY, &[]), QueueName::parse("mail").unwrap(), QueueName::parse("mail2").unwrap());
        let contexts = [
            Context::Payload(&queue),
            Context::Payload(&other),
            Context::Result(JobId(1)),
            Context::Result(JobId(2)),
            Context::Log(JobId(1)),
            Context::Secret("mail"),
        ];
        for sealed_for in contexts {
            let sealed = keys.seal(b"4711 secret", sealed_for).unwrap();
            assert_eq!((sealed.len(), opened_bytes(&sealed)), (11 + SEALED_BYTES_MORE, 11));
            assert!(is_sealed(&sealed) && !sealed.windows(6).any(|part| part == b"secret"));
            for opened_for in contexts {
                let expected = match opened_for == sealed_for {
                    true => Ok(bytes(b"4711 secret")),
                    false => Err(Unreadable::Damaged),
                };
                assert_eq!(keys.open(sealed.clone(), opened_for), expected);
            }
        }
    }

    #[test]
    fn every_value_has_a_key_and_a_nonce_of_its_own() {
        let keys = keys(KEY, &[]);
        let sealed: std::collections::HashSet<Bytes> =
            (0..100).map(|_| keys.seal(b"same", CONTEXT).unwrap()).collect();
        assert_eq!(sealed.len(), 100);
    }

    #[test]
    fn plain_bytes_stay_as_they_are_unless_they_look_sealed() {
        let none = Keyring::default();
        let sealed = keys(KEY, &[]).seal(b"x", CONTEXT).unwrap();
        let escaped = plain(bytes(&MARK));
        let values = [
            bytes(b""),
            bytes(b"{}"),
            bytes(&MARK[..7]),
            bytes(&MARK),
            sealed.clone(),
            escaped.clone(),
        ];
        for value in values {
            let stored = plain(value.clone());
            assert_eq!(stored == value, !value.starts_with(&MARK));
            assert!(!is_sealed(&stored));
            assert_eq!(opened_bytes(&stored), value.len());
            assert_eq!(none.open(stored, CONTEXT), Ok(value));
        }
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let (before, after) = (keys(KEY, &[]), keys(OTHER, &[KEY]));
        let (old, new) =
            (before.seal(b"old", CONTEXT).unwrap(), after.seal(b"new", CONTEXT).unwrap());
        assert_eq!(after.open(old, CONTEXT), Ok(bytes(b"old")));
        assert_eq!(after.open(new.clone(), CONTEXT), Ok(bytes(b"new")));
        let unknown = after.newest().unwrap();
        assert_eq!(before.open(new.clone(), CONTEXT), Err(Unreadable::UnknownKey(unknown)));
        let said = before.open(new, CONTEXT).unwrap_err().to_string();
        assert!(said.contains(&unknown.to_string()), "{said}");
    }

    #[test]
    fn without_a_key_nothing_is_sealed() {
        assert_eq!(Keyring::default().seal(b"x", CONTEXT), None);
        assert_eq!(Keyring::default().newest(), None);
    }

    #[test]
    fn a_value_that_was_changed_does_not_open() {
        let keys = keys(KEY, &[]);
        let sealed = keys.seal(b"value", CONTEXT).unwrap();
        for place in MARK.len()..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[place] ^= 1;
            // Changed to the form that says that it is plain, it is just not what it was.
            let opened = keys.open(changed.into(), CONTEXT);
            assert_ne!(opened, Ok(bytes(b"value")), "{place}");
        }
        for length in MARK.len()..sealed.len() {
            assert!(keys.open(sealed.slice(..length), CONTEXT).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_a_key_is_never_shown() {
        let (long, odd) = (format!("{KEY}0"), KEY.replace("00", "+0"));
        for bad in ["", "secret", &KEY[1..], &long, &odd, &KEY.replace("0a", "zz")] {
            assert_eq!(Keyring::parse(bad, std::iter::empty()).unwrap_err(), (0, NoKey), "{bad}");
            assert_eq!(Keyring::parse(KEY, [OTHER, bad].into_iter()).unwrap_err().0, 2);
        }
        assert_eq!(format!("{:?}", keys(KEY, &[])), "[630dcd29]");
    }
}
