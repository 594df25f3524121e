//! Trusted devices: the browsers that need no code, for their owner to see and to forget.

use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use domain::mfa::devices::{self, Device};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::admit::device_cookie;
use super::mfa::{Done, holder_of};
use crate::AppState;
use crate::extract::{Client, Json, Path, Signed};
use crate::problem::{Problem, Problems};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_trusted_devices, forget_trusted_devices))
        .routes(routes!(forget_trusted_device))
}

/// The devices that need no code.
#[derive(Serialize, ToSchema)]
struct TrustedDevicesResponse {
    devices: Vec<TrustedDeviceResponse>,
}

/// A device that needs no code.
#[derive(Serialize, ToSchema)]
struct TrustedDeviceResponse {
    id: Uuid,
    device_name: Option<String>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    /// Whether it is the one that asks.
    is_current: bool,
}

impl From<Device> for TrustedDeviceResponse {
    fn from(device: Device) -> Self {
        Self {
            id: device.id,
            device_name: device.name,
            created_at: device.created_at,
            expires_at: device.expires_at,
            last_used_at: device.last_used_at,
            is_current: device.is_current,
        }
    }
}

/// The devices that need no code, the newest first.
///
/// Trust ends after 30 days.
#[utoipa::path(
    get, path = "/auth/mfa/trusted-devices", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = TrustedDevicesResponse), Problems),
)]
async fn list_trusted_devices(
    State(app): State<AppState>,
    signed: Signed,
    headers: HeaderMap,
) -> Result<Json<TrustedDevicesResponse>, Problem> {
    let current = device_cookie(&app, &headers);
    let found = devices::list(&app.platform.db, signed.principal.user_id, current.as_ref()).await?;
    Ok(Json(TrustedDevicesResponse { devices: found.into_iter().map(Into::into).collect() }))
}

/// Forgets all trusted devices.
///
/// The next sign-in asks for a code everywhere.
#[utoipa::path(
    delete, path = "/auth/mfa/trusted-devices", tag = "auth", security(("bearer" = [])),
    responses((status = 200, body = Done), Problems),
)]
async fn forget_trusted_devices(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
) -> Result<Json<Done>, Problem> {
    devices::forget(&app.platform.db, holder_of(&signed, &client), None).await?;
    Ok(Json(Done { message: "All trusted devices forgotten" }))
}

/// Forgets a trusted device.
///
/// The next sign-in there asks for a code.
#[utoipa::path(
    delete, path = "/auth/mfa/trusted-devices/{device_id}", tag = "auth", security(("bearer" = [])),
    params(("device_id" = Uuid, Path, description = "The device.")),
    responses((status = 200, body = Done), Problems),
)]
async fn forget_trusted_device(
    State(app): State<AppState>,
    client: Client,
    signed: Signed,
    Path(id): Path<Uuid>,
) -> Result<Json<Done>, Problem> {
    devices::forget(&app.platform.db, holder_of(&signed, &client), Some(id)).await?;
    Ok(Json(Done { message: "Trusted device forgotten" }))
}
