//! Trees on a real disk.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::workspace_files::{FilePath, Files};

fn path(text: &str) -> FilePath {
    FilePath::parse(text).expect("a path")
}

fn exchange(root: &Path, change: impl FnOnce(&Path)) -> Option<Tree> {
    let old = Tree::current(root);
    let building = Building::begin(root).expect("begins");
    let seen = old.look().expect("is there");
    building.copy_files(&old).expect("copies");
    if old.has_repository() {
        building.copy_repository(&old).expect("copies");
    }
    change(&building.tree().files);
    building.finish().expect("finishes");
    let ready = building.lock(&old, Some(&seen)).expect("locks")?;
    Some(ready.switch().expect("switches"))
}

#[test]
fn a_tree_takes_the_place_of_another_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir(root.join("sub")).expect("made");
    fs::write(root.join("sub/a.txt"), "old").expect("written");
    fs::create_dir_all(root.join(".overlays/acme")).expect("made");
    fs::write(root.join(".overlays/acme/own.txt"), "own").expect("written");
    symlink("sub/a.txt", root.join("link")).expect("made");

    let before = Files::open_workspace(root).expect("opens");
    drop(before);
    let tree = exchange(root, |files| fs::write(files.join("sub/a.txt"), "new").expect("written"))
        .expect("switched");
    assert_eq!(current(root), tree.files);
    let files = Files::open_workspace(root).expect("opens");
    assert_eq!(files.read(&path("sub/a.txt"), 100).expect("is there").bytes, b"new");
    assert_eq!(files.read(&path("link"), 100).expect("leads there").bytes, b"new");
    assert_eq!(fs::read(root.join("sub/a.txt")).expect("is there"), b"old", "the backup");
    let overlay = tree.files.join(".overlays/acme/own.txt");
    assert_eq!(fs::read(overlay).expect("is the same"), b"own");
    drop(files);

    let again = exchange(root, |_| {}).expect("switched");
    assert_eq!(fs::read(again.files.join("sub/a.txt")).expect("is there"), b"new");
    assert!(tree.files.is_dir(), "who is in it goes on");
    let names: Vec<_> =
        fs::read_dir(root.join(TREES)).expect("is there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 3, "two trees and the link: {names:?}");
}

#[test]
fn what_was_saved_meanwhile_or_is_being_saved_is_never_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::write(root.join("a.txt"), "0").expect("written");
    let saved_between = exchange(root, |_| fs::write(root.join("a.txt"), "1").expect("written"));
    assert_eq!(saved_between, None, "it has to be built again");
    assert_eq!(current(root), root);

    // Writers save as fast as they can while trees are exchanged; what they were told is saved must be there.
    let stop = AtomicBool::new(false);
    let (saves, exchanges) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|n| {
                let stop = &stop;
                scope.spawn(move || {
                    let (mut saved, mut lost) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let file = path(&format!("by-{n}.txt"));
                        let files = Files::open_workspace(root).expect("opens");
                        let have = files
                            .read(&file, 100)
                            .map(|content| content.bytes)
                            .unwrap_or_else(|_| b"0".to_vec());
                        lost += u32::from(have != saved.to_string().as_bytes());
                        saved += 1;
                        files.write(&file, saved.to_string().as_bytes()).expect("writes");
                        drop(files);
                        std::thread::sleep(Duration::from_millis(3));
                    }
                    (saved, lost)
                })
            })
            .collect();
        let mut exchanges = 0;
        while exchanges < 20 {
            exchanges += i32::from(exchange(root, |_| {}).is_some());
        }
        stop.store(true, Ordering::Relaxed);
        let ends: Vec<(u32, u32)> = writers.into_iter().map(|writer| writer.join().expect("ends")).collect();
        (ends, exchanges)
    });
    let lost: u32 = saves.iter().map(|(_, lost)| lost).sum();
    println!(
        "trees: {exchanges} exchanges under {} saves, lost {lost}",
        saves.iter().map(|(n, _)| n).sum::<u32>()
    );
    assert_eq!(lost, 0);
}

#[test]
fn a_link_that_leads_elsewhere_is_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("workspace");
    fs::create_dir_all(root.join(TREES)).expect("made");
    fs::create_dir_all(folder.path().join("outside/files")).expect("made");
    for target in ["../../outside", "/etc", "..", "not-an-id"] {
        let _ = fs::remove_file(root.join(TREES).join(CURRENT));
        symlink(target, root.join(TREES).join(CURRENT)).expect("made");
        assert_eq!(current(&root), root, "{target}");
    }
    let id = Uuid::now_v7().to_string();
    let _ = fs::remove_file(root.join(TREES).join(CURRENT));
    symlink(&id, root.join(TREES).join(CURRENT)).expect("made");
    symlink(folder.path().join("outside"), root.join(TREES).join(&id)).expect("made");
    assert!(Files::open_workspace(&root).is_err(), "the tree itself leads outside");
}

#[test]
fn old_trees_go_when_nobody_can_be_in_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir_all(root.join(TREES)).expect("made");
    let old = |hours: u64| {
        let at = SystemTime::now() - Duration::from_secs(hours * 3_600);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after");
        let stamp = uuid::Timestamp::from_unix(uuid::NoContext, since.as_secs(), 0);
        Uuid::new_v7(stamp)
    };
    let ids: Vec<Uuid> = (0..30).map(|n| old(60 - n)).collect();
    for id in &ids {
        fs::create_dir_all(root.join(TREES).join(id.to_string()).join(FILES)).expect("made");
    }
    symlink(ids[29].to_string(), root.join(TREES).join(CURRENT)).expect("made");
    let backup = Tree::at(root, Some(ids[3])).place();
    assert_eq!(collect(root, Some(&backup)).expect("collects"), 18, "of 19 that are neither new nor named");
    assert!(root.join(TREES).join(ids[3].to_string()).is_dir());
    assert_eq!(collect(root, Some(&backup)).expect("collects"), 0);
}
