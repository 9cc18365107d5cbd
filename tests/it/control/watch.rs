//! `--watch`, as editors and Kubernetes change files.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::stage::{ANY_PORT, Stage, eventually, file};

fn generation(stage: &Stage) -> u64 {
    stage.handle.status().generation()
}

#[test]
fn a_file_that_is_written_in_place_or_renamed_over_is_read_again() {
    let stage = Stage::start(&file(ANY_PORT, 90), true, |_| {});
    stage.write(&file(ANY_PORT, 80));
    eventually("written in place", || generation(&stage) == 2);
    let new = stage.folder.path().join("gradual.toml.new");
    std::fs::write(&new, file(ANY_PORT, 70)).unwrap();
    std::fs::rename(&new, stage.path()).unwrap();
    eventually("renamed over", || generation(&stage) == 3);
    assert_eq!(stage.status()["workers"][0]["deployment"]["versions"][0]["percentage"], 70);
}

#[test]
fn a_volume_whose_symlink_turns_to_another_folder_is_read_again() {
    let publish = |folder: &Path, revision: &str, v1: u32| {
        std::fs::create_dir(folder.join(revision)).unwrap();
        std::fs::write(folder.join(revision).join("gradual.toml"), file(ANY_PORT, v1)).unwrap();
        symlink(revision, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    let stage = Stage::start("", true, |folder| {
        publish(folder, "..2026_1", 90);
        std::fs::remove_file(folder.join("gradual.toml")).unwrap();
        symlink("..data/gradual.toml", folder.join("gradual.toml")).unwrap();
    });
    publish(stage.folder.path(), "..2026_2", 60);
    std::fs::remove_dir_all(stage.folder.path().join("..2026_1")).unwrap();
    eventually("the other folder's file", || generation(&stage) == 2);
    assert_eq!(stage.status()["workers"][0]["deployment"]["versions"][0]["percentage"], 60);
}

#[test]
fn a_file_that_is_gone_or_half_written_for_a_moment_is_awaited() {
    let stage = Stage::start(&file(ANY_PORT, 90), true, |_| {});
    std::fs::remove_file(stage.path()).unwrap();
    let text = file(ANY_PORT, 50);
    stage.write(&text[..text.len() / 2]);
    eventually("the half file is refused", || !stage.status()["last_reload"].is_null());
    assert_eq!((generation(&stage), &stage.status()["last_reload"]["result"]), (1, &"failure".into()));
    stage.write(&text);
    eventually("the whole file is taken", || generation(&stage) == 2);
}
