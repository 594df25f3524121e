//! Settings: one struct, read from environment variables, each also with the prefix `BIFROST_`.
//!
//! The plain name wins. Production refuses to start with a missing, default, short or reused secret and
//! names the variable, never its value.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::packages::updates;

/// Where it runs; unset means production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// For people who write Bifrost or try it.
    Development,
    /// For test suites: rate limits are off.
    Testing,
    /// For customers: fails closed.
    #[default]
    Production,
}

impl Environment {
    /// The name as it is set.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Testing => "testing",
            Self::Production => "production",
        }
    }
}

/// All settings. Every field is an environment variable of the same name in upper case.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `ENVIRONMENT`: `development`, `testing` or `production`.
    pub environment: Environment,
    /// `DATABASE_URL`: PostgreSQL, as a login that is no superuser.
    pub database_url: Option<SecretString>,
    /// `ADMIN_DATABASE_URL`: PostgreSQL as the owner of the schema; only migrations use it.
    pub admin_database_url: Option<SecretString>,
    /// `RABBITMQ_URL`.
    pub rabbitmq_url: Option<SecretString>,
    /// `REDIS_URL`.
    pub redis_url: Option<SecretString>,
    /// `DATABASE_CONNECTIONS`: connections of each of the two pools of a process.
    pub database_connections: u32,
    /// `QUEUE_PREFIX`: put in front of every exchange and queue, for installations that share a broker.
    pub queue_prefix: String,
    /// `REDIS_PREFIX`: put in front of every key and channel.
    pub redis_prefix: String,
    /// `LISTEN`: address of the api.
    pub listen: SocketAddr,
    /// `WORKSPACE_PATH`: the workflow files.
    pub workspace_path: PathBuf,
    /// `PLATFORM_PATH`: folder of the Python package `bifrost`.
    pub platform_path: PathBuf,
    /// `TEMP_PATH`: sockets and the private directories of runs.
    pub temp_path: PathBuf,
    /// `UPLOADS_PATH`: what users upload for forms, unless `S3_BUCKET` is set; runs must not be able to enter it.
    pub uploads_path: PathBuf,
    /// `MAX_UPLOAD_MB`: largest file that may be uploaded.
    pub max_upload_mb: u64,
    /// `S3_BUCKET`: what users upload goes to this bucket.
    pub s3_bucket: Option<String>,
    /// `S3_ENDPOINT`: the address of an S3-compatible store other than Amazon's.
    pub s3_endpoint: Option<String>,
    /// `S3_REGION`.
    pub s3_region: String,
    /// `S3_ACCESS_KEY_ID`.
    pub s3_access_key_id: Option<String>,
    /// `S3_SECRET_ACCESS_KEY`.
    pub s3_secret_access_key: Option<SecretString>,
    /// `PYTHON`: the interpreter runs use.
    pub python: PathBuf,
    /// `UV`: the program that builds environments of packages; where there is none, the interpreter's pip does.
    pub uv: PathBuf,
    /// `PACKAGE_INDEX_URL`: where packages come from; may hold a user name and a password.
    pub package_index_url: SecretString,
    /// `ENVIRONMENTS_PATH`: the environments of packages of this machine; unset a folder in `TEMP_PATH`. Runs must be able
    /// to read it.
    pub environments_path: Option<PathBuf>,
    /// `ISOLATION`: `required` (no worker starts without all of it), `best-effort` (what the kernel allows) or `off`.
    pub isolation: String,
    /// `RUN_CGROUPS`: whether each run is limited as a whole by a control group: `required`, `best-effort` or `off`.
    pub run_cgroups: String,
    /// `ALLOW_ISOLATION_OFF`: lets production run with `ISOLATION` off.
    pub allow_isolation_off: bool,
    /// `RUN_NETWORK`: `open`, `none`, or the TCP ports that runs may connect to, separated by commas.
    pub run_network: String,
    /// `RUN_READABLE_PATHS`: what runs may read besides the system's libraries and the workspace, separated by commas.
    pub run_readable_paths: String,
    /// `WORKER_SLOTS`: executions a jobs process runs at once.
    pub worker_slots: usize,
    /// `RUN_MEMORY_MB`: memory limit of one run.
    pub run_memory_mb: u64,
    /// `SECRET_KEY`: signs access tokens; at least 32 bytes. Several separated by commas: the first signs, all verify.
    pub secret_key: Option<SecretString>,
    /// `SECRETS_MASTER_KEY`: wraps the data keys; at least 32 bytes. Several as `id:key,id:key`, the first is current.
    pub secrets_master_key: Option<SecretString>,
    /// `ACCESS_TOKEN_MINUTES`.
    pub access_token_minutes: i64,
    /// `REFRESH_TOKEN_DAYS`.
    pub refresh_token_days: i64,
    /// `MFA_POLICY`: `optional`, or `required` to ask everybody for a second factor.
    pub mfa_policy: String,
    /// `GOOGLE_CLIENT_ID`: with its secret it offers the sign-in with Google.
    pub google_client_id: Option<String>,
    /// `GOOGLE_CLIENT_SECRET`.
    pub google_client_secret: Option<SecretString>,
    /// `GOOGLE_ISSUER`.
    pub google_issuer: String,
    /// `MICROSOFT_CLIENT_ID`: with its secret it offers the sign-in with Microsoft.
    pub microsoft_client_id: Option<String>,
    /// `MICROSOFT_CLIENT_SECRET`.
    pub microsoft_client_secret: Option<SecretString>,
    /// `MICROSOFT_TENANT_ID`: a tenant, or `common`, `organizations`, `consumers`.
    pub microsoft_tenant_id: String,
    /// `MICROSOFT_URL`: differs in national clouds.
    pub microsoft_url: String,
    /// `GITHUB_CLIENT_ID`: with its secret it offers the sign-in with GitHub.
    pub github_client_id: Option<String>,
    /// `GITHUB_CLIENT_SECRET`.
    pub github_client_secret: Option<SecretString>,
    /// `GITHUB_URL`: differs for GitHub Enterprise Server.
    pub github_url: String,
    /// `GITHUB_API_URL`: likewise (`https://HOST/api/v3`).
    pub github_api_url: String,
    /// `OIDC_CLIENT_ID`: with its secret and `OIDC_DISCOVERY_URL` it offers the sign-in with any OpenID Connect provider.
    pub oidc_client_id: Option<String>,
    /// `OIDC_CLIENT_SECRET`.
    pub oidc_client_secret: Option<SecretString>,
    /// `OIDC_DISCOVERY_URL`: the issuer, or its `/.well-known/openid-configuration`.
    pub oidc_discovery_url: Option<String>,
    /// `OAUTH_REQUIRE_MFA`: ask for the second factor after a sign-in with a provider too.
    pub oauth_require_mfa: bool,
    /// `OUTBOUND_ADMIT`: `host:port`, separated by commas, of servers in private networks that may be called, without
    /// TLS too. None by default.
    pub outbound_admit: String,
    /// `GIT_LOCAL_REMOTES`: lets repositories be folders of this machine, for development and tests.
    pub git_local_remotes: bool,
    /// `SYNC_WAIT_SECONDS`: how long a synchronous request waits before it answers 202.
    pub sync_wait_seconds: u64,
    /// `SHUTDOWN_GRACE_SECONDS`: how long a stopping process lets runs end.
    pub shutdown_grace_seconds: u64,
    /// `CORS_ORIGINS`: exact origins that browsers may call from, separated by commas.
    pub cors_origins: String,
    /// `PUBLIC_URL`: the address that browsers use: links in mails begin with it, and providers send people back to it.
    pub public_url: String,
    /// `TRUSTED_PROXIES`: addresses and networks, separated by commas, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: String,
    /// `SMTP_URL`: the mail server, `smtps://user:password@host` or `smtp://host:587?tls=required`.
    pub smtp_url: Option<SecretString>,
    /// `MAIL_FROM`: sender of mails.
    pub mail_from: String,
    /// `DEV_USER_EMAIL`: administrator that is made at start, in development only; empty makes none.
    pub dev_user_email: String,
    /// `DEV_USER_PASSWORD`: the password that the development user is made with.
    pub dev_user_password: SecretString,
    /// `DEV_AUTH_BYPASS`: `true` lets requests without credential act as the development user, in development and on a
    /// loopback listener only; `any-interface` on any listener.
    pub dev_auth_bypass: String,
    /// `LOG_FORMAT`: `text` or `json`.
    pub log_format: String,
    /// `METRICS_PORT`: where Prometheus reads; unset nowhere, 0 any free port.
    pub metrics_port: Option<u16>,
    /// `METRICS_ADDR`: the interface of that port.
    pub metrics_addr: IpAddr,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector that traces are sent to, over HTTP; unset none.
    pub otel_exporter_otlp_endpoint: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            environment: Environment::default(),
            database_url: None,
            admin_database_url: None,
            rabbitmq_url: None,
            redis_url: None,
            database_connections: 8,
            queue_prefix: String::new(),
            redis_prefix: "bifrost".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            workspace_path: "/workspace".into(),
            platform_path: "/opt/bifrost/platform".into(),
            temp_path: "/tmp/bifrost".into(),
            uploads_path: "/var/lib/bifrost/uploads".into(),
            max_upload_mb: 100,
            s3_bucket: None,
            s3_endpoint: None,
            s3_region: "us-east-1".into(),
            s3_access_key_id: None,
            s3_secret_access_key: None,
            python: "python3".into(),
            uv: "uv".into(),
            package_index_url: "https://pypi.org/simple".into(),
            environments_path: None,
            isolation: "best-effort".into(),
            run_cgroups: "best-effort".into(),
            allow_isolation_off: false,
            run_network: "open".into(),
            run_readable_paths: String::new(),
            worker_slots: 16,
            run_memory_mb: 1024,
            secret_key: None,
            secrets_master_key: None,
            access_token_minutes: 15,
            refresh_token_days: 7,
            mfa_policy: "optional".into(),
            google_client_id: None,
            google_client_secret: None,
            google_issuer: "https://accounts.google.com".into(),
            microsoft_client_id: None,
            microsoft_client_secret: None,
            microsoft_tenant_id: "common".into(),
            microsoft_url: "https://login.microsoftonline.com".into(),
            github_client_id: None,
            github_client_secret: None,
            github_url: "https://github.com".into(),
            github_api_url: "https://api.github.com".into(),
            oidc_client_id: None,
            oidc_client_secret: None,
            oidc_discovery_url: None,
            oauth_require_mfa: false,
            outbound_admit: String::new(),
            git_local_remotes: false,
            sync_wait_seconds: 60,
            shutdown_grace_seconds: 30,
            cors_origins: String::new(),
            public_url: "http://localhost:8000".into(),
            trusted_proxies: String::new(),
            smtp_url: None,
            mail_from: "Bifrost <bifrost@localhost>".into(),
            dev_user_email: "admin@localhost".into(),
            dev_user_password: "admin".into(),
            dev_auth_bypass: "false".into(),
            log_format: "text".into(),
            metrics_port: None,
            metrics_addr: std::net::Ipv4Addr::LOCALHOST.into(),
            otel_exporter_otlp_endpoint: None,
        }
    }
}

/// Secrets too well known to protect anything.
const KNOWN: [&str; 6] = ["change-me", "changeme", "secret", "development", "your-secret-key", "bifrost"];

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A text that names the variable and what was expected.
    pub fn load() -> Result<Self, String> {
        let numbers = |source: config::Environment| source.try_parsing(true).ignore_empty(true);
        config::Config::builder()
            .add_source(numbers(config::Environment::with_prefix("BIFROST").prefix_separator("_")))
            .add_source(numbers(config::Environment::default()))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| format!("settings: {error}"))
    }

    /// Checks what must hold before anything starts.
    ///
    /// # Errors
    /// One line per fault, naming the variable and never its value.
    pub fn check(&self) -> Result<(), String> {
        let mut faults = Vec::new();
        for (name, value) in
            [("SECRET_KEY", &self.secret_key), ("SECRETS_MASTER_KEY", &self.secrets_master_key)]
        {
            let Some(value) = value else {
                faults.push(format!("{name} is not set; generate one with `openssl rand -base64 48`"));
                continue;
            };
            let value = value.expose_secret();
            if value.split(',').any(|key| key.trim().len() < 32) {
                faults.push(format!("{name} is shorter than 32 bytes"));
            }
            if self.environment == Environment::Production
                && KNOWN.iter().any(|known| value.to_lowercase().contains(known))
            {
                faults.push(format!("{name} contains a default value; generate a random one"));
            }
        }
        if let (Some(signing), Some(master)) = (&self.secret_key, &self.secrets_master_key)
            && signing.expose_secret() == master.expose_secret()
        {
            faults.push("SECRET_KEY and SECRETS_MASTER_KEY are the same; they must be independent".into());
        }
        self.check_isolation(&mut faults);
        if !updates::is_address(self.package_index_url.expose_secret(), self.is_production()) {
            faults.push("PACKAGE_INDEX_URL must be an address that begins with https://".into());
        }
        if !matches!(self.log_format.as_str(), "text" | "json") {
            faults.push("LOG_FORMAT must be `text` or `json`".into());
        }
        if !matches!(self.mfa_policy.as_str(), "optional" | "required") {
            faults.push("MFA_POLICY must be `optional` or `required`".into());
        }
        if !matches!(self.dev_auth_bypass.as_str(), "" | "false" | "true" | "any-interface") {
            faults.push("DEV_AUTH_BYPASS must be `false`, `true` or `any-interface`".into());
        }
        if let Err(fault) = self.proxies() {
            faults.push(fault);
        }
        if self.git_local_remotes && self.is_production() {
            faults.push("GIT_LOCAL_REMOTES is for development and tests; unset it in production".into());
        }
        if self.max_upload_mb == 0 {
            faults.push("MAX_UPLOAD_MB must be at least 1".into());
        }
        if self.worker_slots == 0 {
            faults.push("WORKER_SLOTS must be at least 1".into());
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    fn check_isolation(&self, faults: &mut Vec<String>) {
        if !matches!(self.isolation.as_str(), "required" | "best-effort" | "off") {
            faults.push("ISOLATION must be `required`, `best-effort` or `off`".into());
        }
        if self.isolation == "off" && self.is_production() && !self.allow_isolation_off {
            faults.push(
                "ISOLATION is off: runs could read each other and this server; unset it, or set ALLOW_ISOLATION_OFF=true"
                    .into(),
            );
        }
        if !matches!(self.run_cgroups.as_str(), "required" | "best-effort" | "off") {
            faults.push("RUN_CGROUPS must be `required`, `best-effort` or `off`".into());
        }
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        if !matches!(self.run_network.as_str(), "open" | "none") && !self.run_network.split(',').all(is_port)
        {
            faults.push("RUN_NETWORK must be `open`, `none`, or TCP ports such as 80,443".into());
        }
    }

    /// The paths of `RUN_READABLE_PATHS`.
    pub fn readable_paths(&self) -> Vec<PathBuf> {
        self.run_readable_paths
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
            .map(Into::into)
            .collect()
    }

    /// Checks what separate processes need beyond that: a broker and a cache that all of them share.
    ///
    /// # Errors
    /// One line per missing variable.
    pub fn check_distributed(&self) -> Result<(), String> {
        let parts = [
            ("DATABASE_URL", &self.database_url),
            ("RABBITMQ_URL", &self.rabbitmq_url),
            ("REDIS_URL", &self.redis_url),
        ];
        let missing: Vec<String> = parts
            .into_iter()
            .filter(|(_, url)| url.is_none())
            .map(|(name, _)| {
                format!("{name} is not set; separate processes share it (`bifrost up` runs without)")
            })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
    }

    /// The folder of the environments of packages.
    pub fn environments(&self) -> PathBuf {
        let given = self.environments_path.clone().filter(|path| !path.as_os_str().is_empty());
        given.unwrap_or_else(|| self.temp_path.join("environments"))
    }

    /// Where Prometheus reads, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_port.map(|port| SocketAddr::new(self.metrics_addr, port))
    }

    /// Whether this is production.
    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// Whether everybody needs a second factor.
    pub fn mfa_is_required(&self) -> bool {
        self.mfa_policy == "required"
    }

    /// The networks of `TRUSTED_PROXIES`.
    ///
    /// # Errors
    /// A text that names the first part that is neither an address nor a network.
    pub fn proxies(&self) -> Result<Vec<IpNet>, String> {
        let parts = self.trusted_proxies.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| {
                let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
                network.map_err(|_| {
                    format!(
                        "TRUSTED_PROXIES: `{part}` is neither an address nor a network such as 10.0.0.0/8"
                    )
                })
            })
            .collect()
    }

    /// Whether this is development.
    pub fn is_development(&self) -> bool {
        self.environment == Environment::Development
    }

    /// The origins of `CORS_ORIGINS`.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.cors_origins.split(',').map(str::trim).filter(|origin| !origin.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn production(signing: &str, master: &str) -> Settings {
        Settings {
            secret_key: Some(signing.into()),
            secrets_master_key: Some(master.into()),
            ..Settings::default()
        }
    }

    #[test]
    fn production_refuses_weak_secrets_and_names_the_variable_only() {
        let strong = "k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo";
        let other = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te";
        for (settings, variable) in [
            (production("short", other), "SECRET_KEY"),
            (production(strong, "short"), "SECRETS_MASTER_KEY"),
            (production("change-me-change-me-change-me-change-me", other), "SECRET_KEY"),
            (production(strong, strong), "SECRETS_MASTER_KEY"),
            (Settings { secret_key: None, ..production(strong, other) }, "SECRET_KEY"),
        ] {
            let fault = settings.check().expect_err("weak");
            assert!(fault.contains(variable), "{fault}");
            assert!(!fault.contains(strong) && !fault.contains("change-me-change"), "{fault}");
        }
        assert_eq!(production(strong, other).check(), Ok(()));
        assert_eq!(Settings::default().environment, Environment::Production, "unset means production");
        let local = Settings { git_local_remotes: true, ..production(strong, other) };
        assert!(local.check().expect_err("for development").contains("GIT_LOCAL_REMOTES"));
    }

    #[test]
    fn production_refuses_to_run_code_that_nothing_encloses() {
        let strong =
            production("k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo", "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te");
        let off = Settings { isolation: "off".into(), ..strong.clone() };
        let told = Settings { allow_isolation_off: true, ..off.clone() };
        let development = Settings { environment: Environment::Development, ..off.clone() };
        assert!(off.check().expect_err("refused").contains("ALLOW_ISOLATION_OFF"));
        assert_eq!([told.check(), development.check()], [Ok(()), Ok(())]);
        for mode in ["required", "best-effort"] {
            assert_eq!(Settings { isolation: mode.into(), ..strong.clone() }.check(), Ok(()));
        }
        assert!(Settings { isolation: "auto".into(), ..strong.clone() }.check().is_err());
        let groups = Settings { run_cgroups: "on".into(), ..strong.clone() };
        assert!(groups.check().expect_err("refused").contains("RUN_CGROUPS"));
        for (network, is_fine) in [
            ("open", true),
            ("none", true),
            ("443", true),
            ("80,443", true),
            ("", false),
            ("443,", false),
            ("all", false),
            ("0", false),
            ("70000", false),
        ] {
            let settings = Settings { run_network: network.into(), ..strong.clone() };
            assert_eq!(settings.check().is_ok(), is_fine, "{network:?}");
        }
    }
}
