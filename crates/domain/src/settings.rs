//! Settings: read from environment variables, each also with the prefix `BIFROST_`. Which there are: `settings/declared.rs`.
//!
//! The plain name wins. Production refuses to start with a missing, default, short or reused secret and
//! names the variable, never its value.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::organizations;
use crate::packages::updates;

pub use declared::Settings;
pub use table::Setting;

mod declared;
mod table;

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

/// Secrets too well known to protect anything.
const KNOWN: [&str; 6] = ["change-me", "changeme", "secret", "development", "your-secret-key", "bifrost"];

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A text that names the variable and what was expected.
    pub fn load() -> Result<Self, String> {
        Self::read(None)
    }

    /// Reads these variables, or else the environment. Each stays text until a field asks for a number or a truth: a
    /// password of digits is no number.
    fn read(variables: Option<config::Map<String, String>>) -> Result<Self, String> {
        let source = |source: config::Environment| source.ignore_empty(true).source(variables.clone());
        config::Config::builder()
            .add_source(source(config::Environment::with_prefix("BIFROST").prefix_separator("_")))
            .add_source(source(config::Environment::default()))
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
        if !(1..=organizations::MOST_HISTORY_DAYS).contains(&self.history_days) {
            faults.push(format!("HISTORY_DAYS must be from 1 to {}", organizations::MOST_HISTORY_DAYS));
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
mod tests;
