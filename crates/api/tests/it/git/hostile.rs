//! Names, addresses and repositories that want to run something or reach something else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::StatusCode;
use serde_json::json;
use testkit::{Origin, TestEnv};

use super::{connected, failed, get, init, post, read, save, succeeded, text};
use crate::support::World;

#[tokio::test]
async fn no_name_and_no_address_is_an_option_a_program_or_a_way_into_the_network() {
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let canary = test.folder().join("canary");
    let settings = test.settings_in_process();
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    let touch = canary.display().to_string();
    let branches = [
        format!("--upload-pack=touch {touch}"),
        format!("--upload-pack=touch${{IFS}}{touch}"),
        format!("$(touch {touch})"),
        format!("`touch {touch}`"),
        format!("-c core.sshCommand=touch {touch}"),
        format!("--exec=touch {touch}"),
        format!("x;touch {touch}"),
        format!("x|touch {touch}"),
        format!("x\ntouch {touch}"),
        "-".into(),
        "--".into(),
        "--help".into(),
        "-x".into(),
        "../x".into(),
        "x..y".into(),
        "x@{1}".into(),
        ".x".into(),
        "x.lock".into(),
        "refs/heads/x".into(),
        "x y".into(),
        "x~1".into(),
        "x^{}".into(),
        "x:y".into(),
        "x*".into(),
        "x\u{0}y".into(),
        "HEAD".into(),
        "@".into(),
        "/x".into(),
        "x/".into(),
        "x//y".into(),
        "x/-y".into(),
        String::new(),
    ];
    let addresses = [
        format!("ext::sh -c touch% {touch}"),
        format!("ext::touch {touch}"),
        format!("--upload-pack=touch {touch}"),
        format!("-oProxyCommand=touch {touch}"),
        format!("ssh://-oProxyCommand=touch%20{touch}/x"),
        "file:///etc".into(),
        world.test.workspace().display().to_string(),
        "git://127.0.0.1/x".into(),
        "ssh://git@127.0.0.1/x".into(),
        "git@127.0.0.1:x".into(),
        "http://example.com/x".into(),
        "https://user:pass@example.com/x".into(),
        "fd::7".into(),
        "".into(),
        "-".into(),
        "./x".into(),
        "https://example.com/x?y".into(),
    ];
    let mut taken = Vec::new();
    let bodies = branches
        .iter()
        .map(|branch| json!({"repo_url": "https://example.com/x", "auth_token": "", "branch": branch}));
    let bodies = bodies
        .chain(addresses.iter().map(|url| json!({"repo_url": url, "auth_token": "", "branch": "main"})));
    for body in bodies {
        for operation in ["init", "configure", "analyze-workspace"] {
            let reply = admin.post(&format!("/api/github/{operation}"), &body).await;
            if reply.status != StatusCode::UNPROCESSABLE_ENTITY {
                taken.push(format!("{operation} {body}: {}", reply.status));
            }
        }
    }

    // Addresses that are well formed and lead to this machine or its neighbours.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let hits = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let hits = hits.clone();
        async move {
            while listener.accept().await.is_ok() {
                hits.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let hosts = [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "[fd00::1]",
        "[fe80::1]",
        "100.64.0.1",
    ];
    for host in hosts {
        let answer = init(admin, &format!("https://{host}:{port}/x.git")).await;
        failed(&answer, "the repository: the address is not a public one");
    }
    counting.abort();
    let hits = hits.load(Ordering::SeqCst);
    let runs = usize::from(canary.exists());
    println!(
        "git: {} hostile branches and {} addresses taken {}, canary runs {runs}; {} private hosts, canary hits {hits}",
        branches.len(),
        addresses.len(),
        taken.len(),
        hosts.len(),
    );
    assert!(taken.is_empty(), "{taken:#?}");
    assert_eq!((runs, hits), (0, 0));
    assert_eq!(get(admin, "status").await["initialized"], json!(false));
    world.close().await;
}

/// A program that leaves a trace when it is run.
fn trap(folder: &Path, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt;

    let file = folder.join(name);
    std::fs::write(&file, format!("#!/bin/sh\ntouch {}/canary-{name}\ncat\n", folder.display()))
        .expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("is ours");
    file.display().to_string()
}

fn canaries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("is there").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("canary-"))
        .collect()
}

#[tokio::test]
async fn no_repository_runs_anything_or_leads_out_of_its_tree() {
    let origin = Origin::with(&[
        ("a.txt", "1\n"),
        (".gitattributes", "* filter=evil diff=evil merge=evil text=auto\n*.enc filter=evil\n"),
        (".lfsconfig", "[lfs]\n\turl = https://127.0.0.1/x\n"),
        ("x.enc", "encrypted\n"),
        ("hooks/pre-commit", "#!/bin/sh\ntouch /tmp/never\n"),
        (".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = https://127.0.0.1/s\n\tignore = none\n"),
    ]);
    let folder = origin.root();
    let outside = folder.join("outside.txt");
    std::fs::write(&outside, "outside\n").expect("written");
    // Links that lead out of the tree, absolute and by `..`, and a submodule.
    for (name, target) in [
        ("absolute", outside.to_str().expect("text")),
        ("upwards", "../../../../../../etc/passwd"),
        ("folder", "/etc"),
    ] {
        std::os::unix::fs::symlink(target, origin.colleague().join(name)).expect("made");
    }
    let head = origin.head();
    origin.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},s")]);
    origin.git(&["commit", "--quiet", "--message", "a submodule"]);
    origin.commit_rest("links");
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    assert_eq!(
        read(admin, "absolute").await.as_deref(),
        outside.to_str(),
        "a link is a file with its target"
    );
    assert_ne!(read(admin, "upwards").await.as_deref(), Some("root"));
    save(admin, "absolute", "overwritten\n").await;
    assert_eq!(std::fs::read_to_string(&outside).expect("is there"), "outside\n");
    succeeded(&post(admin, "commit", json!({"message": "a link no more"})).await);

    // Whoever can write where our git directory is writes all of this into it.
    let mut runs = 0;
    for round in 0..2 {
        let tree = world.test.workspace().join(".trees/current");
        let git = tree.join("git");
        let trap = |name: &str| trap(folder, name);
        let hook = trap("hook");
        let names = [
            "pre-commit",
            "post-commit",
            "commit-msg",
            "post-checkout",
            "post-merge",
            "pre-push",
            "reference-transaction",
            "post-index-change",
            "post-rewrite",
            "fsmonitor-watchman",
            "prepare-commit-msg",
            "pre-auto-gc",
        ];
        std::fs::create_dir_all(git.join("hooks")).expect("made");
        for name in names {
            std::fs::copy(&hook, git.join("hooks").join(name)).expect("copied");
        }
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {}\n\thooksPath = {}\n\tsshCommand = {}\n\tpager = {}\n\teditor = {}\n\taskPass = {}\n\tworktree = /etc\n\
             [filter \"evil\"]\n\tclean = {}\n\tsmudge = {}\n\tprocess = {}\n\trequired = true\n[diff \"evil\"]\n\tcommand = {}\n\ttextconv = {}\n\
             [merge \"evil\"]\n\tdriver = {}\n[credential]\n\thelper = !{}\n[gpg]\n\tprogram = {}\n[diff]\n\texternal = {}\n[uploadpack]\n\tpackObjectsHook = {}\n\
             [url \"ext::{} \"]\n\tinsteadOf = /\n[protocol \"ext\"]\n\tallow = always\n[include]\n\tpath = {}\n[alias]\n\tstatus = !{}\n[commit]\n\tgpgSign = true\n",
            trap("fsmonitor"),
            git.join("hooks").display(),
            trap("ssh"),
            trap("pager"),
            trap("editor"),
            trap("askpass"),
            trap("clean"),
            trap("smudge"),
            trap("process"),
            trap("difftool"),
            trap("textconv"),
            trap("driver"),
            trap("credential"),
            trap("gpg"),
            trap("external"),
            trap("pack"),
            trap("ext"),
            folder.join("included").display(),
            trap("alias"),
        );
        std::fs::write(folder.join("included"), config.replace("[include]", "[ignored]")).expect("written");
        std::fs::write(git.join("config"), &config).expect("written");
        std::fs::write(git.join("config.worktree"), &config).expect("written");
        std::fs::write(git.join("info/attributes"), "* filter=evil diff=evil merge=evil\n").expect("written");
        // A repository within, whose own configuration is no better.
        let nested = tree.join("files/s/.git");
        std::fs::create_dir_all(nested.join("objects")).expect("made");
        std::fs::create_dir_all(nested.join("refs")).expect("made");
        std::fs::write(nested.join("HEAD"), "ref: refs/heads/main\n").expect("written");
        std::fs::write(nested.join("config"), &config).expect("written");

        get(admin, "status").await;
        save(admin, "x.enc", &format!("changed {round}\n")).await;
        save(admin, "a.txt", &format!("mine {round}\n")).await;
        get(admin, "changes").await;
        succeeded(&post(admin, "commit", json!({"message": "changed"})).await);
        origin.update();
        origin.write(&[("b.txt", &format!("{round}\n")), ("a.txt", "theirs\n")]);
        origin.commit("from Bob");
        std::fs::write(world.test.workspace().join(".trees/current/git/config"), &config).expect("written");
        failed(&post(admin, "pull", json!({})).await, "resolve the conflicts");
        save(admin, "a.txt", "both\n").await;
        succeeded(&post(admin, "push", json!({"message": "pushed"})).await);
        runs += canaries(folder).len();
        get(admin, "commits").await;
    }
    println!(
        "git: hooks, filters, monitors, helpers and a nested repository over 2 rounds, canary runs {runs}"
    );
    assert_eq!(runs, 0, "{:?}", canaries(folder));
    assert_eq!(origin.read("a.txt"), "both");
    world.close().await;
}

#[tokio::test]
async fn names_of_ours_in_a_repository_are_refused() {
    for name in [".trees/current", ".overlays/acme/x.txt", ".UPLOADS/x"] {
        let origin = Origin::with(&[(name, "x"), ("a.txt", "1\n")]);
        let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
        let mut settings = test.settings_in_process();
        settings.git_local_remotes = true;
        let world = World::on(test, settings).await;
        let answer = init(&world.admin.client, &origin.address()).await;
        failed(&answer, "a name that is kept");
        assert!(!text(&answer["error"]).contains("/tmp"), "{answer}");
        assert_eq!(
            read(&world.admin.client, "own.txt").await.as_deref(),
            Some("own\n"),
            "nothing has changed"
        );
        world.close().await;
    }
}

#[tokio::test]
async fn names_of_ours_do_not_come_with_a_conflict_either() {
    let origin = Origin::with(&[("a.txt", "base\n")]);
    let world = connected(&origin).await;
    let admin = &world.admin.client;
    save(admin, "a.txt", "mine\n").await;
    succeeded(&post(admin, "commit", json!({"message": "mine"})).await);
    let garbled = OsStr::from_bytes(b"caf\xe9.txt");
    for (name, words) in
        [(OsStr::new(".uploads"), "a name that is kept"), (garbled, "the repository has caf\u{fffd}.txt")]
    {
        origin.write(&[("a.txt", "theirs\n")]);
        let file = origin.colleague().join(name);
        std::fs::write(&file, "x").expect("the folder is the test's");
        origin.commit("theirs");
        failed(&post(admin, "pull", json!({})).await, words);
        let status = get(admin, "status").await;
        assert_eq!(
            (&status["merging"], get(admin, "conflicts").await),
            (&json!(false), json!({"conflicts": [], "count": 0}))
        );
        assert_eq!(read(admin, "a.txt").await.as_deref(), Some("mine\n"), "nothing has changed");
        std::fs::remove_file(file).expect("is there");
    }
    origin.commit("without");
    failed(&post(admin, "pull", json!({})).await, "resolve the conflicts");
    world.close().await;
}
