//! The journal: every deployment once, whatever happens to the file.

use std::fs;
use std::path::Path;
use std::process::Command;

use gradual::model::share::Share;
use gradual::store::journal::{Entry, EntryArc, EntryVersion, History, Journal, JournalError};

pub(super) fn entry(worker: &str, id: &str) -> Entry {
    let version = |id: &str, share: &str, migration: Option<&str>| EntryVersion {
        version_id: id.to_owned(),
        percentage: Share::parse(share).unwrap(),
        migration: migration.map(str::to_owned),
    };
    Entry {
        id: id.to_owned(),
        time: "2026-11-22T05:00:00Z".to_owned(),
        worker: worker.to_owned(),
        created_on: None,
        author: Some("ana \"é\"\n".to_owned()),
        source: None,
        message: None,
        versions: vec![version("v1", "33.333", Some("m1")), version("v2", "66.667", None)],
        ring: None,
        generation: 1,
    }
}

fn journal(folder: &Path) -> Journal {
    Journal::new(folder, "gradual")
}

fn ids(history: &History) -> Vec<&str> {
    history.entries.iter().map(|entry| entry.id.as_str()).collect()
}

#[test]
fn an_entry_is_a_line_of_json_with_exact_percentages_and_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let arc = |share| EntryArc { version_id: "v1".to_owned(), percentage: Share::parse(share).unwrap() };
    let whole = Entry { ring: Some(vec![arc("12.5"), arc("0.001")]), ..entry("shop", "d1") };
    let journal = journal(folder.path());
    assert_eq!(journal.read().unwrap(), History::default());
    assert_eq!(journal.append(&[whole.clone(), entry("blog", "d1")]).unwrap(), 2);
    let text = fs::read_to_string(folder.path().join("gradual.deployments.jsonl")).unwrap();
    let line = r#"{"id":"d1","time":"2026-11-22T05:00:00Z","worker":"shop","author":"ana \"é\"\n","versions":[{"version_id":"v1","percentage":33.333,"migration":"m1"},{"version_id":"v2","percentage":66.667}],"ring":[{"version_id":"v1","percentage":12.5},{"version_id":"v1","percentage":0.001}],"generation":1}"#;
    assert_eq!(text.lines().next(), Some(line));
    assert_eq!(text.lines().count(), 2);
    assert_eq!(journal.read().unwrap(), History { entries: vec![whole, entry("blog", "d1")], unreadable: 0 });
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(journal.path()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn only_what_differs_from_a_workers_last_entry_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(&folder.path().join("state"));
    let append = |entries: &[Entry]| journal.append(entries).unwrap();
    assert_eq!(append(&[entry("a", "d1"), entry("b", "d1")]), 2);
    assert_eq!(append(&[entry("a", "d1"), entry("b", "d1")]), 0, "a restart");
    assert_eq!(append(&[entry("a", "d2"), entry("b", "d1")]), 1);
    assert_eq!(append(&[entry("a", "d1"), entry("a", "d1")]), 1, "back again");
    assert_eq!(ids(&journal.read().unwrap()), ["d1", "d1", "d2", "d1"]);
    let mut edited = entry("a", "d1");
    edited.versions.swap(0, 1);
    assert_eq!(append(&[edited.clone()]), 1, "a hand edit that kept the id");
    assert_eq!(append(&[edited]), 0);
    assert_eq!(ids(&journal.read().unwrap()), ["d1", "d1", "d2", "d1", "d1"]);
}

#[test]
fn a_line_that_was_torn_at_any_byte_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    journal.append(&[entry("a", "d1")]).unwrap();
    let first = fs::read(journal.path()).unwrap();
    journal.append(&[entry("a", "d2")]).unwrap();
    let both = fs::read(journal.path()).unwrap();
    for end in first.len()..both.len() {
        fs::write(journal.path(), &both[..end]).unwrap();
        // Only without its line end the second line is whole all the same.
        let (is_whole, is_torn) = (end == both.len() - 1, end > first.len());
        let expected = if is_whole { vec!["d1", "d2"] } else { vec!["d1"] };
        let found = journal.read().unwrap();
        assert_eq!((ids(&found), found.unreadable), (expected.clone(), usize::from(is_torn && !is_whole)));
        assert_eq!(journal.append(&[entry("a", "d3")]).unwrap(), 1);
        let found = journal.read().unwrap();
        assert_eq!(ids(&found), [&expected[..], &["d3"]].concat(), "torn at {end}");
    }
}

#[test]
fn what_is_no_entry_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    journal.append(&[entry("a", "d1")]).unwrap();
    let line = fs::read(journal.path()).unwrap();
    let nested = "[".repeat(100_000);
    let share = |share: &str| String::from_utf8(line.clone()).unwrap().replace("33.333", share);
    let (negative, tiny, huge) = (share("-1"), share("0.0001"), share("1e99"));
    let garbage: [&[u8]; 9] = [
        b"\xff\xfe\x00\n",
        b"{}\n",
        b"null\n",
        nested.as_bytes(),
        b"\n\n \r\n",
        &[0; 70_000],
        negative.as_bytes(),
        tiny.as_bytes(),
        huge.as_bytes(),
    ];
    let garbage = garbage.join(&b'\n');
    fs::write(journal.path(), [&line[..], &garbage, &vec![b'x'; 3_000_000], b"\n", &line].concat()).unwrap();
    let found = journal.read().unwrap();
    assert_eq!((ids(&found), found.unreadable), (vec!["d1"], 9));
    assert_eq!(journal.append(&[entry("a", "d1")]).unwrap(), 0);
    assert_eq!(journal.append(&[entry("a", "d2")]).unwrap(), 1);
    assert_eq!(ids(&journal.read().unwrap()), ["d1", "d2"]);
}

#[test]
fn a_journal_of_any_length_is_read_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    journal.append(&[entry("a", "d1")]).unwrap();
    let line = fs::read(journal.path()).unwrap();
    let file = fs::File::options().write(true).open(journal.path()).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[b"\n", &line[..]].concat(), 1 << 40).unwrap();
    let found = journal.read().unwrap();
    assert_eq!((ids(&found), found.unreadable), (vec!["d1"], 1));
}

#[test]
fn something_else_in_its_place_is_said_and_nothing_waits_for_it() {
    for kind in ["mkdir", "mkfifo"] {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path());
        assert!(Command::new(kind).arg(journal.path()).status().unwrap().success());
        assert_eq!(journal.read().unwrap(), History { entries: Vec::new(), unreadable: 1 });
        let error = journal.append(&[entry("a", "d1")]).unwrap_err();
        assert!(matches!(error, JournalError::NotAFile(_)), "{error}");
        assert!(error.to_string().contains("is not a regular file"), "{error}");
        // The file before it is still read.
        fs::write(
            folder.path().join("gradual.deployments.1.jsonl"),
            serde_json::to_string(&entry("a", "d0")).unwrap(),
        )
        .unwrap();
        assert_eq!(ids(&journal.read().unwrap()), ["d0"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = journal(&file).append(&[entry("a", "d1")]).unwrap_err();
    assert!(error.to_string().contains("cannot be locked"), "{error}");
}

#[test]
fn a_long_journal_begins_anew_with_each_workers_last_entry_and_the_old_one_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path());
    let long = |id: usize| Entry { message: Some("m".repeat(60_000)), ..entry("a", &format!("d{id}")) };
    journal.append(&[entry("b", "other")]).unwrap();
    let newer = || fs::metadata(journal.path()).unwrap().len();
    let older = folder.path().join("gradual.deployments.1.jsonl");
    for id in 0..60 {
        assert_eq!(journal.append(&[long(id), entry("b", "other")]).unwrap(), 1);
        assert_eq!(journal.append(&[long(id), entry("b", "other")]).unwrap(), 0, "a restart at {id}");
        assert!(newer() <= 1 << 20 && fs::metadata(&older).map_or(0, |older| older.len()) <= 1 << 20);
        let found = journal.read().unwrap();
        let last: Vec<_> = ids(&found).into_iter().filter(|id| *id != "other").collect();
        let from = id + 1 - last.len();
        assert_eq!(last, (from..=id).map(|id| format!("d{id}")).collect::<Vec<_>>(), "each once, in order");
        assert!(last.len() >= 16.min(id + 1), "too few are kept: {}", last.len());
    }
    assert!(older.exists());
    // A crash between the two steps of a rotation.
    fs::rename(journal.path(), &older).unwrap();
    assert_eq!(journal.append(&[long(59), entry("b", "other")]).unwrap(), 0);
    assert_eq!(journal.append(&[long(60)]).unwrap(), 1);
    let found = journal.read().unwrap();
    assert_eq!(found.entries.last().unwrap().id, "d60");
}

#[test]
fn of_processes_that_append_at_once_only_the_first_does() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let id = format!("d{round}");
        std::thread::scope(|scope| {
            let append = || journal(folder.path()).append(&[entry("a", &id), entry("b", &id)]).unwrap();
            let both = [scope.spawn(append), scope.spawn(append)].map(|thread| thread.join().unwrap());
            assert_eq!(both.iter().sum::<usize>(), 2);
        });
    }
    assert_eq!(journal(folder.path()).read().unwrap().entries.len(), 10);
}
