//! Files that users upload for forms: announced, sent to a signed URL, read by runs of the form (ADR 32).
//!
//! A row per file; the bytes are in the store, a directory or a bucket, and how they get there is in `receive.rs`. The
//! invariant: bytes are accepted once per row, never more than announced, and read only in the organization and by the form
//! that the row names.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use secrecy::ExposeSecret;
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::{self, Action};
use crate::forms::Form;
use crate::id::{FormId, OrgId};
use crate::settings::Settings;
use crate::{Error, OrgTx, Result};

mod check;
mod receive;

use check::{checked, safe_name};
pub use receive::{Received, receive};

/// How long a URL may be used.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// Bytes that one read gives.
pub const CHUNK: u64 = 4 * 1024 * 1024;
const MAX_LISTED: i64 = 10_000;
/// Set apart from everything else that the key signs.
const PURPOSE: &[u8] = b"bifrost upload urls v1";

type Signature = Hmac<Sha256>;

/// The store, and the key of its URLs. Cheap to clone.
#[derive(Clone)]
pub struct Uploads(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// The first signs, all verify.
    keys: Vec<Zeroizing<Vec<u8>>>,
    store: OnceLock<Arc<dyn ObjectStore>>,
}

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uploads")
    }
}

/// What somebody wants to upload.
#[derive(Debug)]
pub struct NewUpload {
    /// Its name on their disk.
    pub file_name: String,
    /// What they say it is.
    pub content_type: String,
    /// Bytes.
    pub file_size: i64,
}

/// A file, received or not.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Id.
    pub id: Uuid,
    /// Organization; `None`: uploaded globally.
    pub organization_id: Option<OrgId>,
    /// The form it is for.
    pub form_id: FormId,
    /// How runs address it.
    pub path: String,
    /// Its name as given.
    pub name: String,
    /// MIME type as given.
    pub content_type: String,
    /// Bytes that may come.
    pub announced_bytes: i64,
    /// Bytes that came.
    pub received_bytes: Option<i64>,
    /// When its URL ends.
    pub expires_at: DateTime<Utc>,
}

impl Uploads {
    /// A store by these settings; it is opened when it is first used.
    pub fn open(settings: &Settings) -> Self {
        let keys = settings.secret_key.as_ref().map(|keys| {
            let keys = keys.expose_secret().split(',').map(str::trim).filter(|key| !key.is_empty());
            keys.map(|key| Zeroizing::new(mac(key.as_bytes(), PURPOSE))).collect()
        });
        Self(Arc::new(Inner {
            settings: settings.clone(),
            keys: keys.unwrap_or_default(),
            store: OnceLock::new(),
        }))
    }

    /// The secret part of a file's URL.
    ///
    /// # Errors
    /// [`Error::Internal`] without `SECRET_KEY`.
    pub fn sign(&self, upload: &Upload) -> Result<String> {
        let key = self.0.keys.first().ok_or_else(|| Error::internal("SECRET_KEY is not set"))?;
        let mut token = upload.id.as_bytes().to_vec();
        token.extend(upload.expires_at.timestamp().to_be_bytes());
        token.extend(mac(key, &token));
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// The file whose URL this is the secret part of, unless its time is over.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for anything else.
    pub fn verify(&self, token: &str) -> Result<Uuid> {
        let decoded =
            URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == 56).ok_or_else(refused)?;
        let (signed, given) = decoded.split_at(24);
        let is_genuine = self.0.keys.iter().any(|key| {
            let mut signature = signature(key);
            signature.update(signed);
            // In constant time.
            signature.verify_slice(given).is_ok()
        });
        let (id, expires) = signed.split_at(16);
        let id = Uuid::from_slice(id).map_err(|_| refused())?;
        let expires = i64::from_be_bytes(expires.try_into().map_err(|_| refused())?);
        if is_genuine && expires > Utc::now().timestamp() { Ok(id) } else { Err(refused()) }
    }

    /// Bytes of a file from `offset` on, at most [`CHUNK`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when the store has lost it; [`Error::Unavailable`] when the store is away.
    pub async fn read(&self, upload: &Upload, offset: u64) -> Result<Bytes> {
        let size = u64::try_from(upload.received_bytes.unwrap_or_default()).unwrap_or_default();
        let end = size.min(offset.saturating_add(CHUNK));
        if offset >= end {
            return Ok(Bytes::new());
        }
        self.store()?.get_range(&key(upload), offset..end).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => Error::NotFound("file"),
            other => away(other),
        })
    }

    fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        if let Some(store) = self.0.store.get() {
            return Ok(store.clone());
        }
        let settings = &self.0.settings;
        let store: Arc<dyn ObjectStore> = match &settings.s3_bucket {
            Some(bucket) => {
                let mut s3 = AmazonS3Builder::new().with_bucket_name(bucket).with_region(&settings.s3_region);
                if let Some(endpoint) = &settings.s3_endpoint {
                    s3 = s3.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
                }
                if let Some(id) = &settings.s3_access_key_id {
                    s3 = s3.with_access_key_id(id);
                }
                if let Some(secret) = &settings.s3_secret_access_key {
                    s3 = s3.with_secret_access_key(secret.expose_secret());
                }
                Arc::new(s3.build().map_err(away)?)
            }
            None => {
                make_private(&settings.uploads_path).map_err(away)?;
                let disk = LocalFileSystem::new_with_prefix(&settings.uploads_path).map_err(away)?;
                Arc::new(disk.with_fsync(true).with_automatic_cleanup(false))
            }
        };
        Ok(self.0.store.get_or_init(|| store).clone())
    }
}

/// Announces a file for a form, whose file fields it must fit.
///
/// # Errors
/// [`Error::Invalid`] when it has no name or type, or fits none of the form's file fields.
pub async fn insert(tx: &mut OrgTx, uploads: &Uploads, form: &Form, new: NewUpload) -> Result<Upload> {
    let owner = tx.scope().owner()?;
    let new = checked(uploads.0.settings.max_upload_mb, form, new)?;
    let actor = tx.scope().actor().clone();
    let id = Uuid::now_v7();
    let path = format!("{}/{id}/{}", form.id, safe_name(&new.file_name));
    let upload = sqlx::query_as!(
        Upload,
        r#"INSERT INTO uploads (id, organization_id, form_id, path, name, content_type, announced_bytes, created_by, created_by_name,
               created_by_email, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, date_trunc('second', now()) + make_interval(secs => $11))
           RETURNING id, organization_id AS "organization_id: OrgId", form_id AS "form_id: FormId", path, name, content_type,
               announced_bytes, received_bytes, expires_at"#,
        id,
        owner as _,
        form.id as _,
        path,
        new.file_name,
        new.content_type,
        new.file_size,
        actor.id as _,
        actor.name,
        actor.email,
        LIFETIME.as_secs_f64(),
    )
    .fetch_one(tx.conn())
    .await?;
    audit::record(tx, Action::UploadAnnounced, id, &serde_json::json!({"form_id": form.id})).await?;
    Ok(upload)
}

/// A received file of a form, in the scope's organization. `path` may begin with `uploads/`.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(tx: &mut OrgTx, form: FormId, path: &str) -> Result<Upload> {
    let org = tx.scope().org();
    sqlx::query_as!(
        Upload,
        r#"SELECT id, organization_id AS "organization_id: OrgId", form_id AS "form_id: FormId", path, name, content_type,
               announced_bytes, received_bytes, expires_at
           FROM uploads
           WHERE path = $1 AND form_id = $2 AND organization_id IS NOT DISTINCT FROM $3 AND received_at IS NOT NULL"#,
        path.trim_start_matches('/').trim_start_matches("uploads/"),
        form as _,
        org as _,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(Error::NotFound("file"))
}

/// Paths of the received files of a form, in the scope's organization.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn list(tx: &mut OrgTx, form: FormId) -> Result<Vec<String>> {
    let org = tx.scope().org();
    Ok(sqlx::query_scalar!(
        r#"SELECT path FROM uploads
           WHERE form_id = $1 AND organization_id IS NOT DISTINCT FROM $2 AND received_at IS NOT NULL
           ORDER BY path COLLATE "C"
           LIMIT $3"#,
        form as _,
        org as _,
        MAX_LISTED,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Where the store has it: apart for each organization.
fn key(upload: &Upload) -> object_store::path::Path {
    let owner = upload.organization_id.map_or_else(|| "global".to_owned(), |org| org.to_string());
    object_store::path::Path::from(format!("{owner}/{}", upload.path))
}

fn signature(key: &[u8]) -> Signature {
    Signature::new_from_slice(key).expect("a key may have any length")
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut signature = signature(key);
    signature.update(text);
    signature.finalize().into_bytes().to_vec()
}

/// One answer for everything that is wrong with a URL.
fn refused() -> Error {
    let text = "this upload URL has expired, was used already or is in use; if sending failed, try again in a minute";
    Error::Forbidden(text.into())
}

fn away(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { service: "the upload store", source: source.into() }
}

/// Makes the folder of the store, which nobody but this user may enter.
fn make_private(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_genuine_url_that_has_not_ended_names_a_file() {
        let uploads = |secret: &str| {
            Uploads::open(&Settings { secret_key: Some(secret.into()), ..Settings::default() })
        };
        let own = uploads("one-key-of-at-least-thirty-two-bytes");
        let upload = |expires_at| Upload {
            id: Uuid::now_v7(),
            organization_id: None,
            form_id: FormId::generate(),
            path: String::new(),
            name: String::new(),
            content_type: String::new(),
            announced_bytes: 1,
            received_bytes: None,
            expires_at,
        };
        let valid = upload(Utc::now() + LIFETIME);
        let token = own.sign(&valid).expect("signs");
        assert_eq!(own.verify(&token).expect("is genuine"), valid.id);
        let rotated = uploads("a-new-key-of-at-least-thirty-two-bytes,one-key-of-at-least-thirty-two-bytes");
        assert_eq!(rotated.verify(&token).expect("an older key verifies"), valid.id);
        assert!(uploads("another-key-of-at-least-thirty-two-bytes").verify(&token).is_err());
        assert!(own.verify(&own.sign(&upload(Utc::now())).expect("signs")).is_err(), "ended");
        let mut tried = 0;
        for index in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            // The last character has bits that no byte holds; what decodes alike is no forgery.
            if URL_SAFE_NO_PAD.decode(&forged).ok() != URL_SAFE_NO_PAD.decode(&token).ok() {
                assert!(own.verify(&forged).is_err(), "{index}");
                tried += 1;
            }
        }
        for odd in ["", "x", &token[1..], &format!("{token}A"), "%00", "é"] {
            assert!(own.verify(odd).is_err());
        }
        println!("upload URLs: {} forged, accepted 0", tried + 6);
    }
}
