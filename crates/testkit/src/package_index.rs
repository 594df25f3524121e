//! A package index (PEP 503, 691) with small wheels that tests make, so that none of them needs the outside.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// The index. It stops when it is dropped.
#[derive(Debug)]
pub struct PackageIndex {
    url: String,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<BTreeMap<String, File>>,
    requests: AtomicUsize,
    /// Milliseconds an answer takes.
    delay: AtomicU64,
    failing: AtomicBool,
    html: AtomicBool,
}

#[derive(Debug, Clone)]
struct File {
    project: String,
    bytes: Vec<u8>,
    yanked: bool,
}

/// A wheel to be.
#[derive(Debug, Clone)]
pub struct Wheel {
    name: String,
    version: String,
    requires: Vec<String>,
    files: Vec<(String, String)>,
}

impl Wheel {
    /// A package of one module, which says its version as `VERSION`.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        let module = (format!("{name}/__init__.py"), format!("VERSION = {version:?}\n"));
        Self { name: name.into(), version: version.into(), requires: Vec::new(), files: vec![module] }
    }

    /// The same, needing something else.
    #[must_use]
    pub fn requires(mut self, requirement: &str) -> Self {
        self.requires.push(requirement.into());
        self
    }

    /// The same with another file.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }

    fn file_name(&self) -> String {
        format!("{}-{}-py3-none-any.whl", self.name, self.version)
    }

    fn bytes(&self) -> Vec<u8> {
        let info = format!("{}-{}.dist-info", self.name, self.version);
        let requires: String = self.requires.iter().map(|one| format!("Requires-Dist: {one}\n")).collect();
        let metadata =
            format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n{requires}", self.name, self.version);
        let wheel = "Wheel-Version: 1.0\nGenerator: testkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        let mut files = self.files.clone();
        files.push((format!("{info}/METADATA"), metadata));
        files.push((format!("{info}/WHEEL"), wheel.into()));
        let line = |(path, content): &(String, String)| {
            let hash = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, content.as_bytes()));
            format!("{path},sha256={hash},{}\n", content.len())
        };
        let record: String = files.iter().map(line).collect();
        files.push((format!("{info}/RECORD"), format!("{record}{info}/RECORD,,\n")));
        archive(&files)
    }
}

impl PackageIndex {
    /// Starts an empty one.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let router = Router::new()
            .route("/simple/{project}/", get(list_files))
            .route("/files/{name}", get(get_file))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/simple", listener.local_addr().expect("bound"));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, shared, serving }
    }

    /// For `PACKAGE_INDEX_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Offers a wheel.
    pub fn add(&self, wheel: &Wheel) {
        self.offer(&wheel.name, wheel.file_name(), wheel.bytes(), false);
    }

    /// Offers a wheel that was withdrawn.
    pub fn add_yanked(&self, wheel: &Wheel) {
        self.offer(&wheel.name, wheel.file_name(), wheel.bytes(), true);
    }

    /// Offers the source of a package, whose `setup.py` would be run to build it.
    pub fn add_source(&self, name: &str, version: &str, setup: &str) {
        let folder = format!("{name}-{version}");
        let info = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        let files = [(format!("{folder}/setup.py"), setup.to_owned()), (format!("{folder}/PKG-INFO"), info)];
        self.offer(name, format!("{folder}.zip"), archive(&files), false);
    }

    /// How often it was asked.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Lets every answer take this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers every request with an error, or no longer.
    pub fn fail(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::Relaxed);
    }

    /// Speaks HTML alone, or JSON too.
    pub fn speak_html(&self, html: bool) {
        self.shared.html.store(html, Ordering::Relaxed);
    }

    fn offer(&self, project: &str, name: String, bytes: Vec<u8>, yanked: bool) {
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(name, File { project: project.replace('_', "-"), bytes, yanked });
    }
}

impl Drop for PackageIndex {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn list_files(
    State(shared): State<Arc<Shared>>,
    Path(project): Path<String>,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    shared.began().await?;
    let files = shared.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let files: Vec<_> = files.into_iter().filter(|(_, file)| file.project == project).collect();
    if files.is_empty() {
        return Err(StatusCode::NOT_FOUND);
    }
    let accepts = headers
        .get(header::ACCEPT)
        .is_some_and(|kinds| kinds.to_str().is_ok_and(|kinds| kinds.contains(JSON)));
    if accepts && !shared.html.load(Ordering::Relaxed) {
        let shown = files.iter().map(|(name, file)| {
            json!({
                "filename": name, "url": format!("../../files/{name}"), "hashes": {"sha256": sha256(&file.bytes)},
                "yanked": file.yanked, "size": file.bytes.len(),
            })
        });
        let body =
            json!({"meta": {"api-version": "1.0"}, "name": project, "files": shown.collect::<Vec<_>>()});
        return Ok(([(header::CONTENT_TYPE, JSON)], body.to_string()).into_response());
    }
    let links = files.iter().map(|(name, file)| {
        let yanked = if file.yanked { r#" data-yanked="""# } else { "" };
        format!("<a href=\"../../files/{name}#sha256={}\"{yanked}>{name}</a><br>\n", sha256(&file.bytes))
    });
    let body = format!("<!DOCTYPE html><html><body>\n{}</body></html>\n", links.collect::<String>());
    Ok(([(header::CONTENT_TYPE, "text/html")], body).into_response())
}

async fn get_file(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Response, StatusCode> {
    shared.began().await?;
    let files = shared.files.lock().unwrap_or_else(PoisonError::into_inner);
    let file = files.get(&name).ok_or(StatusCode::NOT_FOUND)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], file.bytes.clone()).into_response())
}

impl Shared {
    async fn began(&self) -> Result<(), StatusCode> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed))).await;
        if self.failing.load(Ordering::Relaxed) { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok(()) }
    }
}

fn archive(files: &[(String, String)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (path, content) in files {
        archive.start_file(path, stored).expect("a name");
        archive.write_all(content.as_bytes()).expect("memory takes it");
    }
    archive.finish().expect("memory takes it").into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
