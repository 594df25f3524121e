//! Rows of the access matrix. Signing in and out.

use super::{ADMINISTRATOR, Body, EVERYBODY, Row, SIGNED_IN};

/// A wrong code, or nothing to prove it by.
const REFUSED: [u16; 6] = [401, 401, 400, 400, 400, 400];
/// Sessions and devices are their owner's alone, and none of the callers is that.
const NOT_THEIRS: [u16; 6] = [401, 401, 404, 404, 404, 404];

pub(super) const ROWS: &[Row] = &[
    ("post", "/auth/login", Body::Login, EVERYBODY),
    ("post", "/auth/refresh", Body::Refresh, EVERYBODY),
    ("post", "/auth/register", Body::Register, [201; 6]),
    // In an answer that is the same for everybody, and for links that are none.
    ("post", "/auth/forgot-password", Body::Json(r#"{"email": "nobody@nowhere.example"}"#), [202; 6]),
    ("post", "/auth/request-verify-token", Body::Json(r#"{"email": "nobody@nowhere.example"}"#), [202; 6]),
    (
        "post",
        "/auth/reset-password",
        Body::Json(r#"{"token": "none", "password": "a long enough password"}"#),
        [400; 6],
    ),
    ("post", "/auth/verify", Body::Json(r#"{"token": "none"}"#), [400; 6]),
    ("get", "/auth/status", Body::None, EVERYBODY),
    ("get", "/auth/me", Body::None, SIGNED_IN),
    ("get", "/auth/sessions", Body::None, SIGNED_IN),
    ("delete", "/auth/sessions/{session_id}", Body::None, NOT_THEIRS),
    ("post", "/auth/admin/revoke-user", Body::Json(r#"{"user_id": "{user_id}"}"#), ADMINISTRATOR),
    ("get", "/auth/oauth/providers", Body::None, EVERYBODY),
    // No provider is configured, nor where to come back to.
    ("get", "/auth/oauth/init/{provider}", Body::None, [422; 6]),
    (
        "post",
        "/auth/oauth/callback",
        Body::Json(r#"{"provider": "google", "code": "none", "state": "none"}"#),
        [400; 6],
    ),
    ("get", "/auth/{provider}/authorize", Body::None, [404; 6]),
    ("get", "/auth/{provider}/callback", Body::None, [404; 6]),
    ("get", "/auth/oauth/accounts", Body::None, SIGNED_IN),
    ("delete", "/auth/oauth/accounts/{provider}", Body::None, NOT_THEIRS),
    ("get", "/auth/mfa/status", Body::None, SIGNED_IN),
    ("post", "/auth/mfa/setup", Body::None, SIGNED_IN),
    ("post", "/auth/mfa/totp/setup", Body::None, SIGNED_IN),
    ("post", "/auth/mfa/verify", Body::Json(r#"{"code": "no code"}"#), REFUSED),
    ("post", "/auth/mfa/totp/verify", Body::Json(r#"{"code": "000000"}"#), REFUSED),
    ("post", "/auth/mfa/login", Body::Json(r#"{"mfa_token": "none", "code": "no code"}"#), [401; 6]),
    ("delete", "/auth/mfa", Body::None, REFUSED),
    ("post", "/auth/mfa/recovery-codes/regenerate", Body::Json(r#"{"mfa_code": "000000"}"#), [401; 6]),
    ("get", "/auth/mfa/recovery-codes/count", Body::None, SIGNED_IN),
    ("get", "/auth/mfa/trusted-devices", Body::None, SIGNED_IN),
    ("delete", "/auth/mfa/trusted-devices", Body::None, SIGNED_IN),
    ("delete", "/auth/mfa/trusted-devices/{device_id}", Body::None, NOT_THEIRS),
];
