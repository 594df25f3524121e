//! Opaque tokens: texts of 256 random bits that stand for something stored, and are stored as a digest themselves.
//!
//! Refresh tokens, mailed links, trusted devices, keys of machines, states of flows. What one opens is the business of its
//! noun. With that much chance nothing is gained by guessing, so a plain digest does, and an index may look it up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// A new token, 43 characters of the URL-safe alphabet.
pub fn generate() -> SecretString {
    generate_text().into()
}

/// The same for what travels in addresses anyway: states and nonces of flows.
pub fn generate_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// What is stored and compared of a token: its SHA-256.
pub fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
