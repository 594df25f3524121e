//! Branding: the colour and the logos of the pages, one set for the whole installation. Anybody may see it, also
//! before signing in.
//!
//! The invariant: a stored logo is what its media type says, and holds nothing that a browser would run.

use sha2::{Digest, Sha256};

use crate::audit::{self, Action};
use crate::{Db, Error, OrgTx, Result, SystemScope};

mod image;

pub use image::{LARGEST_LOGO, MediaType};

const EVERYBODY: SystemScope = SystemScope::because("the sign-in page shows it before anybody has a scope");
/// What the audit log calls the object.
const OBJECT: &str = "branding";

/// Which logo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoType {
    /// For icons.
    Square,
    /// For headings.
    Rectangle,
}

impl LogoType {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Square, Self::Rectangle].into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name in addresses and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Rectangle => "rectangle",
        }
    }
}

/// What there is of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branding {
    /// `#rgb` or `#rrggbb`, in lower case.
    pub primary_color: Option<String>,
    /// The entity tag of the square logo.
    pub square_logo: Option<String>,
    /// The entity tag of the rectangular one.
    pub rectangle_logo: Option<String>,
}

/// A stored logo.
#[derive(Debug, Clone)]
pub struct Logo {
    /// What the bytes are.
    pub media_type: String,
    /// The bytes.
    pub content: Vec<u8>,
    /// Another one for other bytes.
    pub etag: String,
}

/// What there is, for anybody.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn get(db: &Db) -> Result<Branding> {
    let mut tx = db.begin_system(&EVERYBODY).await?;
    let branding = select(tx.conn()).await?;
    tx.commit().await?;
    Ok(branding)
}

/// A logo, for anybody.
///
/// # Errors
/// [`Error::NotFound`] when it is not set.
pub async fn logo(db: &Db, kind: LogoType) -> Result<Logo> {
    let mut tx = db.begin_system(&EVERYBODY).await?;
    let logo = sqlx::query_as!(
        Logo,
        "SELECT media_type, content, etag FROM branding_logos WHERE logo_type = $1",
        kind.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.commit().await?;
    logo.ok_or(Error::NotFound("logo"))
}

/// Sets the colour, or takes it away.
///
/// # Errors
/// [`Error::Invalid`] when it is neither `#rgb` nor `#rrggbb`.
pub async fn set_color(tx: &mut OrgTx, color: Option<&str>) -> Result<Branding> {
    let color = color.map(checked_color).transpose()?;
    sqlx::query!(
        "INSERT INTO branding (primary_color) VALUES ($1)
         ON CONFLICT (is_the_one) DO UPDATE SET primary_color = $1, updated_at = now()",
        color,
    )
    .execute(tx.conn())
    .await?;
    let details = serde_json::json!({ "primary_color": color });
    audit::record(tx, Action::BrandingUpdated, OBJECT, &details).await?;
    select(tx.conn()).await
}

/// Stores a logo in place of the one before.
///
/// # Errors
/// [`Error::Impossible`] when the bytes are no PNG, JPEG or SVG that may be shown.
pub async fn set_logo(tx: &mut OrgTx, kind: LogoType, content: &[u8]) -> Result<Branding> {
    let media_type = image::check(content).map_err(Error::Impossible)?;
    let etag = hex::encode(&Sha256::digest(content)[..8]);
    sqlx::query!(
        "INSERT INTO branding_logos (logo_type, media_type, content, etag) VALUES ($1, $2, $3, $4)
         ON CONFLICT (logo_type) DO UPDATE SET media_type = $2, content = $3, etag = $4, updated_at = now()",
        kind.as_str(),
        media_type.as_str(),
        content,
        etag,
    )
    .execute(tx.conn())
    .await?;
    let details =
        serde_json::json!({ "logo": kind.as_str(), "media_type": media_type.as_str(), "etag": etag });
    audit::record(tx, Action::BrandingUpdated, OBJECT, &details).await?;
    select(tx.conn()).await
}

/// Removes a logo; one that is not set stays so.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn delete_logo(tx: &mut OrgTx, kind: LogoType) -> Result<Branding> {
    sqlx::query!("DELETE FROM branding_logos WHERE logo_type = $1", kind.as_str()).execute(tx.conn()).await?;
    let details = serde_json::json!({ "logo": kind.as_str(), "media_type": null });
    audit::record(tx, Action::BrandingUpdated, OBJECT, &details).await?;
    select(tx.conn()).await
}

/// Removes all of it.
///
/// # Errors
/// [`Error::Unavailable`] when PostgreSQL is away.
pub async fn reset(tx: &mut OrgTx) -> Result<Branding> {
    sqlx::query!("DELETE FROM branding_logos").execute(tx.conn()).await?;
    sqlx::query!("DELETE FROM branding").execute(tx.conn()).await?;
    audit::record(tx, Action::BrandingReset, OBJECT, &serde_json::json!({})).await?;
    Ok(Branding::default())
}

async fn select(conn: &mut sqlx::PgConnection) -> Result<Branding> {
    Ok(sqlx::query_as!(
        Branding,
        r#"SELECT (SELECT primary_color FROM branding) AS primary_color,
               (SELECT etag FROM branding_logos WHERE logo_type = 'square') AS square_logo,
               (SELECT etag FROM branding_logos WHERE logo_type = 'rectangle') AS rectangle_logo"#,
    )
    .fetch_one(conn)
    .await?)
}

fn checked_color(color: &str) -> Result<String> {
    let digits = color.strip_prefix('#').unwrap_or_default();
    let is_color = matches!(digits.len(), 3 | 6) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_color {
        Ok(color.to_ascii_lowercase())
    } else {
        Err(Error::invalid("/primary_color", "must be a colour such as #0a7 or #00aa77"))
    }
}
