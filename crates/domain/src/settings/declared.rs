//! Every setting, each declared once: group, meaning, name, type and default.
//!
//! The struct, its defaults and the table of docs/operations.md are made from this. Here is no rule about values: those
//! are in `settings.rs`. The invariant: what is not declared here is not read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use secrecy::SecretString;

use super::Environment;
use super::table::settings;

settings! {
    "Where it runs" {
        /// `development`, `testing` (no rate limits) or `production`. Unset means production, which fails closed; `bifrost up` on a
        /// loopback address is development then.
        environment: Environment = Environment::default();
        /// Address and port of the api. Write `BIFROST_LISTEN` where a plain `LISTEN` would be ambiguous.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8000));
        /// The address that browsers use: links in mails and addresses of uploads begin with it, and login providers
        /// send people back to it. `bifrost up` without it takes the port it listens on; set it where others reach it.
        public_url: String = "http://localhost:8000".into();
        /// Addresses and networks, separated by commas, whose `X-Forwarded-For` is believed. Without them limits
        /// count the peer's address.
        trusted_proxies: String = String::new();
        /// Exact origins of browsers that may call, separated by commas.
        cors_origins: String = String::new();
    }
    "What it needs" {
        /// PostgreSQL, as the application's login role: no superuser, so that row-level security binds it.
        database_url: Option<SecretString> = None;
        /// PostgreSQL as a superuser. Only `bifrost migrate`, `bifrost backup` and other commands of the operator
        /// read it.
        admin_database_url: Option<SecretString> = None;
        /// The broker that wakes workers up.
        rabbitmq_url: Option<SecretString> = None;
        /// The cache. It holds nothing that must not be lost.
        redis_url: Option<SecretString> = None;
        /// Connections of each of the two pools of a process.
        database_connections: u32 = 8;
        /// Put in front of every exchange and queue, for installations that share a broker.
        queue_prefix: String = String::new();
        /// Put in front of every key and channel, for installations that share a Redis.
        redis_prefix: String = "bifrost".into();
    }
    "Keys" {
        /// Signs access tokens; at least 32 bytes. Several, separated by commas, while it is replaced: the first
        /// signs, all verify.
        secret_key: Option<SecretString> = None;
        /// Wraps the keys that stored secrets are encrypted with; at least 32 bytes, and other than `SECRET_KEY`.
        /// Several as `id:key,id:key` while it is rotated: the first is current.
        secrets_master_key: Option<SecretString> = None;
    }
    "Files" {
        /// Folder of the workflow files, shared by the api and the workers.
        workspace_path: PathBuf = "/workspace".into();
        /// Folder of the Python package `bifrost`.
        platform_path: PathBuf = "/opt/bifrost/platform".into();
        /// Folder of sockets and of the private directories of runs; of the api also of temporary files of developers' machines, in `sdk`.
        temp_path: PathBuf = "/tmp/bifrost".into();
        /// Folder of what users upload for forms, unless `S3_BUCKET` is set. The api and the workers share it; nobody
        /// else may enter it.
        uploads_path: PathBuf = "/var/lib/bifrost/uploads".into();
        /// Largest file that may be uploaded for a form, in MiB.
        max_upload_mb: u64 = 100;
        /// Bucket of Amazon, or of any S3-compatible store, for uploads instead of `UPLOADS_PATH`.
        s3_bucket: Option<String> = None;
        /// Address of an S3-compatible store other than Amazon's.
        s3_endpoint: Option<String> = None;
        /// Region of the bucket.
        s3_region: String = "us-east-1".into();
        /// Id of the key that opens the bucket.
        s3_access_key_id: Option<String> = None;
        /// The secret that belongs to `S3_ACCESS_KEY_ID`.
        s3_secret_access_key: Option<SecretString> = None;
    }
    "Runs" {
        /// Executions that a worker runs at once.
        worker_slots: usize = 16;
        /// Most memory of each process of a run, in MiB; it counts address space, of which each thread takes 8 MiB for its stack.
        run_memory_mb: u64 = 1024;
        /// Interpreter of the runs. The api uses it too, to check files without executing them.
        python: PathBuf = "python3".into();
        /// `required` (no worker starts without all of it), `best-effort` (what the kernel allows) or `off`, for
        /// debugging. See "Isolation" in docs/operations.md.
        isolation: String = "best-effort".into();
        /// `true` lets production run with `ISOLATION=off`.
        allow_isolation_off: bool = false;
        /// Whether each run is limited as a whole by a control group: `required` (no worker starts without), `best-effort` or
        /// `off`.
        run_cgroups: String = "best-effort".into();
        /// What runs may connect to: `open`, `none`, or TCP ports such as `80,443`.
        run_network: String = "open".into();
        /// Folders and files that runs may read besides the system's libraries and the workspace, separated by
        /// commas.
        run_readable_paths: String = String::new();
        /// How long a synchronous request waits for its run, in seconds, before it answers 202.
        sync_wait_seconds: u64 = 60;
        /// How long executions that ended are kept with their log lines, in days; an organization may keep less.
        history_days: i32 = 90;
        /// How long a stopping process lets its runs go on, in seconds.
        shutdown_grace_seconds: u64 = 30;
    }
    "Packages" {
        /// Where packages come from: https in production, and may hold `user:password@`.
        package_index_url: SecretString = "https://pypi.org/simple".into();
        /// The program that installs packages. Where there is none, the interpreter's pip does.
        uv: PathBuf = "uv".into();
        /// Folder in which a worker keeps environments of packages; runs must be able to read it. Unset:
        /// `environments` in `TEMP_PATH`.
        environments_path: Option<PathBuf> = None;
    }
    "Signing in" {
        /// How long an access token is good for, in minutes.
        access_token_minutes: i64 = 15;
        /// How long a session that nobody uses lives, in days.
        refresh_token_days: i64 = 7;
        /// `optional`, or `required` to ask everybody for a second factor.
        mfa_policy: String = "optional".into();
        /// `true` asks for the second factor after a sign-in with a provider too.
        oauth_require_mfa: bool = false;
        /// With its secret it offers the sign-in with Google.
        google_client_id: Option<String> = None;
        /// The secret that belongs to `GOOGLE_CLIENT_ID`.
        google_client_secret: Option<SecretString> = None;
        /// Address of Google.
        google_issuer: String = "https://accounts.google.com".into();
        /// With its secret it offers the sign-in with Microsoft.
        microsoft_client_id: Option<String> = None;
        /// The secret that belongs to `MICROSOFT_CLIENT_ID`.
        microsoft_client_secret: Option<SecretString> = None;
        /// A tenant, or `organizations`, `consumers` or `common`, which lets every tenant in.
        microsoft_tenant_id: String = "common".into();
        /// Address of Microsoft's sign-in; differs in national clouds.
        microsoft_url: String = "https://login.microsoftonline.com".into();
        /// With its secret it offers the sign-in with GitHub.
        github_client_id: Option<String> = None;
        /// The secret that belongs to `GITHUB_CLIENT_ID`.
        github_client_secret: Option<SecretString> = None;
        /// Address of GitHub; differs for a GitHub Enterprise Server.
        github_url: String = "https://github.com".into();
        /// Address of GitHub's interface; `https://HOST/api/v3` for a GitHub Enterprise Server.
        github_api_url: String = "https://api.github.com".into();
        /// With its secret and `OIDC_DISCOVERY_URL` it offers the sign-in with any OpenID Connect provider.
        oidc_client_id: Option<String> = None;
        /// The secret that belongs to `OIDC_CLIENT_ID`.
        oidc_client_secret: Option<SecretString> = None;
        /// The issuer, or its address that ends with `/.well-known/openid-configuration`.
        oidc_discovery_url: Option<String> = None;
    }
    "The outside world" {
        /// Servers in private networks that may be called, without TLS too, as `host:port` separated by commas. Unset
        /// none.
        outbound_admit: String = String::new();
        /// In development and tests alone: `true` lets repositories be folders of the server.
        git_local_remotes: bool = false;
        /// The mail server, `smtps://user:password@host` or `smtp://host:587?tls=required`. Without it development
        /// writes links to its log, and production answers 503 where a mail is needed.
        smtp_url: Option<SecretString> = None;
        /// Sender of mails.
        mail_from: String = "Bifrost <bifrost@localhost>".into();
    }
    "Watching it" {
        /// `text`, or `json` for one object per line.
        log_format: String = "text".into();
        /// Port where Prometheus reads `/metrics`. Unset none, 0 any free one.
        metrics_port: Option<u16> = None;
        /// Interface of `METRICS_PORT`, which asks for no credential.
        metrics_addr: IpAddr = Ipv4Addr::LOCALHOST.into();
        /// The collector that traces are sent to over OTLP/HTTP, `http://host:4318`. Unset none.
        otel_exporter_otlp_endpoint: Option<String> = None;
    }
    "While developing" {
        /// An administrator that is made at the start, in development alone; empty makes none.
        dev_user_email: String = "admin@localhost".into();
        /// The password that the development user is made with.
        dev_user_password: SecretString = "admin".into();
        /// In development alone: `true` lets requests without a credential act as the development user, on a loopback
        /// listener; `any-interface` on any.
        dev_auth_bypass: String = "false".into();
    }
}
