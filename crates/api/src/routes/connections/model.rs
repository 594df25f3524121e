//! The shapes of connections, as clients know them, and how rows become them. No tokens but in
//! [`OAuthCredentialsResponse`].

use chrono::{DateTime, Utc};
use domain::connections::{Connection, RunOfRefresh};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How a connection gets its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OAuthFlowType {
    AuthorizationCode,
    ClientCredentials,
    RefreshToken,
}

/// State of a connection.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OAuthStatus {
    NotConnected,
    WaitingCallback,
    Testing,
    Connected,
    Completed,
    Failed,
}

/// A connection to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "description": "Users and groups of the tenant",
    "oauth_flow_type": "authorization_code", "client_id": "6731de76-14a6-49ae-97bc-6eba6914391e",
    "client_secret": "k3RrN0yZ4vQx7pLw9sTd", "scopes": "User.Read.All offline_access",
    "authorization_url": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
}))]
pub(super) struct CreateOAuthConnectionRequest {
    /// Letters, digits, underscores and dashes; workflows ask for it by this.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", min_length = 1, max_length = 100)]
    pub(super) connection_name: String,
    #[schema(max_length = 255)]
    pub(super) name: Option<String>,
    #[schema(max_length = 500)]
    pub(super) description: Option<String>,
    pub(super) oauth_flow_type: OAuthFlowType,
    #[schema(min_length = 1)]
    pub(super) client_id: String,
    /// Required for `client_credentials`; never shown again.
    #[schema(value_type = Option<String>)]
    pub(super) client_secret: Option<SecretString>,
    /// Required for `authorization_code`.
    #[schema(pattern = "^https://")]
    pub(super) authorization_url: Option<String>,
    #[schema(pattern = "^https://")]
    pub(super) token_url: String,
    /// Separated by spaces or commas.
    #[serde(default)]
    #[schema(default = "")]
    pub(super) scopes: String,
    pub(super) redirect_uri: Option<String>,
}

/// Scopes, either way.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a list of texts, or a text")]
pub(super) enum Scopes {
    List(Vec<String>),
    Text(String),
}

/// What changes; absent and null leave what is there.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"name": "Microsoft Graph", "client_secret": "a new one", "scopes": ["User.Read.All", "offline_access"]}))]
pub(super) struct UpdateOAuthConnectionRequest {
    /// `""` clears it.
    #[schema(max_length = 255)]
    pub(super) name: Option<String>,
    #[schema(min_length = 1)]
    pub(super) client_id: Option<String>,
    #[schema(value_type = Option<String>, min_length = 1)]
    pub(super) client_secret: Option<SecretString>,
    #[schema(pattern = "^https://")]
    pub(super) authorization_url: Option<String>,
    #[schema(pattern = "^https://")]
    pub(super) token_url: Option<String>,
    /// A list, or a text separated by spaces or commas; an empty one clears it.
    #[schema(value_type = Option<Vec<String>>)]
    pub(super) scopes: Option<Scopes>,
}

/// A connection in a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "provider": "microsoft-graph", "description": null,
    "oauth_flow_type": "authorization_code", "status": "completed", "status_message": null,
    "expires_at": "2026-11-26T11:00:00Z", "last_refresh_at": "2026-11-26T10:00:00Z",
    "created_at": "2026-11-01T08:00:00Z", "updated_at": "2026-11-26T10:00:00Z",
}))]
pub(super) struct OAuthConnectionSummary {
    pub(super) connection_name: String,
    pub(super) name: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) description: Option<String>,
    pub(super) oauth_flow_type: OAuthFlowType,
    pub(super) status: OAuthStatus,
    /// Why it failed.
    pub(super) status_message: Option<String>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_refresh_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: Option<DateTime<Utc>>,
}

/// The connections of the scope.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OAuthConnectionListResponse {
    pub(super) connections: Vec<OAuthConnectionSummary>,
}

/// A connection, without anything secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "name": "Microsoft Graph", "provider": "microsoft-graph", "description": null,
    "oauth_flow_type": "authorization_code", "client_id": "6731de76-14a6-49ae-97bc-6eba6914391e",
    "authorization_url": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token", "scopes": "User.Read.All offline_access",
    "status": "completed", "status_message": null, "expires_at": "2026-11-26T11:00:00Z",
    "last_refresh_at": "2026-11-26T10:00:00Z", "last_test_at": null, "created_at": "2026-11-01T08:00:00Z",
    "created_by": "ada@example.com", "updated_at": "2026-11-26T10:00:00Z",
}))]
pub(super) struct OAuthConnectionDetail {
    pub(super) connection_name: String,
    pub(super) name: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) description: Option<String>,
    pub(super) oauth_flow_type: OAuthFlowType,
    pub(super) client_id: String,
    pub(super) authorization_url: Option<String>,
    pub(super) token_url: String,
    /// Separated by spaces.
    pub(super) scopes: String,
    pub(super) status: OAuthStatus,
    /// Why it failed.
    pub(super) status_message: Option<String>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) last_refresh_at: Option<DateTime<Utc>>,
    pub(super) last_test_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) created_by: String,
    pub(super) updated_at: DateTime<Utc>,
}

/// Where an authorization ends.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuthorizeQuery {
    /// Page that the provider sends the browser back to; the provider knows it.
    #[param(example = "https://bifrost.example.com/oauth/callback/microsoft-graph")]
    pub(super) redirect_uri: String,
}

/// Where to send the browser.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuthorizeResponse {
    pub(super) authorization_url: String,
    /// Comes back from the provider; good once, for ten minutes, for the user who began.
    pub(super) state: String,
    #[schema(value_type = String, default = "Redirect user to authorization_url")]
    pub(super) message: &'static str,
}

/// What the provider sent back.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"code": "c0de…", "state": "q0vXkC…"}))]
pub(super) struct CompleteConnection {
    #[schema(value_type = String)]
    pub(super) code: SecretString,
    /// Required, and verified.
    pub(super) state: Option<String>,
    /// May be left out; if sent, the one it began with.
    pub(super) redirect_uri: Option<String>,
}

/// How an authorization ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "success": true, "message": "Connected", "status": "completed", "connection_name": "microsoft-graph",
    "warning_message": null, "error_message": null,
}))]
pub(super) struct OAuthCallbackResponse {
    pub(super) success: bool,
    pub(super) message: String,
    pub(super) status: String,
    pub(super) connection_name: String,
    /// What to know although it ended well.
    pub(super) warning_message: Option<String>,
    /// Why the provider refused.
    pub(super) error_message: Option<String>,
}

/// How a refresh ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "message": "Token refreshed", "expires_at": "2026-11-26T11:00:00Z"}))]
pub(super) struct RefreshTokenResponse {
    pub(super) success: bool,
    pub(super) message: String,
    pub(super) expires_at: Option<String>,
}

/// The tokens of a connection.
#[derive(Serialize, ToSchema)]
pub(super) struct OAuthCredentialsModel {
    #[schema(pattern = "^[a-zA-Z0-9_-]+$")]
    pub(super) connection_name: String,
    #[schema(min_length = 1)]
    pub(super) access_token: String,
    #[schema(default = "Bearer")]
    pub(super) token_type: String,
    pub(super) expires_at: String,
    pub(super) refresh_token: Option<String>,
    #[schema(default = "")]
    pub(super) scopes: String,
}

/// The tokens of a connection, if it has good ones.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "connection_name": "microsoft-graph", "status": "completed", "expires_at": "2026-11-26T11:00:00Z",
    "credentials": {
        "connection_name": "microsoft-graph", "access_token": "EwB4A8l6BAAU…", "token_type": "Bearer",
        "expires_at": "2026-11-26T11:00:00Z", "refresh_token": "M.C507_BAY.0.U.…", "scopes": "User.Read.All",
    },
}))]
pub(super) struct OAuthCredentialsResponse {
    pub(super) connection_name: String,
    pub(super) credentials: Option<OAuthCredentialsModel>,
    pub(super) status: OAuthStatus,
    pub(super) expires_at: Option<String>,
}

/// A run of the periodic refresh.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefreshJobRun {
    /// `running` or `completed`.
    #[schema(value_type = String, default = "completed")]
    pub(super) status: &'static str,
    pub(super) start_time: Option<DateTime<Utc>>,
    pub(super) end_time: Option<DateTime<Utc>>,
    #[schema(default = 0)]
    pub(super) connections_checked: i64,
    #[schema(default = 0)]
    pub(super) refreshed_successfully: i64,
    #[schema(default = 0)]
    pub(super) refresh_failed: i64,
    #[schema(default = 0)]
    pub(super) needs_refresh: i64,
    #[schema(default = 0)]
    pub(super) total_connections: i64,
    pub(super) error: Option<String>,
    pub(super) errors: Vec<String>,
}

/// When tokens are refreshed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefreshJobStatusResponse {
    #[schema(default = true)]
    pub(super) enabled: bool,
    pub(super) last_run: Option<RefreshJobRun>,
    pub(super) next_run: Option<DateTime<Utc>>,
}

/// What a refresh of all did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "triggered": true, "message": "2 of 2 connections refreshed", "connections_queued": 2, "refreshed_successfully": 2,
    "refresh_failed": 0,
}))]
pub(super) struct RefreshAllResponse {
    pub(super) triggered: bool,
    pub(super) message: String,
    #[schema(default = 0)]
    pub(super) connections_queued: i64,
    #[schema(default = 0)]
    pub(super) refreshed_successfully: i64,
    #[schema(default = 0)]
    pub(super) refresh_failed: i64,
}

impl OAuthFlowType {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
        }
    }

    /// As the row has it, which holds nothing else.
    pub(super) fn of(text: &str) -> Self {
        match text {
            "client_credentials" => Self::ClientCredentials,
            "refresh_token" => Self::RefreshToken,
            _ => Self::AuthorizationCode,
        }
    }
}

impl OAuthStatus {
    /// As the row has it, which holds nothing else.
    pub(super) fn of(text: &str) -> Self {
        match text {
            "waiting_callback" => Self::WaitingCallback,
            "testing" => Self::Testing,
            "connected" => Self::Connected,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            _ => Self::NotConnected,
        }
    }
}

impl From<Connection> for OAuthConnectionSummary {
    fn from(connection: Connection) -> Self {
        Self {
            oauth_flow_type: OAuthFlowType::of(&connection.flow),
            status: OAuthStatus::of(&connection.status),
            provider: Some(connection.name.clone()),
            connection_name: connection.name,
            name: connection.display_name,
            description: connection.description,
            status_message: connection.status_message,
            expires_at: connection.expires_at,
            last_refresh_at: connection.last_refresh_at,
            created_at: connection.created_at,
            updated_at: Some(connection.updated_at),
        }
    }
}

impl From<Connection> for OAuthConnectionDetail {
    fn from(connection: Connection) -> Self {
        Self {
            oauth_flow_type: OAuthFlowType::of(&connection.flow),
            status: OAuthStatus::of(&connection.status),
            provider: Some(connection.name.clone()),
            connection_name: connection.name,
            name: connection.display_name,
            description: connection.description,
            client_id: connection.client_id,
            authorization_url: connection.authorization_url,
            token_url: connection.token_url,
            scopes: connection.scopes,
            status_message: connection.status_message,
            expires_at: connection.expires_at,
            last_refresh_at: connection.last_refresh_at,
            last_test_at: connection.last_test_at,
            created_at: connection.created_at,
            created_by: connection.created_by,
            updated_at: connection.updated_at,
        }
    }
}

impl From<RunOfRefresh> for RefreshJobRun {
    fn from(run: RunOfRefresh) -> Self {
        let report = run.report.unwrap_or_default();
        Self {
            status: if run.ended_at.is_some() { "completed" } else { "running" },
            start_time: Some(run.started_at),
            end_time: run.ended_at,
            connections_checked: report.needed,
            refreshed_successfully: report.refreshed,
            refresh_failed: report.failed,
            needs_refresh: report.needed,
            total_connections: report.total,
            error: None,
            errors: report.errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_of_another_type_are_refused_in_words_for_people() {
        let fault = serde_json::from_value::<Scopes>(json!(5)).expect_err("must be refused");
        assert_eq!(fault.to_string(), "must be a list of texts, or a text");
    }
}
