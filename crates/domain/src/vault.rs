//! Envelope encryption: a master key wraps one data key per organization, the data key seals values.
//!
//! A sealed value is `2 ‖ id of its data key ‖ nonce ‖ ciphertext`; a wrapped data key is `1 ‖ nonce ‖ ciphertext` and its
//! row names the master key. The associated data binds table, organization and name, so that a ciphertext moved to
//! another row, column or tenant does not open. SQL for the wrapped keys is in `data_keys.rs`.

use aes_gcm::aead::{Aead, Generate, Nonce, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::id::OrgId;
use crate::{Error, Result};

/// First byte of what is sealed with a key that is named beside it; values of before key ids are of this form too.
const BARE: u8 = 1;
/// First byte of what begins with the id of its key.
const NAMED: u8 = 2;
const NONCE: usize = 12;
const KEY_ID: usize = 16;

/// The master keys of this installation: the first wraps, all unwrap.
#[derive(Clone)]
pub struct Vault {
    masters: Vec<(String, Zeroizing<[u8; 32]>)>,
}

/// The key that seals the values of one organization, or the global ones.
#[derive(Clone)]
pub struct DataKey {
    id: Uuid,
    key: Zeroizing<[u8; 32]>,
}

/// What a ciphertext belongs to; part of the associated data.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Table.
    pub table: &'static str,
    /// Organization, `None` for global rows.
    pub organization: Option<OrgId>,
    /// Name within the organization.
    pub name: &'a str,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.masters.iter().map(|(id, _)| id)).finish()
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}

impl Vault {
    /// Reads `SECRETS_MASTER_KEY`: one key, or several as `id:key,id:key` of which the first is current.
    pub fn new(setting: &SecretString) -> Self {
        let masters = setting
            .expose_secret()
            .split(',')
            .map(|entry| {
                let (id, material) = entry.split_once(':').unwrap_or(("1", entry));
                let key: [u8; 32] = Sha256::new()
                    .chain_update("bifrost master key 1")
                    .chain_update(material)
                    .finalize()
                    .into();
                (id.to_owned(), Zeroizing::new(key))
            })
            .collect();
        Self { masters }
    }

    /// The id of the master key that wraps.
    pub fn current_master(&self) -> &str {
        &self.masters[0].0
    }

    /// A new data key, and the same wrapped with the current master key and that key's id.
    ///
    /// # Errors
    /// [`Error::Internal`] if encryption fails, which it does not for 32 bytes.
    pub fn new_data_key(&self, organization: Option<OrgId>) -> Result<(DataKey, String, Vec<u8>)> {
        let key = DataKey { id: Uuid::now_v7(), key: Zeroizing::new(rand::random()) };
        let wrapped = self.wrap_data_key(organization, &key)?;
        Ok((key, self.current_master().to_owned(), wrapped))
    }

    /// Wraps a data key with the current master key.
    ///
    /// # Errors
    /// As [`Self::new_data_key`].
    pub fn wrap_data_key(&self, organization: Option<OrgId>, key: &DataKey) -> Result<Vec<u8>> {
        let sealed = seal(&self.masters[0].1, &wrapping_data(organization), key.key.as_ref())?;
        Ok([[BARE].as_slice(), &sealed].concat())
    }

    /// Unwraps the stored data key `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] when the master key is not configured or the bytes were tampered with.
    pub fn unwrap_data_key(
        &self,
        id: Uuid,
        organization: Option<OrgId>,
        master_id: &str,
        wrapped: &[u8],
    ) -> Result<DataKey> {
        let (_, master) = self.masters.iter().find(|(id, _)| id == master_id).ok_or_else(|| {
            Error::internal(format!("master key `{master_id}` is not in SECRETS_MASTER_KEY"))
        })?;
        let sealed = wrapped.strip_prefix(&[BARE]).ok_or_else(refused)?;
        let key = Zeroizing::new(open(master, &wrapping_data(organization), sealed)?);
        let key: [u8; 32] =
            key.as_slice().try_into().map_err(|_| Error::internal("a data key has 32 bytes"))?;
        Ok(DataKey { id, key: Zeroizing::new(key) })
    }
}

impl DataKey {
    /// Its id, which everything sealed with it holds.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Encrypts a value for its place, with a fresh nonce.
    ///
    /// # Errors
    /// [`Error::Internal`] if encryption fails, which needs a value of many gigabytes.
    pub fn seal(&self, place: Place<'_>, plain: &str) -> Result<Vec<u8>> {
        let sealed = seal(&self.key, &place.associated_data(), plain.as_bytes())?;
        Ok([[NAMED].as_slice(), self.id.as_bytes(), &sealed].concat())
    }

    /// Decrypts what was sealed for this place.
    ///
    /// # Errors
    /// [`Error::Internal`] when the bytes were tampered with, belong elsewhere, or name another key.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<SecretString> {
        let sealed = match sealed.split_first().ok_or_else(refused)? {
            (&BARE, rest) => rest,
            (&NAMED, rest) => {
                let (id, rest) = rest.split_at_checked(KEY_ID).ok_or_else(refused)?;
                if id != self.id.as_bytes() {
                    return Err(Error::internal(
                        "a ciphertext names another data key than its organization has",
                    ));
                }
                rest
            }
            _ => return Err(refused()),
        };
        let plain = open(&self.key, &place.associated_data(), sealed)?;
        String::from_utf8(plain).map(SecretString::from).map_err(|_| Error::internal("a secret is not UTF-8"))
    }
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let organization = self.organization.map_or_else(|| "GLOBAL".to_owned(), |org| org.to_string());
        [self.table, &organization, self.name].join("\u{1f}").into_bytes()
    }
}

fn wrapping_data(organization: Option<OrgId>) -> Vec<u8> {
    Place { table: "data_keys", organization, name: "" }.associated_data()
}

fn seal(key: &[u8; 32], associated: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
    let nonce = Nonce::<Aes256Gcm>::generate();
    let sealed = cipher
        .encrypt(&nonce, Payload { msg: plain, aad: associated })
        .map_err(|_| Error::internal("encryption failed"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(key: &[u8; 32], associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE).ok_or_else(refused)?;
    let nonce = Nonce::<Aes256Gcm>::try_from(nonce).map_err(|_| refused())?;
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
        .decrypt(&nonce, Payload { msg: ciphertext, aad: associated })
        .map_err(|_| refused())
}

fn refused() -> Error {
    Error::internal("a ciphertext does not open: wrong key, moved or tampered with")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_opens_only_in_its_own_place_and_untouched(plain in ".{0,200}", flip in 0usize..1000) {
            let vault = Vault::new(&"a master key of more than 32 bytes!".into());
            let organization = Some(OrgId::generate());
            let (key, master, wrapped) = vault.new_data_key(organization).expect("wraps");
            let place = Place { table: "secrets", organization, name: "token" };
            let sealed = key.seal(place, &plain).expect("seals");

            let id = key.id();
            prop_assert_eq!(&sealed[1..=KEY_ID], id.as_bytes(), "the ciphertext names its key");
            let again = vault.unwrap_data_key(key.id(), organization, &master, &wrapped).expect("unwraps");
            let opened = again.open(place, &sealed).expect("opens");
            prop_assert_eq!(opened.expose_secret(), &plain);

            let elsewhere = [
                Place { name: "other", ..place },
                Place { table: "config", ..place },
                Place { organization: None, ..place },
            ];
            for place in elsewhere {
                prop_assert!(key.open(place, &sealed).is_err());
            }
            prop_assert!(vault.unwrap_data_key(key.id(), None, &master, &wrapped).is_err());
            let renamed = vault.unwrap_data_key(Uuid::now_v7(), organization, &master, &wrapped).expect("unwraps");
            prop_assert!(renamed.open(place, &sealed).is_err());
            // Values that were written before key ids stay readable.
            let bare = [[BARE].as_slice(), &sealed[1 + KEY_ID..]].concat();
            let opened = key.open(place, &bare).expect("opens");
            prop_assert_eq!(opened.expose_secret(), &plain);
            let mut tampered = sealed.clone();
            let at = flip % tampered.len();
            tampered[at] ^= 1;
            prop_assert!(key.open(place, &tampered).is_err());
        }
    }
}
