//! Keyset pages: opaque continuation tokens that name the last row seen and the filters it was seen with.
//!
//! Lists run newest first by id: ids are UUIDv7, so the order is that of creation, unique, and never
//! changes under the reader (ADR 5). Lists of named things run by name and then id (ADR 21).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::id::first_id_at;
use crate::{Error, Result};

const DIGEST: usize = 8;
/// Ids carry the time of who gave them, rows that of PostgreSQL, and it may have taken a while from one to the other (ADR 51).
const CLOCKS: TimeDelta = TimeDelta::hours(1);

/// Where in the order of ids a page lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Before this one.
    pub(crate) before: Uuid,
    /// From this one on.
    pub(crate) from: Uuid,
}

impl Place {
    /// Of what was made between two moments, after the last row seen.
    pub(crate) fn of(
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        after: Option<Cursor>,
    ) -> Self {
        let until = until.map_or(Uuid::max(), |until| first_id_at(until + CLOCKS));
        Self {
            before: after.map_or(until, |cursor| cursor.0.min(until)),
            from: since.map_or(Uuid::nil(), |since| first_id_at(since - CLOCKS)),
        }
    }
}

/// The place after the last row of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub Uuid);

impl Cursor {
    /// The token a client sends back to get the next page of the same `filters`.
    pub fn token(self, filters: &impl Serialize) -> String {
        URL_SAFE_NO_PAD.encode([digest(filters).as_slice(), self.0.as_bytes()].concat())
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`Error::Impossible`] for a token that is not ours or was made for other filters.
    pub fn parse(token: &str, filters: &impl Serialize) -> Result<Self> {
        Uuid::from_slice(&place(token, filters)?).map(Self).map_err(|_| unknown())
    }
}

/// The place after the last row of a page of a list by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameCursor {
    /// Its name.
    pub name: String,
    /// Its id, which tells rows of one name apart.
    pub id: Uuid,
}

impl NameCursor {
    /// Before every row: no name is empty.
    pub const START: Self = Self { name: String::new(), id: Uuid::nil() };

    /// The token a client sends back to get the next page of the same `filters`.
    pub fn token(&self, filters: &impl Serialize) -> String {
        URL_SAFE_NO_PAD
            .encode([digest(filters).as_slice(), self.id.as_bytes(), self.name.as_bytes()].concat())
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// [`Error::Impossible`] for a token that is not ours or was made for other filters.
    pub fn parse(token: &str, filters: &impl Serialize) -> Result<Self> {
        let rest = place(token, filters)?;
        let (id, name) = rest.split_first_chunk::<16>().ok_or_else(unknown)?;
        let name = String::from_utf8(name.to_vec()).ok().filter(|name| !name.contains('\0'));
        Ok(Self { name: name.ok_or_else(unknown)?, id: Uuid::from_bytes(*id) })
    }
}

/// What a token holds besides the filters it was made for, which must be these.
fn place(token: &str, filters: &impl Serialize) -> Result<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| unknown())?;
    let (made_for, place) = bytes.split_at_checked(DIGEST).ok_or_else(unknown)?;
    if made_for != digest(filters) {
        return Err(unknown());
    }
    Ok(place.to_vec())
}

fn unknown() -> Error {
    Error::Impossible("the continuation token does not belong to this list".into())
}

fn digest(filters: &impl Serialize) -> [u8; DIGEST] {
    let json = serde_json::to_vec(filters).expect("filters are always JSON");
    Sha256::digest(json)[..DIGEST].try_into().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_only_for_the_filters_it_was_made_for() {
        let cursor = Cursor(Uuid::now_v7());
        let token = cursor.token(&("Failed", 25));

        assert_eq!(Cursor::parse(&token, &("Failed", 25)).expect("same filters"), cursor);
        assert!(matches!(Cursor::parse(&token, &("Success", 25)), Err(Error::Impossible(_))));
        assert!(matches!(Cursor::parse("nonsense", &("Failed", 25)), Err(Error::Impossible(_))));
    }

    #[test]
    fn a_place_in_a_list_by_name_is_name_and_id() {
        let cursor = NameCursor { name: "Zoë & Co".into(), id: Uuid::now_v7() };
        let token = cursor.token(&"Org");

        assert_eq!(NameCursor::parse(&token, &"Org").expect("same filters"), cursor);
        assert!(matches!(NameCursor::parse(&token, &"Platform"), Err(Error::Impossible(_))));
        let by_id = Cursor(Uuid::now_v7()).token(&"Org");
        assert_eq!(NameCursor::parse(&by_id, &"Org").expect("reads").name, "");
    }
}
