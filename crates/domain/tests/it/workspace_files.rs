//! Files of the workspace against everything that could lead out of it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::workspace_files::{FilePath, Files};
use domain::{Error, Result};
use tempfile::TempDir;

const CANARY: &str = "what lies outside";

/// A workspace with a neighbour that nobody may reach.
struct Disk {
    _folder: TempDir,
    root: std::path::PathBuf,
    outside: std::path::PathBuf,
}

impl Disk {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (root, outside) = (folder.path().join("workspace"), folder.path().join("outside"));
        for path in [&root, &outside, &root.join("folder"), &root.join(".overlays/org")] {
            std::fs::create_dir_all(path).expect("a folder can be made");
        }
        std::fs::write(outside.join("canary"), CANARY).expect("writes");
        std::fs::write(root.join("folder/file"), "inside").expect("writes");
        for reserved in [".overlays/org/private", ".env", ".env.local"] {
            std::fs::write(root.join(reserved), CANARY).expect("writes");
        }
        Self { _folder: folder, root, outside }
    }

    fn files(&self) -> Files {
        Files::open(&self.root).expect("opens")
    }

    /// What is outside, as text: names and contents.
    fn outside(&self) -> Vec<(String, String)> {
        fn read(folder: &Path, into: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(folder).expect("reads").flatten() {
                let path = entry.path();
                match entry.file_type().expect("a type").is_dir() {
                    true => read(&path, into),
                    false => into
                        .push((path.display().to_string(), std::fs::read_to_string(&path).expect("reads"))),
                }
            }
        }
        let mut found = Vec::new();
        read(&self.outside, &mut found);
        read(&self.root.join(".overlays"), &mut found);
        for name in [".env", ".env.local"] {
            let text = std::fs::read_to_string(self.root.join(name)).unwrap_or_default();
            found.push((name.to_owned(), text));
        }
        found.sort();
        found
    }

    /// Tries every operation on a path, and gives what could be read.
    fn try_all(&self, text: &str) -> Vec<String> {
        let mut read = Vec::new();
        let mut attempt = || -> Result<()> {
            let path = FilePath::parse(text)?;
            let files = self.files();
            let inside = FilePath::parse("folder/file")?;
            if let Ok(content) = files.read(&path, 1_000) {
                read.push(String::from_utf8_lossy(&content.bytes).into_owned());
            }
            read.extend(files.list(&path).into_iter().flatten().map(|entry| entry.path.to_string()));
            let _ = files.entry(&path);
            let _ = files.write(&path, b"overwritten");
            let _ = files.create_folder(&path);
            let below = FilePath::parse(&format!("{text}/canary"))?;
            let _ = files.write(&below, b"overwritten");
            if let Ok(content) = files.read(&below, 1_000) {
                read.push(String::from_utf8_lossy(&content.bytes).into_owned());
            }
            let _ = files.rename(&inside, &below);
            let _ = files.rename(&below, &FilePath::parse("stolen")?);
            if let Ok(content) = files.read(&FilePath::parse("stolen")?, 1_000) {
                read.push(String::from_utf8_lossy(&content.bytes).into_owned());
            }
            let _ = files.remove(&below);
            let _ = files.remove(&path);
            Ok(())
        };
        let _ = attempt();
        read
    }
}

#[test]
fn no_path_leads_out_of_the_workspace() {
    let up = "../".repeat(12);
    let mut corpus: Vec<String> = [
        "..",
        "../outside/canary",
        "folder/../../outside/canary",
        "/../outside/canary",
        "/workspace/../outside/canary",
        "folder/./../../outside",
        "./../outside/canary",
        "....//....//outside/canary",
        "..\\outside\\canary",
        "%2e%2e/outside/canary",
        "folder/file/../../../outside/canary",
        "//outside/canary",
        "~/canary",
        "file:///etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd",
        "/dev/stdin",
        "a\0b",
        "folder\0/../../outside/canary",
        "a\nb",
        "\u{202e}/../..",
        "..\u{2f}..",
        "．．/outside",
        ".overlays/org/private",
        ".OVERLAYS/org/private",
        "folder/../.overlays/org/private",
        "/.overlays/org/private",
        "./.overlays/./org/private",
        ".overlays",
        ".uploads/x",
        ".env",
        ".ENV",
        "folder/../.env",
        ".env.local",
        ".git/hooks/post-checkout",
        "folder/.git/config",
        "x/.GIT/config",
        ".writing-x",
        "folder/.writing-y",
        "",
        "/",
        ".",
        "workspace",
        "/workspace",
        "/workspace/",
    ]
    .map(str::to_owned)
    .to_vec();
    corpus.push(format!("{up}etc/passwd"));
    corpus.push(format!("/workspace/{up}etc/passwd"));
    corpus.push("a/".repeat(600));
    corpus.push("n".repeat(300));
    // Each of these links leads out, or to what is reserved.
    let links = [
        ("absolute", "/etc"),
        ("file", "../outside/canary"),
        ("folder-out", "../outside"),
        ("root", "/"),
        ("overlay", ".overlays/org"),
        ("overlay-file", ".overlays/org/private"),
        ("variables", ".env"),
        ("loop", "loop"),
        ("proc", "/proc/self/root"),
        ("by-way", "folder/../../outside"),
        ("dangling", "../outside/new"),
    ];
    for (name, _) in links {
        corpus.extend([
            format!("link-{name}"),
            format!("link-{name}/canary"),
            format!("link-{name}/../outside/canary"),
            format!("folder/../link-{name}"),
            format!("link-{name}/private"),
            format!("link-{name}/passwd"),
        ]);
    }
    corpus.extend(["hard".to_owned(), "pipe".to_owned(), "socket".to_owned()]);

    let mut outside = Vec::new();
    for text in &corpus {
        let disk = Disk::new();
        for (name, target) in links {
            symlink(target, disk.root.join(format!("link-{name}"))).expect("a link can be made");
        }
        std::fs::hard_link(disk.outside.join("canary"), disk.root.join("hard")).expect("the same disk");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            disk.root.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("a pipe can be made");
        let _socket = std::os::unix::net::UnixListener::bind(disk.root.join("socket")).expect("binds");
        let before = disk.outside();
        let read = disk.try_all(text);
        if disk.outside() != before {
            outside.push(format!("{text:?} changed what is outside"));
        }
        if read.iter().any(|read| read.contains(CANARY) || read.contains("root:") || read.contains("passwd"))
        {
            outside.push(format!("{text:?} read {read:?}"));
        }
    }
    println!("workspace paths: {} tried with every operation, outside {}", corpus.len(), outside.len());
    assert!(outside.is_empty(), "{}", outside.join("\n"));
}

#[test]
fn who_reads_for_one_organization_finds_no_file_of_a_form_by_any_name() {
    let disk = Disk::new();
    let path = |text: &str| FilePath::parse(text).expect("a path");
    for name in ["forms/a.form.json", "folder/form.json", "folder/B.Form.JSON", "forms/form.json.txt"] {
        disk.files().write(&path(name), b"a form").expect("writes");
    }
    for (link, target) in
        [("alias", "forms/a.form.json"), ("again", "alias"), ("other", "forms"), ("folder/up", "../forms")]
    {
        symlink(target, disk.root.join(link)).expect("a link can be made");
    }
    let files = disk.files().without_forms();
    let ways = ["forms/a.form.json", "folder/form.json", "folder/B.Form.JSON", "alias", "again"];
    for way in ways.into_iter().chain(["other/a.form.json", "folder/up/a.form.json"]) {
        let way = path(way);
        assert_eq!(disk.files().read(&way, 10).expect("is there").bytes, b"a form");
        assert!(matches!(files.read(&way, 10), Err(Error::NotFound(_))), "{way}");
        assert!(matches!(files.open_file(&way), Err(Error::NotFound(_))), "{way}");
        assert!(matches!(files.entry(&way), Err(Error::NotFound(_))), "{way}");
        assert!(matches!(files.list(&way), Err(Error::NotFound(_))), "{way}");
    }
    let names = |files: &Files, folder: &str| -> Vec<String> {
        files.list(&path(folder)).expect("lists").into_iter().map(|entry| entry.path.to_string()).collect()
    };
    assert_eq!(names(&files, "forms"), ["forms/form.json.txt"]);
    assert_eq!(names(&files, "folder"), ["folder/file"]);
    assert_eq!(names(&files, "other"), ["other/form.json.txt"]);
    assert_eq!(names(&disk.files(), "forms").len(), 2);
    assert!(files.find(|name| name.to_lowercase().ends_with("form.json")).expect("looks").is_empty());
    assert_eq!(files.read(&path("other/form.json.txt"), 10).expect("is no form's").bytes, b"a form");
}

#[test]
fn a_link_that_is_exchanged_meanwhile_leads_nowhere() {
    let disk = Disk::new();
    let before = disk.outside();
    let (real, flip) = (disk.root.join("real"), disk.root.join("flip"));
    std::fs::create_dir(&real).expect("a folder can be made");
    std::fs::write(real.join("canary"), "inside").expect("writes");
    let done = AtomicBool::new(false);
    let (mut reads, mut writes, mut outside) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let spare = disk.root.join("spare");
            while !done.load(Ordering::Relaxed) {
                for target in ["real", "../outside", "/", ".overlays/org"] {
                    let _ = std::fs::remove_file(&spare);
                    let _ = symlink(target, &spare);
                    let _ = std::fs::rename(&spare, &flip);
                }
            }
        });
        let path = |text: &str| FilePath::parse(text).expect("a path");
        for round in 0..4_000 {
            let files = disk.files();
            match files.read(&path("flip/canary"), 1_000) {
                Ok(content) if content.bytes == CANARY.as_bytes() => outside += 1,
                Ok(_) => reads += 1,
                Err(_) => {}
            }
            if round % 4 == 0 && files.write(&path("flip/canary"), b"inside").is_ok() {
                writes += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("exchanged link: 4000 rounds, {reads} reads and {writes} writes within, outside {outside}");
    assert_eq!(outside, 0);
    // What a link inside leads to inside may be written; what is outside has not been touched.
    let changed: Vec<_> = disk
        .outside()
        .into_iter()
        .filter(|file| !file.0.contains(".overlays") && !before.contains(file))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert!(reads > 0 && writes > 0, "the race was run");
}

#[test]
fn a_reader_sees_the_old_file_or_the_new_one() {
    let disk = Disk::new();
    let path = FilePath::parse("/workspace/new/deep/file.txt").expect("a path");
    assert_eq!(path.as_str(), "new/deep/file.txt");
    let (old, new) = (vec![b'a'; 300_000], vec![b'b'; 200_000]);
    disk.files().write(&path, &old).expect("writes");
    let done = AtomicBool::new(false);
    let mut torn = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                let bytes = if round % 2 == 0 { &new } else { &old };
                disk.files().write(&path, bytes).expect("writes");
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let bytes = disk.files().read(&path, 1 << 20).expect("is always there").bytes;
            torn += usize::from(bytes != old && bytes != new);
        }
    });
    assert_eq!(torn, 0);
    let listed = disk.files().list(&path.parent()).expect("lists");
    assert_eq!(listed.len(), 1, "nothing is left of the writing: {listed:?}");
}

#[test]
fn files_and_folders_are_made_moved_and_removed() {
    let disk = Disk::new();
    let files = disk.files();
    let path = |text: &str| FilePath::parse(text).expect("a path");
    assert!(files.create_folder(&path("a/b")).expect("makes"));
    assert!(!files.create_folder(&path("a/b")).expect("was there"));
    assert!(matches!(files.create_folder(&path("folder/file")), Err(Error::Conflict(_))));
    files.write(&path("a/b/one.txt"), b"1").expect("writes");
    files.rename(&path("a/b"), &path("moved/there")).expect("moves");
    assert_eq!(files.read(&path("moved/there/one.txt"), 10).expect("reads").bytes, b"1");
    assert!(matches!(files.rename(&path("moved"), &path("folder")), Err(Error::Conflict(_))));
    assert!(matches!(files.rename(&path("moved"), &path("moved/in")), Err(Error::Impossible(_))));
    assert!(matches!(files.rename(&path("nothing"), &path("x")), Err(Error::NotFound(_))));
    assert!(matches!(files.write(&path("moved"), b""), Err(Error::Impossible(_))));
    assert!(matches!(files.write(&path("folder/file/x"), b""), Err(Error::Impossible(_))));
    assert!(matches!(files.read(&path("folder"), 10), Err(Error::Impossible(_))));
    assert!(matches!(files.read(&path("folder/file"), 3), Err(Error::Impossible(_))), "too large");
    assert!(matches!(files.list(&path("folder/file")), Err(Error::Impossible(_))));
    let names: Vec<String> =
        files.list(&path("")).expect("lists").into_iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["a", "folder", "moved"]);
    files.remove(&path("moved")).expect("removes");
    assert!(matches!(files.remove(&path("moved")), Err(Error::NotFound(_))));
    assert!(matches!(files.remove(&path("")), Err(Error::Impossible(_))));
}
