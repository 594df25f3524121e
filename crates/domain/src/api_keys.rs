//! Keys of machines: how they are made, stored and shown. What a key opens is the business of its noun.
//!
//! The invariant: the key itself leaves this file once, in [`NewKey`]; everything stored or compared is its SHA-256.

use secrecy::{ExposeSecret, SecretString};

use crate::opaque;

/// Longer texts are no keys of ours; hashing them would be work for nothing.
const LONGEST: usize = 256;

/// A key just made.
#[derive(Debug)]
pub struct NewKey {
    /// What its holder sends; shown once.
    pub secret: SecretString,
    /// What is stored.
    pub hash: Vec<u8>,
}

impl NewKey {
    /// A key of 256 random bits behind `prefix`, in the URL-safe alphabet.
    pub fn generate(prefix: &str) -> Self {
        let secret = SecretString::from(format!("{prefix}{}", opaque::generate().expose_secret()));
        let hash = opaque::hash(secret.expose_secret());
        Self { secret, hash }
    }

    /// Its first characters, which tell keys apart and open nothing.
    pub fn beginning(&self, characters: usize) -> String {
        self.secret.expose_secret().chars().take(characters).collect()
    }

    /// Its first and last characters with the rest hidden.
    pub fn masked(&self) -> String {
        let key = self.secret.expose_secret();
        let end: String = key.chars().skip(key.chars().count() - 4).collect();
        format!("{}****{end}", self.beginning(4))
    }
}

/// What is stored of a key that somebody presents, if it can be one.
pub fn hash_presented(key: &str) -> Option<Vec<u8>> {
    (!key.is_empty() && key.len() <= LONGEST).then(|| opaque::hash(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_long_and_shows_little() {
        let (one, other) = (NewKey::generate("bfsk_"), NewKey::generate("bfsk_"));
        let key = one.secret.expose_secret();
        assert_eq!(key.len(), 5 + 43, "256 bits");
        assert!(
            key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'),
            "URL-safe"
        );
        assert_ne!(key, other.secret.expose_secret());
        assert_eq!(hash_presented(key), Some(one.hash.clone()));
        assert_eq!(one.masked().len(), 12);
        assert_eq!(one.beginning(12), key[..12]);
        assert!(!format!("{one:?}").contains(&key[5..]), "it does not print");
        assert_eq!((hash_presented(""), hash_presented(&"k".repeat(300))), (None, None));
    }
}
